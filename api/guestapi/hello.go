package guestapi

import (
	"bytes"
	"fmt"
	"io"
)

// Hello begins a session: eight bytes of magic and a nonce of the host's.
type Hello [24]byte

// NonceLen is a nonce's length: 16 random bytes.
const NonceLen = 16

var (
	hostMagic  = []byte("\x00WHARFh\x01")
	guestMagic = []byte("\x00WHARFg\x01")
)

// MaxGarbage is how much an end reads before it gives up finding a Hello.
// The rest of an old session is at most yamux's windows.
const MaxGarbage = 64 << 20

// HostHello is what the host sends, and GuestHello what it waits for.
func HostHello(nonce [NonceLen]byte) Hello  { return hello(hostMagic, nonce) }
func GuestHello(nonce [NonceLen]byte) Hello { return hello(guestMagic, nonce) }

func hello(magic []byte, nonce [NonceLen]byte) (h Hello) {
	copy(h[:], magic)
	copy(h[len(magic):], nonce[:])
	return h
}

// Greet is the host's side of the beginning: it sends its Hello and skips
// what comes until the guest has answered it.
func Greet(rw io.ReadWriter, nonce [NonceLen]byte) error {
	h := HostHello(nonce)
	if _, err := rw.Write(h[:]); err != nil {
		return err
	}
	want := GuestHello(nonce)
	_, err := skipTo(rw, want[:], 0)
	return err
}

// Welcome is the guest's side: it skips what comes until a host's Hello and
// answers it.
func Welcome(rw io.ReadWriter) error {
	tail, err := skipTo(rw, hostMagic, NonceLen)
	if err != nil {
		return err
	}
	h := GuestHello([NonceLen]byte(tail))
	_, err = rw.Write(h[:])
	return err
}

// skipTo reads up to and including want and more bytes behind it, byte by
// byte: what follows belongs to the session.
func skipTo(r io.Reader, want []byte, more int) ([]byte, error) {
	window := make([]byte, 0, len(want))
	var one [1]byte
	for n := 0; n < MaxGarbage; n++ {
		if _, err := io.ReadFull(r, one[:]); err != nil {
			return nil, err
		}
		if len(window) == len(want) {
			copy(window, window[1:])
			window = window[:len(want)-1]
		}
		if window = append(window, one[0]); bytes.Equal(window, want) {
			tail := make([]byte, more)
			_, err := io.ReadFull(r, tail)
			return tail, err
		}
	}
	return nil, fmt.Errorf("%w: no greeting within %d bytes", ErrFrame, MaxGarbage)
}
