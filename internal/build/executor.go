package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"syscall"

	cerrdefs "github.com/containerd/errdefs"
	bkexecutor "github.com/moby/buildkit/executor"
	resources "github.com/moby/buildkit/executor/resources/types"
	gatewaypb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"

	"wharf/internal/model"
	"wharf/internal/undo"
)

// executor implements BuildKit's Executor by Steps.
type executor struct {
	steps    Steps
	insecure bool

	uppers  uppers
	mu      sync.Mutex
	running map[string]*runningStep
}

// Run implements BuildKit's Executor.
func (x *executor) Run(ctx context.Context, id string, root bkexecutor.Mount, mounts []bkexecutor.Mount, p bkexecutor.ProcessInfo, started chan<- struct{}) (_ resources.Recorder, err error) {
	var u undo.Stack
	defer func() { err = errors.Join(err, u.Run()) }()
	rs, leave := x.enter(id, p.Meta)
	defer leave(started)

	step, stubs, err := x.describe(ctx, root, mounts, p, &u)
	if err != nil {
		return nil, err
	}
	u.Push(stubs.clean)
	s, err := x.steps.RunStep(ctx, step)
	if err != nil {
		return nil, startError(err)
	}
	u.Push(s.Close)
	rs.begin(s, started)
	return nil, drive(ctx, s, p)
}

// Exec implements BuildKit's Executor: a further process in a run.
func (x *executor) Exec(ctx context.Context, id string, p bkexecutor.ProcessInfo) error {
	x.mu.Lock()
	rs := x.running[id]
	x.mu.Unlock()
	if rs == nil {
		return cerrdefs.ErrNotFound.WithMessage("no step " + id + " is running")
	}
	select {
	case <-rs.ready:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if rs.step == nil {
		return cerrdefs.ErrNotFound.WithMessage("step " + id + " has ended")
	}
	m := p.Meta
	if m.Cwd == "" {
		m.Cwd = rs.meta.Cwd
	}
	if m.User == "" {
		m.User = rs.meta.User
	}
	if len(m.Env) == 0 {
		m.Env = rs.meta.Env
	}
	s, err := rs.step.Exec(ctx, model.ExecRequest{
		User: m.User, Tty: m.Tty, Env: m.Env, WorkingDir: m.Cwd, Cmd: m.Args,
		AttachStdin: p.Stdin != nil, AttachStdout: true, AttachStderr: true,
		Privileged: m.SecurityMode == pb.SecurityMode_INSECURE,
	})
	if err != nil {
		return startError(err)
	}
	return errors.Join(drive(ctx, s, p), s.Close())
}

// runningStep is a Run under way. ready is closed when step is set, or never
// will be.
type runningStep struct {
	meta  bkexecutor.Meta
	ready chan struct{}
	once  sync.Once
	step  model.RunningStep
}

func (rs *runningStep) begin(s model.RunningStep, started chan<- struct{}) {
	rs.once.Do(func() {
		rs.step = s
		close(rs.ready)
		if started != nil {
			close(started)
		}
	})
}

// enter notes a run, so that Exec finds it; leave forgets it.
func (x *executor) enter(id string, meta bkexecutor.Meta) (rs *runningStep, leave func(started chan<- struct{})) {
	rs = &runningStep{ready: make(chan struct{}), meta: meta}
	x.mu.Lock()
	if id != "" {
		x.running[id] = rs
	}
	x.mu.Unlock()
	return rs, func(started chan<- struct{}) {
		rs.begin(nil, started) // closes what was not closed
		x.mu.Lock()
		defer x.mu.Unlock()
		if x.running[id] == rs {
			delete(x.running, id)
		}
	}
}

// startError gives a step that could not be started a shell's exit code.
func startError(err error) error {
	var se *model.StepError
	if errors.As(err, &se) {
		if errors.Is(err, syscall.ENOEXEC) || strings.Contains(err.Error(), "exec format error") {
			err = fmt.Errorf("%w (a program for another platform? RUN of foreign platforms needs binfmt_misc: install qemu-user-static)", err)
		}
		return &gatewaypb.ExitError{ExitCode: uint32(se.Code), Err: err}
	}
	return err
}

// drive moves a process's streams until it has ended, and ends it when ctx
// does.
func drive(ctx context.Context, s model.RunningStep, p bkexecutor.ProcessInfo) error {
	over := make(chan struct{})
	defer close(over)
	go func() {
		for {
			select {
			case <-ctx.Done():
				_ = s.Signal(context.WithoutCancel(ctx), syscall.SIGKILL)
				return
			case sig, ok := <-p.Signal:
				if !ok {
					p.Signal = nil
					continue
				}
				_ = s.Signal(ctx, sig)
			case w, ok := <-p.Resize:
				if !ok {
					p.Resize = nil
					continue
				}
				_ = s.Stream().Resize(uint(w.Rows), uint(w.Cols))
			case <-over:
				return
			}
		}
	}()
	if p.Stdin != nil {
		go func() {
			_, _ = io.Copy(s.Stream(), p.Stdin)
			_ = s.Stream().CloseWrite()
		}()
	}
	copyOut(s.Stream(), p)
	exit, err := s.Wait(context.WithoutCancel(ctx))
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return err
	case exit.Code == 0 && len(p.Meta.ValidExitCodes) == 0, slices.Contains(p.Meta.ValidExitCodes, exit.Code):
		return nil
	}
	why := fmt.Errorf("exit code: %d", exit.Code)
	if exit.OOMKilled {
		why = fmt.Errorf("exit code: %d: out of memory", exit.Code)
	}
	return &gatewaypb.ExitError{ExitCode: uint32(exit.Code), Err: why}
}

// copyOut reads to the end, also when nobody takes it any more.
func copyOut(s model.Stream, p bkexecutor.ProcessInfo) {
	for {
		kind, b, err := s.Next()
		if err != nil {
			break
		}
		w := p.Stdout
		if kind == model.Stderr {
			w = p.Stderr
		}
		if w != nil {
			_, _ = w.Write(b)
		}
	}
	for _, w := range []io.WriteCloser{p.Stdout, p.Stderr} {
		if w != nil {
			_ = w.Close()
		}
	}
}
