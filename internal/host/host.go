// Package host finds out what the kernel and the machine have: Detect returns
// Facts, plain data; Report and Warnings say in words what is missing, what
// that costs and what to do about it.
//
// It owns nothing. Every probe that has to try a thing (an idmapped mount, a
// network link, a control group) tries it detached or in a namespace of its
// own and leaves nothing behind. A probe that fails, for whatever reason, is a
// missing feature, never an error: Detect always answers, also without root.
//
// Facts are read once, when the daemon starts. What may change later (memory
// in use, whether a clock is in step) is not among them.
package host

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Facts are what a machine has.
type Facts struct {
	Kernel   Kernel `json:"kernel"`
	Arch     string `json:"arch"`    // as Go says it: amd64
	Machine  string `json:"machine"` // as uname says it: x86_64
	OS       OS     `json:"os"`
	Hostname string `json:"hostname"`
	CPUs     int    `json:"cpus"`   // that this process may use
	Memory   uint64 `json:"memory"` // bytes
	Swap     uint64 `json:"swap"`   // bytes
	Root     bool   `json:"root"`   // effective uid 0

	Cgroup Cgroup `json:"cgroup"`

	Capabilities Capabilities      `json:"capabilities"`
	Namespaces   map[string]bool   `json:"namespaces"` // by /proc/self/ns name: user, mnt, pid, net, ipc, uts, cgroup, time
	MaxUserNS    int               `json:"maxUserNamespaces"`
	NestedUserNS bool              `json:"nestedUserNamespace"` // the daemon itself is not in the initial user namespace
	Seccomp      []string          `json:"seccomp,omitempty"`   // actions that the kernel knows; none: no seccomp
	AppArmor     bool              `json:"apparmor"`
	SELinux      string            `json:"selinux,omitempty"` // enforcing, permissive or ""
	Links        map[string]bool   `json:"links"`             // bridge, veth, vxlan, macvlan, ipvlan, dummy: tried
	Nftables     bool              `json:"nftables"`
	Sysctls      map[string]string `json:"sysctls"` // those that decide something, by dotted name; absent: not there

	DataRoot Storage `json:"dataRoot"`
	Fuse     bool    `json:"fuse"`
	EROFS    bool    `json:"erofs"`

	KVM      bool     `json:"kvm"`            // /dev/kvm opens and answers; whether a guest runs is the VM driver's to find out
	QEMU     string   `json:"qemu,omitempty"` // path
	Tun      bool     `json:"tun"`
	Systemd  bool     `json:"systemd"`
	Journald bool     `json:"journald"`
	Binfmt   []string `json:"binfmt,omitempty"` // architectures of others that run here
}

// Kernel is the running kernel.
type Kernel struct {
	Release string `json:"release"`
	Version string `json:"version"`
	Major   int    `json:"major"`
	Minor   int    `json:"minor"`
}

// AtLeast compares versions.
func (k Kernel) AtLeast(major, minor int) bool {
	return k.Major > major || k.Major == major && k.Minor >= minor
}

// OS is what os-release(5) says.
type OS struct {
	ID      string `json:"id"`
	Name    string `json:"name"` // for people
	Version string `json:"version"`
}

// Capabilities are those of this process, as CAP_NAME.
type Capabilities struct {
	Effective []string `json:"effective"`
	Bounding  []string `json:"bounding"`
}

// Has reports whether an effective capability is there.
func (c Capabilities) Has(name string) bool {
	for _, n := range c.Effective {
		if n == name {
			return true
		}
	}
	return false
}

// Storage is what the file system of the data root can do.
type Storage struct {
	Path         string `json:"path"`
	FSType       string `json:"fsType"`
	Idmap        bool   `json:"idmap"`        // mount_setattr(MOUNT_ATTR_IDMAP) was accepted
	Overlay      bool   `json:"overlay"`      // an overlay with its upper layer there could be made
	OverlayIdmap bool   `json:"overlayIdmap"` // the same over idmapped layers
	ProjectQuota bool   `json:"projectQuota"`
	Reflink      bool   `json:"reflink"`
	Error        string `json:"error,omitempty"` // what the first probe that failed said
}

