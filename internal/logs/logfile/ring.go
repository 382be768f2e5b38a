package logfile

import (
	"bytes"
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

	lostLines, lostBytes uint64 // not told of yet
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
		// Told by run: the log's own lock may be held by a write that hangs.
		r.lostBytes += uint64(len(p))
		r.lostLines += uint64(bytes.Count(p, []byte{'\n'}))
		r.mu.Unlock()
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
		lines, lost := r.lostLines, r.lostBytes
		r.lostLines, r.lostBytes = 0, 0
		r.mu.Unlock()
		if lost > 0 {
			r.log.mu.Lock()
			r.log.lose(lines, lost, errBehind)
			r.log.show()
			r.log.mu.Unlock()
		}
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
