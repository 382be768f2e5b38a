package lifecycle

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"

	"wharf/internal/driver"
	"wharf/internal/model"
)

// core is what every concern shares: the rooms, the table of containers, and
// the few things done to every record.
type core struct {
	images   images
	networks networks
	volumes  volumes
	logs     logs
	records  records
	archives archives
	drivers  map[model.Isolation]driver.Driver
	plan     planner

	index *index
	ids   *idRanges
	trash *trash
	slog  *slog.Logger
	opts  Options

	// life ends with Close: timers, health checks and watchers stop, and
	// nothing is recorded any more.
	life context.Context
}

// begin starts a verb on the container ref: it finds it, waits for its verb
// lock (that wait ends with the client's ctx), and then cuts the work off from
// the client: the returned context is not cancelled when the client goes away
// and has the deadline that every verb has. done gives everything back.
func (c *core) begin(ctx context.Context, ref string) (work context.Context, e *entry, done func(), err error) {
	e, err = c.index.find(ref)
	if err != nil {
		return nil, nil, nil, err
	}
	if err := e.lock(ctx); err != nil {
		return nil, nil, nil, err
	}
	if e.isGone() {
		e.unlock()
		return nil, nil, nil, noSuchContainer(ref)
	}
	work, cancel := c.detach(ctx)
	return work, e, func() { cancel(); e.unlock() }, nil
}

// detach cuts ctx off from the client and gives it the deadline of verbs.
func (c *core) detach(ctx context.Context) (context.Context, context.CancelFunc) {
	late := fmt.Errorf("it was not done within %v, which a very busy host or a hung one may be the reason for: %w", c.opts.Deadline, context.DeadlineExceeded)
	return context.WithTimeoutCause(context.WithoutCancel(ctx), c.opts.Deadline, late)
}

// save writes e's record with change applied, and then makes it the present
// one. The caller holds the verb lock, or nobody knows e yet.
func (c *core) save(ctx context.Context, e *entry, durable bool, change func(*model.Container)) error {
	next := *e.record()
	change(&next)
	if err := c.records.PutContainer(ctx, next, durable); err != nil {
		return wrap(err, "record container %s", e.id.Short())
	}
	e.rec.Store(&next)
	return nil
}

// rewriteTime is how often a record that could not be written is tried again.
const rewriteTime = 2 * time.Second

// force is save for what has happened already, an exit: it becomes the
// present state also when it cannot be written (a full disk), which is logged
// and tried again until it succeeds. It reports whether it was written.
func (c *core) force(ctx context.Context, e *entry, change func(*model.Container)) bool {
	if err := c.save(ctx, e, false, change); err != nil {
		c.slog.ErrorContext(ctx, "state not recorded; it is known to this daemon only until the write succeeds", "id", e.id, "err", err)
		next := *e.record()
		change(&next)
		e.rec.Store(&next)
		go c.rewrite(e)
		return false
	}
	return true
}

// settle releases a run whose exit could not be recorded at its end (until
// then the monitor's own note of it was the only one), or that could not be
// released. The caller holds the verb lock.
func (c *core) settle(ctx context.Context, e *entry) {
	if !e.kept.Swap(false) {
		return
	}
	d, err := c.driver(e.record())
	if err == nil {
		err = d.Release(ctx, e.id)
	}
	if err != nil {
		c.report(e.id)("instance", err)
	}
}

// rewrite writes e's present record when that is possible again.
func (c *core) rewrite(e *entry) {
	for {
		select {
		case <-c.life.Done():
			return
		case <-time.After(rewriteTime):
		}
		if e.lock(c.life) != nil {
			return
		}
		ctx, cancel := c.detach(c.life)
		var err error
		if !e.isGone() {
			if err = c.save(ctx, e, false, func(*model.Container) {}); err == nil && !e.record().State.Running() {
				c.settle(ctx, e)
			}
		}
		cancel()
		e.unlock()
		if err == nil {
			return
		}
	}
}

// driver returns the driver of c's isolation.
func (c *core) driver(ctr *model.Container) (driver.Driver, error) {
	iso := ctr.Isolation
	if iso == "" {
		iso = model.IsolationContainer
	}
	if d := c.drivers[iso]; d != nil {
		return d, nil
	}
	return nil, errdefs.ErrNotImplemented.WithMessage("isolation " + string(iso) + " is not available on this daemon")
}

// event publishes what happened to a container, with Docker's attributes: its
// labels, its image, its name, and extra.
func (c *core) event(ctr *model.Container, action events.Action, extra map[string]string) {
	attrs := make(map[string]string, len(extra)+4)
	if ctr.Config != nil {
		for k, v := range ctr.Config.Labels {
			attrs[k] = v
		}
		if ctr.Config.Image != "" {
			attrs["image"] = ctr.Config.Image
		}
	}
	for k, v := range extra {
		attrs[k] = v
	}
	attrs["name"] = ctr.Name
	c.records.Publish(events.ContainerEventType, action, string(ctr.ID), attrs)
}

// volumeEvents publishes that a container's run uses its volumes, or no
// longer does.
func (c *core) volumeEvents(ctr *model.Container, action events.Action) {
	for _, m := range ctr.Mounts {
		if m.Type != "volume" {
			continue
		}
		attrs := map[string]string{"driver": m.Driver, "container": string(ctr.ID)}
		if action == events.ActionMount {
			attrs["destination"], attrs["propagation"] = m.Destination, m.Propagation
			attrs["read/write"] = strconv.FormatBool(!m.ReadOnly)
		}
		c.records.Publish(events.VolumeEventType, action, m.Name, attrs)
	}
}

// report logs a release that failed; the sweep at the next daemon start tries
// again.
func (c *core) report(id model.ID) func(step string, err error) {
	return func(step string, err error) {
		c.slog.Error("something could not be released", "id", id, "room", step, "err", err)
	}
}

// dir is the container's own directory.
func (c *core) dir(id model.ID) string {
	return filepath.Join(c.opts.DataRoot, "containers", string(id))
}

// etc is the directory of the files bound to /etc: the container's own, or
// that of the one whose network it shares, directly or through others.
func (c *core) etc(ctr *model.Container) string {
	id := ctr.ID
	for range 8 { // a circle cannot start anyway
		next := c.plan.Joins(*ctr).Net
		if next == "" {
			break
		}
		id = next
		e := c.index.get(id)
		if e == nil {
			break
		}
		ctr = e.record()
	}
	return c.dir(id)
}

func (c *core) now() time.Time { return c.opts.Now().UTC() }
