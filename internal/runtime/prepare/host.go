package prepare

import (
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"wharf/internal/runtime/cgroup"
)

// Host is what preparing has to know of the machine. It is data, so that
// tests can make one up.
type Host struct {
	Cgroup   cgroup.Layout
	HasNS    map[string]bool // namespaces the kernel has, by the spec's names
	SELinux  bool
	AppArmor bool
	Mknod    bool // we may make device nodes
}

// Detect looks at the machine, once per process.
var Detect = sync.OnceValue(func() *Host {
	h := &Host{HasNS: map[string]bool{}, Cgroup: cgroup.Detect()}
	for kind, file := range map[string]string{
		"mount": "mnt", "pid": "pid", "network": "net", "ipc": "ipc", "uts": "uts", "user": "user", "cgroup": "cgroup", "time": "time",
	} {
		_, err := os.Stat("/proc/self/ns/" + file)
		h.HasNS[kind] = err == nil
	}
	_, err := os.Stat("/sys/fs/selinux/enforce")
	h.SELinux = err == nil
	aa, _ := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	h.AppArmor = strings.HasPrefix(string(aa), "Y")
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if unix.Capget(&hdr, &data[0]) == nil {
		h.Mknod = data[0].Effective&(1<<unix.CAP_MKNOD) != 0
	}
	return h
})
