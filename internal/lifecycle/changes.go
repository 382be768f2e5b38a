package lifecycle

import (
	"context"
	"path"
	"slices"

	"github.com/moby/moby/api/types/container"

	"wharf/internal/model"
)

// Changes compares the writable layer with the image. Mount points that the
// runtime had to make there are no changes of the container's.
func (s files) Changes(ctx context.Context, ref string) ([]container.FilesystemChange, error) {
	e, err := s.index.find(ref)
	if err != nil {
		return nil, err
	}
	var all []container.FilesystemChange
	f, ok, err := s.through(ctx, e.record())
	switch {
	case err != nil:
	case ok:
		defer s.free(e, f.Close)
		all, err = f.Changes(ctx)
	default:
		all, err = s.images.Changes(ctx, e.id)
	}
	if err != nil {
		return nil, wrap(err, "changes of %s", e.id.Short())
	}
	return ownChanges(all, mountPointsOf(e.record())), nil
}

// ownChanges leaves out added mount points, and the directories above them
// that changed for no other reason.
func ownChanges(all []container.FilesystemChange, points map[string]bool) []container.FilesystemChange {
	deepest := make([]int, len(all))
	for i := range all {
		deepest[i] = i
	}
	slices.SortStableFunc(deepest, func(a, b int) int { return len(all[b].Path) - len(all[a].Path) })
	above := map[string]bool{} // directories above a mount point
	for p := range points {
		above[path.Dir(p)] = true
	}
	busy, hidden := map[string]bool{}, map[int]bool{} // busy: something shown is below
	for _, i := range deepest {
		c := all[i]
		if c.Kind == container.ChangeAdd && points[c.Path] || c.Kind == container.ChangeModify && above[c.Path] && !busy[c.Path] {
			hidden[i] = true
			continue
		}
		for dir := path.Dir(c.Path); !busy[dir]; dir = path.Dir(dir) {
			busy[dir] = true
		}
	}
	out := []container.FilesystemChange{}
	for i, c := range all {
		if !hidden[i] {
			out = append(out, c)
		}
	}
	return out
}

// mountPointsOf is where something is mounted in c, with what every container
// has.
func mountPointsOf(c *model.Container) map[string]bool {
	out := map[string]bool{}
	for _, p := range []string{
		"/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/proc", "/sys", "/sys/fs/cgroup", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue",
		"/dev/console",
	} {
		out[p] = true
	}
	add := func(p string) {
		for ; p != "/" && !out[p]; p = path.Dir(p) {
			out[p] = true // directories above it were made for it too, if they are new
		}
	}
	for _, m := range c.Mounts {
		add(m.Destination)
	}
	for p := range c.HostConfig.Tmpfs {
		add(path.Clean("/" + p))
	}
	return out
}
