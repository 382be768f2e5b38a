package prepare

import (
	"path/filepath"
	"sort"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"wharf/internal/model"
	"wharf/internal/runtime"
	"wharf/internal/runtime/cgroup"
)

// cgroupAt decides where the container's cgroups are.
func cgroupAt(b *model.Bundle, p string) (string, error) {
	if p == "" && b.Spec.Linux != nil {
		p = b.Spec.Linux.CgroupsPath
	}
	return cgroup.Clean(p, string(b.ID))
}

func (c *container) cgroup() error {
	plan, warnings, err := cgroup.Plan(&c.host.Cgroup, c.cgroupDir, c.spec.Linux.Resources)
	if err != nil {
		return err
	}
	c.p.Cgroup = plan
	c.p.Warnings = append(c.p.Warnings, warnings...)
	return nil
}

// cgroupMount shows the container its own cgroups. On v1 and hybrid hosts
// they are bound one by one below a tmpfs, on v2 there is one directory: with
// a cgroup namespace the container's own, without it the whole tree, as the
// host has it.
func (c *container) cgroupMount(m *specs.Mount, o *mountOptions, dest string) error {
	l := &c.host.Cgroup
	views, links, v2 := l.Views(c.cgroupDir)
	attr := o.set
	if l.Unified() {
		h := runtime.HostMount{Kind: runtime.HostCgroup, Source: v2, Set: attr, Prop: unix.MS_PRIVATE, Dest: dest}
		if _, own := c.ns["cgroup"]; !own {
			h.Source, h.Recursive = l.V2, true
		}
		c.hostMount(h, runtime.StageMount{Dest: dest})
		return nil
	}
	if len(views) == 0 {
		c.warn("this machine has no cgroups to show at %s", dest)
		return nil
	}
	sm := runtime.StageMount{Slot: -1, FS: "cgroup", Dest: dest, Attr: attr, Prop: o.prop}
	names := make([]string, 0, len(views))
	for n := range views {
		names = append(names, n)
	}
	sort.Strings(names)
	for _, n := range names {
		sm.Cgroup = append(sm.Cgroup, runtime.CgroupView{Name: n, Slot: len(c.p.Mounts), Links: links[n]})
		c.p.Mounts = append(c.p.Mounts, runtime.HostMount{Kind: runtime.HostCgroup, Source: views[n], Set: attr,
			Prop: unix.MS_PRIVATE, Dest: filepath.Join(dest, n)})
	}
	c.st.Mounts = append(c.st.Mounts, sm)
	return nil
}
