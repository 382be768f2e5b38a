package held

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"

	"wharf/api/monitorapi"
	"wharf/internal/driver"
	"wharf/internal/model"
)

// requestTime bounds what has no context of its caller's.
const requestTime = 10 * time.Second

// Attach opens the main process's streams.
func (i *Instance) Attach(ctx context.Context, stdin, stdout, stderr bool) (model.Stream, error) {
	c, err := i.Open(ctx, monitorapi.Request{Op: monitorapi.OpAttach,
		Attach: &monitorapi.Attach{Stdin: stdin, Stdout: stdout, Stderr: stderr}})
	if err != nil {
		return nil, err
	}
	c.resize = func(h, w uint) error {
		ctx, cancel := context.WithTimeout(context.Background(), requestTime)
		defer cancel()
		return i.Resize(ctx, h, w)
	}
	return c, nil
}

// Exec starts a further process.
func (i *Instance) Exec(ctx context.Context, e *model.ExecSpec) (driver.Process, error) {
	if i.Pid() == 0 {
		return nil, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("container %s is not running", i.id.Short()))
	}
	b, err := i.Bundle()
	if err != nil {
		return nil, err
	}
	path, err := i.d.cgroupPath(b)
	if err != nil {
		return nil, err
	}
	p, err := i.d.opts.Kind.PrepareExec(b, likeMain(b, e), path)
	if err != nil {
		return nil, err
	}
	prepared, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	c, err := i.Open(ctx, monitorapi.Request{Op: monitorapi.OpExec, Start: &monitorapi.Exec{
		ID: string(e.ID), Prepared: prepared, Terminal: e.Process.Terminal, OpenStdin: e.OpenStdin, Owner: rootID(b),
	}})
	if err != nil {
		var f *monitorapi.Failed
		if errors.As(err, &f) && f.Code != 0 {
			return nil, &driver.StartError{Code: f.Code, Err: err}
		}
		return nil, err
	}
	x := &process{i: i, id: string(e.ID), pid: c.Reply.Pid, c: c, done: make(chan struct{})}
	c.ended, c.resize, c.left = x.ended, x.resize, make(chan struct{})
	return x, nil
}

// likeMain gives an exec the container's oom_score_adj, not the monitor's.
func likeMain(b *model.Bundle, e *model.ExecSpec) *model.ExecSpec {
	if e.Process.OOMScoreAdj != nil || b.Spec.Process == nil || b.Spec.Process.OOMScoreAdj == nil {
		return e
	}
	c, p := *e, *e.Process
	p.OOMScoreAdj = b.Spec.Process.OOMScoreAdj
	c.Process = &p
	return &c
}

// process is an exec'd process.
type process struct {
	i   *Instance
	id  string
	pid int
	c   *Conn

	once sync.Once // sets exit
	done chan struct{}
	exit model.Exit

	ask sync.Once // starts the wait for those who do not read the stream
}

var _ driver.Process = (*process)(nil)

func (p *process) Pid() int             { return p.pid }
func (p *process) Stream() model.Stream { return p.c }

// ended records the exit.
func (p *process) ended(e model.Exit) {
	p.once.Do(func() {
		p.exit = e
		close(p.done)
	})
}

// Wait returns the exit: it comes at the end of the stream, or by asking for
// it when nobody reads that.
func (p *process) Wait(ctx context.Context) (model.Exit, error) {
	select {
	case <-p.done:
		return p.exit, nil
	default:
	}
	p.ask.Do(func() { go p.askLater() })
	select {
	case <-p.done:
		return p.exit, nil
	case <-ctx.Done():
		return model.Exit{}, ctx.Err()
	}
}

// streamTime is how long Wait leaves it to the stream's reader to meet the
// exit: most processes are short, and a connection is a tenth of what they cost.
const streamTime = 50 * time.Millisecond

// askLater asks for the exit when the stream does not bring it.
func (p *process) askLater() {
	t := time.NewTimer(streamTime)
	defer t.Stop()
	select {
	case <-p.done:
		return
	case <-p.c.left: // nobody reads it
	case <-t.C:
	}
	p.hold()
}

// hold waits on a connection of its own. A process whose monitor is gone has
// ended with the container.
func (p *process) hold() {
	c, err := p.i.Open(context.Background(), monitorapi.Request{Op: monitorapi.OpWait, Exec: p.id})
	var e model.Exit
	if err == nil {
		err = c.R.Expect(monitorapi.ExitFrame, &e)
		_ = c.Close()
	}
	if err != nil {
		<-p.i.done
		e = model.Exit{Code: 137, At: p.i.exit.At, Error: "the container ended before the process"}
	}
	p.ended(e)
}

// Signal sends sig to the process.
func (p *process) Signal(ctx context.Context, sig syscall.Signal) error {
	return p.i.Call(ctx, monitorapi.Request{Op: monitorapi.OpSignal, Exec: p.id, Signal: monitorapi.SignalNumber(sig)})
}

func (p *process) resize(height, width uint) error {
	ctx, cancel := context.WithTimeout(context.Background(), requestTime)
	defer cancel()
	return p.i.Call(ctx, monitorapi.Request{Op: monitorapi.OpResize, Exec: p.id, Size: &monitorapi.WinSize{Height: height, Width: width}})
}
