package native

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"wharf/api/monitorapi"
	"wharf/internal/driver"
	"wharf/internal/model"
	"wharf/internal/runtime"
	"wharf/internal/runtime/prepare"
	"wharf/internal/undo"
)

// logPlan is model.LogPlan and what only some log drivers want to know.
type logPlan struct {
	model.LogPlan
	ContainerID string `json:"containerId"`
}

// Start starts b's process: one exec of the monitor, which executes itself
// once more as the init stage, which executes the image's program.
func (d *Driver) Start(ctx context.Context, b *model.Bundle, sb driver.Sandbox) (_ driver.Instance, err error) {
	s, ok := sb.(*sandbox)
	if !ok {
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("sandbox %T is not the native driver's", sb))
	}
	defer s.Close()
	if err := startable(b); err != nil {
		return nil, err
	}
	if d.get(b.ID) != nil {
		return nil, errdefs.ErrConflict.WithMessage(fmt.Sprintf("instance %s was not released since its last start", b.ID.Short()))
	}
	var tr trace
	tr.add("start")
	var u undo.Stack
	defer u.OnError(&err)
	if err := d.makeDir(b.ID); err != nil {
		return nil, err
	}
	m, err := d.take(b.ID)
	if err != nil {
		return nil, fmt.Errorf("start wharf-monitor: %w", err)
	}
	u.Push(m.kill)
	tr.add("monitor is executed")
	// It takes two milliseconds to be there: time to make its orders.
	msg, err := d.message(ctx, b, s)
	if err != nil {
		return nil, err
	}
	tr.add("prepared")
	stop := context.AfterFunc(ctx, func() { _ = m.kill() })
	defer stop()
	if err := d.order(b.ID, m, msg, s); err != nil {
		return nil, fmt.Errorf("start wharf-monitor: %w", err)
	}
	if err := d.keepBundle(b); err != nil { // what exec needs after a restart of the daemon
		return nil, err
	}
	var st monitorapi.Started
	r := &monitorapi.Reader{R: m.control}
	if err := r.Expect(monitorapi.StartedFrame, &st); err != nil {
		return nil, tight(b, d.startError(ctx, b.ID, err))
	}
	if !stop() && ctx.Err() != nil {
		return nil, ctx.Err()
	}
	i := newInstance(d, b.ID, st.Pid)
	tr = append(tr, st.Trace...)
	tr.add("known to the driver")
	i.bundle, i.warnings, i.trace = b, st.Warnings, tr
	slog.DebugContext(ctx, "monitor has started", "room", "native", "id", b.ID, "steps", tr)
	d.put(i)
	d.refill()
	go func() {
		d.keepPid(b.ID, st.Pid)
		i.hold(r, m.control)
	}()
	return i, nil
}

// makeDir makes an empty directory for the instance: what an earlier run left
// there (its exit) must not be taken for this one's.
func (d *Driver) makeDir(id model.ID) error {
	err := os.Mkdir(d.dir(id), 0o700)
	if errors.Is(err, os.ErrExist) {
		if err = os.RemoveAll(d.dir(id)); err == nil {
			err = os.Mkdir(d.dir(id), 0o700)
		}
	}
	return err
}

// trace says where the time of a start went.
type trace []monitorapi.Step

// String is each step with the time since the one before it.
func (t trace) String() string {
	var b strings.Builder
	for i, s := range t {
		if i > 0 {
			fmt.Fprintf(&b, "%s %v, ", s.Name, time.Duration(s.At-t[i-1].At).Round(10*time.Microsecond))
		}
	}
	return strings.TrimSuffix(b.String(), ", ")
}

func (t *trace) add(name string) {
	*t = append(*t, monitorapi.Step{Name: name, At: time.Now().UnixNano()})
}

