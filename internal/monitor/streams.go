package monitor

import (
	"errors"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"wharf/api/monitorapi"
)

// Limits of the streams.
const (
	// queueLimit is how much output waits for a slow client before it blocks
	// the process.
	queueLimit = 64 << 10
	// drainTime is how long output is read after the process's end while a
	// descendant still holds its stdout or stderr open. Docker waits as long.
	drainTime = 2 * time.Second
	// restTime is how long passing on may take of what had been written by
	// then, on a busy machine or to a log that is slow.
	restTime = 10 * time.Second
	// pipeRoom is more than a pipe holds.
	pipeRoom = 1 << 20
	// waitingTime is how long output is held for clients that said they
	// would attach.
	waitingTime = 10 * time.Second
)

// sink takes output before any client does.
type sink interface {
	// write takes a piece of one stream's output. It cannot fail: a log that
	// cannot be written has a gap.
	write(t monitorapi.Type, p []byte)
	// end flushes an unfinished line of t.
	end(t monitorapi.Type)
}

// discard is the sink of exec'd processes.
type discard struct{}

func (discard) write(monitorapi.Type, []byte) {}
func (discard) end(monitorapi.Type)           {}

// streams holds one process's stdio.
type streams struct {
	stdin  *os.File // nil: the process reads /dev/null
	stdout *os.File // of a terminal too: its master, and then stdin as well
	stderr *os.File
	tty    bool
	keep   bool // stdin stays open when clients close theirs or leave
	sink   sink
	size   func(monitorapi.WinSize) error // of a terminal that is elsewhere

	once sync.Once // closes stdin

	pumps   sync.WaitGroup
	pumping int           // how many
	rested  chan struct{} // one for each pump that has passed on what there was, one for each that ends

	mu       sync.Mutex
	clients  map[*client]struct{}
	waiting  int           // attachments still awaited
	ready    chan struct{} // closed when none is
	draining bool          // the process has ended
	ended    bool          // and its output too: no more clients
}

func newStreams(waiting int, s sink) *streams {
	st := &streams{sink: s, clients: map[*client]struct{}{}, waiting: waiting, ready: make(chan struct{}), rested: make(chan struct{}, 4)}
	if waiting <= 0 {
		close(st.ready)
	}
	return st
}

// run starts to read output.
func (s *streams) run() {
	for t, from := range map[monitorapi.Type]*os.File{monitorapi.Stdout: s.stdout, monitorapi.Stderr: s.stderr} {
		if from != nil {
			s.pumping++
			s.pumps.Add(1)
			go s.pump(t, from)
		}
	}
}

// pump moves one output stream to the sink and the clients until its end.
func (s *streams) pump(t monitorapi.Type, from *os.File) {
	defer s.pumps.Done()
	defer func() { s.rested <- struct{}{} }()
	defer s.sink.end(t)
	s.awaitClients()
	// The frame's header is put in front of what was read.
	buf := make([]byte, monitorapi.HeaderLen+monitorapi.MaxData)
	for {
		n, err := from.Read(buf[monitorapi.HeaderLen:])
		s.pass(t, buf, n)
		if errors.Is(err, os.ErrDeadlineExceeded) { // see finish
			s.rest(t, from, buf)
			_ = from.SetReadDeadline(time.Time{})
			s.rested <- struct{}{}
			continue
		}
		if err != nil {
			return
		}
	}
}

// pass gives n bytes behind the header's room to the sink and the clients.
func (s *streams) pass(t monitorapi.Type, buf []byte, n int) {
	if n > 0 {
		s.sink.write(t, buf[monitorapi.HeaderLen:monitorapi.HeaderLen+n])
		monitorapi.PutHeader(buf, t, n)
		s.send(t, buf[:monitorapi.HeaderLen+n])
	}
}

