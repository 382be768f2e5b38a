package held

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"wharf/api/frame"
	"wharf/api/monitorapi"
	"wharf/internal/model"
)

// answerTime is how long a monitor may take to answer a request. It has
// nothing to wait for but exec, whose stage may be slow on a loaded machine.
const answerTime = 30 * time.Second

// maxText is how long an error's text may be that comes from where an answer is
// bounded.
const maxText = 4000

// Conn is a connection to a monitor.
type Conn struct {
	net.Conn
	R     *monitorapi.Reader
	Reply monitorapi.Reply
	Raw   json.RawMessage // the reply as it came, for requests with another shape
	wmu   sync.Mutex      // one frame at a time

	left     chan struct{} // closed with the connection; nil: nobody asks
	leftOnce sync.Once

	// ended is told of the exit, if one came. It may be nil.
	ended func(model.Exit)
	// resize sets the size of the process's terminal over a connection of
	// its own: behind input that the process does not read it would be stuck.
	resize func(height, width uint) error
}

// dial connects to id's monitor. The path may be longer than a socket address
// holds, so it goes through the directory's descriptor.
func (d *Driver) dial(ctx context.Context, id model.ID) (net.Conn, error) {
	path := d.dir(id) + "/" + monitorapi.SocketName
	if len(path) > 107 {
		dir, err := os.Open(d.dir(id))
		if err != nil {
			return nil, err
		}
		defer dir.Close()
		path = fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), monitorapi.SocketName)
	}
	var nd net.Dialer
	return nd.DialContext(ctx, "unix", path)
}

// request connects, asks and reads the answer.
func (d *Driver) request(ctx context.Context, id model.ID, q monitorapi.Request) (*Conn, monitorapi.Reply, error) {
	var rep monitorapi.Reply
	nc, err := d.dial(ctx, id)
	if err != nil {
		return nil, rep, err
	}
	c := &Conn{Conn: nc, R: &monitorapi.Reader{R: nc, Max: q.MaxReply}}
	stop := context.AfterFunc(ctx, func() { _ = nc.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	_ = nc.SetDeadline(time.Now().Add(answerTime))
	q.Version = monitorapi.Version
	err = monitorapi.WriteJSON(nc, monitorapi.RequestFrame, q)
	if err == nil {
		err = c.R.Expect(monitorapi.ReplyFrame, &c.Raw)
	}
	if err == nil {
		err = json.Unmarshal(c.Raw, &rep)
	}
	if err == nil && !stop() {
		err = ctx.Err()
	}
	if err != nil {
		_ = nc.Close()
		switch {
		case ctx.Err() != nil:
			err = ctx.Err()
		case errors.Is(err, os.ErrDeadlineExceeded):
			err = errdefs.ErrUnavailable.WithMessage(fmt.Sprintf("what holds container %s did not answer %q within %v: the host is too busy, or its process %s hangs", id.Short(), q.Op, answerTime, filepath.Base(d.opts.Monitor)))
		}
		var f *monitorapi.Failed
		if q.MaxReply > 0 && errors.As(err, &f) {
			f.Text = frame.Printable(f.Text, maxText)
		}
		return nil, rep, Kinded(err)
	}
	_ = nc.SetDeadline(time.Time{})
	return c, rep, nil
}

var _ model.Stream = (*Conn)(nil)

// Close ends the connection.
func (c *Conn) Close() error {
	if c.left != nil {
		c.leftOnce.Do(func() { close(c.left) })
	}
	return c.Conn.Close()
}

// Next returns the next piece of output.
func (c *Conn) Next() (model.StreamKind, []byte, error) {
	t, p, err := c.R.Next()
	if err != nil {
		if errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = io.EOF
		}
		return 0, nil, err
	}
	switch t {
	case monitorapi.Stdout:
		return model.Stdout, p, nil
	case monitorapi.Stderr:
		return model.Stderr, p, nil
	case monitorapi.ExitFrame:
		var e model.Exit
		if err := json.Unmarshal(p, &e); err != nil {
			return 0, nil, fmt.Errorf("exit frame: %w", err)
		}
		if c.ended != nil {
			c.ended(e)
		}
		return 0, nil, io.EOF
	case monitorapi.Error:
		f := new(monitorapi.Failed)
		if err := json.Unmarshal(p, f); err != nil {
			return 0, nil, fmt.Errorf("error frame: %w", err)
		}
		return 0, nil, Kinded(f)
	}
	return 0, nil, fmt.Errorf("%w: type %d in a stream", monitorapi.ErrFrame, t)
}

// Write sends input, in frames of at most MaxData bytes.
func (c *Conn) Write(p []byte) (int, error) {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	n := 0
	for n < len(p) {
		m := min(len(p)-n, monitorapi.MaxData)
		if err := monitorapi.Write(c.Conn, monitorapi.Stdin, p[n:n+m]); err != nil {
			return n, err
		}
		n += m
	}
	return n, nil
}

// CloseWrite closes the process's stdin.
func (c *Conn) CloseWrite() error {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	return monitorapi.Write(c.Conn, monitorapi.CloseStdin, nil)
}

// Resize sets the terminal's size.
func (c *Conn) Resize(height, width uint) error { return c.resize(height, width) }
