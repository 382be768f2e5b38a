package lifecycle

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"syscall"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"wharf/internal/driver"
	"wharf/internal/model"
)

const (
	healthOutput  = 4096 // bytes kept of each check's output
	healthLog     = 5    // results kept
	healthStart   = 30 * time.Second
	onUnhealthy   = "wharf.on-unhealthy" // label: restart, stop, none
	defaultEvery  = 30 * time.Second
	defaultEarly  = 5 * time.Second
	defaultFails  = 3
	defaultProbes = 30 * time.Second
)

// health checks containers. Results live in the record; on disk it is written
// when the status changes, not for every check.
type health struct {
	*core
	execs   *execs
	stopper *stopper
}

// check is a container's health check with Docker's defaults filled in.
type check struct {
	cmd                          []string
	every, early, grace, timeout time.Duration
	retries                      int
}

// checkOf reads the configuration; nil: no check.
func checkOf(c *container.Config) *check {
	h := c.Healthcheck
	if h == nil || len(h.Test) < 2 {
		return nil
	}
	k := &check{
		every: orElse(h.Interval, defaultEvery), early: orElse(h.StartInterval, defaultEarly),
		grace: h.StartPeriod, timeout: orElse(h.Timeout, defaultProbes), retries: h.Retries,
	}
	if k.retries <= 0 {
		k.retries = defaultFails
	}
	switch h.Test[0] {
	case "CMD":
		k.cmd = h.Test[1:]
	case "CMD-SHELL":
		shell := []string{"/bin/sh", "-c"}
		if len(c.Shell) > 0 {
			shell = c.Shell
		}
		k.cmd = append(append([]string(nil), shell...), h.Test[1:]...)
	default: // NONE
		return nil
	}
	return k
}

func orElse(d, other time.Duration) time.Duration {
	if d == 0 {
		return other
	}
	return d
}

// firstHealth is a starting container's health; nil without a check.
func firstHealth(h *container.HealthConfig) *container.Health {
	if checkOf(&container.Config{Healthcheck: h}) == nil {
		return nil
	}
	return &container.Health{Status: container.Starting, Log: []*container.HealthcheckResult{}}
}

// begin starts to check e's present run.
func (h *health) begin(e *entry) {
	k := checkOf(e.record().Config)
	if k == nil {
		return
	}
	ctx, cancel := context.WithCancel(h.life)
	e.mu.Lock()
	if e.probe != nil {
		e.probe()
	}
	e.probe = cancel
	inst := e.inst
	e.mu.Unlock()
	if inst == nil {
		cancel()
		return
	}
	go h.loop(ctx, e, inst, k)
}

// end stops checking.
func (h *health) end(e *entry) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.probe != nil {
		e.probe()
		e.probe = nil
	}
}

