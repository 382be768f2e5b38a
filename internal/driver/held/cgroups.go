package held

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"wharf/internal/model"
	"wharf/internal/runtime/cgroup"
)

// cgroupPath is where b's cgroups are, below each hierarchy: where its spec
// says, or else below our parent.
func (d *Driver) cgroupPath(b *model.Bundle) (string, error) {
	if b.Spec != nil && b.Spec.Linux != nil && b.Spec.Linux.CgroupsPath != "" {
		return cgroup.Clean(b.Spec.Linux.CgroupsPath, string(b.ID))
	}
	return cgroup.Clean(d.opts.CgroupParent+"/"+string(b.ID), string(b.ID))
}

// group is id's cgroups. Without a bundle (a start that broke off early) they
// can only be below our parent.
func (d *Driver) group(id model.ID, b *model.Bundle) (*cgroup.Group, error) {
	if b == nil {
		b = &model.Bundle{ID: id}
	}
	p, err := d.cgroupPath(b)
	if err != nil {
		return nil, err
	}
	return cgroup.Open(p), nil
}

// Group is the running instance's cgroups, or the error that it is not
// running.
func (i *Instance) Group() (*cgroup.Group, error) {
	if i.Pid() == 0 {
		return nil, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("container %s is not running", i.id.Short()))
	}
	b, err := i.Bundle()
	if err != nil {
		return nil, err
	}
	return i.d.group(i.id, b)
}

// hierarchies are the directories of the machine's control groups.
func hierarchies() []string {
	l := cgroup.Detect()
	out := slices.Collect(maps.Values(l.V1))
	if l.V2 != "" {
		out = append(out, l.V2)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// ListCgroups lists the ids that have a cgroup below parent in any hierarchy.
func ListCgroups(parent string) []string {
	seen := map[string]bool{}
	var out []string
	for _, b := range hierarchies() {
		entries, err := os.ReadDir(filepath.Join(b, parent))
		if err != nil {
			continue
		}
		for _, e := range entries {
			if e.IsDir() && !seen[e.Name()] {
				seen[e.Name()] = true
				out = append(out, e.Name())
			}
		}
	}
	return out
}

// strayCgroups are the ids whose cgroups were left behind together with a lost
// exec root. Somebody else may work below the same parent: a --cgroup-parent
// inside ours, or another daemon. So what does not look like a container's id,
// or has processes, is not ours to end. known are not looked at.
func strayCgroups(parent string, known map[model.ID]bool) []model.ID {
	var out []model.ID
	for _, name := range ListCgroups(parent) {
		if known[model.ID(name)] || !containerID.MatchString(name) {
			continue
		}
		if busy(parent, name) { // the usual case, by one small read
			continue
		}
		pids, err := cgroup.Open(filepath.Join("/", parent, name)).Pids()
		if err == nil && len(pids) == 0 {
			out = append(out, model.ID(name))
		}
	}
	return out
}

// busy reports that there is a process in one of the group's own directories.
func busy(parent, name string) bool {
	for _, b := range hierarchies() {
		if p, err := os.ReadFile(filepath.Join(b, parent, name, "cgroup.procs")); err == nil && len(p) > 0 {
			return true
		}
	}
	return false
}

var containerID = regexp.MustCompile(`^[0-9a-f]{64}$`)

// Pause stops every process of the container.
func (i *Instance) Pause(ctx context.Context) error {
	g, err := i.Group()
	if err != nil {
		return err
	}
	return g.Freeze()
}

// Resume lets them go on.
func (i *Instance) Resume(ctx context.Context) error {
	g, err := i.Group()
	if err != nil {
		return err
	}
	return g.Thaw()
}

// Stats reads the counters.
func (i *Instance) Stats(ctx context.Context) (*container.StatsResponse, error) {
	g, err := i.Group()
	if err != nil {
		return nil, err
	}
	return g.Stats()
}

// Pids lists the processes.
func (i *Instance) Pids(ctx context.Context) ([]int, error) {
	g, err := i.Group()
	if err != nil {
		return nil, err
	}
	return g.Pids()
}

// Update changes live limits.
func (i *Instance) Update(ctx context.Context, r container.Resources) error {
	g, err := i.Group()
	if err != nil {
		return err
	}
	return g.Update(cgroup.FromDocker(&r))
}

// OOM counts the processes that the kernel killed for memory. After the end
// too, until Release.
func (i *Instance) OOM(ctx context.Context) (uint64, error) {
	b, err := i.Bundle()
	if err != nil {
		return 0, err
	}
	g, err := i.d.group(i.id, b)
	if err != nil {
		return 0, err
	}
	return g.OOM()
}

// complete adds to a bad exit whether memory was the reason: the cgroup is
// there until Release.
func (i *Instance) complete(e model.Exit) model.Exit {
	if e.Code != 0 && !e.OOMKilled {
		n, err := i.OOM(context.Background())
		e.OOMKilled = err == nil && n > 0
	}
	return e
}
