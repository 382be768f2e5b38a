package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/activation"

	"wharf/internal/config"
	"wharf/internal/undo"
)

// listen opens every host of the configuration.
func listen(c *config.Config, held *undo.Stack) ([]net.Listener, error) {
	var out []net.Listener
	for _, h := range c.Hosts {
		scheme, addr, _ := strings.Cut(h, "://")
		var ls []net.Listener
		var err error
		switch scheme {
		case "unix":
			ls, err = one(listenUnix(addr, c.Group))
		case "tcp":
			ls, err = one(listenTCP(addr, c))
		case "fd":
			ls, err = inherited(addr)
		}
		if err != nil {
			return nil, fmt.Errorf("listen on %s: %w", h, err)
		}
		for _, l := range ls {
			held.Push(func() error { return ignoreClosed(l.Close()) })
		}
		out = append(out, ls...)
	}
	return out, nil
}

func one(l net.Listener, err error) ([]net.Listener, error) { return []net.Listener{l}, err }

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// listenUnix makes the socket, for root and the group only. A socket that
// nobody answers on is left from a daemon that died, and replaced.
func listenUnix(path, group string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	switch st, err := os.Lstat(path); {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return nil, err
	case st.Mode()&os.ModeSocket == 0:
		return nil, fmt.Errorf("%s is there and is no socket; remove it or choose another path", path)
	default:
		conn, err := net.DialTimeout("unix", path, time.Second)
		if err == nil {
			conn.Close()
			return nil, errors.New("another daemon answers there; end it or choose another path")
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			return nil, fmt.Errorf("a socket is there and cannot be tried: %w", err)
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	gid, err := socketGroup(group)
	if err != nil {
		return nil, err
	}
	// Nobody may connect before the group is set. The umask is the
	// process's; nothing else makes files yet.
	old := syscall.Umask(0o177)
	l, err := net.Listen("unix", path)
	syscall.Umask(old)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(os.Chown(path, 0, gid), os.Chmod(path, 0o660)); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// socketGroup finds the group that may use the socket: the one asked for, or
// docker or wharf where there, or root.
func socketGroup(name string) (int, error) {
	if name != "" {
		if gid, err := strconv.Atoi(name); err == nil {
			return gid, nil
		}
		g, err := user.LookupGroup(name)
		if err != nil {
			return 0, fmt.Errorf("--group %s: %w", name, err)
		}
		return strconv.Atoi(g.Gid)
	}
	for _, name := range []string{"docker", "wharf"} {
		if g, err := user.LookupGroup(name); err == nil {
			return strconv.Atoi(g.Gid)
		}
	}
	return 0, nil
}

func listenTCP(addr string, c *config.Config) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil || !c.TLS {
		return l, err
	}
	t, err := tlsConfig(c)
	if err != nil {
		l.Close()
		return nil, err
	}
	return tls.NewListener(l, t), nil
}

// tlsConfig wants certificates of clients when told whose to trust.
func tlsConfig(c *config.Config) (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(c.TLSCert, c.TLSKey)
	if err != nil {
		return nil, fmt.Errorf("--tlscert %s, --tlskey %s: %w", c.TLSCert, c.TLSKey, err)
	}
	t := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
	if !c.TLSVerify {
		return t, nil
	}
	pem, err := os.ReadFile(c.TLSCACert)
	if err != nil {
		return nil, fmt.Errorf("--tlscacert: %w", err)
	}
	t.ClientCAs = x509.NewCertPool()
	if !t.ClientCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("--tlscacert %s has no certificate in it", c.TLSCACert)
	}
	t.ClientAuth = tls.RequireAndVerifyClientCert
	return t, nil
}

// inherited takes the sockets that systemd opened: all, or the one of that
// number or name ("fd://3", "fd://wharf.socket").
func inherited(which string) ([]net.Listener, error) {
	all, err := activation.ListenersWithNames()
	if err != nil {
		return nil, err
	}
	var out []net.Listener
	for name, ls := range all {
		for _, l := range ls {
			if l == nil || which != "" && which != "*" && which != name {
				continue
			}
			if _, ok := l.(*net.TCPListener); ok {
				return nil, fmt.Errorf("systemd's socket %s is TCP: TLS cannot be checked there; use tcp:// with --tlsverify", l.Addr())
			}
			out = append(out, l)
		}
	}
	if len(out) == 0 {
		return nil, errors.New("no sockets found via socket activation: make sure the service was started by systemd")
	}
	return out, nil
}
