// Package frame is how messages travel between the daemon, monitors and guests:
// a type byte, three zero bytes, the payload's length as 32 bits big-endian,
// and the payload, which is JSON for control types and raw bytes for data. It
// is the layout of Docker's multiplexed stream. What the types are is said by
// api/monitorapi and api/guestapi.
//
// It owns nothing. Whoever reads from a place that it does not trust sets
// Reader.Max: a length beyond it is an error before a byte of it is read, and
// no length claims memory before its bytes have come.
package frame

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"wharf/internal/lean"
)

// Type is a frame's type byte.
type Type byte

// Sizes. Control payloads hold a whole prepared container; data frames are cut
// by the sender.
const (
	HeaderLen  = 8
	MaxControl = 16 << 20
	MaxData    = 32 << 10
)

// ErrMalformed is a frame that breaks the rules: the connection is of no more
// use.
var ErrMalformed = errors.New("malformed frame")

// PutHeader writes the header of a frame with n bytes of payload into b,
// which has room for HeaderLen bytes.
func PutHeader(b []byte, t Type, n int) {
	_ = b[HeaderLen-1]
	b[0], b[1], b[2], b[3] = byte(t), 0, 0, 0
	binary.BigEndian.PutUint32(b[4:], uint32(n))
}

// ParseHeader reads a header. Data frames may hold at most MaxControl bytes
// too: who reads them passes its own buffer.
func ParseHeader(b []byte) (Type, int, error) {
	if len(b) < HeaderLen {
		return 0, 0, fmt.Errorf("%w: header of %d bytes", ErrMalformed, len(b))
	}
	n := binary.BigEndian.Uint32(b[4:])
	if b[1]|b[2]|b[3] != 0 || n > MaxControl {
		return 0, 0, fmt.Errorf("%w: type %d, length %d", ErrMalformed, b[0], n)
	}
	return Type(b[0]), int(n), nil
}

// Write sends one frame by one call of w.Write.
func Write(w io.Writer, t Type, payload []byte) error {
	b := make([]byte, HeaderLen, HeaderLen+len(payload))
	PutHeader(b, t, len(payload))
	_, err := w.Write(append(b, payload...))
	return err
}

// WriteJSON sends v as one control frame.
func WriteJSON(w io.Writer, t Type, v any) error {
	p, err := lean.Marshal(v)
	if err != nil {
		return err
	}
	b, err := Whole(t, p)
	if err != nil {
		return err
	}
	_, err = w.Write(b)
	return err
}

// Whole returns a control frame as it travels.
func Whole(t Type, payload []byte) ([]byte, error) {
	if len(payload) > MaxControl {
		return nil, fmt.Errorf("%w: %d bytes of control data, at most %d", ErrMalformed, len(payload), MaxControl)
	}
	b := make([]byte, HeaderLen, HeaderLen+len(payload))
	PutHeader(b, t, len(payload))
	return append(b, payload...), nil
}

// Reader reads frames from R into a buffer of its own.
type Reader struct {
	R   io.Reader
	Max int // the longest payload that is taken; 0 is MaxControl
	hdr [HeaderLen]byte
	buf []byte
}

// Next returns the next frame. The payload is valid until the next call.
// io.EOF: the other end closed between two frames.
func (r *Reader) Next() (Type, []byte, error) {
	if _, err := io.ReadFull(r.R, r.hdr[:]); err != nil {
		return 0, nil, err
	}
	t, n, err := ParseHeader(r.hdr[:])
	if err != nil {
		return 0, nil, err
	}
	if r.Max > 0 && n > r.Max {
		return 0, nil, fmt.Errorf("%w: type %d, length %d, at most %d here", ErrMalformed, t, n, r.Max)
	}
	// Grown as bytes arrive, so that a header alone cannot claim memory.
	const step = 64 << 10
	r.buf = r.buf[:0]
	for len(r.buf) < n {
		m := min(n-len(r.buf), step)
		if cap(r.buf)-len(r.buf) < m {
			grown := make([]byte, len(r.buf), max(2*cap(r.buf), len(r.buf)+m))
			copy(grown, r.buf)
			r.buf = grown
		}
		part := r.buf[len(r.buf) : len(r.buf)+m]
		if _, err := io.ReadFull(r.R, part); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return 0, nil, err
		}
		r.buf = r.buf[:len(r.buf)+m]
	}
	return t, r.buf, nil
}

// Expect reads the next frame, which has to be of type want, into v. One of
// type failure is read into failed, a pointer, which is returned.
func (r *Reader) Expect(want Type, v any, failure Type, failed error) error {
	t, p, err := r.Next()
	if err != nil {
		return err
	}
	switch t {
	case want:
		if err := lean.Unmarshal(p, v); err != nil {
			return fmt.Errorf("%w: type %d: %v", ErrMalformed, t, err)
		}
		return nil
	case failure:
		if err := lean.Unmarshal(p, failed); err != nil {
			return fmt.Errorf("%w: error frame: %v", ErrMalformed, err)
		}
		return failed
	}
	return fmt.Errorf("%w: type %d where %d was due", ErrMalformed, t, want)
}
