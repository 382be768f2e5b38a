package guest

import (
	"bytes"
	"testing"
	"time"
)

// writes notes each write.
type writes struct{ all [][]byte }

func (w *writes) Read([]byte) (int, error)        { return 0, nil }
func (w *writes) Close() error                    { return nil }
func (w *writes) SetReadDeadline(time.Time) error { return nil }

func (w *writes) Write(b []byte) (int, error) {
	w.all = append(w.all, bytes.Clone(b))
	return len(b), nil
}

// A frame is one write to the port; what has no data is not held back.
func TestPortWrites(t *testing.T) {
	dev := &writes{}
	s := (&port{dev: dev}).session()
	data := []byte{0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 5}
	window := []byte{0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 5}
	finish := []byte{0, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0, 0}
	for _, b := range [][]byte{window, data, []byte("hello"), finish, data, data} { // the last one is data that looks like a header
		if n, err := s.Write(b); n != len(b) || err != nil {
			t.Errorf("write of %d: %d %v", len(b), n, err)
		}
	}
	want := [][]byte{window, append(bytes.Clone(data), "hello"...), finish, append(bytes.Clone(data), data...)}
	if len(dev.all) != len(want) {
		t.Fatalf("%d writes: %q", len(dev.all), dev.all)
	}
	for i := range want {
		if !bytes.Equal(dev.all[i], want[i]) {
			t.Errorf("write %d is %q, want %q", i, dev.all[i], want[i])
		}
	}
}
