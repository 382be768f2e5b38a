package guest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"wharf/api/guestapi"
	"wharf/internal/runtime/cgroup"
)

// Main is wharf-guest: process 1 of the machine. It does not return there.
func Main(version string) int {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "wharf-guest is the first process of a virtual machine and not for use by hand")
		return 2
	}
	m := &pid1{}
	a := newAgent(version, m, cgroup.Layout{})
	defer m.powerOff() // whatever happens: the kernel would panic
	defer a.last()
	if err := m.setup(); err != nil {
		say("%v", err)
		return 1
	}
	a.group = cgroup.New(layout(), guestapi.CgroupPath)
	a.spawn(m.reap)
	dev, err := m.openPort()
	if err != nil {
		say("%v", err)
		return 1
	}
	say("ready %v after power on, %v after its own start, of which modules took %v", uptime().Round(time.Millisecond),
		time.Since(a.began).Round(time.Millisecond), m.loading.Round(time.Millisecond))
	say("channel: %v", a.channel(&port{dev: dev}))
	return 1
}

// layout is the guest's cgroup tree: v2, with everything that the kernel has.
func layout() cgroup.Layout {
	l := cgroup.Layout{V2: guestapi.CgroupRoot, V2Controllers: map[string]bool{}}
	text, _ := os.ReadFile(guestapi.CgroupRoot + "/cgroup.controllers")
	for _, c := range strings.Fields(string(text)) {
		l.V2Controllers[c] = true
	}
	return l
}

// pid1 is the real machine.
type pid1 struct {
	loading time.Duration // of modules
}

// setup mounts what every process expects and loads the drivers.
func (m *pid1) setup() error {
	unix.Umask(0o022)
	// The kernel's first root cannot be pivoted away from, as containers do
	// with theirs: stand on a bind mount of it.
	steps := []func() error{
		func() error { return unix.Mount("/", "/tmp", "", unix.MS_BIND, "") },
		func() error { return unix.Chdir("/tmp") },
		func() error { return unix.Mount(".", "/", "", unix.MS_MOVE, "") },
		func() error { return unix.Chroot(".") },
		func() error { return unix.Chdir("/") },
	}
	for i, f := range steps {
		if err := f(); err != nil {
			return fmt.Errorf("root, step %d: %w", i, err)
		}
	}
	const safe = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	for _, x := range []struct {
		fs, dir, data string
		flags         uintptr
	}{
		{"devtmpfs", "/dev", "mode=0755", unix.MS_NOSUID | unix.MS_NOEXEC},
		{"proc", "/proc", "", safe},
		{"sysfs", "/sys", "", safe},
		{"tmpfs", "/run", "mode=0755", unix.MS_NOSUID | unix.MS_NODEV},
		{"devpts", "/dev/pts", "ptmxmode=0666,mode=0620,gid=5", unix.MS_NOSUID | unix.MS_NOEXEC},
		{"tmpfs", "/dev/shm", "mode=1777", safe},
		{"mqueue", "/dev/mqueue", "", safe},
		{"cgroup2", guestapi.CgroupRoot, "", safe},
	} {
		if err := os.MkdirAll(x.dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(x.fs, x.dir, x.fs, x.flags, x.data); err != nil {
			if x.fs == "mqueue" {
				continue // a kernel without it
			}
			return fmt.Errorf("mount %s: %w", x.dir, err)
		}
	}
	for link, to := range map[string]string{"/dev/fd": "/proc/self/fd", "/dev/stdin": "/proc/self/fd/0", "/dev/stdout": "/proc/self/fd/1", "/dev/stderr": "/proc/self/fd/2"} {
		_ = os.Symlink(to, link)
	}
	if err := os.MkdirAll(guestapi.RunDir, 0o700); err != nil {
		return err
	}
	// Interfaces come without IPv6; those that have such an address get it back.
	_ = os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0)
	began := time.Now()
	if err := loadModules(); err != nil {
		return err
	}
	m.loading = time.Since(began)
	return loopbackUp()
}

