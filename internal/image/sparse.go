package image

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"strings"

	"golang.org/x/sys/unix"
)

// maxSparse bounds the sparse files of a layer: their zeros are not in the
// archive, so that a kilobyte of it could fill any disk, or as holes keep us
// busy for ever.
const maxSparse = 256 << 30

// isSparse reports whether a header is one of GNU tar's for sparse files, old
// or PAX.
func isSparse(h *tar.Header) bool {
	for k := range h.PAXRecords {
		if strings.HasPrefix(k, "GNU.sparse.") {
			return true
		}
	}
	return h.Typeflag == tar.TypeGNUSparse
}

// sparse writes what r has and leaves holes where it is zeros.
func (x *extractor) sparse(fd int, r io.Reader) error {
	at := int64(0)
	for {
		if err := x.ctx.Err(); err != nil {
			return err
		}
		n, err := r.Read(x.buf)
		if b := x.buf[:n]; n > 0 && !zeros(b) {
			if err := pwrite(fd, b, at); err != nil {
				return err
			}
		}
		at += int64(n)
		if errors.Is(err, io.EOF) {
			return unix.Ftruncate(fd, at)
		}
		if err != nil {
			return err
		}
	}
}

func pwrite(fd int, b []byte, at int64) error {
	for len(b) > 0 {
		n, err := unix.Pwrite(fd, b, at)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		b, at = b[n:], at+int64(n)
	}
	return nil
}

func zeros(b []byte) bool { return b[0] == 0 && bytes.Equal(b[1:], b[:len(b)-1]) }
