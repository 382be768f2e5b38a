package qemu

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"wharf/api/guestapi"
	"wharf/internal/driver/held"
	"wharf/internal/driver/qemu/boot"
	"wharf/internal/model"
	"wharf/internal/runtime/prepare"
	"wharf/internal/vmm/vmmapi"
)

const (
	defaultMemory = 512 << 20
	minMemory     = 96 << 20
	// guestExtra is what the guest's kernel and agent take: a --memory is all
	// the instance's. Debian's kernel never gives out 40 MiB of 320, and took
	// 55 beside a database with its limit at 256, whose processes then were
	// killed for want of memory. The host pays for what is touched only.
	guestExtra = 128 << 20
	// overhead is what QEMU and its helpers may take beside the guest's
	// memory.
	overhead = 256 << 20
	// cageUser is QEMU's user inside its container.
	cageUser = 1000
)

// Limits on waiting for a machine. Emulation is slow, more so on a busy host.
const (
	bootTimeKVM = 30 * time.Second
	bootTimeTCG = 110 * time.Second // a start has two minutes
	stopTime    = 20 * time.Second
	// orphanTime, in seconds, is how long a machine lives on whose holder was
	// killed while no daemon was there to end it.
	orphanTime = 60
)

// machines is what the driver starts.
type machines struct {
	o         Options
	root      string
	templates templates
	standbys  standbys
	underWay  sync.Map // model.ID -> *making
}

var _ held.Kind = (*machines)(nil)

func (m *machines) Isolation() model.Isolation { return model.IsolationVM }

// Check refuses what a machine cannot be given.
func (m *machines) Check(b *model.Bundle) error {
	if b.Spec == nil || b.Spec.Linux == nil || b.Spec.Process == nil {
		return errdefs.ErrInvalidArgument.WithMessage("the bundle has no process")
	}
	for _, n := range b.Spec.Linux.Namespaces {
		if n.Path != "" {
			return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("a virtual machine cannot share the %s namespace of another instance", n.Type))
		}
	}
	taps := 0
	for _, e := range b.Endpoints {
		if e.Tap {
			taps++
		}
	}
	if taps > maxNics {
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%d networks: a virtual machine has at most %d (QEMU's microvm has %d virtio-mmio slots for all devices)", taps, maxNics, slots))
	}
	return nil
}

// Explain adds nothing: wharf-vmm quotes the console.
func (m *machines) Explain(_ *model.Bundle, err error) error { return err }

// Prepare describes the machine.
func (m *machines) Prepare(ctx context.Context, b *model.Bundle, cgroup string) (_ any, files []held.File, err error) {
	var g *guest
	var h *hardware
	waits := m.standbys.takenBy(b.ID)
	if waits != nil {
		g, h = waits.g, waits.h
	} else if g, h, err = m.look(ctx, b); err != nil {
		return nil, nil, err
	}
	out := &vmmapi.Machine{Memory: h.memory, Pressure: m.o.Pressure, Boot: g.boot, Etc: g.etc, BootTime: m.bootTime(h.accel), StopTime: stopTime}
	out.Boot.Time, out.Boot.Orphaned = time.Now().UnixNano(), orphanTime
	out.Boot.Entropy = make([]byte, 64)
	_, _ = rand.Read(out.Boot.Entropy) // never fails (Go 1.24)
	if len(b.Spec.Process.Args) == 0 {
		g.helper(out)
	} else if out.Main, err = m.process(g.bundle); err != nil {
		return nil, nil, err
	}
	if waits != nil && waits.s != nil {
		return out, nil, m.giveTo(waits.s, b, h, cgroup, out)
	}
	if out.Shares, err = m.shares(b, g.shares, cgroup); err != nil {
		return nil, nil, err
	}
	for _, s := range out.Shares {
		h.shares = append(h.shares, s.Name)
	}
	if files, err = m.templates.use(b, h, out); err != nil {
		return nil, files, err
	}
	c, opened := m.cage(b, h, cgroup, hostResources(b.Spec.Linux.Resources, h.memory))
	out.Files = opened
	p, err := c.prepare()
	if err != nil {
		return nil, files, fmt.Errorf("container of QEMU: %w", err)
	}
	out.QEMU = *p
	return out, files, nil
}

