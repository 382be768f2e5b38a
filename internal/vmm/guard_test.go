package vmm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"
	"testing/iotest"

	"github.com/hashicorp/yamux"
)

func yamuxFrame(typ byte, flags uint16, stream, length uint32) []byte {
	b := []byte{0, typ}
	b = binary.BigEndian.AppendUint16(b, flags)
	b = binary.BigEndian.AppendUint32(b, stream)
	return binary.BigEndian.AppendUint32(b, length)
}

type from struct{ io.Reader }

func (from) Write(p []byte) (int, error) { return len(p), nil }
func (from) Close() error                { return nil }

func TestGuard(t *testing.T) {
	data := append(yamuxFrame(yamuxData, 0, 1, 5), "hello"...)
	for name, c := range map[string]struct {
		in  []byte
		bad bool
	}{
		"data":                  {data, false},
		"ping inside data":      {append(yamuxFrame(yamuxData, 0, 3, 12), yamuxFrame(2, 1, 0, 7)...), false},
		"window, go away":       {append(yamuxFrame(yamuxWindow, 2, 1, 9), yamuxFrame(yamuxGoAway, 0, 0, 0)...), false},
		"ping":                  {append(data, yamuxFrame(2, 1, 0, 7)...), true},
		"answer to a ping":      {yamuxFrame(2, 2, 0, 7), true},
		"a stream of its own":   {yamuxFrame(yamuxWindow, 1, 2, 0), true},
		"a stream like ours":    {yamuxFrame(yamuxWindow, 1, 1, 0), true},
		"data on an even one":   {yamuxFrame(yamuxData, 0, 2, 0), true},
		"version":               {[]byte("\x01\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00"), true},
		"another type":          {yamuxFrame(9, 0, 1, 0), true},
		"half a header":         {data[:7], false},
		"nothing":               {nil, false},
		"data longer than what": {yamuxFrame(yamuxData, 0, 1, 1<<31), false},
	} {
		t.Run(name, func(t *testing.T) {
			for _, r := range []io.Reader{bytes.NewReader(c.in), iotest.OneByteReader(bytes.NewReader(c.in))} {
				out, err := io.ReadAll(newGuard(from{r}))
				if c.bad != errors.Is(err, errGuest) {
					t.Errorf("%v", err)
				}
				if !c.bad && !bytes.Equal(out, c.in) {
					t.Errorf("%q became %q", c.in, out)
				}
			}
		})
	}
}

// What a real session says passes.
func TestGuardPassesYamux(t *testing.T) {
	a, b := net.Pipe()
	client, err := yamux.Client(newGuard(a), session())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := yamux.Server(b, session())
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() {
		for {
			s, err := server.AcceptStream()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(s, s); _ = s.Close() }()
		}
	}()
	want := bytes.Repeat([]byte("all of it "), 100_000)
	for range 3 {
		s, err := client.OpenStream()
		if err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = s.Write(want); _ = s.Close() }()
		if got, err := io.ReadAll(s); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	}
	// A guest that opens a stream ends the session.
	if _, err := server.OpenStream(); err == nil {
		<-client.CloseChan()
	}
}

func FuzzGuard(f *testing.F) {
	f.Add(append(yamuxFrame(yamuxData, 0, 1, 5), "hello"...), 3)
	f.Add(yamuxFrame(2, 1, 0, 7), 1)
	f.Fuzz(func(t *testing.T, in []byte, step int) {
		g := newGuard(from{bytes.NewReader(in)})
		whole := newGuard(from{bytes.NewReader(in)})
		buf := make([]byte, min(max(step, 1), 64))
		var one, other error
		for one == nil {
			_, one = g.Read(buf)
		}
		_, other = io.ReadAll(whole)
		// The answer does not depend on how the bytes come.
		if errors.Is(one, errGuest) != errors.Is(other, errGuest) {
			t.Errorf("%v, %v", one, other)
		}
	})
}
