package plan

import (
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"wharf/internal/model"
)

func itoa[T ~int64 | ~uint32](n T) string { return strconv.FormatInt(int64(n), 10) }

// mounts puts together what a container sees: the kernel's file systems, its
// own files in /etc, and what the user mounts, which replaces any of those.
// Binds say nothing of ids: the runtime shows all of them with the
// container's, so that its root owns what root owns on the host.
func (s *starting) mounts() error {
	users := s.in.Mounts
	if users == nil {
		users = s.c.Mounts
	}
	users = slices.SortedFunc(slices.Values(users), byDepth)
	taken := make(map[string]bool, len(users))
	for _, m := range users {
		taken[m.Destination] = true
	}
	for _, m := range s.kernelMounts() {
		if !taken[m.Destination] && !(taken["/dev"] && strings.HasPrefix(m.Destination, "/dev/")) {
			s.spec.Mounts = append(s.spec.Mounts, m)
		}
	}
	for _, m := range users {
		one, err := s.userMount(m)
		if err != nil {
			return err
		}
		s.spec.Mounts = append(s.spec.Mounts, one)
	}
	for _, e := range []struct{ source, dest string }{
		{s.in.Resolv, "/etc/resolv.conf"}, {s.in.Hostname, "/etc/hostname"}, {s.in.Hosts, "/etc/hosts"},
	} {
		if e.source != "" && !taken[e.dest] {
			opts := []string{"rbind", "rprivate"}
			if s.hc.ReadonlyRootfs {
				opts = append(opts, "ro")
			}
			s.spec.Mounts = append(s.spec.Mounts, specs.Mount{Destination: e.dest, Type: "bind", Source: e.source, Options: opts})
		}
	}
	return nil
}

// kernelMounts are proc, dev, sys and those below. Where the kernel refuses
// one, because the container shares the namespace that the file system shows
// without owning it, the runtime binds the host's read-only.
func (s *starting) kernelMounts() []specs.Mount {
	safe := func(more ...string) []string { return append(more, "nosuid", "noexec", "nodev") }
	sys, cgroup := safe("ro"), safe("ro")
	if s.hc.Privileged {
		sys = safe()
	}
	if w := s.sec.writableCgroups; w != nil && *w || w == nil && s.hc.Privileged {
		cgroup = safe()
	}
	out := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: safe()},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: sys},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: cgroup},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: safe()},
	}
	if shm, ok := s.shm(); ok {
		out = append(out, shm)
	}
	return out
}

// shm is the memory that goes with an IPC namespace: its owner's.
func (s *starting) shm() (specs.Mount, bool) {
	m := specs.Mount{Destination: "/dev/shm", Type: "bind", Options: []string{"rbind", "rprivate", "nosuid", "noexec", "nodev"}}
	switch mode := s.hc.IpcMode; {
	case mode.IsNone():
		return m, false
	case mode.IsHost():
		m.Source = "/dev/shm"
	case mode.IsContainer():
		m.Source = s.in.JoinShm // the same user namespace: owners are right as they are
		return m, m.Source != ""
	default:
		m.Type, m.Source = "tmpfs", "shm"
		m.Options = []string{"nosuid", "noexec", "nodev", "mode=1777", "size=" + itoa(s.hc.ShmSize)}
	}
	return m, true
}

func (s *starting) userMount(m model.Mount) (specs.Mount, error) {
	if m.Type == "tmpfs" {
		return specs.Mount{Destination: m.Destination, Type: "tmpfs", Source: "tmpfs", Options: m.Options}, nil
	}
	if m.Disk != "" {
		return diskMount(m), nil
	}
	if m.Type == "image" {
		return imageMount(m), nil
	}
	if m.Source == "" {
		return specs.Mount{}, invalid("volume %s at %s has no directory", m.Name, m.Destination)
	}
	bind := "bind"
	if m.Recursive || m.Type == "volume" {
		bind = "rbind"
	}
	opts := []string{bind}
	if m.ReadOnly {
		switch {
		case m.RORecursive != "off" && s.f.RORecursive:
			opts = append(opts, "rro")
		case m.RORecursive == "force":
			return specs.Mount{}, invalid("mount at %s: this kernel cannot make a mount read-only recursively", m.Destination)
		default:
			opts = append(opts, "ro")
		}
	}
	prop := m.Propagation
	if prop == "" {
		prop = "rprivate"
	}
	opts = append(opts, prop)
	s.rootPropagation(prop)
	if m.Type == "bind" && m.Subpath != "" { // a volume's is in its source already
		opts = append(opts, "subpath="+m.Subpath)
	}
	return specs.Mount{Destination: m.Destination, Type: "bind", Source: m.Source, Options: opts}, nil
}

// imageMount is an overlay of an image's layers, in the kernel's own words;
// "subpath" is the runtime's.
func imageMount(m model.Mount) specs.Mount {
	opts := []string{"ro", "nodev"}
	for _, l := range m.Lower {
		opts = append(opts, "lowerdir+="+l)
	}
	if m.Upper != "" {
		opts = append(opts[1:], "upperdir="+m.Upper, "workdir="+m.Work)
	}
	if m.Subpath != "" {
		opts = append(opts, "subpath="+m.Subpath)
	}
	return specs.Mount{Destination: m.Destination, Type: "overlay", Source: "overlay", Options: opts}
}

// diskMount is a file system on a disk of the instance's own: an image's, or a
// volume's with type=block. "subpath" and "copyup" are the driver's.
func diskMount(m model.Mount) specs.Mount {
	out := specs.Mount{Destination: m.Destination, Type: "ext4", Source: m.Disk}
	if m.Type == "image" {
		out.Type, out.Options = "erofs", []string{"ro", "nodev"}
	} else if m.ReadOnly {
		out.Options = []string{"ro"}
	}
	if m.Subpath != "" {
		return withOption(out, "subpath="+m.Subpath)
	}
	if m.Type == "volume" && !m.NoCopy {
		return withOption(out, "copyup")
	}
	return out
}

func withOption(m specs.Mount, o string) specs.Mount {
	m.Options = append(m.Options, o)
	return m
}

// rootPropagation lets through at the root what a mount below needs.
func (s *starting) rootPropagation(prop string) {
	l := s.spec.Linux
	switch strings.TrimPrefix(prop, "r") {
	case "shared":
		l.RootfsPropagation = "shared"
	case "slave":
		if l.RootfsPropagation == "" {
			l.RootfsPropagation = "rslave"
		}
	}
}
