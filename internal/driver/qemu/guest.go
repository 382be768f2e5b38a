package qemu

import (
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"wharf/api/guestapi"
	"wharf/internal/model"
	"wharf/internal/runtime/cgroup"
	"wharf/internal/runtime/prepare"
	"wharf/internal/vmm/vmmapi"
)

// Serials of the disks, by which the guest finds them.
const (
	serialRoot     = "wharf-root"
	serialWritable = "wharf-rw"
)

// guestHost is what preparing has to know of the machine inside: a kernel of
// ours with everything on, and an agent that mounts control groups v2.
func guestHost() *prepare.Host {
	h := &prepare.Host{HasNS: map[string]bool{}, Mknod: true, Cgroup: cgroup.Layout{
		V2: guestapi.CgroupRoot, V1: map[string]string{}, V2Controllers: map[string]bool{}}}
	for _, n := range []string{"mount", "pid", "network", "ipc", "uts", "user", "cgroup", "time"} {
		h.HasNS[n] = true
	}
	for _, c := range []string{"cpuset", "cpu", "io", "memory", "hugetlb", "pids"} {
		h.Cgroup.V2Controllers[c] = true
	}
	return h
}

// share is a directory of the host's that the guest sees by virtiofs.
type share struct {
	name     string // tag; "share0"
	source   string // on the host
	file     string // when source is a file: its name in the share
	readOnly bool
}

// inside is where the guest finds the share's content.
func (s *share) inside() string {
	return path.Join(guestapi.SharesDir, strings.TrimPrefix(s.name, sharePrefix), s.file)
}

const sharePrefix = "share"

// guest is a bundle taken apart: what runs inside, and what it needs of the
// host.
type guest struct {
	bundle *model.Bundle // with the guest's paths
	boot   guestapi.Boot
	shares []share
	disks  []disk // beside the root's
	only   bool   // a volume's disk is all there is
	etc    []vmmapi.EtcFile
}

// inGuest turns b into what the guest's runtime starts. The guest's kernel is
// the instance's own, so its ids need no mapping and its network is the
// machine's.
func inGuest(b *model.Bundle) (*guest, error) {
	if (b.Rootfs.Disk == "" || b.Rootfs.Writable == "") && !onlyDisk(b) {
		return nil, fmt.Errorf("instance %s has no disks", b.ID.Short())
	}
	spec, linux, process := *b.Spec, *b.Spec.Linux, *b.Spec.Process
	spec.Linux, spec.Process = &linux, &process
	n := *b
	n.Spec, n.IDs = &spec, model.IDRange{}
	n.Rootfs = model.Rootfs{Lower: []string{guestapi.LayersDir + "/0"}, Upper: guestapi.UpperDir, Work: guestapi.WorkDir}
	g := &guest{bundle: &n}
	g.boot, g.only = guestapi.Boot{ID: string(b.ID)}, onlyDisk(b)
	if !g.only {
		g.boot.Mounts = []guestapi.Mount{
			{Type: "erofs", Disk: serialRoot, Target: guestapi.LayersDir + "/0", ReadOnly: true},
			{Type: "ext4", Disk: serialWritable, Target: guestapi.WritableAt, Options: []string{"noatime", "noinit_itable"}, Dirs: []string{"upper", "work"}},
		}
	}
	g.boot.MachineID = string(b.ID)[:min(32, len(b.ID))]
	g.boot.Hostname = spec.Hostname

	linux.UIDMappings, linux.GIDMappings = nil, nil
	linux.CgroupsPath, linux.MountLabel, linux.IntelRdt = "", "", nil
	process.SelinuxLabel, process.ApparmorProfile = "", ""
	linux.Namespaces = guestNamespaces(b.Spec.Linux.Namespaces)
	linux.Resources = guestResources(b.Spec.Linux.Resources)
	g.sysctls(&linux)
	if len(linux.Devices) > 0 {
		linux.Devices = slices.Clone(linux.Devices)
	}
	spec.Mounts = slices.Clone(b.Spec.Mounts)
	for i := range spec.Mounts {
		if err := g.mount(&spec.Mounts[i]); err != nil {
			return nil, err
		}
	}
	interfaces, err := interfaces(b.Endpoints)
	for n := range interfaces {
		interfaces[n].Device = deviceMAC(n)
	}
	g.boot.Interfaces = interfaces
	return g, err
}

// guestNamespaces are the spec's without those that the machine itself is.
func guestNamespaces(in []specs.LinuxNamespace) []specs.LinuxNamespace {
	var out []specs.LinuxNamespace
	for _, n := range in {
		switch n.Type {
		case specs.UserNamespace:
			continue
		case specs.NetworkNamespace:
			n.Path = "/proc/1/ns/net"
		}
		out = append(out, n)
	}
	return out
}

// guestResources are the limits that hold inside; what is shared among all
// instances (CPU time, disks) is limited around QEMU.
func guestResources(r *specs.LinuxResources) *specs.LinuxResources {
	if r == nil {
		return nil
	}
	out := &specs.LinuxResources{Devices: r.Devices, Pids: r.Pids, HugepageLimits: r.HugepageLimits}
	if m := r.Memory; m != nil {
		c := *m
		c.Swap = nil // there is none
		out.Memory = &c
	}
	return out
}

// hostResources are the limits of QEMU's own control group.
func hostResources(r *specs.LinuxResources, memory int64) *specs.LinuxResources {
	out := &specs.LinuxResources{}
	if r != nil {
		out.CPU, out.BlockIO = r.CPU, r.BlockIO
	}
	limit := memory + overhead
	out.Memory = &specs.LinuxMemory{Limit: &limit}
	return out
}

