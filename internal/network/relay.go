package network

import (
	"errors"
	"io"
	"log/slog"
	stdnet "net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	relayDial     = 5 * time.Second
	relayUDPIdle  = 90 * time.Second
	relaySessions = 1024 // UDP clients at a time and port
)

// relay carries what the rules cannot: from an IPv6 address of the host to a
// container that has IPv4 only (or the other way round), and from [::1], which
// the kernel never lets leave the loopback. The container sees the host's
// address and not the client's, and connections end with the daemon; the next
// one listens again. It owns a copy of the port's socket.
type relay struct {
	to  netip.AddrPort
	log *slog.Logger

	mu     sync.Mutex
	closed bool                   // guarded by mu
	open   map[io.Closer]struct{} // guarded by mu
}

// startRelay takes what arrives at the bound socket to an address.
func startRelay(fd int, proto byte, to netip.AddrPort, log *slog.Logger) (*relay, error) {
	if proto == unix.IPPROTO_TCP {
		if err := unix.Listen(fd, unix.SOMAXCONN); err != nil {
			return nil, os.NewSyscallError("listen", err)
		}
	} else {
		// So that an answer leaves by the address that was asked.
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
	}
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("dup", err)
	}
	f := os.NewFile(uintptr(dup), "published port")
	defer f.Close()
	r := &relay{to: to, log: log, open: map[io.Closer]struct{}{}}
	if proto == unix.IPPROTO_TCP {
		l, err := stdnet.FileListener(f)
		if err != nil {
			return nil, err
		}
		r.keep(l)
		go r.serveTCP(l)
		return r, nil
	}
	c, err := stdnet.FilePacketConn(f)
	if err != nil {
		return nil, err
	}
	r.keep(c)
	go r.serveUDP(c.(*stdnet.UDPConn))
	return r, nil
}

// keep files c to be closed with the relay; false: it is closed already.
func (r *relay) keep(c io.Closer) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		_ = c.Close()
		return false
	}
	r.open[c] = struct{}{}
	return true
}

func (r *relay) drop(c io.Closer) {
	r.mu.Lock()
	delete(r.open, c)
	r.mu.Unlock()
	_ = c.Close()
}

func (r *relay) close() {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	for c := range r.open {
		_ = c.Close()
	}
	r.open = nil
}

func (r *relay) serveTCP(l stdnet.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			if errors.Is(err, stdnet.ErrClosed) {
				return
			}
			r.log.Warn("accept at a published port", "port", l.Addr(), "error", err)
			time.Sleep(100 * time.Millisecond) // out of descriptors, mostly
			continue
		}
		go r.carry(c.(*stdnet.TCPConn))
	}
}

// carry copies both ways until both ends are done; a half-closed connection
// stays half-closed.
func (r *relay) carry(c *stdnet.TCPConn) {
	if !r.keep(c) {
		return
	}
	defer r.drop(c)
	up, err := stdnet.DialTimeout("tcp", r.to.String(), relayDial)
	if err != nil {
		_ = c.SetLinger(0) // the client sees a reset, as without a listener
		return
	}
	u := up.(*stdnet.TCPConn)
	if !r.keep(u) {
		return
	}
	defer r.drop(u)
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = io.Copy(u, c); _ = u.CloseWrite() })
	_, _ = io.Copy(c, u)
	_ = c.CloseWrite()
	wg.Wait()
}

// serveUDP gives every client a socket of its own towards the container.
func (r *relay) serveUDP(c *stdnet.UDPConn) {
	var mu sync.Mutex
	sessions := map[netip.AddrPort]*stdnet.UDPConn{}
	buf, oob := make([]byte, 65535), make([]byte, 128)
	for {
		n, on, _, from, err := c.ReadMsgUDPAddrPort(buf, oob)
		if err != nil {
			if errors.Is(err, stdnet.ErrClosed) {
				return
			}
			continue
		}
		mu.Lock()
		up := sessions[from]
		full := len(sessions) >= relaySessions
		mu.Unlock()
		if up == nil {
			if full {
				continue // as a full queue would
			}
			if up, err = stdnet.DialUDP("udp", nil, stdnet.UDPAddrFromAddrPort(r.to)); err != nil || !r.keep(up) {
				continue
			}
			mu.Lock()
			sessions[from] = up
			mu.Unlock()
			back := append([]byte(nil), oob[:on]...)
			go func() {
				answers(c, up, from, back)
				mu.Lock()
				delete(sessions, from)
				mu.Unlock()
				r.drop(up)
			}()
		}
		_ = up.SetReadDeadline(time.Now().Add(relayUDPIdle))
		_, _ = up.Write(buf[:n])
	}
}

// answers carries the container's datagrams back to one client until it has
// been silent for a while.
func answers(c, up *stdnet.UDPConn, to netip.AddrPort, oob []byte) {
	buf := make([]byte, 65535)
	for {
		n, err := up.Read(buf)
		switch {
		case errors.Is(err, unix.ECONNREFUSED):
			continue // nobody listens inside yet
		case err != nil:
			return
		}
		_ = up.SetReadDeadline(time.Now().Add(relayUDPIdle))
		if _, _, err := c.WriteMsgUDPAddrPort(buf[:n], oob, to); err != nil {
			return
		}
	}
}
