package image

import (
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
)

// A disk that is written from what mkfs made once is one that e2fsck has no
// complaint about, and takes little.
func TestEmptyDisk(t *testing.T) {
	if _, err := exec.LookPath("/usr/sbin/mkfs.ext4"); err != nil {
		t.Skip("no mkfs.ext4: apt-get install e2fsprogs")
	}
	s := &Store{}
	for _, name := range []string{"first", "second"} {
		at := filepath.Join(t.TempDir(), name)
		if err := s.writableDisk(t.Context(), at); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("/usr/sbin/e2fsck", "-fn", at).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
		if n := blocksOf(at); n > 2<<20 {
			t.Errorf("an empty disk takes %d bytes", n)
		}
	}
}

func BenchmarkEmptyDisk(b *testing.B) {
	s, dir := &Store{}, b.TempDir()
	for i := range b.N {
		if err := s.writableDisk(b.Context(), filepath.Join(dir, strconv.Itoa(i))); err != nil {
			b.Fatal(err)
		}
	}
}