func (h *health) loop(ctx context.Context, e *entry, inst driver.Instance, k *check) {
	for {
		wait := k.every
		st := e.record().State
		if st.Health != nil && st.Health.Status == container.Starting && time.Since(st.StartedAt) < k.grace {
			wait = k.early
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		began := h.now()
		res := h.probe(ctx, e, inst, k)
		if ctx.Err() != nil {
			return
		}
		res.Start, res.End = began, h.now()
		h.result(ctx, e, k, res)
	}
}

// probe runs the check once.
func (h *health) probe(ctx context.Context, e *entry, inst driver.Instance, k *check) *container.HealthcheckResult {
	failed := func(format string, args ...any) *container.HealthcheckResult {
		return &container.HealthcheckResult{ExitCode: -1, Output: fmt.Sprintf(format, args...)}
	}
	c := e.record()
	spec, err := h.plan.Exec(*c, model.NewID(), model.ExecRequest{
		Cmd: k.cmd, User: c.Config.User, WorkingDir: c.Config.WorkingDir, AttachStdout: true, AttachStderr: true, LinkEnv: h.linkEnvNow(c),
	})
	if err != nil {
		return failed("%v", err)
	}
	req := model.ExecRequest{Cmd: k.cmd}
	h.execs.tell(e, events.ActionExecCreate, spec.ID, req)
	begin, cancel := context.WithTimeout(ctx, healthStart)
	defer cancel()
	p, err := e.exec(begin, inst, spec)
	if err != nil {
		return failed("%v", err)
	}
	h.execs.tell(e, events.ActionExecStart, spec.ID, req)
	out := &limited{}
	drained := make(chan struct{})
	go func() { out.drain(p.Stream()); close(drained) }()
	defer func() { _ = p.Stream().Close() }()

	run, stop := context.WithTimeout(ctx, k.timeout)
	defer stop()
	exit, err := p.Wait(run)
	if err != nil {
		late := errors.Is(run.Err(), context.DeadlineExceeded)
		reap, cancel := context.WithTimeout(context.WithoutCancel(ctx), killPatience)
		defer cancel()
		_ = p.Signal(reap, syscall.SIGKILL)
		_, _ = p.Wait(reap) // so that dying checks do not pile up
		if !late {
			return failed("%v", err)
		}
		if text := out.String(); text != "" {
			return failed("Health check exceeded timeout (%v): %s", k.timeout, text)
		}
		return failed("Health check exceeded timeout (%v)", k.timeout)
	}
	select {
	case <-drained:
	case <-time.After(streamPatience):
	}
	h.event(c, events.ActionExecDie, map[string]string{"execID": string(spec.ID), "exitCode": fmt.Sprint(exit.Code)})
	return &container.HealthcheckResult{ExitCode: exit.Code, Output: out.String()}
}

// result puts res into the record and acts on a change.
func (h *health) result(ctx context.Context, e *entry, k *check, res *container.HealthcheckResult) {
	if e.lock(ctx) != nil {
		return
	}
	defer e.unlock()
	c := e.record()
	if ctx.Err() != nil || c.State.Phase != container.StateRunning || c.State.Health == nil {
		return
	}
	before, after := c.State.Health.Status, judge(c.State, k, res)
	if before == after.Status {
		next := *c
		next.State.Health = after
		e.rec.Store(&next) // in memory: a result is worth no write
		return
	}
	h.force(ctx, e, func(c *model.Container) { c.State.Health = after })
	h.event(e.record(), events.Action(string(events.ActionHealthStatus)+": "+string(after.Status)), nil)
	if after.Status == container.Unhealthy {
		h.act(e)
	}
}

// judge returns the health after res.
func judge(st model.State, k *check, res *container.HealthcheckResult) *container.Health {
	h := *st.Health
	h.Log = append(append([]*container.HealthcheckResult(nil), h.Log...), res)
	if n := len(h.Log); n > healthLog {
		h.Log = h.Log[n-healthLog:]
	}
	switch {
	case res.ExitCode == 0:
		h.FailingStreak, h.Status = 0, container.Healthy
	case h.Status == container.Starting && res.Start.Sub(st.StartedAt) < k.grace:
		// Failures do not count while it starts up.
	default:
		h.FailingStreak++
		if h.FailingStreak >= k.retries {
			h.Status = container.Unhealthy
		}
	}
	return &h
}

// act does what the label wharf.on-unhealthy asks for; off by default.
func (h *health) act(e *entry) {
	c := e.record()
	var do func(context.Context, string, model.StopRequest) error
	switch c.Config.Labels[onUnhealthy] {
	case "restart":
		do = h.stopper.Restart
	case "stop":
		do = h.stopper.Stop
	default:
		return
	}
	h.slog.Warn("container is unhealthy; acting as its label says", "id", e.id, "action", c.Config.Labels[onUnhealthy])
	e.blame()
	go func() {
		if err := do(h.life, string(e.id), model.StopRequest{}); err != nil {
			h.slog.Error("could not act on an unhealthy container", "id", e.id, "err", err)
		}
	}()
}

// limited keeps the first bytes of a stream.
type limited struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	more bool
}

func (l *limited) drain(s model.Stream) {
	for {
		_, p, err := s.Next()
		if err != nil {
			if err != io.EOF {
				l.add([]byte("\n" + err.Error()))
			}
			return
		}
		l.add(p)
	}
}

func (l *limited) add(p []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := min(healthOutput-l.buf.Len(), len(p))
	l.buf.Write(p[:n])
	l.more = l.more || n < len(p)
}

func (l *limited) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.more {
		return l.buf.String() + "..."
	}
	return l.buf.String()
}