// rest passes on what is in the pipe, and not what somebody goes on to write.
func (s *streams) rest(t monitorapi.Type, from *os.File, buf []byte) {
	c, err := from.SyscallConn()
	if err != nil {
		return
	}
	for total := 0; total < pipeRoom; {
		n := 0
		if err := c.Control(func(fd uintptr) { n, _ = unix.Read(int(fd), buf[monitorapi.HeaderLen:]) }); err != nil || n <= 0 {
			return
		}
		total += n
		s.pass(t, buf, n)
	}
}

// awaitClients returns when as many clients are attached as were announced.
func (s *streams) awaitClients() {
	select {
	case <-s.ready:
		return
	default:
	}
	t := time.NewTimer(waitingTime)
	defer t.Stop()
	select {
	case <-s.ready:
	case <-t.C:
		s.release()
	}
}

// release stops waiting for clients that were announced.
func (s *streams) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting > 0 {
		s.waiting = 0
		close(s.ready)
	}
}

// send gives a frame to every client of stream t, waiting for slow ones.
func (s *streams) send(t monitorapi.Type, frame []byte) {
	s.mu.Lock()
	var to []*client
	for c := range s.clients {
		if t == monitorapi.Stdout && c.want.Stdout || t == monitorapi.Stderr && c.want.Stderr {
			to = append(to, c)
		}
	}
	s.mu.Unlock()
	for _, c := range to {
		c.send(frame)
	}
}

// add attaches c. It reports false when the streams have ended.
func (s *streams) add(c *client) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return false
	}
	s.clients[c] = struct{}{}
	if s.draining {
		c.unblock()
	}
	if s.waiting > 0 {
		if s.waiting--; s.waiting == 0 {
			close(s.ready)
		}
	}
	return true
}

func (s *streams) remove(c *client) {
	s.mu.Lock()
	delete(s.clients, c)
	s.mu.Unlock()
}

// attached counts clients by stream.
func (s *streams) attached() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := map[string]int{}
	for c := range s.clients {
		for name, on := range map[string]bool{"stdin": c.want.Stdin, "stdout": c.want.Stdout, "stderr": c.want.Stderr} {
			if on {
				m[name]++
			}
		}
	}
	return m
}

// closeStdin makes the process read the end of its input, if that is up to
// clients. A terminal has no such thing: it stays open.
func (s *streams) closeStdin() {
	if s.stdin == nil || s.tty || s.keep {
		return
	}
	s.once.Do(func() { _ = s.stdin.Close() })
}

// finish is called after the process's end: what is in the pipes goes to the
// sink and into the clients' queues, then the streams are closed. A descendant
// that holds them open delays that by drainTime at most; what it writes later
// is lost, or for an exec read to nowhere.
func (s *streams) finish() {
	s.mu.Lock()
	s.draining = true
	for c := range s.clients {
		c.unblock()
	}
	s.mu.Unlock()
	done := make(chan struct{})
	go func() { s.pumps.Wait(); close(done) }()
	// Output that waits for announced clients is not cut short by the end.
	select {
	case <-s.ready:
	case <-done:
		return
	}
	t := time.NewTimer(drainTime)
	defer t.Stop()
	select {
	case <-done:
		return
	case <-t.C:
	}
	// Somebody holds the streams open, or the machine is so busy that they are
	// not read out: what is in them is not lost.
	for _, f := range []*os.File{s.stdout, s.stderr} {
		if f != nil && f.SetReadDeadline(time.Now()) != nil {
			return
		}
	}
	limit := time.NewTimer(restTime)
	defer limit.Stop()
	for range s.pumping {
		select {
		case <-s.rested:
		case <-limit.C:
			return
		}
	}
}

// close ends every client with the process's exit and returns when they have
// read what was queued for them, or are gone.
func (s *streams) close(e monitorapi.Exit) {
	s.mu.Lock()
	s.ended = true
	var all []*client
	for c := range s.clients {
		all = append(all, c)
	}
	s.mu.Unlock()
	for _, c := range all {
		c.end(e)
	}
	for _, c := range all {
		<-c.flushed
	}
}