// look takes a bundle apart and sizes its machine.
func (m *machines) look(ctx context.Context, b *model.Bundle) (*guest, *hardware, error) {
	g, err := inGuest(b)
	if err != nil {
		return nil, nil, err
	}
	h, err := m.hardware(ctx, b)
	if err != nil {
		return nil, nil, err
	}
	h.taps = taps(b)
	h.disks = append(h.disks, g.disks...)
	if err := h.fits(len(g.shares) + len(g.disks)); err != nil {
		return nil, nil, err
	}
	if x, ok := m.underWay.Load(b.ID); ok {
		*h = *x.(*making).h
		return g, h, nil
	}
	return g, h, h.measure()
}

// cage is the container of QEMU, and the descriptors that QEMU has in it.
func (m *machines) cage(b *model.Bundle, h *hardware, cgroup string, r *specs.LinuxResources) (*cage, []vmmapi.File) {
	args, opened := h.command()
	c := &cage{root: m.root, ids: m.ids(b), cgroup: cgroup, name: b.ID.Short(), args: args, user: cageUser, resources: r,
		binds: []specs.Mount{bindFile(h.hostKernel, h.kernel), bindFile(h.initrdFile(), h.initrd)}}
	if h.accel == "kvm" {
		c.devices = []specs.LinuxDevice{kvmDevice()}
	}
	return c, opened
}

// giveTo has out give b's disks, networks and limits to a machine that waits.
func (m *machines) giveTo(s *standby, b *model.Bundle, h *hardware, cgroup string, out *vmmapi.Machine) error {
	out.Incoming, out.Take = cloneState, &vmmapi.Take{}
	for _, d := range h.disks {
		out.Take.Disks = append(out.Take.Disks, vmmapi.File{Kind: vmmapi.FileDisk, Path: d.path, ReadOnly: d.readOnly, Lock: d.lock})
	}
	for _, t := range h.taps {
		out.Take.Taps = append(out.Take.Taps, t.link)
	}
	c, _ := m.cage(b, h, cgroup, hostResources(b.Spec.Linux.Resources, h.memory))
	p, err := c.prepare()
	if err != nil {
		return fmt.Errorf("container of QEMU: %w", err)
	}
	out.QEMU = *p
	// All networks but the first one's are plugged in.
	var devices []device
	for n, t := range h.taps {
		devices = append(devices, device{MAC: deviceMAC(n), Link: t.link, Direct: n == 0 && t.link != "", Gone: n == 0 && t.link == ""})
	}
	if err := keepDevices(filepath.Join(m.o.ExecRoot, instancesDir, string(b.ID)), devices); err != nil {
		return err
	}
	return m.keepIDs(b.ID, s.ids)
}

// bootTime is how long a machine may take to answer, in two boots.
func (m *machines) bootTime(accel string) time.Duration {
	switch {
	case m.o.BootTime != 0:
		return m.o.BootTime
	case accel == "kvm":
		return bootTimeKVM
	}
	return bootTimeTCG
}

// kvmDevice is /dev/kvm for QEMU's user, and nobody else's node changes.
func kvmDevice() specs.LinuxDevice {
	mode, user := os.FileMode(0o600), uint32(cageUser)
	return specs.LinuxDevice{Path: "/dev/kvm", Type: "c", Major: 10, Minor: 232, FileMode: &mode, UID: &user, GID: &user}
}

// ids is the range that QEMU runs in.
func (m *machines) ids(b *model.Bundle) model.IDRange {
	if b.IDs.Mapped() {
		return b.IDs
	}
	return m.o.IDs
}

// process is the image's process, prepared for the guest's kernel.
func (m *machines) process(b *model.Bundle) (guestapi.Process, error) {
	p, err := prepare.Container(b, guestapi.CgroupPath, prepare.Options{Host: guestHost()})
	if err != nil {
		return guestapi.Process{}, err
	}
	text, err := json.Marshal(p)
	return guestapi.Process{Prepared: text, Terminal: b.Spec.Process.Terminal, OpenStdin: b.OpenStdin}, err
}

