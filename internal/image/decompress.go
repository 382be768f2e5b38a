package image

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"io"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"wharf/internal/model"
)

// Magic numbers of the compressions that archives and layers come in.
var (
	magicGzip  = []byte{0x1f, 0x8b, 0x08}
	magicZstd  = []byte{0x28, 0xb5, 0x2f, 0xfd}
	magicBzip2 = []byte{'B', 'Z', 'h'}
	magicXz    = []byte{0xfd, '7', 'z', 'X', 'Z', 0x00}
)

// maxWindow bounds what a zstd stream may make us allocate.
const maxWindow = 128 << 20

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
		return nil, model.Refuse(errdefs.ErrNotImplemented, "xz archives cannot be read; decompress it first (xz -dc FILE | wharf load)")
	}
	return &decompressed{Reader: br, plain: true}, nil
}

// isSkippable: zstd streams may begin with a skippable frame (0x184D2A5?).
func isSkippable(b []byte) bool {
	return len(b) >= 4 && b[0]&0xf0 == 0x50 && b[1] == 0x2a && b[2] == 0x4d && b[3] == 0x18
}
