package qemu

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"wharf/api/guestapi"
	"wharf/api/monitorapi"
	"wharf/internal/driver/held"
	"wharf/internal/model"
	"wharf/internal/runtime/cgroup"
	"wharf/internal/vmm/vmmapi"
)

// rehearsedDisks is how many disks a rehearsal has: root and writable.
const rehearsedDisks = 2

// rehearsedFile names the descriptor of a disk that a rehearsal has.
func rehearsedFile(n int) string { return fmt.Sprintf("%sdisk%d", monitorapi.FileMore, n) }

// make makes a machine of key's template that has rehearsed and waits.
func (s *standbys) make(ctx context.Context, key string, bare *hardware) (_ *standby, err error) {
	s.mu.Lock()
	s.n++
	x := &standby{key: key, holder: s.m.readyName(s.n)}
	filter := s.filter
	s.mu.Unlock()
	h := *bare
	ram, state, err := s.m.templates.open(key)
	if err != nil {
		return nil, err
	}
	h.mode, h.ahead = clone, true
	files := []held.File{{Name: ramFile, File: ram}, {Name: stateFile, File: state}}
	defer func() {
		for _, f := range files {
			_ = f.File.Close()
		}
	}()
	if x.ids, err = s.o.IDs.TakeIDs(x.holder); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.end(x)
		}
	}()
	dir := filepath.Join(s.m.o.ExecRoot, readyDir)
	if err := rehearsalTree(dir); err != nil {
		return nil, err
	}
	disks, err := s.rehearsalDisks(ctx, filepath.Join(dir, "root"))
	files = append(files, disks...)
	if err != nil {
		return nil, fmt.Errorf("disks of the rehearsal: %w", err)
	}
	b := rehearsalBundle(x.holder, x.ids, filepath.Join(dir, "etc"), filter)
	out, err := s.m.prepareAhead(b, &h)
	if err != nil {
		return nil, err
	}
	sb, err := s.m.templates.d.Driver.Sandbox(ctx, b)
	if err != nil {
		return nil, err
	}
	if x.a, err = s.m.templates.d.Driver.Ahead(ctx, "ready", sb, out, files); err != nil {
		return nil, err
	}
	return x, nil
}

// rehearsalDisks makes an image of tree and an empty disk in memory. The files are
// the caller's to close also on an error.
func (s *standbys) rehearsalDisks(ctx context.Context, tree string) (out []held.File, err error) {
	for n := range rehearsedDisks {
		f, err := memfd("wharf-rehearsal")
		if err != nil {
			return out, err
		}
		out = append(out, held.File{Name: rehearsedFile(n), File: f})
	}
	root, writable := out[0].File, out[1].File
	err = s.o.Disks(ctx, tree, root, writable)
	for _, f := range []*os.File{root, writable} {
		if err == nil {
			err = f.Truncate(diskSize)
		}
	}
	if err != nil {
		return out, err
	}
	readOnly, err := reopen(root, os.O_RDONLY) // QEMU looks how it is open
	if err != nil {
		return out, err
	}
	out[0].File = readOnly
	return out, root.Close()
}

// prepareAhead describes the machine, and what it rehearses.
func (m *machines) prepareAhead(b *model.Bundle, h *hardware) (*vmmapi.Machine, error) {
	g, err := inGuest(b)
	if err != nil {
		return nil, err
	}
	out := &vmmapi.Machine{Ahead: true, Incoming: cloneState, Memory: h.memory, Pressure: m.o.Pressure, Boot: g.boot, BootTime: m.bootTime(h.accel), StopTime: stopTime}
	out.Boot.ID, out.Boot.MachineID, out.Boot.Hostname = guestapi.RehearsalID, strings.Repeat("0", 32), "rehearsal"
	out.Boot.Time = time.Now().UnixNano()
	out.Boot.Entropy = make([]byte, 64)
	_, _ = rand.Read(out.Boot.Entropy) // never fails (Go 1.24)
	if len(h.taps) > 0 {
		out.Boot.Interfaces = []guestapi.Interface{{MAC: "06:00:77:68:01:00", Device: deviceMAC(0), Name: "eth0", MTU: 1500,
			Addresses: []string{"192.0.2.2/24"}, Routes: []guestapi.Route{{Gateway: "192.0.2.1"}}}} // TEST-NET-1: nobody's (RFC 5737)
	}
	if out.Main, err = m.process(g.bundle); err != nil {
		return nil, err
	}
	group, err := cgroup.Clean(m.parent()+"/"+string(b.ID), string(b.ID))
	if err != nil {
		return nil, err
	}
	least := uint64(2) // the kernel's smallest
	r := hostResources(nil, h.memory)
	r.CPU = &specs.LinuxCPU{Shares: &least}
	c, opened := m.cage(b, h, group, r)
	out.Files = opened
	p, err := c.prepare()
	if err != nil {
		return nil, fmt.Errorf("container of QEMU: %w", err)
	}
	out.QEMU = *p
	return out, nil
}

