package vmm

import (
	"os"
	"sync"
	"time"
)

// queueLimit is how much output waits for somebody who reads slowly before the
// process is made to wait. A pipe holds as much again.
const queueLimit = 256 << 10

// askAgain is how often the agent is asked, while the queue is full, whether the
// process has ended: its exit stands behind the output that does not fit.
const askAgain = time.Second

// queue is output on its way to the process's files. Its end comes with close.
type queue struct {
	mu        sync.Mutex
	changed   sync.Cond // anything below
	pieces    []piece
	size      int
	unlimited bool // the process has ended: what is left is bounded by the channel's window
	closed    bool
}

type piece struct {
	to   *os.File
	data []byte
}

func newQueue() *queue {
	q := new(queue)
	q.changed.L = &q.mu
	go q.write()
	return q
}

// push takes a copy of b. It waits while the queue is full; meanwhile ended is
// asked now and then, and true lets everything in.
func (q *queue) push(to *os.File, b []byte, ended func() bool) {
	if to == nil {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.full() {
		stop := make(chan struct{})
		defer close(stop)
		go q.askWhileFull(stop, ended)
	}
	for q.full() {
		q.changed.Wait()
	}
	q.pieces = append(q.pieces, piece{to, append([]byte(nil), b...)})
	q.size += len(b)
	q.changed.Broadcast()
}

func (q *queue) full() bool { return q.size > queueLimit && !q.unlimited }

func (q *queue) askWhileFull(stop <-chan struct{}, ended func() bool) {
	tick := time.NewTicker(askAgain)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		if ended() {
			q.mu.Lock()
			q.unlimited = true
			q.changed.Broadcast()
			q.mu.Unlock()
			return
		}
	}
}

// write writes what is queued to its end. A file that cannot be written to
// loses its pieces: nobody reads it any more.
func (q *queue) write() {
	for {
		q.mu.Lock()
		for len(q.pieces) == 0 && !q.closed {
			q.changed.Wait()
		}
		if len(q.pieces) == 0 {
			q.mu.Unlock()
			return
		}
		p := q.pieces[0]
		q.pieces = q.pieces[1:]
		q.mu.Unlock()
		_, _ = p.to.Write(p.data)
		q.mu.Lock()
		q.size -= len(p.data)
		q.changed.Broadcast()
		q.mu.Unlock()
	}
}

// close calls then when everything has been written.
func (q *queue) close(then func()) {
	q.mu.Lock()
	q.closed = true
	q.changed.Broadcast()
	q.mu.Unlock()
	go func() {
		q.mu.Lock()
		for q.size > 0 {
			q.changed.Wait()
		}
		q.mu.Unlock()
		then()
	}()
}
