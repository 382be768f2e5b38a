package lifecycle

import (
	"context"
	"io/fs"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"wharf/internal/model"
)

const (
	// trimPause is between two looks at what came in: the first is at once, so
	// that a full disk is freed at once, but many removals are looked at together.
	trimPause = time.Second
	// measureShare is the part of the time that measuring may take: a trash of a
	// thousand is measured in a tenth of a second, and not after every removal.
	measureShare = 50
	// trimEvery is how often age and the file system's free space are looked at.
	trimEvery = 15 * time.Second
	// autoShare is the part of the count that containers have which went by
	// themselves, so that many short ones do not push out what a person removed.
	autoShare = 5
)

// keep trims the trash until the engine's life ends. It is the only one that
// deletes because of a bound, and never on anybody's way.
func (t *trash) keep() {
	tick := time.NewTicker(trimEvery)
	defer tick.Stop()
	var last, again time.Time // the last look; when sizes may be measured again
	changed := false          // sizes may have changed
	for {
		select {
		case <-t.life.Done():
			return
		case <-tick.C:
		case <-t.nudge:
			select {
			case <-t.life.Done():
				return
			case <-time.After(trimPause - time.Since(last)):
			}
			last, changed = time.Now(), true
		}
		began := time.Now()
		full := changed && (began.After(again) || lack(t.opts.DataRoot, t.limits().MinFree) > 0)
		if err := t.trim(t.life, full); err != nil && t.life.Err() == nil {
			t.slog.Warn("the trash could not be trimmed", "err", err)
		}
		if full {
			again, changed = time.Now().Add(measureShare*time.Since(began)), false
		}
	}
}

// old is something in the trash, for the order in which it goes.
type old struct {
	at   time.Time
	auto bool
	size int64
	id   model.ID // of a container
	vol  string   // of a volume
}

// trim deletes what is beyond the bounds, oldest first; what went by itself
// before what somebody removed.
func (t *trash) trim(ctx context.Context, full bool) error {
	b := t.limits()
	volumes, err := t.volumes.Trashed(ctx)
	if err != nil {
		return err
	}
	items := t.list()
	if !b.On() {
		t.delete(ctx, everything(items, volumes))
		return nil
	}
	if doomed := overAgeAndCount(items, volumes, b, t.now()); len(doomed) > 0 {
		t.delete(ctx, doomed)
		items, full = t.list(), true
		if volumes, err = t.volumes.Trashed(ctx); err != nil {
			return err
		}
	}
	if full {
		t.measure(ctx, items)
		items = t.list()
	}
	all := everything(items, volumes)
	var total int64
	for _, o := range all {
		total += max(o.size, 0)
	}
	excess := max(total-b.MaxSize, lack(t.opts.DataRoot, b.MinFree))
	t.delete(ctx, overSize(all, excess))
	return nil
}

// overAgeAndCount picks what is too old or too much, by number.
func overAgeAndCount(items []discarded, volumes []model.TrashedVolume, b TrashBounds, now time.Time) []old {
	var out []old
	limit := map[bool]int{false: b.MaxCount, true: max(b.MaxCount/autoShare, 1)}
	for _, d := range items { // newest first
		auto := d.removal.Auto()
		limit[auto]--
		if limit[auto] < 0 || now.Sub(d.removal.At) > b.MaxAge {
			out = append(out, old{id: d.id, at: d.removal.At, auto: auto, size: d.size})
		}
	}
	for i, v := range volumes { // oldest first
		if len(volumes)-i > b.MaxCount || now.Sub(v.Removed) > b.MaxAge {
			out = append(out, old{vol: v.ID, at: v.Removed, size: v.Size})
		}
	}
	return out
}

// everything lists the trash in the order in which it goes.
func everything(items []discarded, volumes []model.TrashedVolume) []old {
	auto := map[model.ID]bool{}
	var out []old
	for _, d := range items {
		auto[d.id] = d.removal.Auto()
		out = append(out, old{id: d.id, at: d.removal.At, auto: auto[d.id], size: d.size + d.image})
	}
	for _, v := range volumes {
		out = append(out, old{vol: v.ID, at: v.Removed, auto: auto[v.Container], size: v.Size})
	}
	slices.SortStableFunc(out, func(a, b old) int {
		if a.auto != b.auto {
			if a.auto {
				return -1
			}
			return 1
		}
		return a.at.Compare(b.at)
	})
	return out
}

// overSize picks from the front what makes up excess bytes. Sizes that are not
// known yet count as nothing.
func overSize(all []old, excess int64) []old {
	for i, o := range all {
		if excess <= 0 {
			return all[:i]
		}
		excess -= max(o.size, 0)
	}
	return all
}

// lack is how many bytes are missing to the free space that must be.
func lack(dir string, free int64) int64 {
	var st unix.Statfs_t
	if free <= 0 || unix.Statfs(dir, &st) != nil {
		return 0
	}
	return free - int64(st.Bavail)*st.Bsize
}

// delete deletes things for good and reports what went.
func (t *trash) delete(ctx context.Context, doomed []old) model.TrashEmptied {
	out := model.TrashEmptied{Containers: []string{}, Volumes: []string{}}
	var ids []model.ID
	for _, o := range doomed {
		if o.vol == "" {
			ids = append(ids, o.id)
			continue
		}
		err := t.volumes.Purge(ctx, o.vol)
		if err == nil {
			out.Volumes = append(out.Volumes, o.vol)
			out.SpaceReclaimed += max(o.size, 0)
		} else if !errdefs.IsNotFound(err) {
			t.slog.WarnContext(ctx, "a removed volume could not be deleted", "volume", o.vol, "err", err)
		}
	}
	gone, freed := t.purge(ctx, ids)
	for _, id := range gone {
		out.Containers = append(out.Containers, string(id))
	}
	out.SpaceReclaimed += freed
	if len(doomed) > 0 {
		t.slog.InfoContext(ctx, "deleted from the trash", "containers", len(out.Containers), "volumes", len(out.Volumes), "bytes", out.SpaceReclaimed)
	}
	return out
}

// measure finds the sizes of what came in, and how much of the images only
// the trash keeps.
func (t *trash) measure(ctx context.Context, items []discarded) {
	ids := make([]model.ID, 0, len(items))
	for _, d := range items {
		ids = append(ids, d.id)
		if d.size >= 0 || ctx.Err() != nil {
			continue
		}
		rw, _, err := t.images.Usage(ctx, d.id)
		if err != nil {
			rw = 0
		}
		n := rw + dirSize(t.dir(d.id))
		t.mu.Lock()
		if x := t.items[d.id]; x != nil {
			x.size = n
		}
		t.mu.Unlock()
	}
	kept, err := t.images.Kept(ctx, ids)
	if err != nil {
		t.slog.WarnContext(ctx, "images that only the trash keeps are not counted", "err", err)
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, d := range t.items {
		d.image = kept[id]
	}
}

// dirSize adds up the blocks of the files below dir.
func dirSize(dir string) (n int64) {
	_ = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil // going
		}
		if info, err := e.Info(); err == nil {
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				n += st.Blocks * 512
			}
		}
		return nil
	})
	return n
}
