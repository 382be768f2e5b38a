package logfile

import (
	"errors"
	"sync"
)

// errBehind is why mode=non-blocking loses output.
var errBehind = errors.New("the log could not keep up (mode=non-blocking)")

// ring is the memory of mode=non-blocking: output waits in it, and what finds
// it full is lost.
type ring struct {
	log   *Log
	limit int
	done  chan struct{}

	mu      sync.Mutex
	changed sync.Cond
	queue   []piece
	size    int
	writing bool
	closed  bool
}

type piece struct {
	stream byte
	data   []byte
}

func newRing(limit int, l *Log) *ring {
	r := &ring{log: l, limit: limit, done: make(chan struct{})}
	r.changed.L = &r.mu
	go r.run()
	return r
}

// put queues a copy of p or drops it.
func (r *ring) put(stream byte, p []byte) {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return
	}
	if r.size+len(p) > r.limit {
		r.mu.Unlock()
		lines := uint64(0)
		for _, c := range p {
			if c == '\n' {
				lines++
			}
		}
		r.log.mu.Lock()
		r.log.lose(lines, uint64(len(p)), errBehind)
		r.log.mu.Unlock()
		return
	}
	r.queue = append(r.queue, piece{stream, append([]byte(nil), p...)})
	r.size += len(p)
	r.changed.Broadcast()
	r.mu.Unlock()
}

func (r *ring) run() {
	defer close(r.done)
	for {
		r.mu.Lock()
		for len(r.queue) == 0 && !r.closed {
			r.changed.Wait()
		}
		if len(r.queue) == 0 {
			r.mu.Unlock()
			return
		}
		x := r.queue[0]
		r.queue = r.queue[1:]
		r.writing = true
		r.mu.Unlock()
		r.log.write(x.stream, x.data)
		r.mu.Lock()
		r.size -= len(x.data)
		r.writing = false
		r.changed.Broadcast()
		r.mu.Unlock()
	}
}

// wait returns when everything queued is written.
func (r *ring) wait() {
	r.mu.Lock()
	for len(r.queue) > 0 || r.writing {
		r.changed.Wait()
	}
	r.mu.Unlock()
}

// close writes what is queued and ends.
func (r *ring) close() {
	r.mu.Lock()
	r.closed = true
	r.changed.Broadcast()
	r.mu.Unlock()
	<-r.done
}
