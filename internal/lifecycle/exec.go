package lifecycle

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"wharf/internal/driver"
	"wharf/internal/model"
)

const (
	// execKept is how long an ended exec can still be inspected.
	execKept = 5 * time.Minute
	// streamPatience is how long output may go on after its process ended:
	// a child in the background can hold the pipe for ever.
	streamPatience = 2 * time.Second
)

// execs are further processes in running containers. They are not recorded:
// they end with the container, and a client whose daemon restarts has lost its
// stream anyway.
type execs struct {
	*core

	mu   sync.Mutex
	byID map[model.ID]*execution
}

func newExecs(c *core) *execs { return &execs{core: c, byID: map[model.ID]*execution{}} }

// execution is one exec, from its create to its expiry.
type execution struct {
	id  model.ID
	e   *entry
	req model.ExecRequest

	mu      sync.Mutex
	started bool
	ready   chan struct{} // closed when the start succeeded or failed
	proc    driver.Process
	code    *int // set when it has ended
	ended   time.Time
	pid     int
}

// usable says why container c cannot run an exec, as Docker does.
func usable(c *model.Container) error {
	if err := phaseError(c); err != nil {
		return err
	}
	if c.State.Phase == container.StatePaused {
		return isPaused(c.ID)
	}
	return nil
}

// endingTime is how long a failed exec waits for the end of its container,
// which would explain it.
const endingTime = 500 * time.Millisecond

// ExecCreate notes an exec to be started.
func (x *execs) ExecCreate(_ context.Context, ref string, r model.ExecRequest) (string, error) {
	e, err := x.index.find(ref)
	if err != nil {
		return "", err
	}
	c := e.record()
	if err := usable(c); err != nil {
		return "", err
	}
	if len(r.Cmd) == 0 {
		return "", invalid("No exec command specified")
	}
	id := model.NewID()
	if _, err := x.plan.Exec(*c, id, r); err != nil {
		return "", err // a bad request ends here, not at start
	}
	x.mu.Lock()
	x.expire()
	x.byID[id] = &execution{id: id, e: e, req: r, ready: make(chan struct{})}
	x.mu.Unlock()
	x.tell(e, events.ActionExecCreate, id, r)
	return string(id), nil
}

// tell publishes "exec_create: cmd args" and its like.
func (x *execs) tell(e *entry, a events.Action, id model.ID, r model.ExecRequest) {
	x.event(e.record(), events.Action(string(a)+": "+r.Cmd[0]+" "+strings.Join(r.Cmd[1:], " ")), map[string]string{"execID": string(id)})
}

// expire forgets what ended long ago, or was created in a container that is
// gone. The caller holds mu.
func (x *execs) expire() {
	for id, ex := range x.byID {
		ex.mu.Lock()
		old := ex.code != nil && time.Since(ex.ended) > execKept
		ex.mu.Unlock()
		if old || ex.e.isGone() {
			delete(x.byID, id)
		}
	}
}

func (x *execs) find(id string) (*execution, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.expire()
	if ex := x.byID[model.ID(id)]; ex != nil {
		return ex, nil
	}
	return nil, notFound("No such exec instance: %s", id)
}

// ExecStart starts an exec, once. Its stream ends after its exit code is
// known. The process lives on when the client leaves, as with Docker.
func (x *execs) ExecStart(ctx context.Context, id string, detach bool, size *[2]uint) (model.Stream, error) {
	ex, err := x.find(id)
	if err != nil {
		return nil, err
	}
	c := ex.e.record()
	if err := usable(c); err != nil {
		return nil, err
	}
	if err := ex.claim(); err != nil {
		return nil, err
	}
	defer close(ex.ready)
	x.tell(ex.e, events.ActionExecStart, ex.id, ex.req)
	ctx, cancel := x.detach(ctx)
	defer cancel()
	p, err := x.launch(ctx, ex, c, size)
	if err != nil {
		code := 126
		if n, text := startError(execFailed, err); isStartError(err) {
			code, err = n, text
		}
		ex.done(nil, code)
		x.die(ex, code)
		return nil, err
	}
	ended := make(chan struct{})
	go x.reap(ex, p, ended)
	if detach {
		return nil, p.Stream().Close() // whoever holds the process drains its output
	}
	return detachable{newExecStream(p.Stream(), ex.req, ended), func() {
		x.event(ex.e.record(), events.ActionExecDetach, map[string]string{"execID": string(ex.id)})
	}}, nil
}

