package dockerapi

import (
	"bufio"
	"errors"
	"net"
	"net/http"
	"net/url"
	"time"

	"golang.org/x/net/websocket"

	"wharf/internal/model"
)

func (c *call) attachRequest() (model.AttachRequest, []byte, error) {
	keys, err := parseDetach(c.get("detachKeys"))
	return model.AttachRequest{
		Logs: c.truth("logs"), Stream: c.truth("stream"),
		Stdin: c.truth("stdin"), Stdout: c.truth("stdout"), Stderr: c.truth("stderr"),
		DetachKeys: c.get("detachKeys"),
	}, keys, err
}

// attach opens the container's streams first, so that its errors are still
// plain answers, and then takes the connection over.
func (s *server) attach(c *call) error {
	r, keys, err := c.attachRequest()
	if err != nil {
		return err
	}
	stream, tty, err := s.Containers.Attach(c.ctx(), c.name, r)
	if err != nil {
		return err
	}
	w, err := c.hijack(!tty)
	if err != nil {
		_ = stream.Close()
		return err
	}
	if !tty {
		keys = nil // without a terminal bytes are data
	}
	return c.ended(w.serve(&session{stream: stream, stdin: r.Stdin, multi: !tty, keys: keys}))
}

// ended notes how a session ended. The connection is gone, so there is nobody
// to tell but the log.
func (c *call) ended(err error) error {
	if err != nil && !errors.Is(err, errDetached) {
		c.log.Debug("stream ended", "room", "dockerapi", "path", c.r.URL.Path, "err", err)
	}
	return nil
}

// attachWS is attach over a websocket: bytes without frame headers.
func (s *server) attachWS(c *call) error {
	if err := sameOrigin(c.r); err != nil {
		return err
	}
	r, keys, err := c.attachRequest()
	if err != nil {
		return err
	}
	if c.v < 42 {
		r.Stdin, r.Stdout, r.Stderr = true, true, true
	}
	stream, tty, err := s.Containers.Attach(c.ctx(), c.name, r)
	if err != nil {
		return err
	}
	if !tty {
		keys = nil
	}
	tap := &hijackTap{reply: c.w}
	served := false
	websocket.Server{Handler: func(ws *websocket.Conn) {
		served = true
		if c.v >= 28 {
			ws.PayloadType = websocket.BinaryFrame
		}
		_ = c.ended((&session{
			client: ws, stream: stream, stdin: r.Stdin, keys: keys, probe: tap.conn, whole: true,
			unlock: func() { _ = ws.SetReadDeadline(time.Unix(1, 0)) },
		}).run())
	}}.ServeHTTP(tap, c.r)
	if !served {
		_ = stream.Close()
	}
	return nil
}

// hijackTap remembers the connection that is taken over.
type hijackTap struct {
	*reply
	conn net.Conn
}

func (t *hijackTap) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(t.reply).Hijack()
	t.begun, t.conn = true, conn
	return conn, rw, err
}

// sameOrigin refuses websockets from web pages of other hosts: browsers do
// not guard those, and they are GETs.
func sameOrigin(r *http.Request) error {
	origin := r.Header.Get("Origin")
	if origin == "" {
		return nil
	}
	if u, err := url.Parse(origin); err == nil && u.Host == r.Host {
		return nil
	}
	return &statusError{http.StatusForbidden, "websocket from a web page of another origin (" + origin + ")"}
}
