package qemu

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/containerd/errdefs"
	units "github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"

	"wharf/api/guestapi"
	"wharf/api/monitorapi"
	"wharf/internal/runtime/cgroup"
	"wharf/internal/vmm/vmmapi"
)

// Update changes live limits: CPU time and disks around QEMU, memory and
// processes inside. A machine's size is that of its start: more than it has
// takes a restart, and the error says so.
func (i *instance) Update(ctx context.Context, r container.Resources) error {
	b, err := i.Bundle()
	if err != nil {
		return err
	}
	accel, _, err := i.d.m.o.Accel(ctx)
	if err != nil {
		return err
	}
	memory, cpus := i.d.m.o.Memory, usualCPUs(accel)
	if s := b.Spec.Linux.Resources; s != nil {
		memory, cpus = size(s, memory, cpus)
	}
	want := cgroup.FromDocker(&r)
	if _, n := size(want, 0, 1); n > cpus {
		return errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("the virtual machine's number of processors is %d and cannot grow while it runs: stop the container, update it, and start it", cpus))
	}
	if r.Memory > 0 && r.Memory+guestExtra > memory {
		return errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("the virtual machine has %s of memory and cannot get more while it runs: stop the container, update it, and start it", units.BytesSize(float64(memory-guestExtra))))
	}
	if in := guestResources(want); in.Memory != nil || in.Pids != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return err
		}
		if _, err := i.ask(ctx, guestapi.Request{Op: guestapi.OpUpdate, Update: &guestapi.Update{Resources: text}}); err != nil {
			return err
		}
	}
	if r.Memory > 0 {
		if err := i.resize(ctx, r.Memory+guestExtra); err != nil {
			return err
		}
	}
	want.Memory, want.Pids, want.HugepageLimits = nil, nil, nil
	g, err := i.Group()
	if err != nil {
		return err
	}
	return g.Update(want)
}

// resize has the machine keep so much memory; the host gets the rest.
func (i *instance) resize(ctx context.Context, memory int64) error {
	body, err := json.Marshal(vmmapi.Balloon{Memory: memory})
	if err != nil {
		return err
	}
	err = i.Call(ctx, monitorapi.Request{Op: vmmapi.OpBalloon, Body: body})
	if errdefs.IsNotImplemented(err) { // it was started by an earlier version: its limit holds all the same
		return nil
	}
	return err
}
