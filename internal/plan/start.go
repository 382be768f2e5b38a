package plan

import (
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/opencontainers/runtime-spec/specs-go"

	"wharf/internal/model"
)

const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// starting is the state of one Start.
type starting struct {
	c    model.Container
	cfg  *container.Config
	hc   *container.HostConfig
	in   StartInput
	f    Facts
	d    Defaults
	sec  security
	spec *specs.Spec
	warn []string
}

// Start describes the container's process and surroundings as an OCI runtime
// spec.
func Start(c model.Container, in StartInput, f Facts, d Defaults) (*model.Bundle, []string, error) {
	s := &starting{c: c, cfg: c.Config, hc: c.HostConfig, in: in, f: f, d: d}
	var err error
	if s.sec, err = parseSecurity(s.hc.SecurityOpt, d.NoNewPrivs); err != nil {
		return nil, nil, err
	}
	s.spec = &specs.Spec{
		Version:     specs.Version,
		Root:        &specs.Root{Path: rootPath(in.Rootfs), Readonly: s.hc.ReadonlyRootfs},
		Annotations: s.hc.Annotations,
		Linux:       &specs.Linux{MountLabel: c.MountLabel, CgroupsPath: s.cgroup()},
	}
	for _, step := range []func() error{s.process, s.namespaces, s.mounts, s.paths, s.limits, s.seccomp, s.devicesByName} {
		if err := step(); err != nil {
			return nil, s.warn, err
		}
	}
	b := &model.Bundle{
		ID:        c.ID,
		Spec:      s.spec,
		Rootfs:    in.Rootfs,
		IDs:       c.IDs,
		User:      s.cfg.User,
		GroupAdd:  s.hc.GroupAdd,
		OpenStdin: s.cfg.OpenStdin,
		StdinOnce: s.cfg.StdinOnce,
		Log:       Log(c, d),
	}
	if s.hc.PidMode.IsPrivate() {
		b.Init = d.Init
		if s.hc.Init != nil {
			b.Init = *s.hc.Init
		}
	}
	if s.cfg.Tty {
		b.ConsoleSize = s.hc.ConsoleSize
	}
	return b, s.warn, nil
}

func rootPath(r model.Rootfs) string {
	if r.Dir != "" {
		return r.Dir
	}
	return "rootfs" // made by the monitor from Bundle.Rootfs
}

// cgroup is where the container's processes are, relative to each hierarchy's
// root. Cleaned as an absolute path, so that no ".." leads out.
func (s *starting) cgroup() string {
	parent := s.hc.CgroupParent
	if parent == "" {
		parent = s.d.CgroupParent
	}
	return path.Join(path.Clean("/"+parent), string(s.c.ID))
}

func (s *starting) process() error {
	caps, err := capabilitySet(s.hc, s.f, s.c.IDs.Mapped())
	if err != nil {
		return err
	}
	p := &specs.Process{
		Terminal:        s.cfg.Tty,
		Args:            slices.Concat(s.cfg.Entrypoint, s.cfg.Cmd),
		Env:             environment(s.c, s.cfg.Tty, s.in.LinkEnv),
		Cwd:             s.cfg.WorkingDir,
		Capabilities:    &specs.LinuxCapabilities{Bounding: caps, Permitted: caps, Effective: caps},
		NoNewPrivileges: s.sec.noNewPrivs,
		SelinuxLabel:    s.c.ProcessLabel,
		ApparmorProfile: s.apparmor(),
		Rlimits:         rlimits(s.hc.Ulimits, s.d.Ulimits),
		User:            specs.User{Umask: s.hc.Umask},
	}
	if len(p.Args) == 0 {
		return invalid("no command specified")
	}
	if p.Cwd == "" {
		p.Cwd = "/"
	}
	if s.hc.OomScoreAdj != 0 {
		p.OOMScoreAdj = ptr(s.hc.OomScoreAdj)
	}
	if s.cfg.Tty && s.hc.ConsoleSize != [2]uint{} {
		p.ConsoleSize = &specs.Box{Height: s.hc.ConsoleSize[0], Width: s.hc.ConsoleSize[1]}
	}
	s.spec.Process = p
	return nil
}

func (s *starting) apparmor() string {
	if !s.f.AppArmor {
		return ""
	}
	return s.sec.apparmor
}

// environment is the container's: a PATH, its host name and TERM first, then
// its own variables, which replace those. A variable without "=" removes.
func environment(c model.Container, tty bool, links []string) []string {
	env := []string{defaultPath, "HOSTNAME=" + c.Config.Hostname}
	if tty {
		env = append(env, "TERM=xterm")
	}
	env = append(env, links...)
	return overrideEnv(env, c.Config.Env)
}

