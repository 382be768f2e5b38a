package native

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"wharf/api/monitorapi"
	"wharf/internal/driver"
	"wharf/internal/model"
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
	if err := checkID(b.ID); err != nil {
		return nil, err
	}
	if d.get(b.ID) != nil {
		return nil, errdefs.ErrConflict.WithMessage(fmt.Sprintf("instance %s was not released since its last start", b.ID.Short()))
	}
	var tr trace
	tr.add("start")
	msg, err := d.message(ctx, b, s)
	if err != nil {
		return nil, err
	}
	var u undo.Stack
	defer u.OnError(&err)
	tr.add("prepared")
	if err := os.Mkdir(d.dir(b.ID), 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	m, err := d.spawn(b.ID, s)
	if err != nil {
		return nil, fmt.Errorf("start wharf-monitor: %w", err)
	}
	tr.add("monitor is executed")
	u.Push(m.kill)
	stop := context.AfterFunc(ctx, func() { _ = m.kill() })
	defer stop()
	if _, err := m.control.Write(msg); err != nil {
		return nil, fmt.Errorf("start wharf-monitor: %w", err)
	}
	// The monitor takes a millisecond to be there: time for what exec needs
	// after a restart of the daemon.
	if err := d.keepBundle(b); err != nil {
		return nil, err
	}
	var st monitorapi.Started
	r := &monitorapi.Reader{R: m.control}
	if err := r.Expect(monitorapi.StartedFrame, &st); err != nil {
		return nil, d.startError(ctx, b.ID, err)
	}
	if !stop() && ctx.Err() != nil {
		return nil, ctx.Err()
	}
	i := newInstance(d, b.ID, st.Pid)
	tr = append(tr, st.Trace...)
	tr.add("known to the driver")
	i.bundle, i.warnings, i.trace = b, st.Warnings, tr
	d.put(i)
	go func() {
		d.keepPid(b.ID, st.Pid)
		i.hold(r, m.control)
	}()
	return i, nil
}

// trace says where the time of a start went.
type trace []monitorapi.Step

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
		Version: monitorapi.Version, ID: string(b.ID), Dir: d.dir(b.ID), Prepared: prepared, Files: s.names(),
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
	var n []string
	if s.user != nil {
		n = append(n, monitorapi.FileUser)
	}
	if s.net != nil {
		n = append(n, monitorapi.FileNet)
	}
	return n
}

// monitor is a monitor process that this daemon started.
type monitor struct {
	control *os.File
	pidfd   *os.File
}

// spawn executes wharf-monitor in id's directory, detached: own session, no
// descriptor of ours but the control socket and the namespaces.
func (d *Driver) spawn(id model.ID, s *sandbox) (*monitor, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	defer unix.Close(pair[1])
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		_ = unix.Close(pair[0])
		return nil, err
	}
	defer null.Close()
	// What the monitor has to say when it cannot say it to anybody. Not our
	// stderr: it may be a pipe to somebody who waits for its end.
	log, err := os.OpenFile(filepath.Join(d.dir(id), monitorLog), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		_ = unix.Close(pair[0])
		return nil, err
	}
	defer log.Close()
	fds := []uintptr{null.Fd(), null.Fd(), log.Fd(), uintptr(pair[1])}
	for _, f := range []*os.File{s.user, s.net} {
		if f != nil {
			fds = append(fds, f.Fd())
		}
	}
	pidfd := -1
	_, _, err = syscall.StartProcess(d.opts.Monitor,
		[]string{"wharf-monitor", string(id), strconv.Itoa(len(fds) - 4)},
		&syscall.ProcAttr{
			Dir: d.dir(id), Env: []string{"GOMAXPROCS=1"}, Files: fds,
			Sys: &syscall.SysProcAttr{Setsid: true, PidFD: &pidfd},
		})
	if err != nil {
		_ = unix.Close(pair[0])
		return nil, err
	}
	_ = unix.SetNonblock(pair[0], true)
	m := &monitor{control: os.NewFile(uintptr(pair[0]), "control")}
	if pidfd < 0 {
		return nil, errors.New("this kernel gives no pidfd: Linux 5.10 or newer is needed")
	}
	_ = unix.SetNonblock(pidfd, true)
	m.pidfd = os.NewFile(uintptr(pidfd), "monitor")
	go m.reap()
	return m, nil
}

// reap waits for the monitor's end, so that it is no zombie while this daemon
// lives. It holds no thread.
func (m *monitor) reap() {
	defer m.pidfd.Close()
	rc, err := m.pidfd.SyscallConn()
	if err != nil {
		return
	}
	_ = rc.Read(func(fd uintptr) bool {
		for {
			err := unix.Waitid(unix.P_PIDFD, int(fd), nil, unix.WEXITED, nil)
			if !errors.Is(err, unix.EINTR) {
				return !errors.Is(err, unix.EAGAIN)
			}
		}
	})
}

// kill ends the monitor and lets go of it.
func (m *monitor) kill() error {
	rc, err := m.pidfd.SyscallConn()
	if err == nil {
		_ = rc.Control(func(fd uintptr) { _ = unix.PidfdSendSignal(int(fd), unix.SIGKILL, nil, 0) })
	}
	_ = m.control.Close()
	return nil
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