// mount points one of the spec's mounts at where its source is in the guest.
func (g *guest) mount(m *specs.Mount) error {
	bind := slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind")
	if !bind {
		if m.Type == "overlay" {
			return fmt.Errorf("the mount at %s is no disk", m.Destination)
		}
		if m.Type == typeExt4 || m.Type == typeErofs {
			g.disk(m)
		}
		return nil
	}
	if name, ok := etcFile(m); ok {
		text, err := os.ReadFile(m.Source)
		if err != nil {
			return err
		}
		at := path.Join(guestapi.EtcDir, name)
		g.boot.Files = append(g.boot.Files, guestapi.File{Path: at, Mode: 0o644, Data: text})
		g.etc = append(g.etc, vmmapi.EtcFile{Host: m.Source, Guest: at})
		m.Source = at
		return nil
	}
	fi, err := os.Stat(m.Source)
	if err != nil {
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("mount at %s: %v", m.Destination, err))
	}
	s := share{name: sharePrefix + strconv.Itoa(len(g.shares)), source: m.Source, readOnly: slices.Contains(m.Options, "ro")}
	switch {
	case fi.IsDir():
	case fi.Mode().IsRegular():
		s.file = filepath.Base(m.Source)
	default:
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("mount at %s: %s is a %s, which cannot be shared with a virtual machine: mount a directory or a regular file, or leave --isolation vm out",
			m.Destination, m.Source, fileKind(fi.Mode())))
	}
	g.shares = append(g.shares, s)
	m.Source = s.inside()
	g.boot.Mounts = append(g.boot.Mounts, guestapi.Mount{Type: "virtiofs", Tag: s.name, Target: path.Join(guestapi.SharesDir, strings.TrimPrefix(s.name, sharePrefix)), ReadOnly: s.readOnly})
	return nil
}

// etcFile tells the files that the daemon writes for the container.
func etcFile(m *specs.Mount) (string, bool) {
	name := path.Base(m.Destination)
	if path.Dir(m.Destination) != "/etc" || filepath.Base(m.Source) != name {
		return "", false
	}
	return name, name == "hosts" || name == "hostname" || name == "resolv.conf"
}

func fileKind(m os.FileMode) string {
	switch {
	case m&os.ModeSocket != 0:
		return "socket"
	case m&os.ModeDevice != 0:
		return "device"
	case m&os.ModeNamedPipe != 0:
		return "pipe"
	}
	return "special file"
}

// interfaces describes the network to the guest.
func interfaces(eps []model.Endpoint) ([]guestapi.Interface, error) {
	var out []guestapi.Interface
	gateway4, gateway6 := true, true // the first that has one
	for i := range eps {
		if !eps[i].Tap {
			continue
		}
		x, err := oneInterface(&eps[i], &gateway4, &gateway6)
		if err != nil {
			return nil, err
		}
		out = append(out, x)
	}
	return out, nil
}

func oneInterface(ep *model.Endpoint, gateway4, gateway6 *bool) (guestapi.Interface, error) {
	s := ep.Settings
	if s == nil || s.MacAddress.String() == "" {
		return guestapi.Interface{}, fmt.Errorf("network %s gave no hardware address", ep.Network)
	}
	x := guestapi.Interface{MAC: s.MacAddress.String(), Name: ep.Interface, MTU: ep.MTU}
	if s.IPAddress.IsValid() {
		x.Addresses = append(x.Addresses, s.IPAddress.String()+"/"+strconv.Itoa(s.IPPrefixLen))
	}
	if s.GlobalIPv6Address.IsValid() {
		x.Addresses = append(x.Addresses, s.GlobalIPv6Address.String()+"/"+strconv.Itoa(s.GlobalIPv6PrefixLen))
	}
	if s.Gateway.IsValid() && *gateway4 {
		x.Routes, *gateway4 = append(x.Routes, guestapi.Route{Gateway: s.Gateway.String()}), false
	}
	if s.IPv6Gateway.IsValid() && *gateway6 {
		x.Routes, *gateway6 = append(x.Routes, guestapi.Route{Gateway: s.IPv6Gateway.String()}), false
	}
	return x, nil
}

// sysctls splits the settings: those of namespaces go with the process, the
// others are the machine's.
func (g *guest) sysctls(l *specs.Linux) {
	l.Sysctl = maps.Clone(l.Sysctl)
	if l.Sysctl["net.ipv4.ping_group_range"] != "" {
		l.Sysctl["net.ipv4.ping_group_range"] = "0 2147483647" // every id exists inside
	}
	for k, v := range l.Sysctl {
		switch {
		case strings.HasPrefix(k, "net."), strings.HasPrefix(k, "fs.mqueue."), strings.HasPrefix(k, "kernel.msg"), strings.HasPrefix(k, "kernel.sem"),
			strings.HasPrefix(k, "kernel.shm"), k == "kernel.domainname":
		default:
			if g.boot.Sysctls == nil {
				g.boot.Sysctls = map[string]string{}
			}
			g.boot.Sysctls[k] = v
			delete(l.Sysctl, k)
		}
	}
}

// helper makes m a machine that starts nothing but shows the root's files.
func (g *guest) helper(m *vmmapi.Machine) {
	m.Helper = true
	if g.only {
		m.Boot.Root = &guestapi.Overlay{Lower: []string{path.Join(guestapi.VolumesDir, "0", volumeData)}}
		return
	}
	r := g.bundle.Rootfs
	m.Boot.Root = &guestapi.Overlay{Lower: r.Lower, Upper: r.Upper, Work: r.Work}
}
