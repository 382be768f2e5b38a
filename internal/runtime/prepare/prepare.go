// Package prepare turns a bundle into the data that internal/runtime performs.
// It runs where big libraries are welcome (wharfd, wharf-oci): it checks the
// spec, compiles the seccomp profile, computes the cgroup directories and the
// device program. It changes nothing on the machine; what it reads of it
// (cgroup mounts, whether SELinux is there) it reads once.
package prepare

import (
	"encoding/json"

	"fmt"
	"path/filepath"
	"sort"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"wharf/internal/model"
	"wharf/internal/runtime"
)

// Options are what the bundle does not say. The zero value is what wharfd
// uses.
type Options struct {
	// SpecUser takes user and groups as numbers from the spec's process
	// instead of looking up Bundle.User inside.
	SpecUser bool
	// Bundle is the bundle directory that hooks are told about; relative
	// sources of bind mounts start there.
	Bundle string
	// NoNewKeyring keeps the caller's session keyring.
	NoNewKeyring bool
	// RootTarget is where the root is mounted before it becomes "/", for
	// hooks that look there. "" is out of sight.
	RootTarget string
	// Unshifted is the OCI specification's view of a user namespace: what is
	// on disk belongs to host ids already, and only mounts that ask for it
	// are idmapped. wharf's own is that images are shown with the
	// container's ids.
	Unshifted bool
	// Host overrides what is known about the machine; nil detects it.
	Host *Host
}

func (o *Options) host() *Host {
	if o.Host != nil {
		return o.Host
	}
	return Detect()
}

// refuse is a request's mistake.
func refuse(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, errdefs.ErrInvalidArgument)...)
}

func missing(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, errdefs.ErrNotImplemented)...)
}

// container is one Container call under way.
type container struct {
	b    *model.Bundle
	spec *specs.Spec
	o    Options
	host *Host
	p    *runtime.Prepared
	st   runtime.Stage
	// mapped: the container has a user namespace of its own, or joins one.
	mapped    bool
	cgroupDir string // below each hierarchy
	ns        map[string]specs.LinuxNamespace
}

// Container prepares b's first process. cgroupPath is below each hierarchy's
// mount point, for example "wharf/<id>"; "" takes the spec's cgroupsPath, or
// else "wharf/<id>". Errors are errdefs.ErrInvalidArgument (the request's
// fault) or errdefs.ErrNotImplemented.
func Container(b *model.Bundle, cgroupPath string, o Options) (*runtime.Prepared, error) {
	if b == nil || b.Spec == nil || b.Spec.Process == nil {
		return nil, refuse("the bundle has no process")
	}
	c := &container{b: b, spec: b.Spec, o: o, host: o.host(), p: &runtime.Prepared{}}
	if c.spec.Linux == nil {
		c.spec = shallow(c.spec)
	}
	c.p.ID, c.p.Bundle, c.p.Annotations = string(b.ID), o.Bundle, c.spec.Annotations
	var err error
	if c.cgroupDir, err = cgroupAt(b, cgroupPath); err != nil {
		return nil, err
	}
	steps := []func() error{
		c.namespaces, c.root, c.process, c.names, c.sysctls, c.mounts, c.devices, c.hooks, c.cgroup,
	}
	for _, f := range steps {
		if err := f(); err != nil {
			return nil, err
		}
	}
	if c.p.Stage, err = json.Marshal(&c.st); err != nil {
		return nil, err
	}
	return c.p, nil
}

func shallow(s *specs.Spec) *specs.Spec {
	n := *s
	n.Linux = &specs.Linux{}
	return &n
}

func (c *container) warn(format string, args ...any) {
	c.p.Warnings = append(c.p.Warnings, fmt.Sprintf(format, args...))
}

