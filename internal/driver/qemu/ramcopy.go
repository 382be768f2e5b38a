package qemu

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// A machine that shares directories has its memory in common with the shares'
// servers, which write into it: a private view of the template's would not do.
// Such a clone gets a copy of its own of the pages that the template has.

// copyMemory copies a memfd, its holes left out. It reads and does not map: a
// page that is looked at by a map is made, and the template would get larger.
// 80 MiB take 50 to 100 ms.
func copyMemory(from *os.File) (_ *os.File, err error) {
	st, err := from.Stat()
	if err != nil {
		return nil, err
	}
	to, err := memfd("wharf-clone-ram")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, to.Close())
		}
	}()
	if err := to.Truncate(st.Size()); err != nil {
		return nil, err
	}
	buf := make([]byte, 1<<20) // what stays in a processor's cache
	for end := int64(0); ; {
		begin, err := unix.Seek(int(from.Fd()), end, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return to, nil
		}
		if err == nil {
			end, err = unix.Seek(int(from.Fd()), begin, unix.SEEK_HOLE)
		}
		if err != nil {
			return nil, os.NewSyscallError("lseek", err)
		}
		in, out := io.NewSectionReader(from, begin, end-begin), io.NewOffsetWriter(to, begin)
		if _, err := io.CopyBuffer(struct{ io.Writer }{out}, struct{ io.Reader }{in}, buf); err != nil {
			return nil, err
		}
	}
}
