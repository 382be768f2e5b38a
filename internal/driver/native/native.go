// Package native runs containers: each through a wharf-monitor process that
// outlives the daemon. What the monitor does for every kind of instance is in
// package held; this one says what a container is started from.
package native

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"

	"wharf/internal/driver"
	"wharf/internal/driver/held"
	"wharf/internal/model"
	"wharf/internal/runtime"
	"wharf/internal/runtime/prepare"
)

// Options configure the driver.
type Options struct {
	// Monitor is the path of wharf-monitor. It must be executable by others
	// (0755): a container's mapped root executes it as its init stage.
	Monitor string
	// ExecRoot is where instances live, /run/wharf. Made if missing.
	ExecRoot string
	// CgroupParent is the cgroup below which containers' cgroups are made
	// whose spec gives no path, and where sweeps look. Default "wharf".
	CgroupParent string
	// Spares is how many monitors are kept ready, so that a start does not
	// wait for one to be executed. Each takes about a megabyte.
	Spares int
}

// Driver is the native driver.
type Driver struct {
	*held.Driver
	opts Options
}

var (
	_ driver.Driver = (*Driver)(nil)
	_ driver.Early  = (*Driver)(nil)
)

// New checks the options and makes the instances directory.
func New(o Options) (*Driver, error) {
	d, err := held.New(held.Options{Kind: containers{}, Monitor: o.Monitor, ExecRoot: o.ExecRoot, Dir: "instances",
		CgroupParent: o.CgroupParent, Spares: o.Spares})
	if err != nil {
		return nil, err
	}
	return &Driver{d, o}, nil
}

// StartWhen implements driver.Early.
func (d *Driver) StartWhen(ctx context.Context, b *model.Bundle, sb driver.Sandbox, ready func(context.Context) error) (driver.Instance, error) {
	return held.AsInstance(d.BeginWhen(ctx, b, sb, ready))
}

// containers are what the monitor is told to start.
type containers struct{}

func (containers) Isolation() model.Isolation { return model.IsolationContainer }

func (containers) Prepare(_ context.Context, b *model.Bundle, cgroup string) (any, []held.File, error) {
	p, err := prepare.Container(b, cgroup, prepare.Options{})
	return p, nil, err
}

func (containers) PrepareExec(b *model.Bundle, e *model.ExecSpec, cgroup string) (any, error) {
	return prepare.Exec(b, e, cgroup, prepare.Options{})
}

// stageThreads is how many threads a container's first stage may have, before
// the image's program takes its place: they count in the limit of processes.
const stageThreads = 8

// Check refuses what cannot start before anything is done for it. In a
// limit of processes that is too small for it an init would die, with a trace
// of the Go runtime's for the user to read.
func (containers) Check(b *model.Bundle) error {
	if n := pidsLimit(b); b.Init && n > 0 && n <= runtime.InitThreads {
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("a limit of %d processes is too small with --init, which takes up to %d itself: give a --pids-limit of %d or more",
			n, runtime.InitThreads, runtime.InitThreads+1))
	}
	return nil
}

// pidsLimit is the limit of processes, 0 for none.
func pidsLimit(b *model.Bundle) int64 {
	if b.Spec.Linux == nil || b.Spec.Linux.Resources == nil || b.Spec.Linux.Resources.Pids == nil || b.Spec.Linux.Resources.Pids.Limit == nil {
		return 0
	}
	return max(*b.Spec.Linux.Resources.Pids.Limit, 0)
}

// Explain adds to an error that a limit of processes may be the reason.
func (containers) Explain(b *model.Bundle, err error) error {
	var bad *driver.StartError
	if n := pidsLimit(b); n > 0 && n < stageThreads && !errors.As(err, &bad) {
		return fmt.Errorf("%w; its limit of %d processes may be too small to start it: give a --pids-limit of %d or more", err, n, stageThreads)
	}
	return err
}
