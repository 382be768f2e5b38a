package main

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"

	"github.com/moby/buildkit/session"
	"google.golang.org/grpc"
)

// quickSession has gRPC itself serve a build's session. BuildKit's client
// serves it by http2.Server, which hands every message through four goroutines
// and writes it alone: of a context of many files, each is one message.
//
// It learns of the session's server as one of the attachables, and of its
// connection as its dialer; the session is given a connection where nothing
// happens until it is closed.
type quickSession struct {
	server *grpc.Server
	dial   session.Dialer
}

// Register is called with the others, before the session is dialled.
func (q *quickSession) Register(s *grpc.Server) { q.server = s }

// Dial is the session's dialer.
func (q *quickSession) Dial(ctx context.Context, proto string, meta map[string][]string) (net.Conn, error) {
	conn, err := q.dial(ctx, proto, meta)
	if err != nil || q.server == nil {
		return conn, err
	}
	once := &oneConn{conn: conn, done: make(chan struct{})}
	go func() { _ = q.server.Serve(once) }() // ends with the server; what went wrong the solve tells
	return &quietConn{Conn: conn, text: clientPreface, done: make(chan struct{})}, nil
}

// clientPreface is how a client of HTTP/2 begins: the connection preface and
// empty settings (RFC 9113, 3.4 and 6.5).
const clientPreface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + "\x00\x00\x00\x04\x00\x00\x00\x00\x00"

// oneConn is a listener with one connection to give.
type oneConn struct {
	conn  net.Conn
	given sync.Once
	end   sync.Once
	done  chan struct{}
}

func (l *oneConn) Accept() (conn net.Conn, err error) {
	err = errors.New("no further connection")
	l.given.Do(func() { conn, err = l.conn, nil })
	if err != nil {
		<-l.done
	}
	return conn, err
}

func (l *oneConn) Close() error   { l.end.Do(func() { close(l.done) }); return nil }
func (l *oneConn) Addr() net.Addr { return l.conn.LocalAddr() }

// quietConn is what the session's own http2.Server serves: a client that says
// text, its first words, and then nothing. Closing it closes the real one.
type quietConn struct {
	net.Conn
	text string
	end  sync.Once
	done chan struct{}
}

func (c *quietConn) Read(p []byte) (int, error) {
	if c.text != "" {
		n := copy(p, c.text)
		c.text = c.text[n:]
		return n, nil
	}
	<-c.done
	return 0, io.EOF
}

func (c *quietConn) Write(p []byte) (int, error) { return len(p), nil }

func (c *quietConn) Close() error {
	c.end.Do(func() { close(c.done) })
	return c.Conn.Close()
}
