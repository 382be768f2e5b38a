package lifecycle

import (
	"context"
	"io"
	"slices"
	"sync"

	"wharf/internal/driver"
	"wharf/internal/model"
)

// lateStreams are the clients that attached before the container's start:
// docker run attaches, waits, and only then starts.
type lateStreams struct {
	mu   sync.Mutex
	list []*lateStream
}

func (l *lateStreams) add(stdin, stdout, stderr bool) *lateStream {
	s := &lateStream{stdin: stdin, stdout: stdout, stderr: stderr, ready: make(chan struct{})}
	s.leave = func() { l.drop(s) }
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, s)
	return s
}

func (l *lateStreams) drop(s *lateStream) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = slices.DeleteFunc(l.list, func(x *lateStream) bool { return x == s })
}

// take hands the waiting streams to a start.
func (l *lateStreams) take() []*lateStream {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := l.list
	l.list = nil
	return out
}

// fail ends all of them: there will be no start.
func (l *lateStreams) fail() {
	for _, s := range l.take() {
		s.fail()
	}
}

// lateStream is a model.Stream that becomes one when the container starts.
// Until then Next and Write wait.
type lateStream struct {
	stdin, stdout, stderr bool

	leave func()
	ready chan struct{} // closed when s is set, or there will be none

	mu     sync.Mutex
	done   bool // ready is closed
	stream model.Stream
	size   *[2]uint // asked for before the start
}

// bind attaches to inst. If the client has left meanwhile the attachment is
// closed again, so that the driver, which waits for it, goes on.
func (l *lateStream) bind(ctx context.Context, inst driver.Instance) {
	s, err := inst.Attach(ctx, l.stdin, l.stdout, l.stderr)
	if err != nil {
		s = nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.done {
		if s != nil {
			_ = s.Close()
		}
		return
	}
	l.stream, l.done = s, true
	close(l.ready)
	if s != nil && l.size != nil {
		_ = s.Resize(l.size[0], l.size[1])
	}
}

func (l *lateStream) fail() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.done {
		l.done = true
		close(l.ready)
	}
}

// wait returns the stream, nil when there is none to come.
func (l *lateStream) wait() model.Stream {
	<-l.ready
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stream
}

func (l *lateStream) Next() (model.StreamKind, []byte, error) {
	s := l.wait()
	if s == nil {
		return 0, nil, io.EOF
	}
	return s.Next()
}

func (l *lateStream) Write(p []byte) (int, error) {
	s := l.wait()
	if s == nil {
		return 0, io.ErrClosedPipe
	}
	return s.Write(p)
}

func (l *lateStream) CloseWrite() error {
	s := l.wait()
	if s == nil {
		return nil
	}
	return s.CloseWrite()
}

// Resize before the start is kept for it.
func (l *lateStream) Resize(height, width uint) error {
	l.mu.Lock()
	s := l.stream
	if s == nil {
		l.size = &[2]uint{height, width}
	}
	l.mu.Unlock()
	if s == nil {
		return nil
	}
	return s.Resize(height, width)
}

func (l *lateStream) Close() error {
	l.leave()
	l.fail()
	if s := l.wait(); s != nil {
		return s.Close()
	}
	return nil
}
