package guest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"wharf/api/guestapi"
)

// A volume is filled from the image while it is empty, as a whole: owner and mode
// too; no symlink of the image leads out of it.
func TestFill(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("changes owners: run it as root (make test)")
	}
	image, outside := t.TempDir(), t.TempDir()
	for name, text := range map[string]string{"var/lib/db/a": "from the image", "elsewhere": ""} {
		at := filepath.Join(image, name)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	db := filepath.Join(image, "var/lib/db")
	if err := os.Chown(db, 70, 71); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(image, "out")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(outside, "secret"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	target := guestapi.RunDir + "/volumes-test-" + filepath.Base(t.TempDir())
	t.Cleanup(func() { _ = os.RemoveAll(target) })
	for _, c := range []struct{ name, from, want string }{
		{"none", "/not/there", ""}, {"a file", "/elsewhere", ""}, {"out", "/out", ""}, {"filled", "/var/lib/db", "a"}, {"not again", "/var/lib", "a"},
	} {
		if err := os.MkdirAll(target+"/data", 0o755); err != nil {
			t.Fatal(err)
		}
		m := &guestapi.Mount{Target: target, Dirs: []string{"data"}, Fill: c.from}
		if err := fill(image, m); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		names, err := os.ReadDir(target + "/data")
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, n := range names {
			got = append(got, n.Name())
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("%s: %q, want %q", c.name, s, c.want)
		}
	}
	st, err := os.Stat(target + "/data")
	if err != nil || st.Mode().Perm() != 0o755 {
		t.Errorf("%v %v", st.Mode(), err)
	}
	if _, err := os.Stat(target + "/.fill"); !os.IsNotExist(err) {
		t.Error("what was made aside is still there")
	}
}

// Whatever path comes, what is below RunDir is, and nothing else.
func FuzzBelow(f *testing.F) {
	for _, s := range []string{"/run/wharf/x", "/run/wharf/../../etc", "/run/wharf", "x", "/run/wharfx/y", "/run/wharf/./a//b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := below(s)
		if err == nil && (!strings.HasPrefix(got, guestapi.RunDir+"/") || filepath.Clean(got) != got) {
			t.Errorf("%q became %q", s, got)
		}
	})
}