// message encodes the Start frame.
func (d *Driver) message(ctx context.Context, b *model.Bundle, s *sandbox) ([]byte, error) {
	path, err := d.cgroupPath(b)
	if err != nil {
		return nil, err
	}
	p, err := prepare.Container(b, path, prepare.Options{})
	if err != nil {
		return nil, err
	}
	prepared, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	plan := logPlan{b.Log, string(b.ID)}
	if err := resolveSyslog(ctx, &plan.LogPlan); err != nil {
		return nil, err
	}
	log, err := json.Marshal(plan)
	if err != nil {
		return nil, err
	}
	st := monitorapi.Start{
		Version: monitorapi.Version, ID: string(b.ID), Prepared: prepared, Files: s.names(),
		Terminal:  b.Spec.Process != nil && b.Spec.Process.Terminal,
		OpenStdin: b.OpenStdin, StdinOnce: b.StdinOnce, Owner: rootID(b), Waiting: b.Waiting, Log: log,
	}
	payload, err := json.Marshal(st)
	if err != nil {
		return nil, err
	}
	return monitorapi.Frame(monitorapi.StartFrame, payload)
}

func (s *sandbox) names() []string {
	n := []string{monitorapi.FileDir, monitorapi.FileStderr}
	if s.user != nil {
		n = append(n, monitorapi.FileUser)
	}
	if s.net != nil {
		n = append(n, monitorapi.FileNet)
	}
	return n
}

// startError gives what a monitor answered its kind.
func (d *Driver) startError(ctx context.Context, id model.ID, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var f *monitorapi.Failed
	if !errors.As(err, &f) {
		return fmt.Errorf("wharf-monitor ended before the container was started: %w%s", err, d.lastWords(id))
	}
	if f.Code != 0 {
		return &driver.StartError{Code: f.Code, Err: errdefs.ErrInvalidArgument.WithMessage(f.Text)}
	}
	return kind(f)
}

// stageThreads is how many threads a container's first stage may have, before
// the image's program takes its place: they count in the limit of processes.
const stageThreads = 8

// startable refuses what cannot start before anything is done for it. In a
// limit of processes that is too small for it an init would die, with a trace
// of the Go runtime's for the user to read.
func startable(b *model.Bundle) error {
	if n := pidsLimit(b); b.Init && n > 0 && n <= runtime.InitThreads {
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("a limit of %d processes is too small with --init, which takes up to %d itself: give a --pids-limit of %d or more",
			n, runtime.InitThreads, runtime.InitThreads+1))
	}
	return checkID(b.ID)
}

// pidsLimit is the limit of processes, 0 for none.
func pidsLimit(b *model.Bundle) int64 {
	if b.Spec.Linux == nil || b.Spec.Linux.Resources == nil || b.Spec.Linux.Resources.Pids == nil || b.Spec.Linux.Resources.Pids.Limit == nil {
		return 0
	}
	return max(*b.Spec.Linux.Resources.Pids.Limit, 0)
}

// tight adds to an error that a limit of processes may be the reason.
func tight(b *model.Bundle, err error) error {
	var bad *driver.StartError
	if n := pidsLimit(b); n > 0 && n < stageThreads && !errors.As(err, &bad) {
		return fmt.Errorf("%w; its limit of %d processes may be too small to start it: give a --pids-limit of %d or more", err, n, stageThreads)
	}
	return err
}

// kind maps a monitor's error to errdefs.
func kind(err error) error {
	var f *monitorapi.Failed
	if !errors.As(err, &f) {
		return err
	}
	for k, e := range map[string]error{
		monitorapi.KindInvalid: errdefs.ErrInvalidArgument, monitorapi.KindNotFound: errdefs.ErrNotFound,
		monitorapi.KindUnavailable: errdefs.ErrUnavailable, monitorapi.KindUnimplemented: errdefs.ErrNotImplemented,
	} {
		if f.Kind == k {
			return withKind{f, e}
		}
	}
	return f
}

// withKind is a monitor's error with an errdefs kind that its text does not
// repeat.
type withKind struct {
	*monitorapi.Failed
	kind error
}

func (w withKind) Unwrap() []error { return []error{w.kind, w.Failed} }
