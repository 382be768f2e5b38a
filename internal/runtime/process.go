package runtime

import (
	"errors"
	"os"
	"syscall"
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
}

// Start lets the process execve and returns when it did. *ExecError: the
// image's or the request's fault; the process is gone then (Wait still has to
// be called).
func (p *Process) Start() error { return errors.New("not there yet") }

// Wait waits for the end. Any number of callers get the same answer.
func (p *Process) Wait() (syscall.WaitStatus, error) { return 0, errors.New("not there yet") }

// Signal sends sig through the pidfd: never to a recycled pid.
// os.ErrProcessDone: it has ended.
func (p *Process) Signal(sig syscall.Signal) error { return errors.New("not there yet") }

// Close frees the descriptors (not Console). A process that was not started
// is killed and reaped.
func (p *Process) Close() error { return nil }

// Create makes the container that p describes and its first process, up to
// execve. On error nothing is left, cgroup directories included.
func Create(p *Prepared, io Files) (*Process, error) { return nil, errors.New("not there yet") }

// Exec makes a further process in all namespaces of target, up to execve.
func Exec(target int, p *PreparedExec, io Files) (*Process, error) {
	return nil, errors.New("not there yet")
}

// Main is the init and exec stages. Every program that calls Create or Exec
// calls it first in main. It returns at once in any other process.
func Main() {}

// NewNamespaces makes a user namespace with these maps and, with wantNet, a
// network namespace that belongs to it. Both live as long as the files. With
// empty maps user is nil and the network namespace belongs to the caller's
// user namespace.
func NewNamespaces(uids, gids []IDMap, wantNet bool) (user, net *os.File, err error) {
	return nil, nil, errors.New("not there yet")
}
