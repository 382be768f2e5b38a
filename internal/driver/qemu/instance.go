package qemu

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"wharf/api/guestapi"
	"wharf/api/monitorapi"
	"wharf/internal/driver"
	"wharf/internal/driver/held"
	"wharf/internal/vmm/vmmapi"
)

// instance is a running machine.
type instance struct {
	*held.Instance
	d *Driver
}

var _ driver.Instance = (*instance)(nil)

// guest asks the agent. The connection is the caller's: it goes on as the
// request's stream.
func (i *instance) guest(ctx context.Context, q guestapi.Request) (*held.Conn, *guestapi.Reply, error) {
	q.Version = guestapi.Version
	body, err := json.Marshal(q)
	if err != nil {
		return nil, nil, err
	}
	c, err := i.Open(ctx, monitorapi.Request{Op: vmmapi.OpGuest, Body: body, MaxReply: guestapi.ReplyBound(q.Op)})
	if err != nil {
		return nil, nil, err
	}
	r := new(guestapi.Reply)
	if err := json.Unmarshal(c.Raw, r); err != nil {
		_ = c.Close()
		return nil, nil, fmt.Errorf("answer of the machine: %w", err)
	}
	return c, r, nil
}

// ask is guest for what has no stream.
func (i *instance) ask(ctx context.Context, q guestapi.Request) (*guestapi.Reply, error) {
	c, r, err := i.guest(ctx, q)
	if err != nil {
		return nil, err
	}
	return r, c.Close()
}

// Pause stops the processes inside; the machine itself goes on.
func (i *instance) Pause(ctx context.Context) error {
	_, err := i.ask(ctx, guestapi.Request{Op: guestapi.OpPause})
	return err
}

// Resume lets them go on.
func (i *instance) Resume(ctx context.Context) error {
	_, err := i.ask(ctx, guestapi.Request{Op: guestapi.OpResume})
	return err
}

// Stats are the counters of the instance inside: what a user means by them.
func (i *instance) Stats(ctx context.Context) (*container.StatsResponse, error) {
	r, err := i.ask(ctx, guestapi.Request{Op: guestapi.OpStats})
	if err != nil {
		return nil, err
	}
	if r.Stats == nil {
		return nil, fmt.Errorf("machine of %s: empty answer", i.ID().Short())
	}
	s := new(container.StatsResponse)
	if err := json.Unmarshal(r.Stats.Docker, s); err != nil {
		return nil, fmt.Errorf("statistics of the machine: %w", err)
	}
	return s, nil
}

// OOM counts the processes that the guest's kernel killed for memory.
func (i *instance) OOM(ctx context.Context) (uint64, error) {
	r, err := i.ask(ctx, guestapi.Request{Op: guestapi.OpState})
	if errdefs.IsNotFound(err) { // it has ended; its exit says so
		return 0, nil
	}
	if err != nil || r.State == nil {
		return 0, err
	}
	return r.State.OOMKills, nil
}

// oomTime is how often a guest is asked whether its kernel has killed for
// memory.
const oomTime = 5 * time.Second

// NotifyOOM looks at the control group inside, which only the guest can see,
// and at QEMU's own. What was killed before this daemon's time is told unless
// it was.
func (i *instance) NotifyOOM(told bool, f func(killed bool)) error {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer cancel()
		_, _ = i.Wait(ctx)
	}()
	go func() {
		var seen uint64
		tick := time.NewTicker(oomTime)
		defer tick.Stop()
		for first := told; ; {
			if n, err := i.OOM(ctx); err == nil {
				if n > seen && !first {
					f(true)
				}
				seen, first = max(seen, n), false
			}
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	}()
	return i.Instance.NotifyOOM(told, f)
}
