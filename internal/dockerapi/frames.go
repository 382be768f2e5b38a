package dockerapi

import (
	"encoding/binary"
	"io"

	"wharf/internal/model"
)

// frames writes pieces of output, with Docker's 8-byte headers when several
// streams share the connection, else bare.
type frames struct {
	w     io.Writer
	multi bool
	buf   []byte
}

// write sends p as one write, so that a header never travels alone.
func (f *frames) write(k model.StreamKind, p []byte) error {
	if len(p) == 0 {
		return nil
	}
	if !f.multi {
		_, err := f.w.Write(p)
		return err
	}
	f.buf = appendFrame(f.buf[:0], k, p)
	_, err := f.w.Write(f.buf)
	if cap(f.buf) > 256<<10 {
		f.buf = nil // a rare huge piece must not stay in memory
	}
	return err
}

// appendFrame appends header and payload: stream kind, three zeros, length
// big-endian.
func appendFrame(to []byte, k model.StreamKind, p []byte) []byte {
	to = append(to, byte(k), 0, 0, 0)
	to = binary.BigEndian.AppendUint32(to, uint32(len(p)))
	return append(to, p...)
}
