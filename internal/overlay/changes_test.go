package overlay

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// tree makes files below dir: a name that ends with "/" is a directory, one
// that begins with "-" a whiteout, one with "!" at its end an opaque directory.
func tree(t *testing.T, dir string, names ...string) string {
	t.Helper()
	old := time.Unix(1_000_000, 0)
	for _, n := range names {
		var err error
		switch {
		case n[0] == '-':
			p := filepath.Join(dir, n[1:])
			err = errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), unix.Mknod(p, unix.S_IFCHR, 0))
		case n[len(n)-1] == '!':
			p := filepath.Join(dir, n[:len(n)-1])
			err = errors.Join(os.MkdirAll(p, 0o755), unix.Setxattr(p, opaqueXattr, []byte{'y'}, 0))
		case n[len(n)-1] == '/':
			err = os.MkdirAll(filepath.Join(dir, n), 0o755)
		default:
			p := filepath.Join(dir, n)
			err = errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(n), 0o644))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	err := filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		return errors.Join(err, unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{{Sec: old.Unix()}, {Sec: old.Unix()}}, unix.AT_SYMLINK_NOFOLLOW))
	})
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestWalk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("makes whiteouts: run as root (go test in a root shell)")
	}
	top := []string{"etc/a", "etc/b", "dir/one", "dir/sub/two", "-low/gone"}
	bottom := []string{"etc/a", "low/gone", "low/kept", "bin/sh"}
	for name, c := range map[string]struct {
		upper []string
		want  []string
	}{
		"nothing":              {nil, nil},
		"added":                {[]string{"etc/new"}, []string{"0 /etc", "1 /etc/new"}},
		"changed":              {[]string{"etc/a"}, []string{"0 /etc", "0 /etc/a"}},
		"in a lower layer":     {[]string{"bin/sh"}, []string{"0 /bin", "0 /bin/sh"}},
		"deleted":              {[]string{"-etc/b"}, []string{"0 /etc", "2 /etc/b"}},
		"deleted twice":        {[]string{"-low/gone"}, nil},
		"deleted and made new": {[]string{"low/gone"}, []string{"0 /low", "1 /low/gone"}},
		"only copied up":       {[]string{"etc/"}, nil},
		"a new tree":           {[]string{"x/y/z"}, []string{"1 /x", "1 /x/y", "1 /x/y/z"}},
		"replaced directory":   {[]string{"dir!", "dir/one"}, []string{"0 /dir", "0 /dir/one", "2 /dir/sub"}},
		"placeholders":         {[]string{"proc/", "etc/hosts"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			lower := []string{tree(t, filepath.Join(dir, "1"), top...), tree(t, filepath.Join(dir, "2"), bottom...)}
			upper := tree(t, filepath.Join(dir, "u"), append([]string{"./"}, c.upper...)...)
			if name == "placeholders" {
				if err := os.Truncate(filepath.Join(upper, "etc/hosts"), 0); err != nil {
					t.Fatal(err)
				}
			}
			var got []string
			err := Walk(context.Background(), upper, lower, func(k Kind, p string, now fs.FileInfo) error {
				if (now == nil) != (k == Delete) {
					t.Errorf("%s: info %v", p, now)
				}
				got = append(got, fmt.Sprint(k, " ", p))
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}
