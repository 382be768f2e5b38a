package qemu

import (
	"os"
	"path/filepath"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"wharf/internal/model"
	"wharf/internal/runtime"
	"wharf/internal/runtime/prepare"
)

// cage is a container that a program of the host's runs in: QEMU, virtiofsd.
// Its root has the host's programs and libraries, read-only, and what is given
// to it; its user is nobody on the host; its system calls are filtered.
type cage struct {
	root   string // an empty directory with places for mounts
	ids    model.IDRange
	cgroup string
	name   string // for messages and the host name
	args   []string
	user   uint32 // inside
	caps   []string
	binds  []specs.Mount
	// resources limit it; nil is none.
	resources *specs.LinuxResources
	// files is how many open files it may have; 0 is the usual.
	files uint64
	// devices it has beside those that every container has.
	devices []specs.LinuxDevice
}

// Where QEMU finds what it boots.
const (
	cageKernel = "/vm/vmlinux"
	cageInitrd = "/vm/initrd"
)

// systemDirs are where a host keeps programs and libraries. On most hosts all
// but /usr are links into it.
var systemDirs = []string{"/usr", "/lib", "/lib64", "/bin", "/sbin"}

// makeCageRoot makes the directory that is every cage's root.
func makeCageRoot(dir string) error {
	for _, d := range []string{"dev", "proc", "tmp", "vm", "usr", "etc", "share"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	// A cage's root is not its user's: it can make no places in it.
	for _, f := range []string{cageKernel, cageInitrd} {
		if err := os.WriteFile(filepath.Join(dir, f), nil, 0o644); err != nil {
			return err
		}
	}
	for _, d := range systemDirs[1:] {
		at := filepath.Join(dir, d)
		_ = os.Remove(at)
		target, err := os.Readlink(d)
		switch {
		case err == nil:
			err = os.Symlink(target, at)
		case exists(d):
			err = os.MkdirAll(at, 0o755)
		default:
			err = nil
		}
		if err != nil {
			return err
		}
	}
	return os.Chmod(dir, 0o755)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// prepare describes the cage to the runtime.
func (c *cage) prepare() (*runtime.Prepared, error) {
	ro := []string{"rbind", "rprivate", "ro", "nosuid", "nodev"}
	s := &specs.Spec{
		Version: specs.Version, Hostname: c.name, Root: &specs.Root{Path: c.root, Readonly: true},
		Process: &specs.Process{
			Args: c.args, Cwd: "/", Env: []string{"PATH=/usr/bin:/usr/sbin:/bin", "HOME=/tmp"},
			User: specs.User{UID: c.user, GID: c.user}, NoNewPrivileges: true,
			Capabilities: &specs.LinuxCapabilities{Bounding: c.caps, Effective: c.caps, Permitted: c.caps},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755", "size=64k"}},
			{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "nodev", "noexec", "mode=1777", "size=1m"}},
		},
		Linux: &specs.Linux{
			UIDMappings:       []specs.LinuxIDMapping{{HostID: c.ids.Host, Size: c.ids.Size}},
			GIDMappings:       []specs.LinuxIDMapping{{HostID: c.ids.Host, Size: c.ids.Size}},
			Resources:         c.limits(),
			Devices:           c.devices,
			RootfsPropagation: "private",
		},
	}
	if c.files > 0 {
		s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: c.files, Hard: c.files}}
	}
	for _, d := range systemDirs {
		if fi, err := os.Lstat(d); err == nil && fi.IsDir() {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: d, Type: "bind", Source: d, Options: ro})
		}
	}
	s.Mounts = append(s.Mounts, c.binds...)
	for _, n := range []specs.LinuxNamespaceType{specs.UserNamespace, specs.MountNamespace, specs.PIDNamespace, specs.IPCNamespace,
		specs.UTSNamespace, specs.NetworkNamespace} {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: n})
	}
	var err error
	if s.Linux.Seccomp, err = c.filter(s); err != nil {
		return nil, err
	}
	b := &model.Bundle{ID: model.ID(filepath.Base(c.cgroup)), Spec: s, IDs: c.ids, Rootfs: model.Rootfs{Dir: c.root}}
	p, err := prepare.Container(b, c.cgroup, prepare.Options{SpecUser: true})
	if err != nil {
		return nil, err
	}
	c.unmap(p)
	return p, nil
}

// Linux' numbers of /dev/kvm.
const kvmMajor, kvmMinor = 10, 232

// limits are the cage's resources, and its control group lets /dev/kvm be
// opened: by all of a machine's cages, since each cage's rules hold for the
// others in the same group. A node of it has QEMU's alone.
func (c *cage) limits() *specs.LinuxResources {
	var r specs.LinuxResources
	if c.resources != nil {
		r = *c.resources
	}
	major, minor := int64(kvmMajor), int64(kvmMinor)
	r.Devices = append(slices.Clone(r.Devices), specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: &major, Minor: &minor, Access: "rw"})
	return &r
}

// unmap leaves the host's own files the host's: all but what a share's server
// serves is there to be read. So a cage goes with file systems that cannot be
// idmapped: /run before Linux 6.3, the root of a host that is a container.
func (c *cage) unmap(p *runtime.Prepared) {
	p.Root.IDMap = false
	for i := range p.Mounts {
		if m := &p.Mounts[i]; len(c.caps) == 0 || slices.Contains(systemDirs, m.Source) {
			m.IDMap = false
		}
	}
}

// bindFile is a file of the host's for a cage.
func bindFile(from, to string) specs.Mount {
	return specs.Mount{Destination: to, Type: "bind", Source: from, Options: []string{"bind", "rprivate", "ro", "nosuid", "nodev", "noexec"}}
}
