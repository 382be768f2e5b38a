package lifecycle

import (
	"context"
	"errors"
	"os"
	"sync"
	"syscall"

	"github.com/moby/moby/api/types/container"

	"wharf/internal/driver"
	"wharf/internal/model"
	"wharf/internal/plan"
)

// steps runs the processes of builds: containers without a record, made from
// the same plan and by the same list as all others. What a dead daemon left of
// them is swept, as everything that has no record.
type buildSteps struct {
	*core
	starter *starter
	creator creator
}

// list is starter's, without what belongs to a record.
func (s buildSteps) list() []step[*run] {
	return []step[*run]{
		{"directory", s.mkdir, s.rmdir},
		{"plan", s.describe, nil},
		{"sandbox", s.starter.makeSandbox, s.starter.closeSandbox},
		{"network", s.starter.attach, s.starter.detachNetworks},
		{"files", s.starter.files, nil},
		{"instance", s.starter.makeInstance, s.starter.releaseInstance},
	}
}

// RunStep starts a step of a build. The caller has to close it.
func (s buildSteps) RunStep(ctx context.Context, want model.Step) (_ model.RunningStep, err error) {
	id := model.NewID()
	// A name that is taken marks the id as being worked on, for fsck.
	name := "build-" + id.Short()
	if err := s.index.reserve(name, id); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.creator.unname(id, name)
		}
	}()
	r, err := s.decide(ctx, id, name, want)
	if err != nil {
		return nil, err
	}
	var times []StepTime
	if err := walk(ctx, s.list(), r, &times, s.report(id)); err != nil {
		return nil, stepError(taskFailed, err)
	}
	s.slog.DebugContext(ctx, "build step started", "id", id, "steps", times)
	out := &buildStep{buildSteps: s, run: r, name: name}
	if out.stream, err = r.inst.Attach(ctx, want.Config.OpenStdin, true, true); err != nil {
		return nil, errors.Join(err, out.free())
	}
	return out, nil
}

func (s buildSteps) decide(ctx context.Context, id model.ID, name string, want model.Step) (*run, error) {
	ids, err := s.ids.take(id)
	if err != nil {
		return nil, err
	}
	hc := *want.HostConfig
	hc.LogConfig = container.LogConfig{Type: "none"}
	// Its root and mounts are BuildKit's snapshots, which are no disks; the
	// daemon's default-isolation is about what users start.
	hc.Isolation = container.Isolation(model.IsolationContainer)
	c, _, err := s.plan.Create(plan.CreateInput{
		Request: model.CreateRequest{Config: want.Config, HostConfig: &hc},
		ID:      id, Name: name, Now: s.now(), IDs: ids, Lookup: s.lookup(),
	})
	if err == nil && c.Isolation != model.IsolationContainer {
		err = invalid("this daemon's isolation-policy runs what is on network %s with isolation %s, and steps of builds run as containers: build on another network", c.HostConfig.NetworkMode, c.Isolation)
	}
	if err != nil {
		return nil, err
	}
	if c.IDs != ids {
		s.ids.hold(id, c.IDs)
	}
	if c.Endpoints, err = s.checked(ctx, c.HostConfig.NetworkMode, c.Endpoints); err != nil {
		return nil, err
	}
	c.Mounts = append(c.Mounts, want.Mounts...)
	drv, err := s.driver(&c)
	if err != nil {
		return nil, err
	}
	return &run{e: newEntry(c), c: &c, drv: drv, rootfs: want.Rootfs, mounts: c.Mounts}, nil
}

func (s buildSteps) mkdir(_ context.Context, r *run) error { return os.Mkdir(s.dir(r.e.id), 0o700) }
func (s buildSteps) rmdir(_ context.Context, r *run) error { return os.RemoveAll(s.dir(r.e.id)) }

// describe also has the first reader waited for.
func (s buildSteps) describe(ctx context.Context, r *run) error {
	err := s.starter.describe(ctx, r)
	if err == nil {
		r.bundle.Waiting = 1
	}
	return err
}

// buildStep is a started step.
type buildStep struct {
	buildSteps
	run    *run
	name   string
	stream model.Stream
	once   sync.Once
	freed  error
}

func (b *buildStep) Stream() model.Stream { return b.stream }

func (b *buildStep) Wait(ctx context.Context) (model.Exit, error) { return b.run.inst.Wait(ctx) }

func (b *buildStep) Signal(ctx context.Context, sig syscall.Signal) error {
	return b.run.inst.Signal(ctx, sig)
}

// Exec starts a process beside the step's.
func (b *buildStep) Exec(ctx context.Context, r model.ExecRequest) (model.RunningStep, error) {
	e, err := b.plan.Exec(*b.run.c, model.NewID(), r)
	if err != nil {
		return nil, err
	}
	p, err := b.run.inst.Exec(ctx, e)
	if err != nil {
		return nil, stepError(execFailed, err)
	}
	return buildExec{p}, nil
}

// Close ends the step and frees what it holds, also when the build was
// cancelled.
func (b *buildStep) Close() error {
	b.once.Do(func() { b.freed = b.free() })
	return b.freed
}

func (b *buildStep) free() error {
	if b.stream != nil {
		_ = b.stream.Close()
	}
	ctx, cancel := b.detach(context.Background())
	defer cancel()
	err := unwind(ctx, b.list(), b.run, b.report(b.run.e.id))
	b.creator.unname(b.run.e.id, b.name)
	return err
}

// buildExec is a process that Exec started.
type buildExec struct{ driver.Process }

func (buildExec) Exec(context.Context, model.ExecRequest) (model.RunningStep, error) {
	return nil, invalid("an exec has no execs of its own")
}

func (e buildExec) Close() error { return e.Stream().Close() }

// stepError keeps the exit code of what the image is to blame for.
func stepError(what string, err error) error {
	code, text := startError(what, err)
	if isStartError(err) {
		return &model.StepError{Code: code, Err: text}
	}
	return text
}