// moduleDir and moduleList are boot.ModuleDir and boot.ModuleList.
const (
	moduleDir  = "/lib/modules"
	moduleList = moduleDir + "/list"
)

// loadModules loads the modules in the list's order and removes their files,
// which are memory.
func loadModules() error {
	list, err := os.ReadFile(moduleList)
	if errors.Is(err, os.ErrNotExist) {
		return nil // everything is built in
	}
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(list)) {
		name := strings.TrimSpace(line)
		if err := loadModule(filepath.Join(moduleDir, name+".ko")); err != nil {
			return fmt.Errorf("module %s: %w", name, err)
		}
	}
	return nil
}

func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	err = unix.FinitModule(int(f.Fd()), "", 0)
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return os.NewSyscallError("finit_module", err)
	}
	return os.Remove(path)
}

// openPort finds the channel by its name and opens it without blocking: a
// blocking write to it spins until the host has taken the data.
func (m *pid1) openPort() (*os.File, error) {
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(time.Millisecond) {
		names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
		if err != nil {
			return nil, err
		}
		for _, n := range names {
			text, _ := os.ReadFile(n)
			if strings.TrimSpace(string(text)) != guestapi.PortName {
				continue
			}
			path := "/dev/" + filepath.Base(filepath.Dir(n))
			fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
			if err != nil {
				return nil, &os.PathError{Op: "open", Path: path, Err: err}
			}
			return os.NewFile(uintptr(fd), path), nil
		}
	}
	return nil, errors.New("the machine has no port named " + guestapi.PortName)
}

// disk finds a disk by its serial.
func (m *pid1) disk(serial string) (string, error) {
	for end := time.Now().Add(deviceTime); ; time.Sleep(2 * time.Millisecond) {
		names, err := filepath.Glob("/sys/block/vd*/serial")
		if err != nil {
			return "", err
		}
		for _, n := range names {
			text, _ := os.ReadFile(n)
			if strings.TrimSpace(string(bytes.TrimRight(text, "\x00"))) == serial {
				return "/dev/" + filepath.Base(filepath.Dir(n)), nil
			}
		}
		if time.Now().After(end) {
			return "", failed(guestapi.KindNotFound, "the machine has no disk with the serial %q", serial)
		}
	}
}

func (m *pid1) powerOff() {
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART) // a machine without a power switch; it is not started again
	for {
		time.Sleep(time.Hour)
	}
}

func (m *pid1) setTime(ns int64) error {
	tv := unix.NsecToTimeval(ns)
	return os.NewSyscallError("settimeofday", unix.Settimeofday(&tv))
}

// rndAddEntropy is RNDADDENTROPY: _IOW('R', 0x03, int[2]) of random(4).
const rndAddEntropy = 0x40085203

func (m *pid1) addEntropy(p []byte) error {
	f, err := os.OpenFile("/dev/random", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	b := native.AppendUint32(nil, uint32(8*len(p)))
	b = native.AppendUint32(b, uint32(len(p)))
	b = append(b, p...)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), rndAddEntropy, uintptr(unsafe.Pointer(&b[0]))); errno != 0 {
		return os.NewSyscallError("RNDADDENTROPY", errno)
	}
	// The pool is mixed anew now and not in some minutes: RNDRESEEDCRNG.
	_, _, _ = unix.Syscall(unix.SYS_IOCTL, f.Fd(), 0x5207, 0)
	return nil
}

// reapEvery is how often orphans are looked for.
const reapEvery = 2 * time.Second

// reap reaps processes that became ours because their parents ended. Our own
// children are waited for by pid, at once; what is still a zombie at the
// second look is nobody's.
func (m *pid1) reap() {
	before := map[int]bool{}
	for {
		time.Sleep(reapEvery)
		now := map[int]bool{}
		for _, pid := range children() {
			if !zombie(pid) {
				continue
			}
			if before[pid] {
				_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
				continue
			}
			now[pid] = true
		}
		before = now
	}
}
