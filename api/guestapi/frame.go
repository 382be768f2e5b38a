package guestapi

import (
	"io"

	"wharf/api/frame"
)

// Type is a frame's type byte.
type Type = frame.Type

// Sizes, as package frame says them.
const (
	HeaderLen  = frame.HeaderLen
	MaxControl = frame.MaxControl
	MaxData    = frame.MaxData
)

// ErrFrame is a frame that breaks the rules: the connection is of no more use.
var ErrFrame = frame.ErrMalformed

// PutHeader writes the header of a frame with n bytes of payload into b.
func PutHeader(b []byte, t Type, n int) { frame.PutHeader(b, t, n) }

// ParseHeader reads a header.
func ParseHeader(b []byte) (Type, int, error) { return frame.ParseHeader(b) }

// Write sends one frame by one call of w.Write.
func Write(w io.Writer, t Type, payload []byte) error { return frame.Write(w, t, payload) }

// WriteJSON sends v as one control frame.
func WriteJSON(w io.Writer, t Type, v any) error { return frame.WriteJSON(w, t, v) }

// Frame returns a whole control frame.
func Frame(t Type, payload []byte) ([]byte, error) { return frame.Whole(t, payload) }

// Reader reads frames from R; Max bounds their payload, 0 is MaxControl.
type Reader struct {
	R   io.Reader
	Max int
	f   frame.Reader
}

// Next returns the next frame. The payload is valid until the next call.
// io.EOF: the other end closed between two frames.
func (r *Reader) Next() (Type, []byte, error) {
	r.f.R, r.f.Max = r.R, r.Max
	return r.f.Next()
}

// Expect reads the next frame, which has to be of type want, into v. A Failed
// frame is returned as *Failed.
func (r *Reader) Expect(want Type, v any) error {
	r.f.R, r.f.Max = r.R, r.Max
	return r.f.Expect(want, v, Error, new(Failed))
}
