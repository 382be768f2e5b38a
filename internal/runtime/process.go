package runtime

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"wharf/internal/lean"
)

// Process is a process made by Create or Exec. It waits before execve until
// Start. Its methods may be called from any goroutine.
type Process struct {
	// Pid on the host.
	Pid int
	// Console is the terminal's master when Terminal was asked for. It is
	// the caller's to close.
	Console *os.File
	// Warnings tell what could not be had and was left out.
	Warnings []string
	// Trace is the steps of Create, in order.
	Trace Trace
	// RootMount is for DropRoot: not 0 where the container has the host's mount namespace.
	RootMount uint64

	pidfd  int
	sock   int // -1 after Start
	failed func() error
	on     func(kind byte, payload []byte, fds []int) error // takes frames of the stage
	hooks  *hookRunner

	mu     sync.Mutex // over sock and the wait
	waited chan struct{}
	once   sync.Once
	status syscall.WaitStatus
	werr   error
}

func newProcess(pid, sock int, failed func() error) (*Process, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		_ = unix.Kill(pid, unix.SIGKILL)
		reap(pid)
		return nil, fmt.Errorf("pidfd_open: %w", err)
	}
	return &Process{Pid: pid, pidfd: fd, sock: sock, failed: failed, waited: make(chan struct{})}, nil
}

// Pidfd is the process's pidfd. It stays the Process's.
func (p *Process) Pidfd() int { return p.pidfd }

// Start lets the process execve and returns when it did. *ExecError: the
// image's or the request's fault; the process is gone then (Wait still has to
// be called).
func (p *Process) Start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sock < 0 {
		return errors.New("start: the process was started before or has ended")
	}
	if err := sendFrame(p.sock, frameExec, nil); err != nil {
		return p.death(fmt.Errorf("start: %w", err))
	}
	for {
		kind, payload, fds, err := recvFrame(p.sock)
		if err == nil && kind == frameListener { // the filter is loaded last of all
			err = p.on(kind, payload, fds)
		}
		closeAll(fds)
		if err == io.EOF {
			break // the descriptor closed on execve
		}
		if err != nil {
			return p.death(err)
		}
		if kind == frameError {
			return p.death(decodeError(payload))
		}
	}
	_ = unix.Close(p.sock)
	p.sock = -1
	if err := p.failed(); err != nil { // cannot be after "ready", but costs nothing
		return err
	}
	p.hooks.poststart(p)
	return nil
}

// death ends what is left of a stage and explains why.
func (p *Process) death(err error) error {
	_ = unix.Kill(p.Pid, unix.SIGKILL) // not reaped yet: the pid is still its own
	if p.sock >= 0 {
		_ = unix.Close(p.sock)
		p.sock = -1
	}
	return err
}

// Wait waits for the end. Any number of callers get the same answer.
func (p *Process) Wait() (syscall.WaitStatus, error) {
	p.once.Do(func() {
		go func() {
			defer close(p.waited)
			p.status, p.werr = p.wait()
		}()
	})
	<-p.waited
	return p.status, p.werr
}

func (p *Process) wait() (syscall.WaitStatus, error) {
	for {
		var ws unix.WaitStatus
		_, err := unix.Wait4(p.Pid, &ws, unix.WALL, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("wait for %d: %w", p.Pid, err)
		}
		return syscall.WaitStatus(ws), nil
	}
}

// Signal sends sig through the pidfd: never to a recycled pid.
// os.ErrProcessDone: it has ended.
func (p *Process) Signal(sig syscall.Signal) error {
	err := unix.PidfdSendSignal(p.pidfd, unix.Signal(sig), nil, 0)
	if err == unix.ESRCH {
		return os.ErrProcessDone
	}
	return err
}

// Close frees the descriptors (not Console). A process that was not started
// is killed and reaped.
func (p *Process) Close() error {
	p.mu.Lock()
	pending := p.sock >= 0
	if pending {
		_ = p.death(nil)
	}
	p.mu.Unlock()
	if pending {
		_, _ = p.Wait()
	}
	return unix.Close(p.pidfd)
}

// Detach leaves a process that waits for its Fifo to itself: the caller may
// exit. Only the descriptors are freed.
func (p *Process) Detach() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sock >= 0 {
		_ = unix.Close(p.sock)
		p.sock = -1
	}
	_ = unix.Close(p.pidfd)
}

// serve answers the stage until it is ready.
func (p *Process) serve(on func(kind byte, payload []byte, fds []int) error) error {
	p.on = on
	for {
		kind, payload, fds, err := recvFrame(p.sock)
		if err != nil {
			closeAll(fds)
			return p.lost(err)
		}
		switch kind {
		case frameError:
			closeAll(fds)
			return decodeError(payload)
		case frameReady:
			return p.ready(payload, fds)
		}
		err = on(kind, payload, fds)
		closeAll(fds)
		if err != nil {
			return err
		}
	}
}

func (p *Process) ready(payload []byte, fds []int) error {
	var r readyReply
	if err := lean.Unmarshal(payload, &r); err != nil {
		closeAll(fds)
		return fmt.Errorf("stage reply: %w", err)
	}
	p.Warnings = append(p.Warnings, r.Warnings...)
	p.Trace = append(p.Trace, r.Trace...)
	if len(fds) > 0 {
		p.Console = os.NewFile(uintptr(fds[0]), "console")
		closeAll(fds[1:])
	}
	return nil
}

// lost explains a stage that ended without a word.
func (p *Process) lost(err error) error {
	_ = unix.Kill(p.Pid, unix.SIGKILL)
	status, _ := p.Wait()
	if why := p.failed(); why != nil {
		return why
	}
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		hint := ""
		if status.ExitStatus() == 2 { // Go's own end, which needs some threads
			hint = "; a limit of processes (--pids-limit) may leave it too few"
		}
		return fmt.Errorf("the container's first stage ended unexpectedly (%s)%s", statusText(status), hint)
	}
	return err
}

func statusText(s syscall.WaitStatus) string {
	if s.Signaled() {
		return "signal " + s.Signal().String()
	}
	return fmt.Sprintf("exit status %d", s.ExitStatus())
}

func closeAll(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}

func decodeError(payload []byte) error {
	if len(payload) < 1 {
		return errors.New("the container's first stage failed without a message")
	}
	if payload[0] != 0 {
		return &ExecError{Code: int(payload[0]), Msg: string(payload[1:])}
	}
	return errors.New(string(payload[1:]))
}

func encodeError(err error) []byte {
	var e *ExecError
	if errors.As(err, &e) {
		return append([]byte{byte(e.Code)}, e.Msg...)
	}
	return append([]byte{0}, err.Error()...)
}
