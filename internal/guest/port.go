package guest

import (
	"bytes"
	"encoding/binary"
	"io"
	"sync"
	"time"

	"wharf/api/guestapi"
)

// tailLen is how much of a session's input is kept to look for the Hello that
// ended it: yamux reads ahead.
const tailLen = 16 << 10

// device is the channel: /dev/vportNpM, or a socket in tests.
type device interface {
	io.ReadWriteCloser
	SetReadDeadline(time.Time) error
}

// port is the channel's device. It remembers the last bytes that a session
// read, because the Hello of the next session may be among them.
type port struct {
	dev device

	mu   sync.Mutex // held while somebody reads; over tail
	tail []byte
}

// welcome waits for a host's Hello and answers it. The session before it has
// been closed.
func (p *port) welcome() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.dev.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	before := bytes.NewReader(p.tail)
	p.tail = nil
	err := guestapi.Welcome(struct {
		io.Reader
		io.Writer
	}{io.MultiReader(before, p.dev), p.dev})
	if err == nil && before.Len() > 0 { // the session's first frames came with the Hello
		p.tail, _ = io.ReadAll(before)
	}
	return err
}

// session is the port for one session, which may close it.
func (p *port) session() *portSession {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := &portSession{p: p, first: bytes.NewReader(p.tail), over: make(chan struct{})}
	p.tail = nil
	return s
}

type portSession struct {
	p     *port
	first *bytes.Reader
	out   []byte // a frame's header that waits for its data; yamux's one sender uses it
	over  chan struct{}
	once  sync.Once
}

func (s *portSession) closed() bool {
	select {
	case <-s.over:
		return true
	default:
		return false
	}
}

func (s *portSession) Read(b []byte) (n int, err error) {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	if s.closed() {
		return 0, io.EOF
	}
	if s.first.Len() > 0 {
		n, err = s.first.Read(b)
	} else {
		n, err = s.p.dev.Read(b)
	}
	t := append(s.p.tail, b[:n]...)
	if len(t) > tailLen {
		t = append(t[:0], t[len(t)-tailLen:]...)
	}
	s.p.tail = t
	return n, err
}

// portWrite is what the driver takes in one write, and yamuxHeader what is
// before the data of each of yamux's frames.
const (
	portWrite   = 32 << 10
	yamuxHeader = 12
)

// Write joins a frame's header and its data, which yamux writes one after the
// other: a write to the port waits until QEMU has taken the one before it.
func (s *portSession) Write(b []byte) (int, error) {
	if s.closed() {
		return 0, io.ErrClosedPipe
	}
	if len(s.out) == 0 && dataFollows(b) {
		s.out = append(s.out, b...)
		return len(b), nil
	}
	if len(s.out) == 0 {
		return s.p.dev.Write(b)
	}
	s.out = append(s.out, b...)
	n, err := s.p.dev.Write(s.out)
	s.out = s.out[:0]
	return max(n-yamuxHeader, 0), err
}

// dataFollows tells the header of a frame with data: version, type (0 is data),
// two bytes of flags, stream, length.
func dataFollows(b []byte) bool {
	return len(b) == yamuxHeader && b[0] == 0 && b[1] == 0 && binary.BigEndian.Uint32(b[8:]) > 0
}

// Close ends a read that is under way. The device stays open.
func (s *portSession) Close() error {
	s.once.Do(func() {
		close(s.over)
		_ = s.p.dev.SetReadDeadline(time.Now())
	})
	return nil
}