// Options say what to look at.
type Options struct {
	// DataRoot is the directory whose file system is probed. When it does not
	// exist its nearest existing parent is taken.
	DataRoot string
}

// Detect looks at the machine. It takes a few milliseconds; the probes run side
// by side.
func Detect(o Options) Facts {
	f := Facts{
		Kernel: kernel(), Arch: runtime.GOARCH, OS: osRelease("/etc/os-release", "/usr/lib/os-release"),
		CPUs: runtime.NumCPU(), Root: os.Geteuid() == 0,
		Capabilities: capabilities("/proc/self/status"), Namespaces: namespaces("/proc/self/ns"),
		NestedUserNS: nested("/proc/self/uid_map"),
		Seccomp:      strings.Fields(readLine("/proc/sys/kernel/seccomp/actions_avail")),
		AppArmor:     strings.HasPrefix(readLine("/sys/module/apparmor/parameters/enabled"), "Y"),
		SELinux:      selinux(), Fuse: exists("/dev/fuse"), Tun: exists("/dev/net/tun"),
		EROFS: filesystem("erofs"), KVM: kvm(), QEMU: qemu(),
		Systemd: exists("/run/systemd/system"), Journald: exists("/run/systemd/journal/socket"),
		Binfmt: binfmt("/proc/sys/fs/binfmt_misc"), Sysctls: sysctls(),
	}
	f.Machine = machine()
	f.Hostname, _ = os.Hostname()
	f.Memory, f.Swap = memory("/proc/meminfo")
	f.MaxUserNS, _ = strconv.Atoi(readLine("/proc/sys/user/max_user_namespaces"))

	var wg sync.WaitGroup
	wg.Go(func() { f.Cgroup = detectCgroup() })
	wg.Go(func() { f.Links, f.Nftables = probeNetwork() })
	wg.Go(func() { f.DataRoot = probeStorage(o.DataRoot) })
	wg.Wait()
	return f
}

func kernel() Kernel {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return Kernel{}
	}
	k := Kernel{Release: unix.ByteSliceToString(u.Release[:]), Version: unix.ByteSliceToString(u.Version[:])}
	k.Major, k.Minor = parseRelease(k.Release)
	return k
}

func machine() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return runtime.GOARCH
	}
	return unix.ByteSliceToString(u.Machine[:])
}

// parseRelease takes the first two numbers of "6.1.0-18-amd64".
func parseRelease(s string) (major, minor int) {
	parts := strings.FieldsFunc(s, func(r rune) bool { return r < '0' || r > '9' })
	if len(parts) > 0 {
		major, _ = strconv.Atoi(parts[0])
	}
	if len(parts) > 1 {
		minor, _ = strconv.Atoi(parts[1])
	}
	return major, minor
}

// osRelease reads the first of the files that exists.
func osRelease(files ...string) OS {
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		return parseOSRelease(string(b))
	}
	return OS{ID: "linux", Name: "Linux"}
}

func parseOSRelease(s string) OS {
	o := OS{ID: "linux", Name: "Linux"} // the defaults that os-release(5) gives
	for line := range strings.Lines(s) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if !ok {
			continue
		}
		value = unquote(value)
		switch key {
		case "ID":
			o.ID = value
		case "PRETTY_NAME":
			o.Name = value
		case "VERSION_ID":
			o.Version = value
		}
	}
	return o
}

// unquote takes a shell word's quotes off.
func unquote(s string) string {
	if len(s) >= 2 && (s[0] == '"' || s[0] == '\'') && s[len(s)-1] == s[0] {
		return strings.ReplaceAll(s[1:len(s)-1], `\"`, `"`)
	}
	return s
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// readLine returns a file's first line, "" when it cannot be read.
func readLine(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(b), "\n")
	return strings.TrimSpace(line)
}

func look(names ...string) string {
	for _, n := range names {
		if p, err := exec.LookPath(n); err == nil {
			return p
		}
	}
	return ""
}

// nearest returns path or its nearest parent that exists.
func nearest(path string) string {
	if path == "" {
		return "/"
	}
	for path = filepath.Clean(path); path != "/" && path != "."; path = filepath.Dir(path) {
		if exists(path) {
			return path
		}
	}
	return path
}