func overrideEnv(env, more []string) []string {
	at := make(map[string]int, len(env)+len(more))
	for i, e := range env {
		key, _, _ := strings.Cut(e, "=")
		at[key] = i
	}
	for _, e := range more {
		key, _, hasValue := strings.Cut(e, "=")
		i, there := at[key]
		switch {
		case !hasValue && there:
			env[i] = "" // taken out below
		case !hasValue:
		case there:
			env[i] = e
		default:
			at[key] = len(env)
			env = append(env, e)
		}
	}
	return slices.DeleteFunc(env, func(e string) bool { return e == "" })
}

// rlimits joins the container's limits and the daemon's defaults.
func rlimits(own []*container.Ulimit, defaults map[string]*container.Ulimit) []specs.POSIXRlimit {
	all := maps.Clone(defaults)
	if all == nil {
		all = make(map[string]*container.Ulimit)
	}
	for _, u := range own {
		all[u.Name] = u
	}
	var out []specs.POSIXRlimit
	for _, name := range slices.Sorted(maps.Keys(all)) {
		u := all[name]
		out = append(out, specs.POSIXRlimit{Type: "RLIMIT_" + strings.ToUpper(name), Hard: uint64(u.Hard), Soft: uint64(u.Soft)})
	}
	return out
}

// namespaces: its own, unless a mode says otherwise. The user and network
// namespaces without a path are the pair made before the start.
func (s *starting) namespaces() error {
	hc, l := s.hc, s.spec.Linux
	add := func(t specs.LinuxNamespaceType, p string) {
		l.Namespaces = append(l.Namespaces, specs.LinuxNamespace{Type: t, Path: p})
	}
	if s.c.IDs.Mapped() {
		add(specs.UserNamespace, s.in.JoinUser)
		m := []specs.LinuxIDMapping{{ContainerID: 0, HostID: s.c.IDs.Host, Size: s.c.IDs.Size}}
		l.UIDMappings, l.GIDMappings = m, m
	}
	add(specs.MountNamespace, "")
	for _, n := range []struct {
		typ        specs.LinuxNamespaceType
		host, join bool
		path       string
	}{
		{specs.NetworkNamespace, hc.NetworkMode.IsHost(), hc.NetworkMode.IsContainer(), s.in.JoinNet},
		{specs.PIDNamespace, hc.PidMode.IsHost(), hc.PidMode.IsContainer(), s.in.JoinPid},
		{specs.IPCNamespace, hc.IpcMode.IsHost(), hc.IpcMode.IsContainer(), s.in.JoinIPC},
	} {
		if n.host {
			continue
		}
		if n.join && n.path == "" {
			return conflict("cannot join the %s namespace: the container that has it is not running", n.typ)
		}
		if !n.join {
			n.path = ""
		}
		add(n.typ, n.path)
	}
	if !hc.UTSMode.IsHost() {
		add(specs.UTSNamespace, "")
		s.spec.Hostname, s.spec.Domainname = s.cfg.Hostname, s.cfg.Domainname
	}
	if hc.CgroupnsMode.IsPrivate() && s.f.CgroupNS {
		add(specs.CgroupNamespace, "")
	}
	l.Sysctl = s.sysctls()
	return nil
}

// sysctls: what was asked for, over what lets programs without capabilities
// bind any port and ping.
func (s *starting) sysctls() map[string]string {
	out := make(map[string]string)
	if s.hc.NetworkMode.IsPrivate() {
		out["net.ipv4.ip_unprivileged_port_start"] = "0"
		out["net.ipv4.ping_group_range"] = "0 2147483647"
		if s.c.IDs.Mapped() { // only ids that exist in the user namespace
			out["net.ipv4.ping_group_range"] = "0 " + itoa(s.c.IDs.Size-1)
		}
	}
	for k, v := range s.hc.Sysctls {
		out[strings.ReplaceAll(k, "/", ".")] = v
	}
	return out
}

// paths hides and protects.
func (s *starting) paths() error {
	if !s.hc.Privileged || s.hc.MaskedPaths != nil {
		s.spec.Linux.MaskedPaths = s.hc.MaskedPaths
	}
	if !s.hc.Privileged || s.hc.ReadonlyPaths != nil {
		s.spec.Linux.ReadonlyPaths = s.hc.ReadonlyPaths
	}
	return nil
}

func (s *starting) seccomp() error {
	source := s.sec.seccomp
	switch {
	case s.hc.Privileged && source == "":
		return nil
	case source == "":
		source = s.d.SeccompProfile
	case source == "builtin":
		source = ""
	}
	if source == "unconfined" || !s.f.Seccomp {
		return nil
	}
	p, err := s.d.Seccomp.profile(source, s.spec.Process.Capabilities.Bounding, s.f)
	s.spec.Linux.Seccomp = p
	return err
}
