package runtime

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	testPasswd = "# comment\nroot:x:0:0:root:/root:/bin/sh\n\nbroken\nwww:x:33:33::/var/www:/bin/sh\nnohome:x:40:40\n55:x:66:66::/number:\n"
	testGroup  = "root:x:0:\nwheel:x:10:root,www\nbad:x:y:www\nwww:x:33:\n"
)

func TestLookupUser(t *testing.T) {
	for _, c := range []struct {
		spec string
		add  []string
		want identity
		err  string
	}{
		{"", nil, identity{0, 0, []uint32{0, 10}, "/root"}, ""},
		{"www", nil, identity{33, 33, []uint32{33, 10}, "/var/www"}, ""},
		{"33", nil, identity{33, 33, []uint32{33, 10}, "/var/www"}, ""},
		{"www:wheel", nil, identity{33, 10, []uint32{10}, "/var/www"}, ""},
		{"77:88", []string{"wheel", "99", "wheel"}, identity{77, 88, []uint32{88, 10, 99}, "/"}, ""},
		{"55", nil, identity{55, 0, []uint32{0}, "/"}, ""}, // a number is an id, never a name
		{"nohome", nil, identity{40, 40, []uint32{40}, "/"}, ""},
		{"nobody", nil, identity{}, "unable to find user nobody: no matching entries in passwd file"},
		{"www:none", nil, identity{}, "unable to find group none: no matching entries in group file"},
		{"broken", nil, identity{}, "unable to find user broken: no matching entries in passwd file"},
		{"-1", nil, identity{}, "-1: uids and gids must be in range 0-2147483647"},
		{"99999999999999999999", nil, identity{}, "99999999999999999999: uids and gids must be in range 0-2147483647"},
	} {
		got, err := lookupUser([]byte(testPasswd), []byte(testGroup), c.spec, c.add)
		if c.err != "" {
			if err == nil || err.Error() != c.err {
				t.Errorf("%q: error %v, want %s", c.spec, err, c.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%q: %v", c.spec, err)
			continue
		}
		if d := cmp.Diff(c.want, got, cmp.AllowUnexported(identity{})); d != "" {
			t.Errorf("%q: %s", c.spec, d)
		}
	}
}

func FuzzLookupUser(f *testing.F) {
	f.Add([]byte(testPasswd), []byte(testGroup), "www:wheel", "10")
	f.Add([]byte(":::"), []byte(":"), ":", "")
	f.Fuzz(func(t *testing.T, passwd, group []byte, spec, add string) {
		id, err := lookupUser(passwd, group, spec, []string{add})
		if err == nil && (id.uid > maxID || id.gid > maxID || len(id.groups) == 0 || len(id.groups) > maxGroups+1) {
			t.Errorf("%+v", id)
		}
	})
}

func FuzzParseFrame(f *testing.F) {
	f.Add([]byte{0, 'x'})
	f.Fuzz(func(t *testing.T, b []byte) {
		if decodeError(b) == nil {
			t.Error("an error frame is always an error")
		}
		parseRights(b)
	})
}