// launch plans and starts the process.
func (x *execs) launch(ctx context.Context, ex *execution, c *model.Container, size *[2]uint) (driver.Process, error) {
	req := ex.req
	req.LinkEnv = x.linkEnvNow(c)
	spec, err := x.plan.Exec(*c, ex.id, req)
	if err != nil {
		return nil, err
	}
	if size != nil {
		spec.ConsoleSize = *size
	}
	inst, err := ex.e.instance()
	if err != nil {
		return nil, err
	}
	p, err := ex.e.exec(ctx, inst, spec)
	if err != nil {
		if !isStartError(err) && ending(ctx, ex.e, inst) { // whatever the exec met on the way
			return nil, notRunning(ex.e.id)
		}
		return nil, err
	}
	ex.mu.Lock()
	ex.proc, ex.pid = p, p.Pid()
	ex.mu.Unlock()
	return p, nil
}

// ending reports that a run ends just now: its exit may come a moment after the
// processes in it.
func ending(ctx context.Context, e *entry, inst driver.Instance) bool {
	if inst.Pid() == 0 || e.isDoomed() {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, endingTime)
	defer cancel()
	_, err := inst.Wait(ctx)
	return err == nil
}

// reap waits for the process.
func (x *execs) reap(ex *execution, p driver.Process, ended chan<- struct{}) {
	defer close(ended)
	exit, err := p.Wait(x.life)
	if err != nil {
		exit.Code = 137 // its container, and with it the monitor, is gone
	}
	ex.done(p, exit.Code)
	x.die(ex, exit.Code)
}

func (x *execs) die(ex *execution, code int) {
	x.event(ex.e.record(), events.ActionExecDie, map[string]string{"execID": string(ex.id), "exitCode": strconv.Itoa(code)})
}

// claim makes the caller the one that starts ex.
func (ex *execution) claim() error {
	ex.mu.Lock()
	defer ex.mu.Unlock()
	switch {
	case ex.code != nil:
		return conflict("exec command %s has already run", ex.id)
	case ex.started:
		return conflict("exec command %s is already running", ex.id)
	}
	ex.started = true
	return nil
}

func (ex *execution) done(p driver.Process, code int) {
	ex.mu.Lock()
	defer ex.mu.Unlock()
	ex.proc, ex.code, ex.ended = p, &code, time.Now()
}

// ExecInspect describes an exec.
func (x *execs) ExecInspect(_ context.Context, id string) (*container.ExecInspectResponse, error) {
	ex, err := x.find(id)
	if err != nil {
		return nil, err
	}
	ex.mu.Lock()
	defer ex.mu.Unlock()
	r, priv := ex.req, ex.req.Privileged
	return &container.ExecInspectResponse{
		ID: string(ex.id), Running: ex.started && ex.code == nil, ExitCode: ex.code,
		ProcessConfig: &container.ExecProcessConfig{
			Tty: r.Tty, Entrypoint: r.Cmd[0], Arguments: append([]string{}, r.Cmd[1:]...), Privileged: &priv, User: r.User,
		},
		OpenStdin: r.AttachStdin, OpenStdout: r.AttachStdout, OpenStderr: r.AttachStderr,
		CanRemove: ex.code != nil, ContainerID: string(ex.e.id), DetachKeys: []byte(r.DetachKeys), Pid: ex.pid,
	}, nil
}

// ExecResize sets an exec's terminal size, waiting for its start for a while.
func (x *execs) ExecResize(ctx context.Context, id string, height, width uint) error {
	ex, err := x.find(id)
	if err != nil {
		return err
	}
	if err := usable(ex.e.record()); err != nil {
		return err
	}
	select {
	case <-ex.ready:
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(killPatience):
		return conflict("exec %s is not started; start it before it is resized", id)
	}
	ex.mu.Lock()
	p, ended := ex.proc, ex.code != nil
	ex.mu.Unlock()
	if p == nil || ended {
		return invalid("exec process is not started")
	}
	return p.Stream().Resize(height, width)
}

// list returns the ids of e's execs that have not ended, as inspect shows
// them; nil when there are none.
func (x *execs) list(e *entry) []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	var out []string
	for id, ex := range x.byID {
		ex.mu.Lock()
		if ex.e == e && ex.code == nil {
			out = append(out, string(id))
		}
		ex.mu.Unlock()
	}
	return out
}
