package plan

import (
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"
)

// allCapabilities are those of Linux 5.9 and later, in the kernel's order
// (capabilities(7)).
var allCapabilities = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL",
	"CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE",
	"CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER",
	"CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT",
	"CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_SYS_TIME",
	"CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
	"CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM",
	"CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
}

// defaultCapabilities are the fourteen that Docker's containers have.
var defaultCapabilities = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW",
	"CAP_SETGID", "CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE",
	"CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
}

// available returns what a container can be given. Inside a user namespace of
// its own that is everything, whatever the daemon has (user_namespaces(7)).
func available(f Facts, mapped bool) []string {
	if mapped || f.Capabilities == nil {
		return allCapabilities
	}
	return f.Capabilities
}

// normalizeCapabilities makes "CAP_X" of "x" and checks the names.
func normalizeCapabilities(names, available []string) ([]string, error) {
	out := make([]string, 0, len(names))
	for _, n := range names {
		n = strings.ToUpper(n)
		if n == "ALL" {
			out = append(out, n)
			continue
		}
		if !strings.HasPrefix(n, "CAP_") {
			n = "CAP_" + n
		}
		if !slices.Contains(allCapabilities, n) {
			return nil, invalid("unknown capability: %q", n)
		}
		if !slices.Contains(available, n) {
			return nil, invalid("capability not supported by your kernel or not available in the current environment: %q", n)
		}
		out = append(out, n)
	}
	return out, nil
}

func (cr *creation) capabilities() error {
	have := available(cr.f, cr.c.IDs.Mapped())
	if _, err := normalizeCapabilities(cr.hc.CapAdd, have); err != nil {
		return invalid("invalid CapAdd: %s", err)
	}
	// What is not there can be dropped.
	if _, err := normalizeCapabilities(cr.hc.CapDrop, allCapabilities); err != nil {
		return invalid("invalid CapDrop: %s", err)
	}
	return nil
}

// capabilitySet applies --privileged, --cap-add and --cap-drop. Add "ALL" wins
// over drop "ALL"; with drop "ALL" only what was added is left.
func capabilitySet(hc *container.HostConfig, f Facts, mapped bool) ([]string, error) {
	have := available(f, mapped)
	if hc.Privileged {
		return slices.Clone(have), nil
	}
	add, err := normalizeCapabilities(hc.CapAdd, have)
	if err != nil {
		return nil, err
	}
	drop, err := normalizeCapabilities(hc.CapDrop, allCapabilities)
	if err != nil {
		return nil, err
	}
	base := defaultCapabilities
	switch {
	case slices.Contains(add, "ALL"):
		base = have
		add = nil
	case slices.Contains(drop, "ALL"):
		base = nil
		drop = nil
	}
	out := []string{}
	for _, c := range base {
		if !slices.Contains(drop, c) && slices.Contains(have, c) {
			out = append(out, c)
		}
	}
	for _, c := range add {
		if !slices.Contains(out, c) {
			out = append(out, c)
		}
	}
	return out, nil
}
