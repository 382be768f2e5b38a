package held

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"wharf/api/monitorapi"
	"wharf/internal/driver"
	"wharf/internal/model"
	"wharf/internal/undo"
)

// logPlan is model.LogPlan and what only some log drivers want to know.
type logPlan struct {
	model.LogPlan
	ContainerID string `json:"containerId"`
	Logger      string `json:"logger"` // path of wharf-logger, beside the monitor
}

// Start starts b's process: one exec of the monitor, which executes itself
// once more as the init stage, which executes the image's program.
func (d *Driver) Start(ctx context.Context, b *model.Bundle, sb driver.Sandbox) (driver.Instance, error) {
	return AsInstance(d.Begin(ctx, b, sb))
}

// AsInstance keeps an error from coming with an interface that holds no
// instance, which is not nil.
func AsInstance(i *Instance, err error) (driver.Instance, error) {
	if err != nil {
		return nil, err
	}
	return i, nil
}

// Begin is Start.
func (d *Driver) Begin(ctx context.Context, b *model.Bundle, sb driver.Sandbox) (*Instance, error) {
	return d.BeginWhen(ctx, b, sb, nil)
}

// BeginWhen is StartWhen of driver.Early. The monitor makes the container
// while ready is awaited; nil: there is nothing to wait for.
func (d *Driver) BeginWhen(ctx context.Context, b *model.Bundle, sb driver.Sandbox, ready func(context.Context) error) (*Instance, error) {
	return d.begin(ctx, b, sb, ready, d.take)
}

// begin is BeginWhen with a monitor that take returns.
func (d *Driver) begin(ctx context.Context, b *model.Bundle, sb driver.Sandbox, ready func(context.Context) error, take func(model.ID) (*monitor, error)) (_ *Instance, err error) {
	s, ok := sb.(*sandbox)
	if !ok {
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("sandbox %T is another driver's", sb))
	}
	defer s.Close()
	if err := checkID(b.ID); err != nil {
		return nil, err
	}
	if err := d.opts.Kind.Check(b); err != nil {
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
	m, err := take(b.ID)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", d.program(), err)
	}
	u.Push(m.kill)
	tr.add("monitor is executed")
	// It takes two milliseconds to be there: time to make its orders.
	msg, files, err := d.message(ctx, b, s, ready != nil)
	defer closeFiles(files)
	if err != nil {
		return nil, err
	}
	tr.add("prepared")
	stop := context.AfterFunc(ctx, func() { _ = m.kill() })
	defer stop()
	if err := d.order(b.ID, m, msg, files); err != nil {
		return nil, fmt.Errorf("start %s: %w", d.program(), err)
	}
	if err := d.keepBundle(b); err != nil { // what exec needs after a restart of the daemon
		return nil, err
	}
	if ready != nil {
		if err := ready(ctx); err != nil {
			return nil, err
		}
		_ = monitorapi.Write(m.control, monitorapi.GoFrame, nil) // one that has failed has said why
	}
	var st monitorapi.Started
	r := &monitorapi.Reader{R: m.control}
	if err := r.Expect(monitorapi.StartedFrame, &st); err != nil {
		return nil, d.opts.Kind.Explain(b, d.startError(ctx, b.ID, err))
	}
	if !stop() && ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return d.started(ctx, b, &st, tr, r, m), nil
}

