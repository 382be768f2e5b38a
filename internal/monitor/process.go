package monitor

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"wharf/api/monitorapi"
)

// engine is what the monitor needs of the runtime; fakes stand in for it.
type engine interface {
	// create makes the container up to the point before execve.
	create(prepared json.RawMessage, f files) (process, error)
	// exec makes one more process in the container of pid, likewise.
	exec(pid int, prepared json.RawMessage, f files) (process, error)
}

// files are the descriptors of a process to start. They stay the caller's.
type files struct {
	stdin, stdout, stderr *os.File // nil is /dev/null; not used with a terminal
	user, net             *os.File // namespaces made before; nil: the spec decides
}

// process is a child of the monitor.
type process interface {
	pid() int
	// start lets execve happen and says whether it did.
	start() error
	// console is the terminal's master side, nil without one. It is the
	// caller's to close.
	console() *os.File
	warnings() []string
	trace() trace // steps of create
	// close frees what the runtime still holds for the process. One that was
	// not started is ended.
	close()
}

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

// wait reaps the child and returns the exit code that a shell would give.
func (h *handle) wait() (int, error) {
	rc, err := h.f.SyscallConn()
	if err != nil {
		return 0, err
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
		return 0, fmt.Errorf("waitid: %w", err)
	}
	if info.code == cldExited {
		return int(info.status), nil
	}
	return 128 + int(info.status), nil
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
func ended(code int, err error) monitorapi.Exit {
	e := monitorapi.Exit{Code: code, At: time.Now().UTC()}
	if err != nil {
		e.Code, e.Error = 255, "the exit code is not known: "+err.Error()
	}
	return e
}
