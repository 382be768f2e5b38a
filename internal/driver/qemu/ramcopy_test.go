package qemu

import (
	"bytes"
	"testing"

	"golang.org/x/sys/unix"
)

// A copy has what there is, and holes where there are holes; what was sealed
// stays as it was.
func TestCopyMemory(t *testing.T) {
	const size = 16 << 20
	from, err := memfd("test")
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	if err := from.Truncate(size); err != nil {
		t.Fatal(err)
	}
	for at, n := range map[int64]int{0: 1, 3 << 20: 2<<20 + 5, size - 4096: 4096} {
		if _, err := from.WriteAt(bytes.Repeat([]byte{byte(at>>12 + 7)}, n), at); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := unix.FcntlInt(from.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL); err != nil {
		t.Fatal(err)
	}
	to, err := copyMemory(from)
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	read := func(f interface {
		ReadAt([]byte, int64) (int, error)
	}) []byte {
		b := make([]byte, size)
		if n, err := f.ReadAt(b, 0); n != size {
			t.Fatal(n, err)
		}
		return b
	}
	if !bytes.Equal(read(from), read(to)) {
		t.Error("the copy differs")
	}
	var a, b unix.Stat_t
	if err := unix.Fstat(int(from.Fd()), &a); err != nil {
		t.Fatal(err)
	}
	if err := unix.Fstat(int(to.Fd()), &b); err != nil {
		t.Fatal(err)
	}
	if a.Blocks != b.Blocks || a.Size != b.Size || b.Blocks*512 > 4<<20 {
		t.Errorf("%d blocks of %d bytes, the copy %d of %d", a.Blocks, a.Size, b.Blocks, b.Size)
	}
	if _, err := to.WriteAt([]byte("own"), 0); err != nil {
		t.Error(err)
	}
}
