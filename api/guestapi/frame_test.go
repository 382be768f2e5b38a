package guestapi

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

func TestRoundTrip(t *testing.T) {
	var b bytes.Buffer
	for _, n := range []int{0, 1, 70_000, 200_000} {
		if err := Write(&b, Stdout, bytes.Repeat([]byte("x"), n)); err != nil {
			t.Fatal(err)
		}
	}
	if err := WriteJSON(&b, RequestFrame, Request{Version: 1, Op: OpSignal, Signal: 9}); err != nil {
		t.Fatal(err)
	}
	r := &Reader{R: &b}
	for _, n := range []int{0, 1, 70_000, 200_000} {
		typ, p, err := r.Next()
		if err != nil || typ != Stdout || len(p) != n {
			t.Fatalf("%d bytes of type %d: %v", len(p), typ, err)
		}
	}
	var q Request
	if err := r.Expect(RequestFrame, &q); err != nil || q.Signal != 9 || q.Op != OpSignal {
		t.Errorf("%+v %v", q, err)
	}
	if _, _, err := r.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("end: %v", err)
	}
}

func TestExpect(t *testing.T) {
	var b bytes.Buffer
	_ = WriteJSON(&b, Error, Failed{Kind: KindNotFound, Text: "gone"})
	_ = Write(&b, Stdout, []byte("x"))
	r := &Reader{R: &b}
	var f *Failed
	if err := r.Expect(ReplyFrame, &Reply{}); !errors.As(err, &f) || f.Kind != KindNotFound {
		t.Errorf("%v", err)
	}
	if err := r.Expect(ReplyFrame, &Reply{}); !errors.Is(err, ErrFrame) {
		t.Errorf("%v", err)
	}
}

// A header alone claims no memory, and whatever comes is a frame or an error.
func FuzzReader(f *testing.F) {
	f.Add([]byte{1, 0, 0, 0, 0, 0, 0, 2, 'h', 'i'})
	f.Add([]byte{1, 0, 0, 0, 0, 0xff, 0xff, 0xff})
	f.Add([]byte{1, 1, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, in []byte) {
		r := &Reader{R: bytes.NewReader(in)}
		for {
			_, p, err := r.Next()
			if cap(r.buf) > 2*len(in)+(128<<10) {
				t.Fatalf("%d bytes of input claimed %d", len(in), cap(r.buf))
			}
			if err != nil {
				return
			}
			if len(p) > len(in) {
				t.Fatalf("a frame of %d bytes out of %d", len(p), len(in))
			}
		}
	})
}
