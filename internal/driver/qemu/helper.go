package qemu

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"wharf/api/frame"
	"wharf/api/guestapi"
	"wharf/api/monitorapi"
	"wharf/internal/model"
)

// helperIdle is how long a helper stays after its last use: docker cp asks
// twice or more for one copy.
const helperIdle = 15 * time.Second

// helperSuffix makes a helper's id of its instance's.
const helperSuffix = ".files"

// helperMemory is a helper's.
const helperMemory = 256 << 20

// helpers are machines that show the files of instances that do not run. One
// for each instance at most: a disk has one user.
type helpers struct {
	d *Driver

	mu   sync.Mutex
	byID map[model.ID]*helper
}

// helper is one. Its fields are guarded by lock, a semaphore of one that is
// held while it is started or ended.
type helper struct {
	lock chan struct{}
	i    *instance
	uses int
	idle *time.Timer
}

func (h *helpers) of(id model.ID) *helper {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.byID == nil {
		h.byID = map[model.ID]*helper{}
	}
	x := h.byID[id]
	if x == nil {
		x = &helper{lock: make(chan struct{}, 1)}
		h.byID[id] = x
	}
	return x
}

func (x *helper) hold(ctx context.Context) error {
	select {
	case x.lock <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (x *helper) free() { <-x.lock }

// use returns id's helper, started of bundle when there is none, and how to let
// go of it.
func (h *helpers) use(ctx context.Context, id model.ID, bundle func() *model.Bundle) (*instance, func(), error) {
	x := h.of(id)
	if err := x.hold(ctx); err != nil {
		return nil, nil, err
	}
	defer x.free()
	if x.i != nil && x.i.Pid() == 0 {
		h.stop(x)
	}
	if x.i == nil {
		i, err := h.start(ctx, bundle())
		if err != nil {
			return nil, nil, err
		}
		x.i = i
	}
	x.uses++
	if x.idle != nil {
		x.idle.Stop()
	}
	return x.i, sync.OnceFunc(func() { h.release(x) }), nil
}

// has says whether a machine of this id is a helper.
func (h *helpers) has(id model.ID) bool {
	of, ok := strings.CutSuffix(string(id), helperSuffix)
	h.mu.Lock()
	defer h.mu.Unlock()
	return ok && h.byID[model.ID(of)] != nil
}

func (h *helpers) ids() []model.ID {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Collect(maps.Keys(h.byID))
}

// release counts a user out; the last one's going starts the clock.
func (h *helpers) release(x *helper) {
	_ = x.hold(context.Background())
	defer x.free()
	if x.uses--; x.uses > 0 || x.i == nil {
		return
	}
	x.idle = time.AfterFunc(helperIdle, func() {
		_ = x.hold(context.Background())
		defer x.free()
		if x.uses == 0 {
			h.stop(x)
		}
	})
}

// end ends id's helper before its disk is used otherwise.
func (h *helpers) end(ctx context.Context, id model.ID) error {
	h.mu.Lock()
	x := h.byID[id]
	delete(h.byID, id)
	h.mu.Unlock()
	if x == nil {
		return nil
	}
	if err := x.hold(ctx); err != nil {
		return err
	}
	defer x.free()
	h.stop(x)
	return nil
}

// stop ends a helper: what it wrote is on the disk then. The caller holds it.
func (h *helpers) stop(x *helper) {
	if x.i == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*stopTime)
	defer cancel()
	if x.i.Pid() != 0 {
		_, _ = x.i.ask(ctx, guestapi.Request{Op: guestapi.OpPowerOff})
		_, _ = x.i.Wait(ctx)
	}
	_ = h.d.Driver.Release(ctx, x.i.ID())
	x.i = nil
}

// start boots a machine that has b's disks and starts nothing.
func (h *helpers) start(ctx context.Context, b *model.Bundle) (*instance, error) {
	sb, err := h.d.Driver.Sandbox(ctx, b)
	if err != nil {
		return nil, err
	}
	i, err := h.d.Driver.Begin(ctx, b, sb)
	h.d.m.templates.started(b.ID, err)
	if err != nil {
		_ = h.d.Driver.Release(context.WithoutCancel(ctx), b.ID)
		return nil, err
	}
	return &instance{Instance: i, d: h.d}, nil
}

// helperBundle describes a helper. It has no process: Args are empty.
func helperBundle(id model.ID, root model.Rootfs, ids model.IDRange) *model.Bundle {
	memory := int64(helperMemory - guestExtra)
	period, quota := uint64(100_000), int64(100_000)
	b := &model.Bundle{
		ID: id + helperSuffix, Rootfs: root, IDs: ids, Log: model.LogPlan{Driver: "none"},
		Spec: &specs.Spec{
			Version: specs.Version, Hostname: "wharf-files", Process: &specs.Process{Cwd: "/"},
			Linux: &specs.Linux{
				Resources:   &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &memory}, CPU: &specs.LinuxCPU{Period: &period, Quota: &quota}},
				UIDMappings: []specs.LinuxIDMapping{{HostID: ids.Host, Size: ids.Size}},
				GIDMappings: []specs.LinuxIDMapping{{HostID: ids.Host, Size: ids.Size}},
			},
		},
	}
	for _, n := range []specs.LinuxNamespaceType{specs.UserNamespace, specs.NetworkNamespace} {
		b.Spec.Linux.Namespaces = append(b.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: n})
	}
	return b
}

// asMonitor gives an agent's error the kind that the daemon's mapping knows.
func asMonitor(f *guestapi.Failed) error {
	return &monitorapi.Failed{Kind: f.Kind, Code: f.Code, Text: frame.Printable(f.Text, 4000)}
}
