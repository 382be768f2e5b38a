package lifecycle

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"wharf/internal/model"
)

// TrashBounds are how long and how much the trash keeps. The zero value is no
// trash: what is removed is gone.
type TrashBounds struct {
	MaxAge   time.Duration
	MaxSize  int64 // bytes; containers, volumes, and the images that only these keep, together
	MaxCount int   // containers that somebody removed; of those that went by themselves (--rm) a fifth of it
	MinFree  int64 // bytes of the file system below DataRoot that the trash must not make anybody lack
}

// On reports whether removed things are kept at all.
func (b TrashBounds) On() bool { return b.MaxAge > 0 && b.MaxSize > 0 && b.MaxCount > 0 }

// trash knows the removed containers that can come back. Nothing of theirs is
// moved: the writable layer, the directory with the log stay where they are,
// and only the record goes from the table of containers to that of removed
// ones, in one write. So a removal costs no more with the trash than without,
// and there is no state in between. Being in that table is what keeps layer
// and directory from the sweep. Anonymous volumes go through the volume
// room's own trash and come back with their container.
//
// Its lock is a leaf.
type trash struct {
	*core

	nudge chan struct{} // the bounds may be exceeded

	mu     sync.Mutex // guards the rest
	bounds TrashBounds
	items  map[model.ID]*discarded
}

// discarded is what is kept in memory of a removed container.
type discarded struct {
	id      model.ID
	name    string
	removal model.Removal
	size    int64 // -1: not measured
	image   int64 // bytes of its image that only it keeps, when last looked at
	busy    bool  // comes back or goes for good just now
}

func newTrash(c *core, b TrashBounds) *trash {
	return &trash{core: c, bounds: b, items: map[model.ID]*discarded{}, nudge: make(chan struct{}, 1)}
}

// limits are the present bounds.
func (t *trash) limits() TrashBounds {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.bounds
}

// SetBounds changes them while the daemon runs.
func (t *trash) SetBounds(b TrashBounds) {
	t.mu.Lock()
	t.bounds = b
	t.mu.Unlock()
	t.volumes.SetTrash(b.On())
	t.Nudge()
}

// Nudge says that something came into the trash or that a bound changed. It
// never waits.
func (t *trash) Nudge() {
	select {
	case t.nudge <- struct{}{}:
	default:
	}
}

// add takes in a container whose record has been moved.
func (t *trash) add(c *model.Container) {
	t.mu.Lock()
	t.items[c.ID] = &discarded{id: c.ID, name: c.Name, removal: *c.Removal, size: -1}
	t.mu.Unlock()
	t.Nudge()
}

// has reports whether a container is in the trash.
func (t *trash) has(id model.ID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.items[id] != nil
}

// list returns copies of the items, newest first.
func (t *trash) list() []discarded {
	t.mu.Lock()
	out := make([]discarded, 0, len(t.items))
	for _, d := range t.items {
		out = append(out, *d)
	}
	t.mu.Unlock()
	slices.SortFunc(out, func(a, b discarded) int {
		if n := b.removal.At.Compare(a.removal.At); n != 0 {
			return n
		}
		return strings.Compare(string(a.id), string(b.id))
	})
	return out
}

// claim marks an item as busy, for whoever brings it back or destroys it.
func (t *trash) claim(id model.ID) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	d := t.items[id]
	if d == nil {
		return noSuchRemoved(string(id))
	}
	if d.busy {
		return conflict("removed container %s is being restored or deleted just now", id.Short())
	}
	d.busy = true
	return nil
}

func (t *trash) unclaim(id model.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if d := t.items[id]; d != nil {
		d.busy = false
	}
}

func (t *trash) drop(id model.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.items, id)
}

// find resolves a full id, a name (the newest of it) or an id prefix of a
// removed container.
func (t *trash) find(ref string) (model.ID, error) {
	ref = strings.TrimPrefix(ref, "/")
	if ref == "" {
		return "", invalid("invalid name or ID supplied: %q", ref)
	}
	all := t.list()
	for _, d := range all {
		if string(d.id) == ref {
			return d.id, nil
		}
	}
	for _, d := range all {
		if d.name == ref {
			return d.id, nil
		}
	}
	var hits []discarded
	for _, d := range all {
		if strings.HasPrefix(string(d.id), ref) {
			hits = append(hits, d)
		}
	}
	switch len(hits) {
	case 0:
		return "", noSuchRemoved(ref)
	case 1:
		return hits[0].id, nil
	}
	var names []string
	for _, d := range hits {
		names = append(names, d.id.Short()+" ("+d.name+")")
	}
	return "", invalid("several removed containers have an id that starts with %s: %s", ref, strings.Join(names, ", "))
}

func noSuchRemoved(ref string) error {
	return model.Refuse(errdefs.ErrNotFound, "No such removed container: %s", ref)
}

// load reads the table of removed containers when the daemon starts. What is
// a container (again), or has lost its layer, is none of the trash.
func (t *trash) load(ctx context.Context, held *holdings) error {
	all, err := t.records.Removed(ctx)
	if err != nil {
		return wrap(err, "read the records of removed containers")
	}
	var stale []model.ID
	for _, c := range all {
		if c.Removal == nil || t.index.get(c.ID) != nil || !held.failed && !held.layer[c.ID] {
			stale = append(stale, c.ID)
			continue
		}
		t.mu.Lock()
		t.items[c.ID] = &discarded{id: c.ID, name: c.Name, removal: *c.Removal, size: -1}
		t.mu.Unlock()
	}
	if len(stale) > 0 {
		slog.InfoContext(ctx, "records of removed containers dropped", "room", "lifecycle", "count", len(stale))
		if err := t.records.ForgetRemoved(ctx, stale...); err != nil {
			t.slog.ErrorContext(ctx, "records of removed containers not dropped", "err", err)
		}
	}
	return nil
}

// purge deletes removed containers for good, with the volumes that went along
// with them. The records go first: what has none is swept, so that a daemon
// that dies here leaves nothing. When they cannot be written (a full disk) the
// data goes nevertheless; the next start drops a record without a layer.
func (t *trash) purge(ctx context.Context, ids []model.ID) (gone []model.ID, freed int64) {
	for _, id := range ids {
		if t.claim(id) == nil {
			gone = append(gone, id)
		}
	}
	if len(gone) == 0 {
		return nil, 0
	}
	if err := t.records.ForgetRemoved(ctx, gone...); err != nil {
		t.slog.ErrorContext(ctx, "records of removed containers not deleted yet", "err", err)
	}
	sizes := map[model.ID]int64{}
	for _, d := range t.list() {
		sizes[d.id] = max(d.size, 0) + d.image
	}
	for _, id := range gone {
		if err := t.images.Discard(ctx, id); err != nil {
			t.report(id)("image", err)
		}
		if err := removeAll(t.dir(id)); err != nil {
			t.report(id)("directory", err)
		}
		t.drop(id)
		freed += sizes[id]
	}
	return gone, freed
}
