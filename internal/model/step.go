package model

import (
	"context"
	"syscall"

	"github.com/moby/moby/api/types/container"
)

// Step is one process of a build: it runs in the isolation of a container, in
// a root that the build made, and is neither recorded nor listed. It ends
// with the daemon.
type Step struct {
	Config     *container.Config // Cmd, Env, User, WorkingDir, Hostname, Tty, OpenStdin
	HostConfig *container.HostConfig
	Rootfs     Rootfs
	Mounts     []Mount // beside those of HostConfig; Source or Lower filled in
}

// RunningStep is a started Step.
type RunningStep interface {
	// Stream has the process's output from its first byte on.
	Stream() Stream
	Wait(ctx context.Context) (Exit, error)
	Signal(ctx context.Context, sig syscall.Signal) error
	// Exec starts a further process beside it.
	Exec(ctx context.Context, r ExecRequest) (RunningStep, error)
	// Close ends it and gives back all that it holds.
	Close() error
}

// StepError is a process that could not be started, with a shell's exit code:
// 127 not found, 126 not executable.
type StepError struct {
	Code int
	Err  error
}

func (e *StepError) Error() string { return e.Err.Error() }
func (e *StepError) Unwrap() error { return e.Err }
