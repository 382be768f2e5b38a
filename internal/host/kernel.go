package host

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"sort"
	"strconv"
	"strings"

	"github.com/moby/sys/capability"
	"golang.org/x/sys/unix"
)

// capabilities parses the CapEff and CapBnd lines of /proc/PID/status.
func capabilities(status string) Capabilities {
	var c Capabilities
	b, err := os.ReadFile(status)
	if err != nil {
		return c
	}
	for line := range bytes.Lines(b) {
		key, value, _ := strings.Cut(strings.TrimSpace(string(line)), ":\t")
		switch key {
		case "CapEff":
			c.Effective = capNames(value)
		case "CapBnd":
			c.Bounding = capNames(value)
		}
	}
	return c
}

func capNames(hexMask string) []string {
	mask, err := strconv.ParseUint(hexMask, 16, 64)
	if err != nil {
		return nil
	}
	var names []string
	for _, known := range capability.ListKnown() {
		if mask&(1<<uint(known)) != 0 {
			names = append(names, "CAP_"+strings.ToUpper(known.String()))
		}
	}
	return names
}

// namespaces lists what /proc/self/ns has.
func namespaces(dir string) map[string]bool {
	m := map[string]bool{}
	for _, n := range []string{"user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time"} {
		m[n] = exists(filepath.Join(dir, n))
	}
	return m
}

// nested reports whether a uid_map is another than the initial namespace's
// "0 0 4294967295".
func nested(uidMap string) bool {
	b, err := os.ReadFile(uidMap)
	if err != nil {
		return false
	}
	return strings.Join(strings.Fields(string(b)), " ") != "0 0 4294967295"
}

func selinux() string {
	switch readLine("/sys/fs/selinux/enforce") {
	case "1":
		return "enforcing"
	case "0":
		return "permissive"
	}
	return ""
}

// filesystem looks in /proc/filesystems; a file system that is a module not
// yet loaded is found among the modules of the running kernel.
func filesystem(name string) bool {
	b, _ := os.ReadFile("/proc/filesystems")
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) > 0 && f[len(f)-1] == name {
			return true
		}
	}
	k := kernel().Release
	found, _ := filepath.Glob("/lib/modules/" + k + "/kernel/fs/" + name + "/*.ko*")
	return len(found) > 0
}

// kvm asks /dev/kvm for its API version, which has been 12 for ever.
func kvm() bool {
	const getAPIVersion = 0xAE00
	fd, err := unix.Open("/dev/kvm", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	v, err := unix.IoctlRetInt(fd, getAPIVersion)
	return err == nil && v == 12
}

func qemu() string {
	if runtime.GOARCH == "arm64" {
		return look("qemu-system-aarch64")
	}
	return look("qemu-system-x86_64")
}

// binfmt lists the enabled interpreters for foreign architectures.
func binfmt(dir string) []string {
	found, _ := filepath.Glob(filepath.Join(dir, "qemu-*"))
	var names []string
	for _, f := range found {
		if readLine(f) == "enabled" {
			names = append(names, strings.TrimPrefix(filepath.Base(f), "qemu-"))
		}
	}
	sort.Strings(names)
	return names
}

// memory parses /proc/meminfo, whose figures are in KiB.
func memory(meminfo string) (total, swap uint64) {
	b, _ := os.ReadFile(meminfo)
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		n, _ := strconv.ParseUint(f[1], 10, 64)
		switch f[0] {
		case "MemTotal:":
			total = n << 10
		case "SwapTotal:":
			swap = n << 10
		}
	}
	return total, swap
}

// sysctls reads those kernel settings that decide what wharf can do.
func sysctls() map[string]string {
	m := map[string]string{}
	for _, name := range []string{
		"net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding", "net.ipv6.conf.all.disable_ipv6",
		"net.bridge.bridge-nf-call-iptables", "net.bridge.bridge-nf-call-ip6tables",
		"kernel.unprivileged_userns_clone", "kernel.apparmor_restrict_unprivileged_userns",
		"kernel.pid_max", "kernel.threads-max", "kernel.keys.root_maxkeys",
		"fs.inotify.max_user_instances", "fs.inotify.max_user_watches", "fs.file-max", "fs.nr_open",
		"vm.max_map_count", "vm.overcommit_memory",
	} {
		path := "/proc/sys/" + strings.ReplaceAll(name, ".", "/")
		if v := readLine(path); v != "" {
			m[name] = v
		}
	}
	return m
}