// rehearsalTree writes what a rehearsal's image and its files in /etc are made of.
func rehearsalTree(dir string) error {
	var errs []error
	root := filepath.Join(dir, "root")
	for _, d := range []string{"bin", "dev", "etc", "proc", "sys", "tmp"} {
		errs = append(errs, os.MkdirAll(filepath.Join(root, d), 0o755))
	}
	errs = append(errs, os.MkdirAll(filepath.Join(dir, "etc"), 0o755))
	for name, text := range map[string]string{"root/etc/passwd": "root:x:0:0:root:/:/bin/rehearsal\n", "root/etc/group": "root:x:0:\n",
		"etc/hosts": "127.0.0.1 localhost\n", "etc/hostname": "rehearsal\n", "etc/resolv.conf": "nameserver 192.0.2.1\n",
		"root/etc/hosts": "", "root/etc/hostname": "", "root/etc/resolv.conf": ""} {
		errs = append(errs, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	return errors.Join(append(errs, os.WriteFile(filepath.Join(root, "bin/rehearsal"), rehearsalProgram(), 0o755))...)
}

// rehearsalProgram is a program for amd64 that writes a line and ends: an ELF
// header, one program header, and code (elf(5)).
func rehearsalProgram() []byte {
	const at = 0x400000
	code := "\xb8\x01\x00\x00\x00" + // mov eax, 1 (write)
		"\xbf\x01\x00\x00\x00" + // mov edi, 1
		"\x48\x8d\x35\x10\x00\x00\x00" + // lea rsi, [rip+16]
		"\xba\x06\x00\x00\x00" + // mov edx, 6
		"\x0f\x05" + // syscall
		"\xb8\x3c\x00\x00\x00" + // mov eax, 60 (exit)
		"\x31\xff" + // xor edi, edi
		"\x0f\x05" + // syscall
		"ready\n"
	n := func(size int, v uint64) string {
		b := make([]byte, size)
		for i := range b {
			b[i] = byte(v >> (8 * i))
		}
		return string(b)
	}
	size := uint64(64 + 56 + len(code))
	return []byte("\x7fELF\x02\x01\x01" + strings.Repeat("\x00", 9) +
		n(2, 2) + n(2, 62) + n(4, 1) + n(8, at+64+56) + n(8, 64) + n(8, 0) + n(4, 0) + n(2, 64) + n(2, 56) + n(2, 1) + n(2, 64) + n(2, 0) + n(2, 0) +
		n(4, 1) + n(4, 5) + n(8, 0) + n(8, at) + n(8, at) + n(8, size) + n(8, size) + n(8, 0x1000) + code)
}

// rehearsalBundle is what most containers are: Docker's usual mounts,
// capabilities and namespaces. Nothing in it is anybody's.
func rehearsalBundle(id model.ID, ids model.IDRange, etc string, filter *specs.LinuxSeccomp) *model.Bundle {
	caps := strings.Fields("CAP_CHOWN CAP_DAC_OVERRIDE CAP_FSETID CAP_FOWNER CAP_MKNOD CAP_NET_RAW CAP_SETGID CAP_SETUID " +
		"CAP_SETFCAP CAP_SETPCAP CAP_NET_BIND_SERVICE CAP_SYS_CHROOT CAP_KILL CAP_AUDIT_WRITE")
	b := helperBundle(id, model.Rootfs{Disk: "none", Writable: "none"}, ids)
	b.ID = id
	b.Spec.Hostname = "rehearsal"
	b.Spec.Process = &specs.Process{Args: []string{"/bin/rehearsal"}, Cwd: "/", Env: []string{"PATH=/bin"},
		Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}}
	b.Spec.Mounts = []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"ro", "nosuid", "noexec", "nodev"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
	}
	for _, name := range []string{"resolv.conf", "hostname", "hosts"} {
		b.Spec.Mounts = append(b.Spec.Mounts, specs.Mount{Destination: "/etc/" + name, Type: "bind", Source: filepath.Join(etc, name), Options: []string{"rbind", "rprivate"}})
	}
	l := b.Spec.Linux
	l.Seccomp, l.Resources = filter, &specs.LinuxResources{}
	l.MaskedPaths = []string{"/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"}
	l.ReadonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
	for _, n := range []specs.LinuxNamespaceType{specs.MountNamespace, specs.PIDNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.CgroupNamespace} {
		l.Namespaces = append(l.Namespaces, specs.LinuxNamespace{Type: n})
	}
	return b
}
