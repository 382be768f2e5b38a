package prepare

import (
	"path"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"wharf/internal/runtime"
)

func (c *container) mounts() error {
	for i := range c.spec.Mounts {
		m := &c.spec.Mounts[i]
		if err := c.mount(m); err != nil {
			return err
		}
	}
	return nil
}

func (c *container) mount(m *specs.Mount) error {
	o, err := parseOptions(m)
	if err != nil {
		return err
	}
	if m.Destination == "" {
		return refuse("a mount of %q has no destination", m.Source)
	}
	dest := path.Clean("/" + m.Destination)
	if root := c.o.RootTarget; root != "" && strings.HasPrefix(dest, root+"/") {
		dest = strings.TrimPrefix(dest, root) // OCI runtimes take a place as the host sees it, too
	}
	if dest == "/proc" && m.Type != "proc" && !o.bind || strings.HasPrefix(dest, "/proc/") && !safeInProc(dest) {
		return refuse("%q cannot be mounted because it is inside /proc", m.Destination)
	}
	switch {
	case o.bind:
		return c.bindMount(m, &o, dest)
	case m.Type == "overlay" && slices.ContainsFunc(o.data, func(d string) bool { return strings.HasPrefix(d, lowerWord) }):
		return c.layersMount(&o, dest)
	case m.Type == "tmpfs" && dest == "/dev":
		return c.devMount(&o)
	case m.Type == "cgroup" || m.Type == "cgroup2":
		return c.cgroupMount(m, &o, dest)
	}
	return c.newMount(m, &o, dest)
}

// safeInProc are files of /proc that a bind may replace: what lxcfs makes.
func safeInProc(dest string) bool {
	switch dest {
	case "/proc/cpuinfo", "/proc/diskstats", "/proc/meminfo", "/proc/stat", "/proc/swaps", "/proc/uptime",
		"/proc/loadavg", "/proc/slabinfo", "/proc/net/dev", "/proc/sys/kernel/ns_last_pid", "/proc/sys/crypto/fips_enabled":
		return true
	}
	return false
}

func (c *container) bindMount(m *specs.Mount, o *mountOptions, dest string) error {
	src := m.Source
	if !filepath.IsAbs(src) {
		if c.o.Bundle == "" {
			return refuse("bind mount for %s: source %q is not absolute", dest, src)
		}
		src = filepath.Join(c.o.Bundle, src)
	}
	sub, err := bindSubpath(o, c.o.Unshifted)
	if err != nil {
		return err
	}
	if len(o.data) > 0 && c.o.Unshifted { // OCI runtimes take it, and so do callers
		c.warn("bind mount for %s: option %q belongs to a file system and has no effect on a bind", dest, o.data[0])
	} else if len(o.data) > 0 {
		return refuse("bind mount for %s: unknown option %q", dest, o.data[0])
	}
	if len(o.sbFlags) > 0 {
		c.warn("bind mount for %s: option %q belongs to the file system and has no effect on a bind", dest, o.sbFlags[0])
	}
	h := runtime.HostMount{
		Kind: runtime.HostBind, Source: src, Recursive: o.rbind, Dest: dest, IDMap: c.mapped && (!c.o.Unshifted || o.idmap),
		Set: o.set, Clear: o.clear, RecSet: o.recSet, RecClear: o.recClear, Subpath: sub,
	}
	if len(m.UIDMappings) > 0 || len(m.GIDMappings) > 0 {
		if len(m.UIDMappings) == 0 || len(m.GIDMappings) == 0 {
			return refuse("bind mount for %s: uidMappings and gidMappings have to be given together", dest)
		}
		h.IDMap, h.Own, h.OwnGID = true, idMap(m.UIDMappings), idMap(m.GIDMappings)
	} else if o.idmap && !c.mapped {
		return refuse("bind mount for %s: idmap needs mappings, of the mount or of the container", dest)
	}
	h.TopOnly = c.o.Unshifted && !o.ridmap
	h.Prop, h.RecProp = o.prop, o.recProp
	if h.Prop|h.RecProp == 0 {
		h.RecProp = unix.MS_PRIVATE // never the host's peer group by chance
	}
	if h.RecProp != 0 && !o.rbind {
		h.Prop, h.RecProp = h.RecProp, 0
	}
	inRoot := c.o.Unshifted && c.o.RootTarget != "" && strings.HasPrefix(src, c.o.RootTarget+"/")
	if (c.byStage() || inRoot && !h.IDMap) && ((h.Prop|h.RecProp)&unix.MS_SHARED == 0 || !strings.HasSuffix(c.spec.Linux.RootfsPropagation, "shared")) {
		m := runtime.StageMount{Slot: -1, Dest: dest, Bind: &h}
		if h.IDMap {
			c.p.Mounts = append(c.p.Mounts, runtime.HostMount{Kind: runtime.HostUser, Own: h.Own, OwnGID: h.OwnGID, Dest: dest})
			m.BindUser, h.Own, h.OwnGID = len(c.p.Mounts), nil, nil
		}
		c.st.Mounts = append(c.st.Mounts, m)
		return nil
	}
	c.hostMount(h, runtime.StageMount{Dest: dest})
	return nil
}

// bindSubpath takes "subpath=" out of a bind's options: what of its source is
// shown. It is wharf's own word, not one of the OCI specification.
func bindSubpath(o *mountOptions, unshifted bool) (sub string, err error) {
	var rest []string
	for _, d := range o.data {
		v, ok := strings.CutPrefix(d, "subpath=")
		switch {
		case !ok || unshifted:
			rest = append(rest, d)
		case !filepath.IsLocal(v):
			return "", refuse("subpath %q of a bind leads out", v)
		default:
			sub = v
		}
	}
	o.data = rest
	return sub, nil
}

