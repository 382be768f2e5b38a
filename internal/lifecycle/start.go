package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"wharf/internal/driver"
	"wharf/internal/model"
)

// starter starts containers, and gives back what a run holds.
type starter struct {
	*core
	exits  *exits
	health *health
}

// run is one start under way, or one end of a run.
type run struct {
	e       *entry
	c       *model.Container // the record when the run began
	drv     driver.Driver
	rootfs  model.Rootfs
	mounts  []model.Mount
	bundle  *model.Bundle
	sandbox driver.Sandbox
	early   *early // begun, and waits for network and files
	inst    driver.Instance
	eps     []model.Endpoint
	late    []*lateStream // clients that attached before the start
	// byPerson: not by the restart policy, whose count starts anew.
	byPerson bool
}

// stepInstance is the step whose release forgets how the run ended.
const stepInstance = "instance"

// steps is the list of what a container holds while it runs.
func (s *starter) steps() []step[*run] {
	return []step[*run]{
		{"rootfs", s.rootfs, nil},
		{"volumes", s.mounts, s.giveDisks},
		{"plan", s.describe, nil},
		{"sandbox", s.makeSandbox, s.closeSandbox},
		{"begin", s.beginInstance, s.abandon},
		{"network", s.attach, s.detachNetworks},
		{"files", s.files, nil},
		{stepInstance, s.makeInstance, s.releaseInstance},
		{"record", s.record, nil},
	}
}

// Start starts a container. errdefs.ErrNotModified: it runs already.
func (s *starter) Start(ctx context.Context, ref string) error {
	began := time.Now()
	ctx, e, done, err := s.begin(ctx, ref)
	if err != nil {
		return err
	}
	defer done()
	switch e.record().State.Phase {
	case container.StatePaused:
		return conflict("cannot start a paused container, try unpause instead")
	case container.StateRunning:
		return notModified("container is already running")
	case container.StateRemoving, container.StateDead:
		return conflict("container is marked for removal and cannot be started")
	}
	return s.start(ctx, e, true, time.Since(began))
}

// start runs the list. byPerson resets what the restart policy remembers. The
// caller holds the verb lock.
func (s *starter) start(ctx context.Context, e *entry, byPerson bool, waited time.Duration) error {
	began := time.Now()
	if byPerson {
		e.resetRestart()
	}
	s.settle(ctx, e)
	drv, err := s.driver(e.record())
	if err != nil {
		return err
	}
	r := &run{e: e, c: e.record(), drv: drv, late: e.late.take(), byPerson: byPerson}
	var times []StepTime
	err = walk(ctx, s.steps(), r, &times, s.report(e.id))
	took := time.Since(began)
	if x, ok := r.inst.(interface {
		Steps(func(string, time.Duration) bool)
	}); ok { // what the step "instance" consists of
		for name, took := range x.Steps {
			times = append(times, StepTime{Name: "instance: " + name, Took: took})
		}
	}
	e.noteStart(times, waited, waited+took)
	if err != nil {
		ctx, cancel := s.detach(ctx) // the deadline may be why
		defer cancel()
		return s.failed(ctx, r, err)
	}
	for _, l := range r.late {
		go l.bind(s.life, r.inst)
	}
	s.slog.DebugContext(ctx, "started", "id", e.id, "steps", times)
	if w, ok := r.inst.(interface{ Warnings() []string }); ok {
		for _, text := range w.Warnings() {
			s.slog.WarnContext(ctx, text, "id", e.id)
		}
	}
	s.volumeEvents(e.record(), events.ActionMount)
	s.event(e.record(), events.ActionStart, nil)
	s.health.begin(e)
	go s.exits.watch(e, r.inst)
	return nil
}

// failed notes why a start failed in the record, as Docker does: a container
// that never ran stays "created", with the exit code that a shell would give.
func (s *starter) failed(ctx context.Context, r *run, err error) error {
	code, err := startError(taskFailed, err)
	for _, l := range r.late {
		l.fail()
	}
	s.force(ctx, r.e, func(c *model.Container) {
		c.State.Error, c.State.ExitCode, c.State.Pid = err.Error(), code, 0
		c.State.End = &model.End{Reason: model.EndEngine, Text: "could not be started: " + err.Error()}
		c.Attached = nil
		if c.State.Phase == container.StateRestarting {
			c.State.Phase, c.State.FinishedAt = container.StateExited, s.now()
		}
	})
	c := r.e.record()
	if c.State.Phase == container.StateExited {
		r.e.waiters.exited(result(c))
	}
	if c.HostConfig.AutoRemove {
		if rerr := s.exits.remover.remove(ctx, r.e, s.removal(model.RemovedAuto, true)); rerr != nil {
			s.slog.ErrorContext(ctx, "container not removed after a failed start", "id", r.e.id, "err", rerr)
		}
	}
	return err
}

// record makes the run's state the container's. When it cannot be written the
// start fails: a container that runs must be known.
func (s *starter) record(ctx context.Context, r *run) error {
	st, err := r.e.record().State.To(container.StateRunning)
	if err != nil {
		return err
	}
	st.Pid, st.StartedAt, st.Error, st.ExitCode, st.OOMKilled = r.inst.Pid(), s.now(), "", 0, false
	st.End = nil
	st.Health = firstHealth(r.c.Config.Healthcheck)
	err = s.save(ctx, r.e, false, func(c *model.Container) {
		c.State, c.Attached = st, r.eps
		c.StoppedByUser = false
		if r.byPerson {
			c.RestartCount = 0
		}
	})
	if err == nil {
		r.e.began(r.inst)
	}
	return err
}

// joined returns a container whose namespace is shared; it must be running.
func (s *starter) joined(id model.ID, what string) (*model.Container, error) {
	e := s.index.get(id)
	if e == nil {
		return nil, noSuchContainer(string(id))
	}
	c := e.record()
	if c.State.Phase == container.StateRestarting {
		return nil, isRestarting(id)
	}
	if !c.State.Running() || c.State.Pid == 0 {
		if what == "PID" { // Docker's text and kind
			return nil, fmt.Errorf("failed to join PID namespace: container %s is not running", id)
		}
		return nil, conflict("cannot join %s of a non running container: %s", what, id)
	}
	if m := c.HostConfig.IpcMode; what == "IPC" && !m.IsShareable() && !m.IsContainer() && !m.IsHost() {
		return nil, conflict("can't join IPC of container %s: non-shareable IPC (hint: use IpcMode:shareable for the donor container)", id)
	}
	return c, nil
}

// isStartError reports whether err came from the image or request.
func isStartError(err error) bool {
	var se *driver.StartError
	return errors.As(err, &se)
}
