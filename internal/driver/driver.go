// Package driver is the contract between the lifecycle and whatever runs an
// instance: native containers through a monitor process, microVMs through
// QEMU. drivertest is its suite; every driver runs it.
//
// # Order of calls
//
// Sandbox, then Start, then the Instance's methods, then Release. Sandbox
// makes what the network is attached to, before any process of the image runs.
// Release may be called at any time, also for an ID that was never started or
// after a crash half way: it ends what still runs, frees everything held for
// the ID and succeeds when nothing is held.
//
// # What survives
//
// A started instance survives the death of the daemon. A sandbox that was not
// given to Start does not. After a restart the daemon calls Recover for every
// record that says "running".
//
// # Errors
//
// Kinds are containerd/errdefs'. An image's mistake (no such executable, not
// executable, unknown user) is errdefs.ErrInvalidArgument wrapped in a
// *StartError that carries the exit code a shell would give (127, 126).
package driver

import (
	"context"
	"fmt"
	"syscall"

	"github.com/moby/moby/api/types/container"

	"wharf/internal/model"
)

// Driver makes instances of one isolation. Methods are safe for concurrent
// use; calls for one ID are never concurrent, except Instance methods.
type Driver interface {
	// Isolation names what the driver provides.
	Isolation() model.Isolation

	// Sandbox makes the instance's surroundings that exist before its
	// process: for containers the user and network namespaces that b asks
	// for. Closing the sandbox without Start frees it.
	Sandbox(ctx context.Context, b *model.Bundle) (Sandbox, error)

	// Start starts the process that b describes in the sandbox and returns
	// when it is running (execve(2) succeeded). It consumes sb also on error.
	// On error nothing is left but what Release frees.
	Start(ctx context.Context, b *model.Bundle, sb Sandbox) (Instance, error)

	// Recover finds an instance that an earlier daemon started. The instance
	// may have ended meanwhile: then its Wait returns at once with the exit
	// that the monitor recorded. errdefs.ErrNotFound: there is no trace of it.
	Recover(ctx context.Context, id model.ID) (Instance, error)

	// Release frees everything held for id; see the package comment.
	Release(ctx context.Context, id model.ID) error

	// List returns the IDs that hold something, for sweeps.
	List(ctx context.Context) ([]model.ID, error)
}

// Sandbox is an instance's surroundings before it starts.
type Sandbox interface {
	// Netns is a path to the network namespace to configure, valid in this
	// process until Close ("/proc/self/fd/12"). "": the instance has none of
	// its own (host, or another container's).
	Netns() string
	Close() error
}

// Early is a driver that can begin a start before its network is attached.
type Early interface {
	// StartWhen is Start, but the image's program is not executed before
	// ready has returned nil. When it returns an error, the start fails with
	// it. It may not be called when the start fails by itself.
	StartWhen(ctx context.Context, b *model.Bundle, sb Sandbox, ready func(context.Context) error) (Instance, error)
}

// Instance is a started instance.
type Instance interface {
	ID() model.ID
	// Pid is the main process on the host; 0 after it ended.
	Pid() int

	// Wait blocks until the process ended, its output was written to the log
	// and the exit was recorded. Any number of callers; the same answer each
	// time.
	Wait(ctx context.Context) (model.Exit, error)

	// Signal sends sig to the main process. errdefs.ErrNotFound when it has
	// ended.
	Signal(ctx context.Context, sig syscall.Signal) error

	// Attach opens the main process's streams from now on (from the first byte
	// on for the first Bundle.Waiting calls after Start). Slow readers lose
	// nothing and block the process as a pipe would (but never the log
	// alone: a reader that is gone is dropped).
	Attach(ctx context.Context, stdin, stdout, stderr bool) (model.Stream, error)
	// Resize sets the main process's terminal size.
	Resize(ctx context.Context, height, width uint) error

	// Exec starts a further process. It returns when execve(2) succeeded.
	Exec(ctx context.Context, e *model.ExecSpec) (Process, error)

	// Pause stops every process of the instance, Resume lets them go on.
	Pause(ctx context.Context) error
	Resume(ctx context.Context) error

	// Stats reads the counters now. Networks are not in it; the network room
	// has them. Read and Preread are left to the caller.
	Stats(ctx context.Context) (*container.StatsResponse, error)
	// Pids lists the instance's processes as host process ids.
	Pids(ctx context.Context) ([]int, error)
	// Update changes live limits.
	Update(ctx context.Context, r container.Resources) error
	// OOM counts the processes that the kernel killed for memory so far.
	OOM(ctx context.Context) (uint64, error)
}

// Process is a process started by Exec.
type Process interface {
	Pid() int
	// Stream is the process's streams; present whether or not anybody reads.
	// A process whose Stream is closed early is not ended by that; its output
	// is drained.
	Stream() model.Stream
	Wait(ctx context.Context) (model.Exit, error)
	Signal(ctx context.Context, sig syscall.Signal) error
}

// StartError is a failure that the image or the request is to blame for.
type StartError struct {
	Code int // 126 cannot be executed, 127 not found, 128 other
	Err  error
}

func (e *StartError) Error() string { return e.Err.Error() }
func (e *StartError) Unwrap() error { return e.Err }

// NotExecutable wraps err as a StartError.
func NotExecutable(code int, format string, args ...any) error {
	return &StartError{Code: code, Err: fmt.Errorf(format, args...)}
}
