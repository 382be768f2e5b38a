package monitor

import (
	"os"
	"sync"
	"syscall"

	"wharf/api/monitorapi"
	"wharf/internal/lean"
)

// client is a connection that carries a process's streams.
type client struct {
	conn *os.File
	want monitorapi.Attach

	flushed chan struct{} // closed when the writer has ended

	mu        sync.Mutex
	changed   sync.Cond // queue, gone, ending or unlimited changed
	queue     []byte
	unlimited bool // the process has ended: its last output does not wait
	ending    bool // close the connection when the queue is empty
	gone      bool // nothing can be sent any more
}

func newClient(conn *os.File, want monitorapi.Attach) *client {
	c := &client{conn: conn, want: want, flushed: make(chan struct{})}
	c.changed.L = &c.mu
	go c.write()
	return c
}

// send queues a frame. It waits while the queue is full.
func (c *client) send(frame []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.queue) > 0 && len(c.queue)+len(frame) > queueLimit && !c.gone && !c.unlimited {
		c.changed.Wait()
	}
	if c.gone || c.ending {
		return
	}
	c.queue = append(c.queue, frame...)
	c.changed.Broadcast()
}

// write sends what is queued until the client is gone, or ended and done.
func (c *client) write() {
	defer close(c.flushed)
	var out []byte
	for {
		c.mu.Lock()
		for len(c.queue) == 0 && !c.gone && !c.ending {
			c.changed.Wait()
		}
		if c.gone || len(c.queue) == 0 {
			c.gone = true
			c.mu.Unlock()
			_ = c.conn.Close()
			return
		}
		out, c.queue = c.queue, out[:0]
		c.changed.Broadcast()
		c.mu.Unlock()
		if _, err := c.conn.Write(out); err != nil {
			c.drop()
		}
		if cap(out) > queueLimit {
			out = nil // a burst does not stay in memory
		}
	}
}

// drop gives the client up: it has gone, or its connection is broken.
func (c *client) drop() {
	c.mu.Lock()
	c.gone = true
	c.queue = nil
	c.changed.Broadcast()
	c.mu.Unlock()
}

// unblock lets send go on without waiting for the client.
func (c *client) unblock() {
	c.mu.Lock()
	c.unlimited = true
	c.changed.Broadcast()
	c.mu.Unlock()
}

// end queues the exit and closes the connection behind it.
func (c *client) end(e monitorapi.Exit) {
	p, _ := lean.Marshal(e) // a struct of plain fields
	frame := make([]byte, monitorapi.HeaderLen, monitorapi.HeaderLen+len(p))
	monitorapi.PutHeader(frame, monitorapi.ExitFrame, len(p))
	c.mu.Lock()
	if !c.gone && !c.ending {
		c.queue = append(c.queue, frame...)
		c.queue = append(c.queue, p...)
		c.ending = true
	}
	c.changed.Broadcast()
	c.mu.Unlock()
}

// serve reads the client's frames until it leaves, and acts on them.
func (c *client) serve(r *monitorapi.Reader, s *streams, signal func(syscall.Signal) error) {
	for {
		t, p, err := r.Next()
		if err != nil {
			return
		}
		switch t {
		case monitorapi.Stdin:
			if c.want.Stdin && s.stdin != nil {
				// A process that closed its stdin wants no more: not the
				// client's mistake.
				_, _ = s.stdin.Write(p)
			}
		case monitorapi.CloseStdin:
			if c.want.Stdin {
				s.closeStdin()
			}
		case monitorapi.Resize:
			var w monitorapi.WinSize
			if lean.Unmarshal(p, &w) == nil {
				_ = s.resize(w)
			}
		case monitorapi.Signal:
			var n monitorapi.SignalNumber
			if lean.Unmarshal(p, &n) == nil && validSignal(n) {
				_ = signal(syscall.Signal(n))
			}
		default:
			return // not our protocol
		}
	}
}
