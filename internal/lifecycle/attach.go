package lifecycle

import (
	"context"
	"io"
	"strconv"
	"sync"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"wharf/internal/model"
)

// streams gives clients the main process's streams and the log.
type streams struct{ *core }

// Attach opens the main process's streams. Before the start the stream waits
// for it and then has the first byte. With Logs the log comes first; with
// Stream as well, all output is taken from the followed log, which is why
// nothing is missing or doubled where the two meet (and why output comes line
// by line there).
func (s streams) Attach(ctx context.Context, ref string, r model.AttachRequest) (model.Stream, bool, error) {
	// The verb lock keeps a start from slipping in between the look at the
	// state and the attachment.
	_, e, done, err := s.begin(ctx, ref)
	if err != nil {
		return nil, false, err
	}
	defer done()
	c := e.record()
	switch c.State.Phase {
	case container.StatePaused:
		return nil, false, conflict("container %s is paused, unpause the container before attach", ref)
	case container.StateRestarting:
		return nil, false, conflict("container %s is restarting, wait until the container is running", ref)
	case container.StateRemoving, container.StateDead:
		return nil, false, conflict("container %s is marked for removal and cannot be attached to", ref)
	}
	st, err := s.open(ctx, e, c, r)
	if err != nil {
		return nil, false, wrap(err, "attach to %s", ref)
	}
	s.event(c, events.ActionAttach, nil)
	return detachable{st, func() { s.event(e.record(), events.ActionDetach, nil) }}, c.Config.Tty, nil
}

func (s streams) open(ctx context.Context, e *entry, c *model.Container, r model.AttachRequest) (model.Stream, error) {
	stdin := r.Stdin && r.Stream && c.Config.OpenStdin
	running := c.State.Running()
	switch {
	case !r.Logs && !r.Stream:
		return nothing{}, nil
	case !r.Logs && running:
		inst, err := e.instance()
		if err != nil {
			return nil, err
		}
		st, err := inst.Attach(ctx, stdin, r.Stdout, r.Stderr)
		return shared(c, st), err
	case !r.Logs:
		return shared(c, e.late.add(stdin, r.Stdout, r.Stderr)), nil
	}
	log, err := s.logs.Read(context.WithoutCancel(ctx), s.plan.Log(*c), model.LogsRequest{
		Stdout: r.Stdout, Stderr: r.Stderr, Tail: -1, Follow: r.Stream && running,
	}, e.runEnd())
	if err != nil {
		return nil, err
	}
	out := &logStream{log: log}
	switch {
	case r.Stream && running && stdin:
		inst, err := e.instance()
		if err == nil {
			out.in, err = inst.Attach(ctx, true, false, false)
			out.in = shared(c, out.in)
		}
		if err != nil {
			_ = log.Close()
			return nil, err
		}
	case r.Stream && !running:
		out.next = shared(c, e.late.add(stdin, r.Stdout, r.Stderr))
	}
	return out, nil
}

// shared keeps one client's end of input from ending it for all: only a
// container made for one client (StdinOnce), without a terminal, has its input
// closed.
func shared(c *model.Container, s model.Stream) model.Stream {
	if s == nil || c.Config.StdinOnce && !c.Config.Tty {
		return s
	}
	return openInput{s}
}

// detachable is a stream whose client may type the detach keys: the door then
// calls Detached.
type detachable struct {
	model.Stream
	tell func()
}

// Detached says that the client left by its detach keys.
func (d detachable) Detached() { d.tell() }

type openInput struct{ model.Stream }

func (openInput) CloseWrite() error { return nil }

// nothing is the stream of a client that asked for nothing.
type nothing struct{}

func (nothing) Next() (model.StreamKind, []byte, error) { return 0, nil, io.EOF }
func (nothing) Write(p []byte) (int, error)             { return len(p), nil }
func (nothing) CloseWrite() error                       { return nil }
func (nothing) Resize(uint, uint) error                 { return nil }
func (nothing) Close() error                            { return nil }

// logStream shows a log as a stream; in, if set, takes the input, and next
// follows when the log has ended.
type logStream struct {
	log  model.LogReader
	in   model.Stream
	next model.Stream

	mu    sync.Mutex
	ended bool
}

func (l *logStream) Next() (model.StreamKind, []byte, error) {
	l.mu.Lock()
	ended := l.ended
	l.mu.Unlock()
	if !ended {
		e, err := l.log.Next()
		if err == nil {
			return e.Stream, e.Line, nil
		}
		l.mu.Lock()
		l.ended = true
		l.mu.Unlock()
		if err != io.EOF || l.next == nil {
			return 0, nil, err
		}
	}
	if l.next == nil {
		return 0, nil, io.EOF
	}
	return l.next.Next()
}

func (l *logStream) input() model.Stream {
	if l.in != nil {
		return l.in
	}
	return l.next
}

func (l *logStream) Write(p []byte) (int, error) {
	if s := l.input(); s != nil {
		return s.Write(p)
	}
	return len(p), nil
}

func (l *logStream) CloseWrite() error {
	if s := l.input(); s != nil {
		return s.CloseWrite()
	}
	return nil
}

func (l *logStream) Resize(h, w uint) error {
	if s := l.input(); s != nil {
		return s.Resize(h, w)
	}
	return nil
}

func (l *logStream) Close() error {
	if s := l.input(); s != nil {
		_ = s.Close()
	}
	return l.log.Close()
}

// Logs opens the container's log. Following ends with the present run.
func (s streams) Logs(ctx context.Context, ref string, r model.LogsRequest) (model.LogReader, bool, error) {
	e, err := s.index.find(ref)
	if err != nil {
		return nil, false, err
	}
	c := e.record()
	switch c.State.Phase {
	case container.StateRemoving, container.StateDead:
		return nil, false, conflict("can not get logs from container which is dead or marked for removal")
	}
	if !r.Stdout && !r.Stderr {
		return nil, false, invalid("Bad parameters: you must choose at least one stream")
	}
	end := e.runEnd()
	if end == nil || (!r.Until.IsZero() && r.Until.Before(time.Now())) {
		r.Follow = false
	}
	l, err := s.logs.Read(ctx, s.plan.Log(*c), r, end)
	return l, c.Config.Tty, err
}

// Resize sets the size of the main process's terminal.
func (s streams) Resize(ctx context.Context, ref string, height, width uint) error {
	e, err := s.index.find(ref)
	if err != nil {
		return err
	}
	inst, err := e.instance()
	if err != nil {
		return err
	}
	if err := inst.Resize(ctx, height, width); err != nil {
		return err
	}
	s.event(e.record(), events.ActionResize, map[string]string{
		"height": strconv.FormatUint(uint64(height), 10), "width": strconv.FormatUint(uint64(width), 10),
	})
	return nil
}
