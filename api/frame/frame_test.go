package frame

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

const (
	data    Type = 1
	control Type = 20
	refusal Type = 5
)

type message struct {
	Op     string `json:"op"`
	Number int    `json:"number,omitempty"`
}

type failed struct {
	Text string `json:"text"`
}

func (f *failed) Error() string { return f.Text }

func TestRoundTrip(t *testing.T) {
	var b bytes.Buffer
	for _, n := range []int{0, 1, 70_000, 200_000} {
		if err := Write(&b, data, bytes.Repeat([]byte("x"), n)); err != nil {
			t.Fatal(err)
		}
	}
	if err := WriteJSON(&b, control, message{"signal", 9}); err != nil {
		t.Fatal(err)
	}
	r := &Reader{R: &b}
	for _, n := range []int{0, 1, 70_000, 200_000} {
		typ, p, err := r.Next()
		if err != nil || typ != data || len(p) != n {
			t.Fatalf("%d bytes of type %d: %v", len(p), typ, err)
		}
	}
	var m message
	if err := r.Expect(control, &m, refusal, new(failed)); err != nil || m != (message{"signal", 9}) {
		t.Errorf("%+v %v", m, err)
	}
	if _, _, err := r.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("end: %v", err)
	}
}

func TestExpect(t *testing.T) {
	var b bytes.Buffer
	_ = WriteJSON(&b, refusal, failed{"gone"})
	_ = Write(&b, data, []byte("x"))
	_ = Write(&b, control, []byte("{"))
	r := &Reader{R: &b}
	var f *failed
	if err := r.Expect(control, &message{}, refusal, new(failed)); !errors.As(err, &f) || f.Text != "gone" {
		t.Errorf("%v", err)
	}
	for _, what := range []string{"another type", "half a message"} {
		if err := r.Expect(control, &message{}, refusal, new(failed)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// A reader's bound holds before anything of the payload is read.
func TestMax(t *testing.T) {
	var b bytes.Buffer
	_ = Write(&b, data, make([]byte, 100))
	_ = Write(&b, data, make([]byte, 101))
	r := &Reader{R: &b, Max: 100}
	if _, p, err := r.Next(); err != nil || len(p) != 100 {
		t.Errorf("%d %v", len(p), err)
	}
	if _, _, err := r.Next(); !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), "at most 100") {
		t.Error(err)
	}
	if b.Len() != 101 {
		t.Errorf("%d bytes of it are left", b.Len())
	}
	if _, err := Whole(control, make([]byte, MaxControl+1)); !errors.Is(err, ErrMalformed) {
		t.Error(err)
	}
}

// A header alone claims no memory, and whatever comes is a frame or an error.
func FuzzReader(f *testing.F) {
	f.Add([]byte{1, 0, 0, 0, 0, 0, 0, 2, 'h', 'i'}, 0)
	f.Add([]byte{1, 0, 0, 0, 0, 0xff, 0xff, 0xff}, 10)
	f.Add([]byte{1, 1, 0, 0, 0, 0, 0, 0}, 0)
	f.Fuzz(func(t *testing.T, in []byte, most int) {
		r := &Reader{R: bytes.NewReader(in), Max: most}
		for {
			_, p, err := r.Next()
			if cap(r.buf) > 2*len(in)+(128<<10) {
				t.Fatalf("%d bytes of input claimed %d", len(in), cap(r.buf))
			}
			if err != nil {
				return
			}
			if len(p) > len(in) || most > 0 && len(p) > most {
				t.Fatalf("a frame of %d bytes out of %d, at most %d", len(p), len(in), most)
			}
		}
	})
}
