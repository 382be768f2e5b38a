package dockerapi

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"

	"github.com/moby/moby/api/types"
	"golang.org/x/sys/unix"

	"wharf/internal/model"
)

// wire is a connection taken over from net/http.
type wire struct {
	net.Conn
	in *bufio.Reader // may hold input that came with the request
}

// hijack takes the connection over and sends the header: 101 to a client
// that asks for an upgrade, else the 200 of old clients.
func (c *call) hijack(multi bool) (*wire, error) {
	conn, rw, err := http.NewResponseController(c.w).Hijack()
	if err != nil {
		return nil, fmt.Errorf("this connection cannot be taken over for a stream: %w", err)
	}
	c.w.begun = true
	_ = conn.SetDeadline(time.Time{})
	head := "HTTP/1.1 200 OK\r\nContent-Type: " + types.MediaTypeRawStream + "\r\n"
	if len(c.r.Header.Values("Upgrade")) > 0 {
		head = "HTTP/1.1 101 UPGRADED\r\nContent-Type: " + streamType(c.v, multi) + "\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
	}
	head += "Api-Version: " + newest.String() + "\r\nOstype: linux\r\n\r\n"
	if _, err := io.WriteString(conn, head); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return &wire{Conn: conn, in: rw.Reader}, nil
}

// settleTime is how long the first output waits for the client to take the
// header.
const settleTime = 20 * time.Millisecond

// settle waits until the client has taken the header from its socket. Clients
// that read it through a buffer and the output past the buffer (docker-py)
// lose what arrives together with it. A unix socket can tell; on others the
// header has gone to the kernel at the far end when the output follows.
func (w *wire) settle() {
	u, ok := w.Conn.(*net.UnixConn)
	if !ok {
		return
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return
	}
	for begin := time.Now(); time.Since(begin) < settleTime; time.Sleep(50 * time.Microsecond) {
		unread := 0
		if raw.Control(func(fd uintptr) { unread, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) }) != nil || err != nil || unread == 0 {
			return
		}
	}
}

// streamType is the content type of output.
func streamType(v version, multi bool) string {
	if multi && v >= 42 {
		return types.MediaTypeMultiplexedStream
	}
	return types.MediaTypeRawStream
}

// lingerTime is how long a client may take to close its end after ours.
const lingerTime = 2 * time.Second

// finish ends the connection so that all that was written still arrives:
// closing with unread input would make the kernel reset it.
func (w *wire) finish() {
	if cw, ok := w.Conn.(interface{ CloseWrite() error }); ok && cw.CloseWrite() == nil {
		_ = w.SetReadDeadline(time.Now().Add(lingerTime))
		_, _ = io.Copy(io.Discard, w.in)
	}
	_ = w.Conn.Close()
}

// session copies between a client and a process.
type session struct {
	client io.ReadWriter
	stream model.Stream
	stdin  bool     // the client's input goes to the process
	multi  bool     // output has frame headers
	keys   []byte   // detach sequence; nil: none
	probe  net.Conn // the connection below client, to see whether the peer is gone
	whole  bool     // the transport has no half-close: end of input is the client's end
	unlock func()   // makes a pending client.Read return
	settle func()   // called before the first output; may be nil
	closed sync.Once
}

func (s *session) close() { s.closed.Do(func() { _ = s.stream.Close() }) }

// run copies until the process closes its output, the client is gone or
// detaches. It closes the stream and leaves no goroutine behind; the
// connection is the caller's to close. errDetached: the client detached.
func (s *session) run() error {
	ended := make(chan struct{})
	input := make(chan error, 1)
	go func() { input <- s.input(ended) }()

	err := s.output()
	close(ended)
	s.close()
	s.unlock()
	if in := <-input; in != nil {
		return in
	}
	return err
}

// output copies what the process writes.
func (s *session) output() error {
	out := frames{w: s.client, multi: s.multi}
	for {
		kind, p, err := s.stream.Next()
		if err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if s.settle != nil {
			s.settle()
			s.settle = nil
		}
		if err := out.write(kind, p); err != nil {
			return err
		}
	}
}

// input copies what the client sends. At its end of file the process's stdin
// is closed; the output goes on (echo x | docker run -i ...). When the client
// is gone or detached the stream is closed, which ends output.
func (s *session) input(ended <-chan struct{}) error {
	d := detacher{keys: s.keys}
	buf := make([]byte, 32<<10)
	for {
		n, err := s.client.Read(buf)
		if n > 0 && s.stdin {
			p, detached := d.feed(buf[:n])
			if len(p) > 0 && s.push(p) != nil {
				s.stdin = false // the process closed its stdin; keep draining
			}
			if detached != nil {
				if d, ok := s.stream.(interface{ Detached() }); ok {
					d.Detached() // the lifecycle tells the feed
				}
				s.close()
				return detached
			}
		}
		switch {
		case err == nil:
		case !errors.Is(err, io.EOF) || s.whole:
			s.close()
			return nil
		default:
			if s.stdin {
				_ = s.stream.CloseWrite()
			}
			s.awaitHangup(ended)
			return nil
		}
	}
}

// push writes input to the process. A process that does not read its input
// must not keep a client that is gone.
func (s *session) push(p []byte) error {
	done := make(chan struct{})
	defer close(done)
	slow := time.AfterFunc(time.Second, func() { s.awaitHangup(done) })
	defer slow.Stop()
	_, err := s.stream.Write(p)
	return err
}

// awaitHangup closes the stream when the client is gone, and returns then or
// when ended is closed. It is called when the client sends no more: it may
// still read. A half-closed connection looks like a closed one to read(2);
// only poll(2) tells them apart, and on TCP only once output was refused.
func (s *session) awaitHangup(ended <-chan struct{}) {
	every := 50 * time.Millisecond
	for !hungUp(s.probe) {
		select {
		case <-ended:
			return
		case <-time.After(every):
			every = min(2*every, 5*time.Second)
		}
	}
	s.close()
}

// hungUp reports whether the peer closed both directions.
func hungUp(conn net.Conn) bool {
	if t, ok := conn.(interface{ NetConn() net.Conn }); ok { // TLS
		conn = t.NetConn()
	}
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return true
	}
	gone := false
	if err := raw.Control(func(fd uintptr) {
		p := []unix.PollFd{{Fd: int32(fd)}}
		if n, err := unix.Poll(p, 0); err == nil && n > 0 {
			gone = p[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
		}
	}); err != nil {
		return true
	}
	return gone
}

// serve runs a session over a hijacked connection and ends the connection.
func (w *wire) serve(s *session) error {
	defer w.finish()
	s.client = struct {
		io.Reader
		io.Writer
	}{w.in, w.Conn}
	s.probe = w.Conn
	s.settle = w.settle
	s.unlock = func() { _ = w.SetReadDeadline(time.Unix(1, 0)) }
	return s.run()
}
