package host

import (
	"fmt"
	"sort"
	"strconv"
	"strings"
)

// State is how well a feature is there.
type State string

// The states.
const (
	OK      State = "ok"
	Limited State = "limited"
	Missing State = "missing"
)

// Item is one feature in words.
type Item struct {
	Name   string `json:"name"`
	State  State  `json:"state"`
	Detail string `json:"detail,omitempty"` // what was found
	Cost   string `json:"cost,omitempty"`   // what its absence means for containers
	Remedy string `json:"remedy,omitempty"` // what to do about it; "" when nothing can be done
	// Optional features cost nothing that is on by default; they do not make
	// a machine unfit and are no warning.
	Optional bool `json:"optional,omitempty"`
}

// Report says what the machine has and lacks, most important first.
func Report(f Facts) []Item {
	var items []Item
	for _, part := range []func(Facts) []Item{reportKernel, reportStorage, reportCgroup, reportSecurity, reportNetwork, reportLimits, reportRest} {
		items = append(items, part(f)...)
	}
	return items
}

// Warnings are the report's shortcomings that matter to a running container,
// a line each, in the form in which `docker info` prints them.
func Warnings(f Facts) []string {
	var out []string
	for _, i := range Report(f) {
		if i.State == OK || i.Optional {
			continue
		}
		w := "WARNING: " + i.Name + " is " + string(i.State)
		if i.Cost != "" {
			w += ": " + i.Cost
		}
		out = append(out, w)
	}
	return out
}

// item is OK when have is set, else Missing with the cost and the remedy.
func item(name string, have bool, detail, cost, remedy string) Item {
	if have {
		return Item{Name: name, State: OK, Detail: detail}
	}
	return Item{Name: name, State: Missing, Detail: detail, Cost: cost, Remedy: remedy}
}

// optional marks an item whose absence is no warning.
func optional(i Item) Item {
	i.Optional = true
	return i
}

func reportKernel(f Facts) []Item {
	k := Item{Name: "kernel", State: OK, Detail: f.Kernel.Release + " " + f.Machine}
	if !f.Kernel.AtLeast(5, 19) {
		k.State, k.Cost = Limited, "before 5.19 an overlay cannot have idmapped layers: containers run with the host's ids"
		k.Remedy = "boot a kernel of 6.1 or newer (Debian 12's is 6.1)"
	}
	root := item("root", f.Root, "", "the daemon makes mounts, namespaces and control groups", "start wharfd as root")
	var lack []string
	for _, n := range []string{"user", "mnt", "pid", "net", "ipc", "uts", "cgroup"} {
		if !f.Namespaces[n] {
			lack = append(lack, n)
		}
	}
	ns := item("namespaces", len(lack) == 0, "", "no "+strings.Join(lack, ", "), "boot a kernel built with them")
	user := item("user namespaces", f.MaxUserNS > 0 && f.Namespaces["user"], fmt.Sprintf("at most %d", f.MaxUserNS),
		"a container's root would be the host's root; only --userns=host and --privileged work", "sysctl user.max_user_namespaces=63000")
	if f.NestedUserNS {
		user.State, user.Cost = Limited, "the daemon is itself inside a user namespace: ids outside its own map cannot be used"
	}
	time := optional(item("time namespaces", f.Namespaces["time"], "", "--runtime specs with a time namespace are refused", "boot a kernel with CONFIG_TIME_NS"))
	return []Item{k, root, ns, user, time}
}

func reportStorage(f Facts) []Item {
	s := f.DataRoot
	where := s.FSType + " at " + s.Path
	overlay := item("overlay", s.Overlay, where, "images are copied for each container, which takes time and room: "+s.Error,
		"put the data root on ext4, xfs or btrfs (wharfd --data-root)")
	idmap := item("idmapped mounts", s.Idmap && s.OverlayIdmap, where,
		"containers run with the host's user ids, so that root inside is root of the host; each create warns: "+s.Error,
		"put the data root on ext4, xfs, btrfs or tmpfs with a kernel of 6.1 or newer")
	quota := optional(item("project quotas", s.ProjectQuota, where, "--storage-opt size and volume size limits are refused",
		"mount the data root's file system with prjquota"))
	reflink := optional(item("reflinks", s.Reflink, where, "snapshots and clones of volumes are full copies", "put the data root on xfs or btrfs"))
	return []Item{overlay, idmap, quota, reflink,
		optional(item("fuse", f.Fuse, "", "file systems in user space cannot be mounted", "modprobe fuse")),
		optional(item("erofs", f.EROFS, "", "microVMs cannot share image layers", "boot a kernel with EROFS"))}
}

