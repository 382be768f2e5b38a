package lifecycle

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"golang.org/x/sync/errgroup"

	"wharf/internal/driver"
	"wharf/internal/model"
)

// recoverer takes up what an earlier daemon left, wherever it died.
type recoverer struct {
	*core
	creator creator
	starter *starter
	exits   *exits
	remover *remover
	health  *health
}

// recoverers is how many containers are taken up at once: the work is mostly
// waiting for monitors' sockets.
const recoverers = 32

// retryTime is how long to wait before a monitor is asked again.
const retryTime = 5 * time.Second

// run reads the records, takes up what runs, finishes what was half done,
// releases what has no record, and then begins to start what the restart
// policies want. Containers that cannot be taken up are logged, not fatal.
func (r *recoverer) run(ctx context.Context) error {
	began := r.now()
	all, err := r.records.Containers(ctx)
	if err != nil {
		return wrap(err, "read the records of containers")
	}
	entries := make([]*entry, len(all))
	for i, c := range all {
		entries[i] = newEntry(c)
		r.index.add(entries[i])
		r.ids.hold(c.ID, c.IDs)
	}
	r.holdVolumes(ctx, entries)
	held, err := r.holdings(ctx)
	if err != nil {
		return err
	}
	if err := r.trash.load(ctx, held); err != nil {
		return err
	}
	var g errgroup.Group
	g.SetLimit(recoverers)
	for _, e := range entries {
		g.Go(func() error {
			if err := r.one(ctx, e, held); err != nil {
				r.slog.ErrorContext(ctx, "container not recovered", "id", e.id, "err", err)
			}
			return nil
		})
	}
	_ = g.Wait()
	restorer{r.core}.finish(ctx)
	r.sweep(ctx, held)
	r.sweepNetworks(ctx, entries)
	if err := r.volumes.Sweep(ctx); err != nil {
		r.slog.ErrorContext(ctx, "volumes not swept", "err", err)
	}
	r.slog.InfoContext(ctx, "containers recovered", "count", len(all), "took", r.now().Sub(began))
	go r.boot(entries) // the API does not wait for it
	return nil
}

// holdVolumes tells the volume room what every container has, before any
// container is removed: an anonymous volume may be in use by another one too.
func (r *recoverer) holdVolumes(ctx context.Context, entries []*entry) {
	for _, e := range entries {
		c := e.record()
		if c.State.Phase == "" || len(c.Mounts) == 0 {
			continue
		}
		if err := r.volumes.Restore(ctx, e.id, c.Mounts); err != nil {
			r.slog.ErrorContext(ctx, "volumes not taken up", "id", e.id, "err", err)
		}
		for _, m := range c.Mounts {
			if m.Type == "volume" && c.State.Running() {
				if _, err := r.volumes.Disk(ctx, e.id, m); err != nil {
					r.slog.ErrorContext(ctx, "disk not taken up", "id", e.id, "volume", m.Name, "err", err)
				}
			}
		}
	}
}

// holdings is what rooms and drivers hold, by id.
type holdings struct {
	driver, layer map[model.ID]bool
	failed        bool // some room could not say: nothing is swept
}

func (r *recoverer) holdings(ctx context.Context) (*holdings, error) {
	h := &holdings{driver: map[model.ID]bool{}, layer: map[model.ID]bool{}}
	collect := func(room string, into map[model.ID]bool, list func(context.Context) ([]model.ID, error)) {
		ids, err := list(ctx)
		if err != nil {
			h.failed = true
			r.slog.ErrorContext(ctx, "a room cannot list what it holds; nothing is swept", "room", room, "err", err)
		}
		for _, id := range ids {
			into[id] = true
		}
	}
	for iso, d := range r.drivers {
		collect(string(iso), h.driver, d.List)
	}
	collect("image", h.layer, r.images.Prepared)
	return h, ctx.Err()
}

