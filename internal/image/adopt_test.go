package image

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// TestLinkTree: the same files, directories with the same attributes.
func TestLinkTree(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	from, to := t.TempDir(), t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(from, "a/b"), 0o755))
	must(os.WriteFile(filepath.Join(from, "a/b/f"), []byte("x"), 0o640))
	must(os.Symlink("/etc/passwd", filepath.Join(from, "a/l")))
	must(unix.Mknod(filepath.Join(from, "gone"), unix.S_IFCHR, 0))
	must(os.Lchown(filepath.Join(from, "a"), 7, 8))
	must(os.Chmod(filepath.Join(from, "a"), 0o3750))
	must(unix.Lsetxattr(filepath.Join(from, "a/b"), "trusted.overlay.opaque", []byte("y"), 0))
	old := []unix.Timespec{{Sec: 5}, {Sec: 6, Nsec: 7}}
	must(unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(from, "a"), old, 0))
	must(linkTree(from, to))
	for _, name := range []string{".", "a", "a/b", "a/b/f", "a/l", "gone"} {
		var st [2]unix.Stat_t
		must(unix.Lstat(filepath.Join(from, name), &st[0]))
		must(unix.Lstat(filepath.Join(to, name), &st[1]))
		if st[0].Mode&unix.S_IFMT != unix.S_IFDIR {
			if st[0].Ino != st[1].Ino {
				t.Errorf("%s was copied", name)
			}
			continue
		}
		for i := range st {
			st[i].Ino, st[i].Ctim, st[i].Atim = 0, unix.Timespec{}, unix.Timespec{}
		}
		if d := cmp.Diff(st[0], st[1]); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
	b := make([]byte, 10)
	if n, err := unix.Lgetxattr(filepath.Join(to, "a/b"), "trusted.overlay.opaque", b); err != nil || string(b[:n]) != "y" {
		t.Error("attributes of overlayfs are lost", err)
	}
}
