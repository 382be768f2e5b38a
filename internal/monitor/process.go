package monitor

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"wharf/api/monitorapi"
)

// Engine is what the monitor needs of whatever runs processes: the runtime for
// containers, a virtual machine's agent for VMs; fakes stand in for it.
type Engine interface {
	// Create makes the container of st up to the point before execve.
	Create(st *monitorapi.Start, f Files) (Process, error)
	// Exec makes one more process in the container of main, likewise.
	Exec(main Process, e *monitorapi.Exec, f Files) (Process, error)
}

// Extras is an engine that answers requests which the monitor does not know.
type Extras interface {
	// Serve answers q on conn. handled is false when it does not know it
	// either; keep when the connection is not to be closed by the caller.
	Serve(conn *os.File, r *monitorapi.Reader, q monitorapi.Request) (handled, keep bool, err error)
}

// Files are the descriptors of a process to start. They stay the caller's.
type Files struct {
	Stdin, Stdout, Stderr *os.File // nil is /dev/null; not used with a terminal
	User, Net             *os.File // namespaces made before; nil: the spec decides
	// More are descriptors that came with the start by names of
	// monitorapi.FileMore; the engine's to close.
	More map[string]*os.File
}

// Process is a child of the monitor, unless it is Remote.
type Process interface {
	Pid() int
	// Start lets execve happen and says whether it did.
	Start() error
	// Console is the terminal's master side, nil without one. It is the
	// caller's to close.
	Console() *os.File
	Warnings() []string
	Trace() []monitorapi.Step // steps of Create
	// Close frees what the engine still holds for the process. One that was
	// not started is ended.
	Close()
}

// Remote is a process that is no child of the monitor.
type Remote interface {
	Process
	// Wait returns when the process has ended and all of its output is in the
	// files that it was given, or was waited for long enough.
	Wait() monitorapi.Exit
	// Signal answers unix.ESRCH when the process has ended.
	Signal(sig syscall.Signal) error
	Resize(w monitorapi.WinSize) error
}

// waiter waits for a process and signals it.
type waiter interface {
	wait() monitorapi.Exit
	signal(sig syscall.Signal) error
	close()
}

func openWaiter(p Process) (waiter, error) {
	if r, ok := p.(Remote); ok {
		return remote{r}, nil
	}
	return openHandle(p.Pid())
}

// remote is the waiter of a Remote.
type remote struct{ r Remote }

func (r remote) wait() monitorapi.Exit           { return r.r.Wait() }
func (r remote) signal(sig syscall.Signal) error { return r.r.Signal(sig) }
func (r remote) close()                          {}

// handle is a descriptor of a child process: signals cannot hit another
// process that got the same pid, and its end is polled for.
type handle struct{ f *os.File }

func openHandle(pid int) (*handle, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("pidfd_open", err)
	}
	return &handle{os.NewFile(uintptr(fd), "pidfd")}, nil
}

// siginfo is the part of siginfo_t that waitid(2) fills in, on 64-bit Linux.
type siginfo struct {
	signo, errno, code int32
	_                  int32
	pid, uid, status   int32
	_                  [100]byte
}

// Values of si_code for SIGCHLD, from sigaction(2).
const (
	cldExited = 1
)

func (h *handle) close() { _ = h.f.Close() }

// wait reaps the child.
func (h *handle) wait() monitorapi.Exit { return ended(h.reap()) }

// reap returns the exit code that a shell would give, and the signal if one
// ended it.
func (h *handle) reap() (code, sig int, err error) {
	rc, err := h.f.SyscallConn()
	if err != nil {
		return 0, 0, err
	}
	var info siginfo
	var werr error
	err = rc.Read(func(fd uintptr) bool {
		for {
			werr = waitid(int(fd), &info)
			if !errors.Is(werr, unix.EINTR) {
				break
			}
		}
		return !errors.Is(werr, unix.EAGAIN)
	})
	if err == nil {
		err = werr
	}
	if err != nil {
		return 0, 0, fmt.Errorf("waitid: %w", err)
	}
	if info.code == cldExited {
		return int(info.status), 0, nil
	}
	return 128 + int(info.status), int(info.status), nil
}

func (h *handle) signal(sig syscall.Signal) error {
	rc, err := h.f.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	if err := rc.Control(func(fd uintptr) { serr = unix.PidfdSendSignal(int(fd), sig, nil, 0) }); err != nil {
		return err
	}
	return serr
}

// ended turns the result of wait into an exit.
func ended(code, sig int, err error) monitorapi.Exit {
	e := monitorapi.Exit{Code: code, Signal: sig, At: time.Now().UTC()}
	if err != nil {
		e.Code, e.Error = 255, "the exit code is not known: "+err.Error()
	}
	return e
}
