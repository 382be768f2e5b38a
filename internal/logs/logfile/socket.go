package logfile

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"wharf/internal/logs/logopts"
)

// sendTime bounds a connect and a send: a collector that hangs must not hold
// the container for longer.
var sendTime = 5 * time.Second

// retryTime is how long a collector that was not there is left alone.
const retryTime = time.Second

// collector is a connection to a logging service, made again when it breaks.
type collector struct {
	addr   logopts.Address
	fd     int // -1: none
	stream bool
	failed time.Time
	err    error
}

// dial connects now.
func (c *collector) dial() error {
	if c.err != nil && time.Since(c.failed) < retryTime {
		return c.err
	}
	c.fd, c.stream, c.err = connect(c.addr)
	if c.err != nil {
		c.failed = time.Now()
	}
	return c.err
}

// send sends one message, reconnecting once.
func (c *collector) send(p []byte) error {
	for try := 0; ; try++ {
		if c.fd < 0 {
			if err := c.dial(); err != nil {
				return err
			}
		}
		err := c.write(p)
		if err == nil {
			return nil
		}
		c.close()
		if try > 0 || errors.Is(err, unix.EMSGSIZE) {
			return err
		}
	}
}

func (c *collector) write(p []byte) error {
	for len(p) > 0 {
		n, err := unix.SendmsgN(c.fd, p, nil, nil, unix.MSG_NOSIGNAL)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return os.NewSyscallError("send", err)
		}
		if !c.stream {
			return nil
		}
		p = p[n:]
	}
	return nil
}

func (c *collector) close() {
	if c.fd >= 0 {
		_ = unix.Close(c.fd)
		c.fd = -1
	}
}

// connect opens a socket to a. Host names were resolved by the daemon.
func connect(a logopts.Address) (fd int, stream bool, err error) {
	domain, typ := unix.AF_UNIX, unix.SOCK_STREAM
	var to unix.Sockaddr
	switch a.Network {
	case "unix", "unixgram":
		to = &unix.SockaddrUnix{Name: a.Addr}
	case "udp", "tcp":
		ap, err := netip.ParseAddrPort(a.Addr)
		if err != nil {
			return -1, false, fmt.Errorf("syslog-address %s: %w", a.Addr, err)
		}
		if ap.Addr().Unmap().Is4() {
			domain, to = unix.AF_INET, &unix.SockaddrInet4{Port: int(ap.Port()), Addr: ap.Addr().Unmap().As4()}
		} else {
			domain, to = unix.AF_INET6, &unix.SockaddrInet6{Port: int(ap.Port()), Addr: ap.Addr().As16()}
		}
	default:
		return -1, false, fmt.Errorf("unknown network %q", a.Network)
	}
	if a.Network == "unixgram" || a.Network == "udp" {
		typ = unix.SOCK_DGRAM
	}
	fd, err = unix.Socket(domain, typ|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, false, os.NewSyscallError("socket", err)
	}
	tv := unix.NsecToTimeval(int64(sendTime))
	err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv)
	if err == nil {
		err = unix.Connect(fd, to)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, false, os.NewSyscallError("connect to "+a.Network+" "+a.Addr, err)
	}
	return fd, typ == unix.SOCK_STREAM, nil
}