func (c *container) namespaces() error {
	l := c.spec.Linux
	c.ns = map[string]specs.LinuxNamespace{}
	for _, n := range l.Namespaces {
		if _, twice := c.ns[string(n.Type)]; twice {
			return refuse("namespace %q is named twice", n.Type)
		}
		switch n.Type {
		case specs.MountNamespace, specs.PIDNamespace, specs.NetworkNamespace, specs.IPCNamespace,
			specs.UTSNamespace, specs.UserNamespace, specs.CgroupNamespace, specs.TimeNamespace:
		default:
			return refuse("unknown namespace %q", n.Type)
		}
		if !c.host.HasNS[string(n.Type)] {
			c.warn("this kernel has no %s namespaces; the host's is used", n.Type)
			continue
		}
		c.ns[string(n.Type)] = n
		c.p.Namespaces = append(c.p.Namespaces, runtime.Namespace{Kind: string(n.Type), Path: n.Path})
	}
	if err := c.idMaps(); err != nil {
		return err
	}
	own, user := c.ns["user"]
	if len(c.p.UIDMap) > 0 && !user {
		c.ns["user"] = specs.LinuxNamespace{Type: specs.UserNamespace}
		c.p.Namespaces = append(c.p.Namespaces, runtime.Namespace{Kind: "user"})
	}
	if user && own.Path == "" && len(c.p.UIDMap) == 0 {
		return refuse("a user namespace needs id maps (Bundle.IDs, or linux.uidMappings and gidMappings)")
	}
	c.mapped = user || len(c.p.UIDMap) > 0
	if err := c.foreignTree(); err != nil {
		return err
	}
	return c.timeOffsets()
}

// foreignTree is a container without a mount namespace of its own: its mounts
// are made in the host's tree, or in that of the namespace that it joins, and
// the root is entered by chroot(2), which keeps no privileged process in. It
// is what an OCI configuration says, and nobody else may ask for it.
func (c *container) foreignTree() error {
	n, ok := c.ns["mount"]
	if ok && n.Path == "" {
		return nil
	}
	if !c.o.Unshifted {
		return missing("a container needs a mount namespace of its own")
	}
	if c.mapped {
		return refuse("a user namespace needs a mount namespace of the container's own")
	}
	if l := c.spec.Linux; !ok && len(l.MaskedPaths)+len(l.ReadonlyPaths) > 0 {
		return refuse("maskedPaths and readonlyPaths need a mount namespace: without one they would cover the host's")
	}
	c.st.Root.Chroot = true
	if !ok {
		c.p.HostRoot = c.o.RootTarget
	}
	return nil
}

func (c *container) idMaps() error {
	if c.b.IDs.Mapped() {
		m := []runtime.IDMap{{Host: c.b.IDs.Host, Size: c.b.IDs.Size}}
		c.p.UIDMap, c.p.GIDMap = m, m
		return nil
	}
	l := c.spec.Linux
	if (len(l.UIDMappings) == 0) != (len(l.GIDMappings) == 0) {
		return refuse("uidMappings and gidMappings have to be given together")
	}
	c.p.UIDMap, c.p.GIDMap = idMap(l.UIDMappings), idMap(l.GIDMappings)
	return nil
}

func idMap(in []specs.LinuxIDMapping) (out []runtime.IDMap) {
	for _, m := range in {
		out = append(out, runtime.IDMap{Inside: m.ContainerID, Host: m.HostID, Size: m.Size})
	}
	return out
}

func (c *container) timeOffsets() error {
	off := c.spec.Linux.TimeOffsets
	if len(off) == 0 {
		return nil
	}
	if n, ok := c.ns["time"]; !ok || n.Path != "" {
		return refuse("timeOffsets need a time namespace of the container's own")
	}
	clocks := make([]string, 0, len(off))
	for clock := range off {
		if clock != "monotonic" && clock != "boottime" {
			return refuse("timeOffsets: unknown clock %q (monotonic, boottime)", clock)
		}
		clocks = append(clocks, clock)
	}
	sort.Strings(clocks)
	for _, k := range clocks {
		c.p.TimeOffset += fmt.Sprintf("%s %d %d\n", k, off[k].Secs, off[k].Nanosecs)
	}
	return nil
}

func (c *container) root() error {
	r := c.b.Rootfs
	c.p.Root = runtime.Root{Lower: r.Lower, Upper: r.Upper, Work: r.Work, Dir: r.Dir, IDMap: c.mapped && !c.o.Unshifted}
	if c.p.Root.Dir == "" && len(r.Lower) == 0 && r.Upper == "" {
		if c.spec.Root == nil || c.spec.Root.Path == "" {
			return refuse("the bundle has no root")
		}
		dir := c.spec.Root.Path
		if !filepath.IsAbs(dir) {
			dir = filepath.Join(c.o.Bundle, dir)
		}
		c.p.Root.Dir = dir
	}
	if r.Upper != "" && len(r.Lower) > 0 && r.Work == "" {
		return refuse("the overlay root has an upper directory but no work directory")
	}
	if c.spec.Root != nil {
		c.st.Root.ReadOnly = c.spec.Root.Readonly
	}
	c.st.Root.Target = c.o.RootTarget
	prop := c.spec.Linux.RootfsPropagation
	p, rec, ok := propagation(prop)
	if prop != "" && !ok {
		return refuse("unknown rootfsPropagation %q", prop)
	}
	c.st.Root.Propagation = rootPropagation(p, rec)
	return nil
}

