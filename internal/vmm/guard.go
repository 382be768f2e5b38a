package vmm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// errGuest is a guest that does what our agent never does.
var errGuest = errors.New("the guest broke the channel's protocol")

// guard reads a guest's side of a yamux session (hashicorp/yamux spec.md) and
// ends it where it contains what our agent never sends and what would cost this
// end: a ping makes yamux start a goroutine that waits for room to answer, a stream
// that the guest opens waits for somebody who accepts it. Everything else is
// yamux's to check: it bounds each stream by its window.
type guard struct {
	io.ReadWriteCloser

	hdr  [12]byte
	have int    // bytes of hdr
	left uint32 // bytes of a data frame still to come
	err  error
}

// Yamux' frames: version, type, flags (16 bits), stream, length (32 bits each).
const (
	yamuxData   = 0
	yamuxWindow = 1
	yamuxGoAway = 3
	yamuxSYN    = 1 // flag: opens a stream
)

func newGuard(c io.ReadWriteCloser) *guard { return &guard{ReadWriteCloser: c} }

// Read passes on what has been looked at.
func (g *guard) Read(p []byte) (int, error) {
	if g.err != nil {
		return 0, g.err
	}
	n, err := g.ReadWriteCloser.Read(p)
	if g.err = g.look(p[:n]); g.err != nil {
		return 0, g.err
	}
	return n, err
}

// look follows the frames through b.
func (g *guard) look(b []byte) error {
	for len(b) > 0 {
		if g.left > 0 {
			m := min(uint32(min(len(b), 1<<30)), g.left)
			b, g.left = b[m:], g.left-m
			continue
		}
		m := copy(g.hdr[g.have:], b)
		b, g.have = b[m:], g.have+m
		if g.have < len(g.hdr) {
			return nil
		}
		g.have = 0
		if err := g.frame(); err != nil {
			return err
		}
	}
	return nil
}

// frame checks a header.
func (g *guard) frame() error {
	version, typ, flags := g.hdr[0], g.hdr[1], binary.BigEndian.Uint16(g.hdr[2:])
	stream, length := binary.BigEndian.Uint32(g.hdr[4:]), binary.BigEndian.Uint32(g.hdr[8:])
	bad := version != 0 || flags&yamuxSYN != 0
	switch typ {
	case yamuxData:
		g.left = length
		bad = bad || stream%2 == 0 // ours are odd
	case yamuxWindow:
		bad = bad || stream%2 == 0
	case yamuxGoAway:
	default: // a ping
		bad = true
	}
	if bad {
		return fmt.Errorf("%w: frame of type %d, flags %d, stream %d", errGuest, typ, flags, stream)
	}
	return nil
}