// started makes the instance of a monitor that has answered.
func (d *Driver) started(ctx context.Context, b *model.Bundle, st *monitorapi.Started, tr trace, r *monitorapi.Reader, m *monitor) *Instance {
	i := newInstance(d, b.ID, st.Pid)
	tr = append(tr, st.Trace...)
	tr.add("known to the driver")
	i.bundle, i.warnings, i.trace = b, st.Warnings, tr
	slog.DebugContext(ctx, "monitor has started", "room", string(d.Isolation()), "id", b.ID, "steps", tr)
	d.put(i)
	d.refill()
	go func() {
		d.keepPid(b.ID, st.Pid)
		i.hold(r, m.control)
	}()
	return i
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

// message encodes the Start frame, and names the descriptors that go with it;
// those are to be closed also on an error.
func (d *Driver) message(ctx context.Context, b *model.Bundle, s *sandbox, hold bool) (_ []byte, files []File, err error) {
	path, err := d.cgroupPath(b)
	if err != nil {
		return nil, nil, err
	}
	if files, err = d.files(b.ID, s); err != nil {
		return nil, files, err
	}
	p, more, err := d.opts.Kind.Prepare(ctx, b, path)
	files = append(files, more...)
	if err != nil {
		return nil, files, err
	}
	prepared, err := json.Marshal(p)
	if err != nil {
		return nil, files, err
	}
	plan := logPlan{b.Log, string(b.ID), filepath.Join(filepath.Dir(d.opts.Monitor), "wharf-logger")}
	if err := resolveSyslog(ctx, &plan.LogPlan); err != nil {
		return nil, files, err
	}
	log, err := json.Marshal(plan)
	if err != nil {
		return nil, files, err
	}
	names := make([]string, 0, len(files))
	for _, f := range files {
		names = append(names, f.Name)
	}
	st := monitorapi.Start{
		Version: monitorapi.Version, ID: string(b.ID), Prepared: prepared, Files: names,
		Terminal:  b.Spec.Process != nil && b.Spec.Process.Terminal,
		OpenStdin: b.OpenStdin, StdinOnce: b.StdinOnce, Owner: rootID(b), Waiting: b.Waiting, Log: log, Hold: hold,
	}
	payload, err := json.Marshal(st)
	if err != nil {
		return nil, files, err
	}
	frame, err := monitorapi.Frame(monitorapi.StartFrame, payload)
	return frame, files, err
}

// files are the monitor's working directory and stderr, and the sandbox.
func (d *Driver) files(id model.ID, s *sandbox) (out []File, err error) {
	dir, err := os.Open(d.dir(id))
	if err != nil {
		return nil, err
	}
	out = append(out, File{monitorapi.FileDir, dir})
	// What the monitor has to say when it cannot say it to anybody. Not our
	// stderr: it may be a pipe to somebody who waits for its end.
	log, err := os.OpenFile(filepath.Join(d.dir(id), monitorLog), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return out, err
	}
	out = append(out, File{monitorapi.FileStderr, log})
	if s.user != nil {
		out, s.user = append(out, File{monitorapi.FileUser, s.user}), nil
	}
	if s.net != nil {
		out, s.net = append(out, File{monitorapi.FileNet, s.net}), nil
	}
	return out, nil
}

func closeFiles(files []File) {
	for _, f := range files {
		_ = f.File.Close()
	}
}

func (d *Driver) program() string { return filepath.Base(d.opts.Monitor) }

// startError gives what a monitor answered its kind.
func (d *Driver) startError(ctx context.Context, id model.ID, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var f *monitorapi.Failed
	if !errors.As(err, &f) {
		return fmt.Errorf("%s ended before the instance was started: %w%s", d.program(), err, d.lastWords(id))
	}
	if f.Code != 0 {
		return &driver.StartError{Code: f.Code, Err: errdefs.ErrInvalidArgument.WithMessage(f.Text)}
	}
	return Kinded(f)
}

// Kinded maps a monitor's error to errdefs.
func Kinded(err error) error {
	var f *monitorapi.Failed
	if !errors.As(err, &f) {
		return err
	}
	for k, e := range map[string]error{
		monitorapi.KindInvalid: errdefs.ErrInvalidArgument, monitorapi.KindNotFound: errdefs.ErrNotFound,
		monitorapi.KindUnavailable: errdefs.ErrUnavailable, monitorapi.KindUnimplemented: errdefs.ErrNotImplemented,
		monitorapi.KindConflict: errdefs.ErrConflict,
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
