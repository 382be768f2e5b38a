package plan

import (
	"maps"
	"slices"
	"strings"
)

var ipcSysctls = []string{
	"kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall",
	"kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced",
}

// sysctls lets through only what belongs to a namespace that is the
// container's own.
func (cr *creation) sysctls() error {
	hc := cr.hc
	for _, raw := range slices.Sorted(maps.Keys(hc.Sysctls)) {
		key := strings.ReplaceAll(raw, "/", ".")
		if strings.Contains(key, "..") || strings.ContainsAny(hc.Sysctls[raw], "\x00\n") {
			return invalid("sysctl %q is not allowed: not a name and value", raw)
		}
		shared := ""
		switch {
		case slices.Contains(ipcSysctls, key), strings.HasPrefix(key, "fs.mqueue."):
			if hc.IpcMode.IsHost() || hc.IpcMode.IsContainer() {
				shared = "IPC"
			}
		case strings.HasPrefix(key, "net."):
			if hc.NetworkMode.IsHost() || hc.NetworkMode.IsContainer() {
				shared = "network"
			}
		case key == "kernel.domainname":
			if hc.UTSMode.IsHost() {
				shared = "UTS"
			}
		case key == "kernel.hostname":
			return invalid("sysctl %q conflicts with OCI \"hostname\"; use --hostname", raw)
		case cr.vm(): // its kernel is its own
		default:
			return invalid("sysctl %q is not in a separate kernel namespace", raw)
		}
		if shared != "" {
			return invalid("sysctl %q not allowed as the container shares the %s namespace of the host or of another container", raw, shared)
		}
	}
	return nil
}
