package inroot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestOpen(t *testing.T) {
	host, root := t.TempDir(), t.TempDir()
	for _, dir := range []string{filepath.Join(root, "a/b"), filepath.Join(root, host)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, to := range map[string]string{"in": "a", "out": host, "climb": "../../../../../../../.." + host, "a/up": "../../../a", "magic": "/proc/self/root"} {
		if err := os.Symlink(to, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for p, want := range map[string]string{
		"/": "", "": "", "a/b": "/a/b", "//a": "/a", "in/b": "/a/b", "out": host, "climb": host, "a/up": "/a", "../../a": "/a",
	} {
		fd, err := Open(root, p)
		if err != nil {
			t.Errorf("%q: %v", p, err)
			continue
		}
		got, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
		if err != nil || got != root+want {
			t.Errorf("%q is %s, want %s: %v", p, got, root+want, err)
		}
		_ = unix.Close(fd)
	}
	for p, want := range map[string]error{"file": unix.ENOTDIR, "none": unix.ENOENT, "magic": unix.ENOENT} {
		if _, err := Open(root, p); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", p, err, want)
		}
	}
	if _, err := Open(filepath.Join(root, "none"), "/"); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}
