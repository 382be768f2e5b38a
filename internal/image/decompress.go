package image

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"io"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/xi2/xz"

	"wharf/internal/model"
)

// Magic numbers of the compressions that archives and layers come in.
var (
	magicGzip  = []byte{0x1f, 0x8b, 0x08}
	magicZstd  = []byte{0x28, 0xb5, 0x2f, 0xfd}
	magicBzip2 = []byte{'B', 'Z', 'h'}
	magicXz    = []byte{0xfd, '7', 'z', 'X', 'Z', 0x00}
)

// maxWindow and maxXz bound what a zstd and an xz stream may make us allocate;
// xz -9 asks for 64 MiB.
const (
	maxWindow = 128 << 20
	maxXz     = 64 << 20
)

// decompressed is a stream with its compression taken off.
type decompressed struct {
	io.Reader
	plain bool // there was none
	close func()
}

// Close has no error to give: all of it was read, or the reader has its error.
func (d *decompressed) Close() {
	if d.close != nil {
		d.close()
	}
}

// decompress looks at the first bytes of r.
func decompress(r io.Reader) (*decompressed, error) {
	br := bufio.NewReaderSize(r, 64<<10)
	head, err := br.Peek(10)
	if err != nil && err != io.EOF {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(head, magicGzip):
		z, err := gzip.NewReader(br)
		if err != nil {
			return nil, model.Refuse(errdefs.ErrInvalidArgument, "gzip: %w", err)
		}
		return &decompressed{Reader: z, close: func() { z.Close() }}, nil
	case bytes.HasPrefix(head, magicZstd) || isSkippable(head):
		z, err := zstd.NewReader(br, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, model.Refuse(errdefs.ErrInvalidArgument, "zstd: %w", err)
		}
		return &decompressed{Reader: z, close: z.Close}, nil
	case bytes.HasPrefix(head, magicBzip2):
		return &decompressed{Reader: bzip2.NewReader(br)}, nil
	case bytes.HasPrefix(head, magicXz):
		z, err := xz.NewReader(br, maxXz)
		if err != nil {
			return nil, xzError(err)
		}
		return &decompressed{Reader: xzReader{z}}, nil
	}
	return &decompressed{Reader: br, plain: true}, nil
}

// isSkippable: zstd streams may begin with a skippable frame (0x184D2A5?).
func isSkippable(b []byte) bool {
	return len(b) >= 4 && b[0]&0xf0 == 0x50 && b[1] == 0x2a && b[2] == 0x4d && b[3] == 0x18
}

// xzReader gives xz's errors a kind.
type xzReader struct{ r *xz.Reader }

func (x xzReader) Read(p []byte) (int, error) {
	n, err := x.r.Read(p)
	return n, xzError(err)
}

// xzError tells damage in the stream, whose errors begin with "xz: ", from
// what is wrong with the reader below.
func xzError(err error) error {
	switch err {
	case xz.ErrMemlimit:
		return model.Refuse(errdefs.ErrInvalidArgument, "xz: the archive needs a dictionary of more than %d MiB to be read; compress it again with xz -9 or less", maxXz>>20)
	case xz.ErrData, xz.ErrBuf, xz.ErrFormat, xz.ErrOptions, xz.ErrUnsupportedCheck:
		return model.Refuse(errdefs.ErrInvalidArgument, "%w", err)
	}
	return err
}
