package guestapi

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

type duplex struct {
	io.Reader
	io.Writer
}

func TestHello(t *testing.T) {
	nonce := [NonceLen]byte{1, 2, 3, 0, 0x57}
	host := HostHello(nonce)
	guest := GuestHello(nonce)
	old := GuestHello([NonceLen]byte{9})
	for name, before := range map[string][]byte{
		"nothing":         nil,
		"garbage":         []byte("some rest of a session"),
		"half a hello":    host[:5],
		"old guest hello": append([]byte{0}, old[:]...),
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			in := bytes.NewReader(append(append([]byte{}, before...), append(host[:], 'x')...))
			if err := Welcome(duplex{in, &out}); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(out.Bytes(), guest[:]) {
				t.Errorf("answered %q", out.Bytes())
			}
			if rest, _ := io.ReadAll(in); string(rest) != "x" {
				t.Errorf("the session's first bytes are %q", rest)
			}
			out.Reset()
			in = bytes.NewReader(append(append([]byte{}, before...), append(guest[:], 'y')...))
			if err := Greet(duplex{in, &out}, nonce); err != nil {
				t.Fatal(err)
			}
			if rest, _ := io.ReadAll(in); string(rest) != "y" {
				t.Errorf("the session's first bytes are %q", rest)
			}
		})
	}
}

func TestNoHello(t *testing.T) {
	if err := Welcome(duplex{bytes.NewReader([]byte("abc")), io.Discard}); !errors.Is(err, io.EOF) {
		t.Errorf("%v", err)
	}
}

// Whatever a guest says first, its answer to this Hello alone begins a session.
func FuzzGreet(f *testing.F) {
	answer := GuestHello([NonceLen]byte{7})
	other := GuestHello([NonceLen]byte{8})
	f.Add(answer[:])
	f.Add(append(other[:], answer[:]...))
	f.Add([]byte("\x00WHARFg\x01"))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		err := Greet(duplex{r, io.Discard}, [NonceLen]byte{7})
		at := bytes.Index(in, answer[:])
		if (err == nil) != (at >= 0) {
			t.Fatalf("%v, and the answer is at %d", err, at)
		}
		if rest, _ := io.ReadAll(r); err == nil && !bytes.Equal(rest, in[at+len(answer):]) {
			t.Errorf("left %q", rest)
		}
	})
}

// Whatever comes before it, a Hello is found, and nothing behind it is eaten.
func FuzzWelcome(f *testing.F) {
	f.Add([]byte("\x00WHARF"), []byte("\x00WHARFg\x01"))
	f.Add([]byte("\x00WHARFh"), []byte{})
	f.Fuzz(func(t *testing.T, before, after []byte) {
		if bytes.Contains(before, hostMagic) {
			t.Skip("a Hello of its own")
		}
		host := HostHello([NonceLen]byte{7})
		var out bytes.Buffer
		in := bytes.NewReader(append(append(append([]byte{}, before...), host[:]...), after...))
		if err := Welcome(duplex{in, &out}); err != nil {
			t.Fatal(err)
		}
		if rest, _ := io.ReadAll(in); !bytes.Equal(rest, after) {
			t.Errorf("left %q of %q", rest, after)
		}
	})
}