// one brings one container into a legal state.
func (r *recoverer) one(ctx context.Context, e *entry, held *holdings) error {
	if err := e.lock(ctx); err != nil {
		return err
	}
	defer e.unlock()
	c := e.record()
	switch c.State.Phase {
	case "", container.StateRemoving, container.StateDead:
		// Half created, or half removed: finished. Half a create goes for good,
		// with its anonymous volumes.
		r.release(ctx, e, held)
		how := c.Removal
		if how == nil {
			how = &model.Removal{At: r.now(), Volumes: c.State.Phase == "" || c.HostConfig.AutoRemove}
		}
		if c.State.Phase == "" {
			r.force(ctx, e, func(c *model.Container) { c.State.Phase = container.StateCreated })
		}
		return r.remover.remove(ctx, e, how)
	}
	r.restoreLayer(ctx, e, held)
	if c.State.Running() {
		return r.running(ctx, e)
	}
	// A start that was not acknowledged, or an exit that was not released.
	r.release(ctx, e, held)
	if c.State.Phase == container.StateRestarting {
		r.force(ctx, e, func(c *model.Container) { c.State.Phase = container.StateExited })
	}
	return nil
}

// restoreLayer makes the writable layer anew that a power cut took from a
// container whose record survived (one with --rm, whose create is not synced):
// what it wrote is lost, and said, but it can be started and removed.
func (r *recoverer) restoreLayer(ctx context.Context, e *entry, held *holdings) {
	if held.failed || held.layer[e.id] {
		return
	}
	c := e.record()
	if err := r.images.Prepare(ctx, e.id, c.Image); err != nil {
		r.slog.ErrorContext(ctx, "the container's writable layer is gone and cannot be made again; remove the container", "id", e.id, "name", c.Name, "err", err)
		return
	}
	r.slog.ErrorContext(ctx, "the container's writable layer was gone: what it had written is lost, it has an empty one now", "id", e.id, "name", c.Name)
}

// running takes up a run: it goes on, or has ended meanwhile, or is lost.
func (r *recoverer) running(ctx context.Context, e *entry) error {
	c := e.record()
	d, err := r.driver(c)
	if err != nil {
		return err
	}
	if err := r.networks.Restore(ctx, e.id, c.Attached); err != nil {
		r.slog.ErrorContext(ctx, "network not taken up", "id", e.id, "err", err)
	}
	inst, err := d.Recover(ctx, e.id)
	if err != nil && !errdefs.IsNotFound(err) {
		// It may run. The record stays as it is, rather than a second one being
		// started; rm -f ends it.
		go r.later(e)
		return wrap(err, "take up %s", e.id.Short())
	}
	if err != nil {
		inst = lost{exit: model.Exit{Code: 255, At: r.now(), Error: "the container and its monitor were gone when the daemon started"}}
	}
	e.began(inst)
	if inst.Pid() == 0 { // ended meanwhile
		exit, err := inst.Wait(ctx)
		if err != nil {
			exit = model.Exit{Code: 255, At: r.now(), Error: "exit unknown: " + err.Error()}
		}
		// The restart policy acts later, in order (boot).
		r.exits.end(ctx, e, inst, exit, !c.HostConfig.AutoRemove)
		return nil
	}
	if pid := inst.Pid(); pid != c.State.Pid {
		r.force(ctx, e, func(c *model.Container) { c.State.Pid = pid })
	}
	r.takeUpNetworks(ctx, e.record())
	if c.State.Phase == container.StateRunning {
		r.health.begin(e)
	}
	go r.exits.watch(e, inst)
	return nil
}

// later tries again to take up a run whose monitor did not answer.
func (r *recoverer) later(e *entry) {
	select {
	case <-r.life.Done():
		return
	case <-time.After(retryTime):
	}
	if e.lock(r.life) != nil {
		return
	}
	defer e.unlock()
	if _, err := e.instance(); err == nil || !e.record().State.Running() {
		return
	}
	ctx, cancel := r.detach(r.life)
	defer cancel()
	if err := r.running(ctx, e); err != nil {
		r.slog.WarnContext(ctx, "container still not recovered", "id", e.id, "err", err)
	}
}

// release gives back what a container that does not run still holds.
func (r *recoverer) release(ctx context.Context, e *entry, held *holdings) {
	if !held.driver[e.id] && len(e.record().Attached) == 0 {
		return
	}
	d, err := r.driver(e.record())
	if err != nil {
		r.report(e.id)("driver", err)
		return
	}
	_ = unwind(ctx, r.starter.steps(), &run{e: e, c: e.record(), drv: d}, r.report(e.id)) // reported there
}