// byStage: mounts are made one after the other, as the specification has it,
// which a stage with the host's rights can do. Docker's binds come from
// outside of the container and need no order.
func (c *container) byStage() bool { return c.o.Unshifted && !c.mapped }

// lowerWord names layers one by one, as fsconfig(2) takes them.
const lowerWord = "lowerdir+="

// layersMount is an image of which a container sees all or a part, read-only
// unless it has an upper directory:
// made by the caller's side, since a user namespace may not idmap the layers.
func (c *container) layersMount(o *mountOptions, dest string) error {
	h := runtime.HostMount{Kind: runtime.HostLayers, Dest: dest, IDMap: c.mapped && !c.o.Unshifted, Set: o.set}
	for _, d := range o.data {
		if l, ok := strings.CutPrefix(d, lowerWord); ok && filepath.IsAbs(l) {
			h.Lower = append(h.Lower, l)
		} else if sub, ok := strings.CutPrefix(d, "subpath="); ok && filepath.IsLocal(sub) {
			h.Subpath = sub
		} else if up, ok := strings.CutPrefix(d, "upperdir="); ok && filepath.IsAbs(up) {
			h.Upper = up
		} else if work, ok := strings.CutPrefix(d, "workdir="); ok && filepath.IsAbs(work) {
			h.Work = work
		} else {
			return refuse("overlay at %s: option %q is not understood", dest, d)
		}
	}
	c.hostMount(h, runtime.StageMount{Dest: dest})
	return nil
}

// hostMount adds a mount that the caller's side makes and the stage moves.
func (c *container) hostMount(h runtime.HostMount, m runtime.StageMount) {
	m.Slot = len(c.p.Mounts)
	c.p.Mounts = append(c.p.Mounts, h)
	c.st.Mounts = append(c.st.Mounts, m)
}

func (c *container) newMount(m *specs.Mount, o *mountOptions, dest string) error {
	sm := runtime.StageMount{
		Slot: -1, FS: m.Type, Source: m.Source, Dest: dest, Attr: o.set, RecSet: o.recSet,
		Data: append(o.data, o.sbFlags...), Prop: o.prop, RecProp: o.recProp,
	}
	switch m.Type {
	case "":
		return refuse("mount at %s has no type", dest)
	case "proc":
		sm.Fallback = "/proc"
	case "sysfs":
		sm.Fallback = "/sys"
	case "mqueue":
		sm.Fallback = "/dev/mqueue"
	case "tmpfs":
		sm.CopyUp = o.copyUp
	case "devpts":
		sm.Data = c.devptsData(sm.Data)
	}
	if o.copyUp && m.Type != "tmpfs" {
		return refuse("mount at %s: tmpcopyup is for tmpfs only", dest)
	}
	if l := c.p.MountLabel; l != "" && (m.Type == "tmpfs" || m.Type == "mqueue" || m.Type == "devpts") {
		sm.Data = append(sm.Data, "context="+l)
	}
	if c.mapped {
		sm.Data = c.mappedIDs(m.Type, sm.Data)
	}
	c.st.Mounts = append(c.st.Mounts, sm)
	return nil
}

// devptsData leaves out a gid that the container's range does not have.
func (c *container) devptsData(data []string) []string {
	var out []string
	for _, d := range data {
		if d == "newinstance" { // always so
			continue
		}
		out = append(out, d)
	}
	return out
}

// mappedIDs drops options that a user namespace does not take.
func (c *container) mappedIDs(fs string, data []string) []string {
	if fs != "tmpfs" {
		return data
	}
	var out []string
	for _, d := range data {
		if strings.HasPrefix(d, "huge=") || strings.HasPrefix(d, "nr_inodes=0") {
			c.warn("tmpfs option %q is not for user namespaces and left out", d)
			continue
		}
		out = append(out, d)
	}
	return out
}

// devMount makes /dev with the host's rights.
func (c *container) devMount(o *mountOptions) error {
	readOnly := o.set&unix.MOUNT_ATTR_RDONLY != 0
	if c.devByStage() {
		sm := runtime.StageMount{Slot: -1, FS: "tmpfs", Source: "tmpfs", Dest: "/dev", Attr: o.set &^ unix.MOUNT_ATTR_RDONLY,
			Data: o.data, Prop: o.prop, RecProp: o.recProp, LateReadOnly: readOnly}
		if l := c.p.MountLabel; l != "" {
			sm.Data = append(sm.Data, "context="+l)
		}
		c.st.Mounts = append(c.st.Mounts, sm)
		return nil
	}
	h := runtime.HostMount{Kind: runtime.HostDev, Dest: "/dev", Set: o.set &^ unix.MOUNT_ATTR_RDONLY, Data: o.data, Nodes: c.defaultNodes()}
	c.hostMount(h, runtime.StageMount{Dest: "/dev", Prop: o.prop, RecProp: o.recProp, LateReadOnly: readOnly})
	return nil
}

// devByStage: also in a user namespace, with binds for nodes, as long as these
// are only those that every host has.
func (c *container) devByStage() bool {
	if c.mapped {
		return c.o.Unshifted && len(c.spec.Linux.Devices) == 0
	}
	return c.byStage() && c.host.Mknod
}

// devIndex finds the /dev that the caller's side makes.
func (c *container) devIndex() int {
	for i := range c.p.Mounts {
		if c.p.Mounts[i].Kind == runtime.HostDev {
			return i
		}
	}
	return -1
}
