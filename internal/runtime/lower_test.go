package runtime

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// The way that kernels before 6.8 (Debian 12's own) need works on newer ones
// too, so it is tested here: forty layers in one string.
func TestLowerAtOnce(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: run as root (go test in a root shell)")
	}
	dir := t.TempDir()
	var paths []string
	for i := range 40 {
		l := filepath.Join(dir, strconv.Itoa(i))
		if err := os.MkdirAll(l, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(l, fmt.Sprintf("of-%d", i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		fd, err := unix.Open(l, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		paths = append(paths, fdDir+strconv.Itoa(fd))
	}
	m := &rootMaker{user: -1}
	var mnt int
	err := atFDs(nil, func() error {
		return m.asRoot(func() (err error) {
			mnt, err = mountOverlay(lowerAtOnce, paths, nil, "")
			return err
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(mnt)
	for _, i := range []int{0, 39} {
		if err := unix.Faccessat(mnt, fmt.Sprintf("of-%d", i), unix.F_OK, 0); err != nil {
			t.Errorf("file of layer %d: %v", i, err)
		}
	}
}