// sweep releases what is held for ids without a record, and their
// directories.
func (r *recoverer) sweep(ctx context.Context, held *holdings) {
	if held.failed {
		return
	}
	orphan := func(id model.ID) bool { return r.index.get(id) == nil && !r.trash.has(id) }
	for id := range held.driver {
		for iso, d := range r.drivers {
			if r.index.get(id) == nil {
				r.swept(ctx, id, string(iso), d.Release(ctx, id))
			}
		}
	}
	for id := range held.layer {
		if orphan(id) {
			r.swept(ctx, id, "image", r.images.Discard(ctx, id))
		}
	}
	dirs, _ := os.ReadDir(filepath.Join(r.opts.DataRoot, "containers"))
	for _, d := range dirs {
		if id := model.ID(d.Name()); len(id) == 64 && orphan(id) {
			r.swept(ctx, id, "lifecycle", os.RemoveAll(r.dir(id)))
		}
	}
}

// sweepNetworks frees what the network room holds for containers that do not
// run. The room may know some only by the short id in a link's name.
func (r *recoverer) sweepNetworks(ctx context.Context, entries []*entry) {
	ids, err := r.networks.Attached(ctx)
	if err != nil {
		r.slog.ErrorContext(ctx, "the network room cannot list what it holds; nothing there is swept", "err", err)
		return
	}
	run := map[model.ID]bool{}
	for _, e := range entries {
		if e.record().State.Running() {
			run[e.id], run[model.ID(e.id.Short())] = true, true
		}
	}
	for _, id := range ids {
		if !run[id] {
			r.swept(ctx, id, "network", r.networks.Detach(ctx, id))
		}
	}
}

func (r *recoverer) swept(ctx context.Context, id model.ID, room string, err error) {
	if err != nil {
		r.slog.ErrorContext(ctx, "what has no record could not be released", "id", id, "room", room, "err", err)
		return
	}
	r.slog.WarnContext(ctx, "released what had no record", "id", id, "room", room)
}

// boot starts what the restart policies want, those first that others need.
func (r *recoverer) boot(entries []*entry) {
	ctx := r.life
	want := slices.DeleteFunc(slices.Clone(entries), func(e *entry) bool {
		c := e.record()
		return e.isGone() || c.State.Phase != container.StateExited || c.State.StartedAt.IsZero() ||
			!wantedAtBoot(c.HostConfig.RestartPolicy, c.RestartCount, c.State.ExitCode, c.StoppedByUser)
	})
	for _, wave := range r.waves(want) {
		var g errgroup.Group
		g.SetLimit(8)
		for _, e := range wave {
			g.Go(func() error {
				if err := r.bootOne(ctx, e); err != nil {
					r.slog.WarnContext(ctx, "container could not be started with the daemon", "id", e.id, "err", err)
				}
				return nil
			})
		}
		_ = g.Wait()
	}
}

func (r *recoverer) bootOne(ctx context.Context, e *entry) error {
	ctx, e, done, err := r.begin(ctx, string(e.id))
	if err != nil {
		return err
	}
	defer done()
	if e.record().State.Phase != container.StateExited {
		return nil
	}
	e.mu.Lock()
	e.again.count = e.record().RestartCount
	e.mu.Unlock()
	return r.starter.start(ctx, e, false, 0)
}

// waves sorts entries so that each wave needs only the ones before it. A circle
// goes last, together.
func (r *recoverer) waves(entries []*entry) [][]*entry {
	left, o := map[model.ID]*entry{}, r.order()
	for _, e := range entries {
		left[e.id] = e
	}
	var out [][]*entry
	for len(left) > 0 {
		var wave []*entry
		for _, e := range left {
			if !slices.ContainsFunc(o.needs(e.record()), func(id model.ID) bool { return id != e.id && left[id] != nil }) {
				wave = append(wave, e)
			}
		}
		if len(wave) == 0 {
			for _, e := range left {
				wave = append(wave, e)
			}
		}
		for _, e := range wave {
			delete(left, e.id)
		}
		out = append(out, wave)
	}
	return out
}

// lost stands for a run of which nothing is left but its record.
type lost struct {
	driver.Instance
	exit model.Exit
}

func (lost) Pid() int                                   { return 0 }
func (l lost) Wait(context.Context) (model.Exit, error) { return l.exit, nil }