func reportCgroup(f Facts) []Item {
	c := f.Cgroup
	names := make([]string, 0, len(c.Controllers))
	for n, ctl := range c.Controllers {
		names = append(names, n+"/v"+strconv.Itoa(ctl.Version))
	}
	sort.Strings(names)
	head := item("control groups", c.Layout != LayoutNone && c.Layout != "", string(c.Layout)+": "+strings.Join(names, " "),
		"no limits, no statistics, no pause", "mount -t cgroup2 none /sys/fs/cgroup")
	items := []Item{head}
	for _, r := range []struct{ name, v2, cost string }{
		{"memory", "memory", "--memory is ignored; a container can take all of the host's memory"},
		{"cpu", "cpu", "--cpus and --cpu-shares are refused"},
		{"cpuset", "cpuset", "--cpuset-cpus and --cpuset-mems are refused"},
		{"pids", "pids", "--pids-limit is refused; a fork bomb reaches the host"},
		{"blkio", "io", "--blkio-weight and --device-*-bps are refused"},
		{"hugetlb", "hugetlb", "huge page limits are refused"},
	} {
		ctl, ok := c.Controllers[r.name]
		if !ok {
			ctl, ok = c.Controllers[r.v2]
		}
		i := item("cgroup "+r.name, ok && ctl.Writable, ctl.Mount, r.cost, "boot with the controller on, or mount it")
		if ok && !ctl.Writable {
			i.State, i.Detail = Missing, "no group can be made in "+ctl.Mount
			i.Remedy = "start wharfd where it may write control groups (systemd: Delegate=yes)"
		}
		i.Optional = r.name == "hugetlb"
		items = append(items, i)
	}
	swap := f.Swap > 0 || c.HasFile("memory", "memory.memsw.limit_in_bytes") || c.HasFile("memory", "memory.swap.max")
	limit := c.HasFile("memory", "memory.memsw.limit_in_bytes") || c.HasFile("memory", "memory.swap.max")
	if swap && c.Has("memory") {
		items = append(items, item("swap limit", limit, "", "--memory-swap is ignored: limits cover memory without swap", "boot with swapaccount=1"))
	}
	return items
}

func reportSecurity(f Facts) []Item {
	seccomp := item("seccomp", len(f.Seccomp) > 0, strings.Join(f.Seccomp, " "), "system calls are not filtered", "boot a kernel with CONFIG_SECCOMP_FILTER")
	var lack []string
	for _, c := range []string{"CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_SETUID", "CAP_SETGID", "CAP_MKNOD", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_SETPCAP", "CAP_SYS_PTRACE"} {
		if !f.Capabilities.Has(c) {
			lack = append(lack, c)
		}
	}
	caps := item("capabilities", len(lack) == 0, fmt.Sprintf("%d of the kernel's", len(f.Capabilities.Effective)),
		"missing "+strings.Join(lack, ", "), "give wharfd all capabilities")
	res := item("CAP_SYS_RESOURCE", f.Capabilities.Has("CAP_SYS_RESOURCE"), "",
		"--ulimit cannot raise a limit above the daemon's own and --oom-score-adj cannot go below it; the inherited value stays",
		"give wharfd CAP_SYS_RESOURCE")
	if res.State == Missing {
		res.State = Limited
	}
	apparmor := optional(item("AppArmor", f.AppArmor, "", "containers have no AppArmor profile; seccomp and capabilities still hold", "boot with apparmor=1 security=apparmor"))
	selinux := optional(item("SELinux", f.SELinux != "", f.SELinux, "containers have no SELinux label", ""))
	return []Item{seccomp, caps, res, apparmor, selinux}
}

func reportNetwork(f Facts) []Item {
	link := func(kind, cost string) Item {
		return item(kind+" links", f.Links[kind], "", cost, "modprobe "+kind)
	}
	fwd := item("IPv4 forwarding", f.Sysctls["net.ipv4.ip_forward"] == "1", "",
		"off until wharfd makes its first bridge, which turns it on", "")
	if fwd.State == Missing {
		fwd.State = Limited
	}
	return []Item{
		link("bridge", "no bridge networks: only --network none, host and container:"),
		link("veth", "no bridge networks: only --network none, host and container:"),
		item("nftables", f.Nftables, "", "no masquerading, no published ports, no isolation between networks", "modprobe nf_tables"),
		optional(link("macvlan", "no macvlan networks")), optional(link("ipvlan", "no ipvlan networks")),
		optional(link("vxlan", "no overlay networks")), optional(fwd),
		optional(item("tun", f.Tun, "", "microVMs have no network", "modprobe tun")),
	}
}

// reportLimits compares kernel limits with what a thousand containers need.
func reportLimits(f Facts) []Item {
	limit := func(name string, least int, cost string) Item {
		v, err := strconv.Atoi(f.Sysctls[name])
		i := Item{Name: name, State: OK, Detail: f.Sysctls[name]}
		if err == nil && v < least {
			i.State, i.Cost, i.Remedy = Limited, cost, fmt.Sprintf("sysctl %s=%d", name, least)
		}
		return optional(i)
	}
	return []Item{
		limit("fs.inotify.max_user_instances", 512, "programs that watch files may run out of instances when many containers run"),
		limit("fs.inotify.max_user_watches", 65536, "programs that watch files may run out of watches"),
		limit("kernel.pid_max", 65536, "about a thousand containers use up the process ids"),
		limit("kernel.threads-max", 65536, "many containers use up the threads"),
		limit("kernel.keys.root_maxkeys", 10000, "session keyrings run out with many containers"),
	}
}

func reportRest(f Facts) []Item {
	// What virtual machines need is said by who runs them (cmd/wharfd).
	return []Item{
		optional(item("systemd", f.Systemd, "", "the daemon is not started or watched by systemd here", "")),
		optional(item("journald", f.Journald, "", "--log-driver journald is refused", "")),
		optional(item("foreign binaries", len(f.Binfmt) > 0, strings.Join(f.Binfmt, " "), "images of other architectures do not run", "apt-get install qemu-user-static binfmt-support")),
	}
}
