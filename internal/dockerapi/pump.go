package dockerapi

import (
	"net/http"
	"sync"
)

// pumpSize is how much a pump holds before its writer has to wait.
const pumpSize = 64 << 10

// pump sends what is put into it as soon as the client takes it, as much at a
// time as has gathered meanwhile: small lines do not cost a system call each,
// and none waits for the next.
type pump struct {
	w    http.ResponseWriter
	done chan struct{}

	mu     sync.Mutex
	cond   *sync.Cond
	buf    []byte
	closed bool
	err    error
}

func newPump(w http.ResponseWriter) *pump {
	p := &pump{w: w, done: make(chan struct{})}
	p.cond = sync.NewCond(&p.mu)
	go p.run()
	return p
}

// put appends to the buffer; it waits while the buffer is full. false: the
// client takes no more.
func (p *pump) put(fill func(to []byte) []byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.buf) >= pumpSize && p.err == nil {
		p.cond.Wait()
	}
	if p.err != nil {
		return false
	}
	p.buf = fill(p.buf)
	p.cond.Broadcast()
	return true
}

// close sends the rest and returns the first failure to write.
func (p *pump) close() error {
	p.mu.Lock()
	p.closed = true
	p.cond.Broadcast()
	p.mu.Unlock()
	<-p.done
	return p.err
}

func (p *pump) run() {
	defer close(p.done)
	rc := http.NewResponseController(p.w)
	var out []byte
	for {
		p.mu.Lock()
		for len(p.buf) == 0 && !p.closed {
			p.cond.Wait()
		}
		out, p.buf = p.buf, out[:0]
		p.cond.Broadcast()
		p.mu.Unlock()
		if len(out) == 0 {
			return // closed and empty
		}
		if _, err := p.w.Write(out); err != nil {
			p.mu.Lock()
			p.err = err
			p.cond.Broadcast()
			p.mu.Unlock()
			return
		}
		_ = rc.Flush()
	}
}