// PrepareExec describes one more process in the guest.
func (m *machines) PrepareExec(b *model.Bundle, e *model.ExecSpec, _ string) (any, error) {
	g, err := guestBundle(b)
	if err != nil {
		return nil, err
	}
	return prepare.Exec(g, e, guestapi.CgroupPath, prepare.Options{Host: guestHost()})
}

// guestBundle is b as the guest sees it, for an exec: its mounts are made.
func guestBundle(b *model.Bundle) (*model.Bundle, error) {
	c, spec := *b, *b.Spec
	spec.Mounts = nil
	c.Spec, c.Endpoints = &spec, nil
	g, err := inGuest(&c)
	if err != nil {
		return nil, err
	}
	return g.bundle, nil
}

// hardware sizes the machine.
func (m *machines) hardware(ctx context.Context, b *model.Bundle) (*hardware, error) {
	h := &hardware{kernel: "/vm/vmlinux", initrd: "/vm/initrd", memory: m.o.Memory}
	var err error
	if h.binary, err = QEMU(m.o.QEMU); err != nil {
		return nil, err
	}
	if h.accel, _, err = m.o.Accel(ctx); err != nil {
		return nil, err
	}
	h.cpus, h.noTaps = usualCPUs(h.accel), !hasTaps()
	img, err := m.o.Boot.Image(ctx)
	if err != nil {
		return nil, err
	}
	h.hostKernel, h.hostInitrd, h.lateInitrd, h.digest = img.Vmlinux, img.Initrd, img.Template, img.Digest
	line := boot.Line{Debug: m.o.Debug}
	if h.accel != "kvm" {
		line.TSCKHz = boot.TSCKHz()
	}
	h.commandLine = boot.CommandLine(line)
	if r := b.Spec.Linux.Resources; r != nil {
		h.memory, h.cpus = size(r, h.memory, h.cpus)
	}
	if onlyDisk(b) {
		return h, nil
	}
	h.disks = []disk{{serial: serialRoot, path: b.Rootfs.Disk, readOnly: true}, {serial: serialWritable, path: b.Rootfs.Writable}}
	return h, nil
}

// hasTaps says whether this kernel makes taps. Where it does not, networks
// refuse a machine before.
func hasTaps() bool {
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	_ = f.Close()
	return true
}

// usualCPUs is how many processors a machine without --cpus has. Emulated it is
// one: processors are threads that wait for each other (a lock, a grace period
// of RCU, a flush of the TLB) while the host runs something else in the place of
// the one that is waited for, which costs half a boot on a busy host, and one
// boot of thirty everything.
func usualCPUs(accel string) int {
	if accel == "kvm" {
		return runtime.NumCPU()
	}
	return 1
}

// size is how much memory and how many processors a machine with these limits
// has; memory and all are those without limits.
func size(r *specs.LinuxResources, memory int64, all int) (int64, int) {
	if r.Memory != nil && r.Memory.Limit != nil && *r.Memory.Limit > 0 {
		const page = 2 << 20
		memory = (max(*r.Memory.Limit+guestExtra, minMemory) + page - 1) / page * page
	}
	if r.CPU != nil {
		all = cpus(r.CPU, all)
	}
	return memory, all
}

// cpus is how many a limit of CPU time needs.
func cpus(c *specs.LinuxCPU, all int) int {
	if c.Quota != nil && c.Period != nil && *c.Quota > 0 && *c.Period > 0 {
		n := (*c.Quota + int64(*c.Period) - 1) / int64(*c.Period)
		return int(min(max(n, 1), int64(runtime.NumCPU())))
	}
	return all
}

// taps are the machine's network devices: those of its networks, and spare
// ones.
func taps(b *model.Bundle) (out []tap) {
	for _, e := range b.Endpoints {
		if e.Tap {
			out = append(out, tap{link: e.HostLink})
		}
	}
	for n := len(out); n < nics; n++ {
		out = append(out, tap{})
	}
	return out
}
