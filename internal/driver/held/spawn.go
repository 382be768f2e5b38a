package held

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"wharf/internal/model"
)

// refillDelay keeps the making of a spare monitor out of the way of the start
// that used the last one.
const refillDelay = 20 * time.Millisecond

// monitor is a monitor process that this daemon started.
type monitor struct {
	control *os.File
	pidfd   *os.File
	ended   chan struct{}
}

// take returns a monitor that waits for its orders: a spare one, or a new one.
func (d *Driver) take(id model.ID) (*monitor, error) {
	d.mu.Lock()
	for len(d.spare) > 0 {
		m := d.spare[0]
		d.spare = d.spare[1:]
		if m.alive() {
			d.mu.Unlock()
			return m, nil
		}
		_ = m.control.Close()
	}
	d.mu.Unlock()
	return d.spawn(string(id))
}

// placeholder is as long as an id, which takes its place.
func placeholder(name string) string { return name + strings.Repeat(" ", max(0, 64-len(name))) }

// refill makes spare monitors, a little later.
func (d *Driver) refill() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.refilling || len(d.spare) >= d.opts.Spares {
		return
	}
	d.refilling = true
	time.AfterFunc(refillDelay, func() {
		for {
			d.mu.Lock()
			if len(d.spare) >= d.opts.Spares {
				d.refilling = false
				d.mu.Unlock()
				return
			}
			d.mu.Unlock()
			m, err := d.spawn(placeholder("spare"))
			d.mu.Lock()
			if err != nil { // tried again after the next start
				d.refilling = false
				d.mu.Unlock()
				return
			}
			if d.opts.Spares > 0 {
				d.spare = append(d.spare, m)
			} else { // closed meanwhile
				_ = m.control.Close()
			}
			d.mu.Unlock()
		}
	})
}

// Close ends the spare monitors and the watch for lack of memory. Instances live on. They would end with this
// process, too.
func (d *Driver) Close() error {
	d.mu.Lock()
	d.opts.Spares = 0
	spare := d.spare
	d.spare = nil
	d.mu.Unlock()
	errs := []error{d.oom.Close()}
	for _, m := range spare {
		errs = append(errs, m.control.Close())
	}
	d.removeParent()
	return errors.Join(errs...)
}

// spawn executes the monitor, detached: own session, no descriptor of ours
// but the control socket.
func (d *Driver) spawn(name string) (*monitor, error) {
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
	pidfd := -1
	_, _, err = syscall.StartProcess(d.opts.Monitor, []string{filepath.Base(d.opts.Monitor), name},
		&syscall.ProcAttr{
			Dir: "/", Env: []string{"GOMAXPROCS=1", "GOGC=25"},
			Files: []uintptr{null.Fd(), null.Fd(), null.Fd(), uintptr(pair[1])},
			Sys:   &syscall.SysProcAttr{Setsid: true, PidFD: &pidfd},
		})
	if err != nil {
		_ = unix.Close(pair[0])
		return nil, err
	}
	_ = unix.SetNonblock(pair[0], true)
	m := &monitor{control: os.NewFile(uintptr(pair[0]), "control"), ended: make(chan struct{})}
	if pidfd < 0 {
		return nil, errors.Join(errors.New("this kernel gives no pidfd: Linux 5.10 or newer is needed"), m.control.Close())
	}
	_ = unix.SetNonblock(pidfd, true)
	m.pidfd = os.NewFile(uintptr(pidfd), "monitor")
	go m.reap()
	return m, nil
}

// order sends a monitor its Start frame with the descriptors that go with it.
func (d *Driver) order(id model.ID, m *monitor, frame []byte, files []File) error {
	fds := make([]int, 0, len(files))
	for _, f := range files {
		fds = append(fds, int(f.File.Fd()))
	}
	rc, err := m.control.SyscallConn()
	if err != nil {
		return err
	}
	var n int
	var serr error
	err = rc.Write(func(fd uintptr) bool {
		n, serr = unix.SendmsgN(int(fd), frame, unix.UnixRights(fds...), nil, unix.MSG_NOSIGNAL)
		return !errors.Is(serr, unix.EAGAIN)
	})
	if err == nil && serr != nil {
		err = os.NewSyscallError("sendmsg", serr)
	}
	if err == nil && n < len(frame) {
		_, err = m.control.Write(frame[n:])
	}
	return err
}

// reap waits for the monitor's end, so that it is no zombie while this daemon
// lives. It holds no thread.
func (m *monitor) reap() {
	defer m.pidfd.Close()
	defer close(m.ended)
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

// alive asks the kernel: reap knows a moment after the end, and a start given
// to a monitor that has ended fails.
func (m *monitor) alive() bool {
	rc, err := m.pidfd.SyscallConn()
	if err != nil {
		return false
	}
	over := false
	err = rc.Control(func(fd uintptr) {
		n, _ := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		over = n > 0
	})
	return err == nil && !over // an error: reaped
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
