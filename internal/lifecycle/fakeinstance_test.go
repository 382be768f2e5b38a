package lifecycle

import (
	"context"
	"io"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"wharf/internal/driver"
	"wharf/internal/model"
)

// fakeInstance ends on KILL and, unless stubborn, on any other signal.
type fakeInstance struct {
	w      *world
	id     model.ID
	bundle *model.Bundle

	mu       sync.Mutex
	pid      int
	stubborn bool
	deaf     int // so many signals but KILL do not arrive
	signals  []syscall.Signal
	exit     model.Exit
	over     chan struct{}
	output   []string // what each attachment sees
	attached int
	execs    []*model.ExecSpec
	execCode int
	execSlow bool
	limits   *container.Resources
	frozen   bool
}

// now is the reign of the present engine.
func (w *world) now() *reign {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.reign
}

func (i *fakeInstance) end(code int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.pid != 0 {
		i.pid, i.exit = 0, model.Exit{Code: code, At: time.Now()}
		close(i.over)
	}
}

func (i *fakeInstance) ID() model.ID { return i.id }
func (i *fakeInstance) Pid() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.pid
}

func (i *fakeInstance) Wait(ctx context.Context) (model.Exit, error) {
	select {
	case <-i.over:
		return i.exit, nil
	case <-ctx.Done():
		return model.Exit{}, ctx.Err()
	}
}

func (i *fakeInstance) Signal(_ context.Context, sig syscall.Signal) error {
	i.mu.Lock()
	i.signals = append(i.signals, sig)
	if i.deaf > 0 && sig != syscall.SIGKILL {
		i.deaf--
		i.mu.Unlock()
		return errdefs.ErrUnavailable.WithMessage("it stands still")
	}
	gone, ends := i.pid == 0, sig == syscall.SIGKILL || !i.stubborn
	i.mu.Unlock()
	if gone {
		return errdefs.ErrNotFound
	}
	if ends {
		go i.end(128 + int(sig))
	}
	return nil
}

func (i *fakeInstance) sent() []syscall.Signal {
	i.mu.Lock()
	defer i.mu.Unlock()
	return append([]syscall.Signal(nil), i.signals...)
}

func (i *fakeInstance) Attach(context.Context, bool, bool, bool) (model.Stream, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.attached++
	return &fakeStream{lines: append([]string(nil), i.output...), over: i.over}, nil
}
func (i *fakeInstance) Resize(context.Context, uint, uint) error { return nil }

func (i *fakeInstance) Exec(_ context.Context, e *model.ExecSpec) (driver.Process, error) {
	if err := i.w.now().step("exec"); err != nil {
		return nil, err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.execs = append(i.execs, e)
	p := &fakeProcess{code: i.execCode, over: make(chan struct{})}
	p.stream = &fakeStream{lines: []string{"exec output\n"}, over: p.over}
	if !i.execSlow {
		close(p.over)
	}
	return p, nil
}

func (i *fakeInstance) Pause(context.Context) error  { return i.freeze(true) }
func (i *fakeInstance) Resume(context.Context) error { return i.freeze(false) }
func (i *fakeInstance) freeze(on bool) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.frozen = on
	return nil
}
func (i *fakeInstance) Stats(context.Context) (*container.StatsResponse, error) {
	return &container.StatsResponse{PidsStats: container.PidsStats{Current: 1}}, nil
}
func (i *fakeInstance) Pids(context.Context) ([]int, error) { return []int{1}, nil }
func (i *fakeInstance) Update(_ context.Context, r container.Resources) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.limits = &r
	return nil
}
func (i *fakeInstance) OOM(context.Context) (uint64, error) { return 0, nil }

type fakeProcess struct {
	code   int
	over   chan struct{}
	once   sync.Once
	stream *fakeStream
}

func (p *fakeProcess) Pid() int             { return 77 }
func (p *fakeProcess) Stream() model.Stream { return p.stream }
func (p *fakeProcess) Wait(ctx context.Context) (model.Exit, error) {
	select {
	case <-p.over:
		return model.Exit{Code: p.code}, nil
	case <-ctx.Done():
		return model.Exit{}, ctx.Err()
	}
}
func (p *fakeProcess) Signal(context.Context, syscall.Signal) error {
	p.once.Do(func() { close(p.over) })
	return nil
}

// fakeStream yields its lines and ends with the process.
type fakeStream struct {
	lines []string
	over  <-chan struct{}
	mu    sync.Mutex
	wrote []byte

	closedWrite bool
	size        [2]uint
	onClose     func()
}

func (s *fakeStream) Next() (model.StreamKind, []byte, error) {
	if len(s.lines) > 0 {
		l := s.lines[0]
		s.lines = s.lines[1:]
		return model.Stdout, []byte(l), nil
	}
	<-s.over
	return 0, nil, io.EOF
}
func (s *fakeStream) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wrote = append(s.wrote, p...)
	return len(p), nil
}
func (s *fakeStream) CloseWrite() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closedWrite = true
	return nil
}
func (s *fakeStream) Resize(h, w uint) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.size = [2]uint{h, w}
	return nil
}
func (s *fakeStream) Close() error {
	if s.onClose != nil {
		s.onClose()
	}
	return nil
}

func (i *fakeInstance) endWith(e model.Exit) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.pid != 0 {
		e.At = time.Now()
		i.pid, i.exit = 0, e
		close(i.over)
	}
}