func (c *container) names() error {
	if c.spec.Hostname != "" || c.spec.Domainname != "" {
		if _, ok := c.ns["uts"]; !ok {
			return refuse("hostname %q needs a uts namespace of the container's own", c.spec.Hostname+c.spec.Domainname)
		}
	}
	c.st.Hostname, c.st.Domainname = c.spec.Hostname, c.spec.Domainname
	c.st.MaskedPaths, c.st.ReadonlyPaths = once(c.spec.Linux.MaskedPaths), once(c.spec.Linux.ReadonlyPaths)
	if c.spec.Linux.IntelRdt != nil {
		return missing("intelRdt")
	}
	if len(c.spec.Linux.NetDevices) > 0 {
		return missing("netDevices")
	}
	return nil
}

// ipcSysctls are the names below kernel/ that belong to the IPC namespace.
var ipcSysctls = map[string]bool{
	"kernel/msgmax": true, "kernel/msgmnb": true, "kernel/msgmni": true, "kernel/sem": true,
	"kernel/shmall": true, "kernel/shmmax": true, "kernel/shmmni": true, "kernel/shm_rmid_forced": true,
	"kernel/msg_next_id": true, "kernel/sem_next_id": true, "kernel/shm_next_id": true,
}

func (c *container) sysctls() error {
	for k, v := range c.spec.Linux.Sysctl {
		name := strings.ReplaceAll(k, ".", "/")
		if i := strings.IndexByte(k, '/'); i >= 0 && !strings.Contains(k[:i], ".") {
			name = k // already a path; dots belong to names of interfaces
		}
		if err := c.sysctl(name, k); err != nil {
			return err
		}
		c.st.Sysctl = append(c.st.Sysctl, [2]string{name, v})
	}
	sort.Slice(c.st.Sysctl, func(i, j int) bool { return c.st.Sysctl[i][0] < c.st.Sysctl[j][0] })
	return nil
}

func (c *container) sysctl(name, shown string) error {
	need := ""
	switch {
	case strings.Contains(name, ".."):
		return refuse("sysctl %q", shown)
	case ipcSysctls[name] || strings.HasPrefix(name, "fs/mqueue/"):
		need = "ipc"
	case strings.HasPrefix(name, "net/"):
		need = "network"
	case name == "kernel/domainname":
		need = "uts"
	case name == "kernel/hostname":
		return refuse("sysctl %q: use the host name option instead", shown)
	case strings.HasPrefix(name, "user/"):
		need = "user"
	default:
		return refuse("sysctl %q is not in a separate kernel namespace", shown)
	}
	if _, ok := c.ns[need]; !ok {
		return refuse("sysctl %q is not allowed in the host's %s namespace", shown, need)
	}
	return nil
}

func (c *container) hooks() error {
	h := c.spec.Hooks
	if h == nil {
		return nil
	}
	all := append(append([]specs.Hook{}, h.CreateRuntime...), h.CreateContainer...)
	all = append(append(append(all, h.StartContainer...), h.Poststart...), h.Poststop...)
	all = append(all, h.Prestart...) //nolint:staticcheck // deprecated, but in the spec
	for _, hook := range all {
		if !filepath.IsAbs(hook.Path) {
			return refuse("hook path %q is not absolute", hook.Path)
		}
	}
	c.p.Hooks = h
	c.st.Hooks = len(h.Prestart)+len(h.CreateRuntime) > 0 //nolint:staticcheck // see above
	c.st.CreateHooks, c.st.StartHooks = h.CreateContainer, h.StartContainer
	if len(c.st.CreateHooks)+len(c.st.StartHooks) > 0 {
		c.st.HookState = &specs.State{Version: specs.Version, ID: c.p.ID, Status: specs.StateCreating,
			Bundle: c.o.Bundle, Annotations: c.spec.Annotations}
	}
	return nil
}

// once leaves repetitions out.
func once(list []string) []string {
	seen := map[string]bool{}
	var out []string
	for _, s := range list {
		if !seen[s] {
			seen[s] = true
			out = append(out, s)
		}
	}
	return out
}
