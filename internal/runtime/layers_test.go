package runtime

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A part of an image, by the way of new kernels and by that of those before
// Linux 6.15.
func TestLayersMount(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: run as root (go test in a root shell)")
	}
	dir := t.TempDir()
	low, high := filepath.Join(dir, "low"), filepath.Join(dir, "high")
	for name, text := range map[string]string{"low/sub/hello": "world", "low/only": "low", "high/sub/more": "x"} {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{"good": "sub", "bad": "../../../etc"} {
		if err := os.Symlink(to, filepath.Join(high, link)); err != nil {
			t.Fatal(err)
		}
	}
	m := &rootMaker{user: -1}
	defer m.close()
	for sub, want := range map[string]string{"": "sub/hello", "sub": "hello", "good": "more", "sub/hello": ""} {
		fd, err := m.layersMount(&HostMount{Kind: HostLayers, Lower: []string{high, low}, Subpath: sub})
		if err != nil {
			t.Fatalf("%q: %v", sub, err)
		}
		if want != "" {
			if err := unix.Faccessat(fd, want, unix.F_OK, 0); err != nil {
				t.Errorf("%q: no %s: %v", sub, want, err)
			}
			if err := unix.Mkdirat(fd, "new", 0o755); err != unix.EROFS {
				t.Errorf("%q can be written: %v", sub, err)
			}
		}
		_ = unix.Close(fd)
	}
	for sub, want := range map[string]string{"bad": "path concatenation escapes", "none": "cannot access path"} {
		fd, err := m.layersMount(&HostMount{Kind: HostLayers, Lower: []string{high, low}, Subpath: sub})
		if err == nil {
			_ = unix.Close(fd)
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", sub, err, want)
		}
	}
	whole, err := m.layersMount(&HostMount{Kind: HostLayers, Lower: []string{high, low}})
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(whole)
	part, err := cloneInNamespace(whole, "sub", low)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(part)
	if err := unix.Faccessat(part, "hello", unix.F_OK, 0); err != nil {
		t.Errorf("cloned in a namespace: %v", err)
	}
	if es, _ := os.ReadDir(low); len(es) != 2 {
		t.Errorf("the namespace's mount is seen outside: %v", es)
	}
}
