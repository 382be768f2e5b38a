package volume

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/volume"
	"golang.org/x/sys/unix"

	"wharf/internal/model"
)

// List returns the volumes that the filters select, by name.
func (r *Room) List(ctx context.Context, f model.Filters) ([]volume.Volume, []string, error) {
	if err := checkFilters(f, "dangling", "driver", "label", "name"); err != nil {
		return nil, nil, err
	}
	dangling, err := truth(f, "dangling")
	if err != nil {
		return nil, nil, err
	}
	out := []volume.Volume{}
	r.mu.Lock()
	for _, v := range r.vols {
		if dangling != nil && *dangling != (len(v.users) == 0) {
			continue
		}
		if oneOf(f["driver"], func(s string) bool { return s == v.rec.Driver }) &&
			oneOf(f["name"], func(s string) bool { return strings.Contains(v.rec.Name, s) }) &&
			hasLabels(v.rec.Labels, f["label"]) {
			out = append(out, *v.describe())
		}
	}
	r.mu.Unlock()
	slices.SortFunc(out, func(a, b volume.Volume) int { return strings.Compare(a.Name, b.Name) })
	return out, nil, ctx.Err()
}

// Inspect describes one volume.
func (r *Room) Inspect(ctx context.Context, name string) (*volume.Volume, error) {
	v, err := r.get(name)
	if err != nil {
		return nil, err
	}
	return v.describe(), ctx.Err()
}

func checkFilters(f model.Filters, known ...string) error {
	for k := range f {
		if !slices.Contains(known, k) {
			return model.Refuse(errdefs.ErrInvalidArgument, "invalid filter '%s'", k)
		}
	}
	return nil
}

// truth reads a boolean filter; nil when it is not there.
func truth(f model.Filters, key string) (*bool, error) {
	var got *bool
	for s := range f[key] {
		b, err := strconv.ParseBool(s)
		if err != nil || got != nil && *got != b {
			return nil, model.Refuse(errdefs.ErrInvalidArgument, "invalid filter '%s=%s': it must be true or false", key, s)
		}
		got = &b
	}
	return got, nil
}

func oneOf(vals map[string]bool, ok func(string) bool) bool {
	for v := range vals {
		if ok(v) {
			return true
		}
	}
	return len(vals) == 0
}

func hasLabels(have map[string]string, want map[string]bool) bool {
	for l := range want {
		k, v, withValue := strings.Cut(l, "=")
		got, ok := have[k]
		if !ok || withValue && got != v {
			return false
		}
	}
	return true
}

// Prune removes volumes that no container has: the anonymous ones, or with
// the filter all=true the named ones too.
func (r *Room) Prune(ctx context.Context, f model.Filters) (volume.PruneReport, error) {
	rep := volume.PruneReport{VolumesDeleted: []string{}}
	if err := checkFilters(f, "all", "label", "label!"); err != nil {
		return rep, err
	}
	all, err := truth(f, "all")
	if err != nil {
		return rep, err
	}
	wanted := func(v *vol) bool {
		_, anonymous := v.rec.Labels[labelAnonymous]
		return len(v.users) == 0 && (anonymous || all != nil && *all) && hasLabels(v.rec.Labels, f["label"]) &&
			(len(f["label!"]) == 0 || !hasLabels(v.rec.Labels, f["label!"]))
	}
	var found []*vol
	r.mu.Lock()
	for _, v := range r.vols {
		if wanted(v) {
			found = append(found, v)
		}
	}
	r.mu.Unlock()
	slices.SortFunc(found, func(a, b *vol) int { return strings.Compare(a.rec.Name, b.rec.Name) })
	for _, v := range found {
		size, err := v.size(ctx)
		if err != nil {
			return rep, err
		}
		err = r.remove(v.rec.Name, "", wanted)
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return rep, err
		}
		if _, err := r.get(v.rec.Name); err == nil {
			continue // taken into use meanwhile
		}
		rep.VolumesDeleted = append(rep.VolumesDeleted, v.rec.Name)
		rep.SpaceReclaimed += uint64(max(0, size))
	}
	r.opts.Publish(events.VolumeEventType, events.ActionPrune, "", map[string]string{"reclaimed": strconv.FormatUint(rep.SpaceReclaimed, 10)})
	return rep, nil
}

// DiskUsage measures every volume. A volume whose content is elsewhere (it
// has options) counts nothing here.
func (r *Room) DiskUsage(ctx context.Context, verbose bool) (*volume.DiskUsage, error) {
	r.mu.Lock()
	vols := make([]*vol, 0, len(r.vols))
	users := map[*vol]int{}
	for _, v := range r.vols {
		vols = append(vols, v)
		users[v] = len(v.users)
	}
	r.mu.Unlock()
	slices.SortFunc(vols, func(a, b *vol) int { return strings.Compare(a.rec.Name, b.rec.Name) })
	du := &volume.DiskUsage{TotalCount: int64(len(vols))}
	for _, v := range vols {
		size, err := v.size(ctx)
		if err != nil {
			return nil, err
		}
		if users[v] > 0 {
			du.ActiveCount++
		} else {
			du.Reclaimable += max(0, size)
		}
		du.TotalSize += max(0, size)
		if verbose {
			d := v.describe()
			d.UsageData = &volume.UsageData{RefCount: int64(users[v]), Size: size}
			du.Items = append(du.Items, *d)
		}
	}
	return du, nil
}

// Usage is Inspect with UsageData: who has the volume, and its size.
func (r *Room) Usage(ctx context.Context, name string) (*volume.Volume, error) {
	v, err := r.get(name)
	if err != nil {
		return nil, err
	}
	size, err := v.size(ctx)
	if err != nil {
		return nil, err
	}
	d := v.describe()
	r.mu.Lock()
	d.UsageData = &volume.UsageData{RefCount: int64(len(v.users)), Size: size}
	r.mu.Unlock()
	return d, nil
}

// size sums up the files of a volume, each inode once; -1 for a volume with
// options, whose content may be anywhere.
func (v *vol) size(ctx context.Context) (int64, error) {
	if v.rec.elsewhere() {
		return -1, nil
	}
	if v.rec.block() { // what the sparse file takes
		return onDisk(ctx, v.data())
	}
	seen := map[[2]uint64]struct{}{}
	var total int64
	err := walk(ctx, v.data(), func(_ string, st *unix.Stat_t) error {
		if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			k := [2]uint64{uint64(st.Dev), st.Ino}
			if _, ok := seen[k]; ok {
				return nil
			}
			seen[k] = struct{}{}
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			total += st.Size
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("measure volume %s: %w", v.rec.Name, err)
	}
	return total, nil
}

// walk calls f for everything below dir, without following symlinks. What
// goes away meanwhile is left out.
func walk(ctx context.Context, dir string, f func(p string, st *unix.Stat_t) error) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", dir, err)
	}
	defer unix.Close(fd)
	return walkFD(ctx, fd, dir, f)
}

func walkFD(ctx context.Context, fd int, dir string, f func(p string, st *unix.Stat_t) error) error {
	names, err := readNames(fd)
	if err != nil {
		return fmt.Errorf("read %s: %w", dir, err)
	}
	for _, n := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Fstatat(fd, n, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			continue
		}
		p := filepath.Join(dir, n)
		if err := f(p, &st); err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			continue
		}
		child, err := unix.Openat(fd, n, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			continue
		}
		err = walkFD(ctx, child, p, f)
		_ = unix.Close(child)
		if err != nil {
			return err
		}
	}
	return nil
}
