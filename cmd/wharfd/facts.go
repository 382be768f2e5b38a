package main

import (
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"

	"wharf/internal/config"
	"wharf/internal/host"
	"wharf/internal/model"
	"wharf/internal/plan"
)

// planFacts says to plan what the machine has.
func planFacts(h host.Facts, c *config.Config) plan.Facts {
	v2 := h.Cgroup.Layout == "v2"
	has := h.Cgroup.Has
	either := func(v1, v1file, v2name, v2file string) bool {
		return h.Cgroup.HasFile(v1, v1file) || h.Cgroup.HasFile(v2name, v2file)
	}
	cpu := h.Cgroup.Controllers["cpu"].Version == 2
	f := plan.Facts{
		Kernel: h.Kernel.Release, Arch: h.Arch, CPUs: h.CPUs, CgroupVersion: 1, Hostname: h.Hostname,
		Cpus: readLine("/sys/devices/system/cpu/online"), Mems: readLine("/sys/devices/system/node/online"),
		Memory:            has("memory"),
		Swap:              has("memory") && either("memory", "memory.memsw.limit_in_bytes", "memory", "memory.swap.max"),
		MemoryReservation: has("memory") && either("memory", "memory.soft_limit_in_bytes", "memory", "memory.low"),
		MemorySwappiness:  has("memory") && h.Cgroup.HasFile("memory", "memory.swappiness"),
		OomKillDisable:    has("memory") && h.Cgroup.HasFile("memory", "memory.oom_control"),
		CPUShares:         has("cpu") && (cpu || h.Cgroup.HasFile("cpu", "cpu.shares")),
		CPUQuota:          has("cpu") && either("cpu", "cpu.cfs_quota_us", "cpu", "cpu.max"),
		CPURealtime:       has("cpu") && h.Cgroup.HasFile("cpu", "cpu.rt_runtime_us"),
		Cpuset:            has("cpuset"),
		Pids:              has("pids"),
		Blkio:             has("blkio") && h.Cgroup.HasFile("blkio", "blkio.throttle.read_bps_device") || has("io"),
		BlkioWeight: has("blkio") && (h.Cgroup.HasFile("blkio", "blkio.weight") || h.Cgroup.HasFile("blkio", "blkio.bfq.weight")) ||
			has("io") && (h.Cgroup.HasFile("io", "io.weight") || h.Cgroup.HasFile("io", "io.bfq.weight")),
		Hugetlb: has("hugetlb"), Devices: v2 || has("devices"),
		Seccomp: len(h.Seccomp) > 0, AppArmor: h.AppArmor, SELinux: h.SELinux != "",
		UserNS:       h.Namespaces["user"] && h.MaxUserNS > 0 && h.DataRoot.OverlayIdmap,
		CgroupNS:     h.Namespaces["cgroup"],
		RORecursive:  h.Kernel.AtLeast(5, 12),
		Capabilities: h.Capabilities.Bounding,
		IPv4Forward:  c.IPForward || h.Sysctls["net.ipv4.ip_forward"] == "1",
	}
	if v2 {
		f.CgroupVersion = 2
	}
	if !h.Capabilities.Has("CAP_SYS_RESOURCE") {
		f.Inherited = inheritedLimits()
	}
	for cpu := range h.CPUs {
		p := fmt.Sprintf("/sys/devices/system/cpu/cpu%d/thermal_throttle", cpu)
		if _, err := os.Stat(p); err == nil {
			f.MaskedPaths = append(f.MaskedPaths, p)
		}
	}
	return f
}

// inheritedLimits are this process's, which containers start with.
func inheritedLimits() *plan.Inherited {
	in := &plan.Inherited{Hard: make(map[int]uint64)}
	in.OOMScoreAdj, _ = strconv.Atoi(readLine("/proc/self/oom_score_adj"))
	for i := range unix.RLIMIT_RTTIME + 1 {
		var l unix.Rlimit
		if unix.Getrlimit(i, &l) == nil {
			in.Hard[i] = l.Max
		}
	}
	return in
}

func readLine(p string) string {
	b, err := os.ReadFile(p)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// runtimeNames are other names of our runtime.
var runtimeNames = []string{"runc", "io.containerd.runc.v2"}

// planDefaults is what the configuration says for containers.
func planDefaults(c *config.Config, gateway []netip.Addr) plan.Defaults {
	d := plan.Defaults{
		LogDriver: c.LogDriver, LogOptions: c.LogOpts,
		ShmSize: int64(c.DefaultShmSize), Ulimits: map[string]*container.Ulimit(c.DefaultUlimits),
		Runtime: c.DefaultRuntime, Runtimes: runtimeNames,
		Isolation: model.Isolation(c.DefaultIsolation), IsolationRules: isolationRules(c), VM: c.VM, NoVM: noMachines(c),
		IpcMode: container.IpcMode(c.DefaultIpcMode), CgroupnsMode: container.CgroupnsMode(c.DefaultCgroupnsMode),
		Init: c.Init, NoNewPrivs: c.NoNewPrivileges, SELinux: c.SELinuxEnabled,
		SeccompProfile: c.Seccomp, Seccomp: new(plan.SeccompCache),
		UsernsHost: c.UsernsRemap == "host", StopTimeout: 10, CgroupParent: c.CgroupParent, DataRoot: c.DataRoot,
		DNS: c.DNS, DNSSearch: c.DNSSearch, DNSOptions: c.DNSOpts, HostGateway: c.HostGatewayIPs,
	}
	if len(d.HostGateway) == 0 {
		d.HostGateway = gateway
	}
	return d
}
