package image

import (
	"os"
	"path/filepath"
	"testing"
)

// A copy of a running daemon's data root has files where a container's root
// was mounted; they go, and the store starts.
func TestMountsSweepCopied(t *testing.T) {
	var m mounts
	m.init(t.TempDir())
	for _, dir := range []string{"empty.ro", "full.ro/etc"} {
		if err := os.MkdirAll(filepath.Join(m.dir, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(m.dir, "full.ro/etc/passwd"), []byte("root"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := m.sweep(); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(m.dir); len(left) != 0 {
		t.Errorf("%v is left", left)
	}
}
