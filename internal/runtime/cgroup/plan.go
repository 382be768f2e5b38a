package cgroup

import (
	"fmt"
	"sort"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"wharf/internal/runtime"
)

// planner collects the writes of one container.
type planner struct {
	l        *Layout
	path     string
	v1       map[string][]runtime.CgroupWrite // by controller
	v2       []runtime.CgroupWrite
	need     map[string]bool // controllers that a limit needs
	warnings []string
	program  []byte
}

// Plan turns an OCI resources object into directories and writes below path.
// A limit that was asked for and whose controller the machine does not have is
// an error that names it; what is of no consequence becomes a warning.
func Plan(l *Layout, path string, r *specs.LinuxResources) (*runtime.Cgroup, []string, error) {
	p, err := collect(l, path, r)
	if err != nil {
		return nil, nil, err
	}
	return p.directories(), p.warnings, nil
}

func collect(l *Layout, path string, r *specs.LinuxResources) (*planner, error) {
	p := &planner{l: l, path: path, v1: map[string][]runtime.CgroupWrite{}, need: map[string]bool{}}
	if r == nil {
		r = &specs.LinuxResources{}
	}
	for _, f := range []func(*specs.LinuxResources) error{
		p.memory, p.cpu, p.cpuset, p.pids, p.blockIO, p.hugepages, p.network, p.rdma, p.devices, p.unified,
	} {
		if err := f(r); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func (p *planner) warn(format string, args ...any) {
	p.warnings = append(p.warnings, fmt.Sprintf(format, args...))
}

// where says which version has a controller: 1, 2, or an error that names
// the option that needs it.
func (p *planner) where(controller, option string) (int, error) {
	if _, ok := p.l.V1[controller]; ok {
		p.need[controller] = true
		return 1, nil
	}
	v2 := controller
	if controller == "blkio" {
		v2 = "io"
	}
	if p.l.V2Controllers[v2] {
		p.need[v2] = true
		return 2, nil
	}
	return 0, fmt.Errorf("%s: this machine has no cgroup controller %q (see wharf info): %w", option, controller, errdefs.ErrInvalidArgument)
}

func (p *planner) write1(controller, file, value, option string, strict bool) {
	p.v1[controller] = append(p.v1[controller], runtime.CgroupWrite{File: file, Value: value, Option: option, Strict: strict})
}

func (p *planner) write2(file, value, option string, strict bool) {
	p.v2 = append(p.v2, runtime.CgroupWrite{File: file, Value: value, Option: option, Strict: strict})
}

// limit writes value where the controller is: v1's file or v2's ("": v2 has
// no such thing, with a warning).
func (p *planner) limit(controller, file1, value1, file2, value2, option string) error {
	v, err := p.where(controller, option)
	if err != nil {
		return err
	}
	switch {
	case v == 1 && file1 != "":
		p.write1(controller, file1, value1, option, true)
	case v == 2 && file2 != "":
		p.write2(file2, value2, option, true)
	default:
		p.warn("%s: cgroup v%d has no such limit; left out", option, v)
	}
	return nil
}

func maxOr(v int64) string {
	if v < 0 {
		return "max"
	}
	return strconv.FormatInt(v, 10)
}

func num[T int | int64 | uint16 | uint32 | uint64](v T) string { return fmt.Sprint(v) }

func (p *planner) memory(r *specs.LinuxResources) error {
	if r.Memory == nil {
		return nil
	}
	copied := *r.Memory
	m := &copied
	if m.Limit != nil && *m.Limit == -1 && m.Swap == nil {
		m.Swap = m.Limit // memory and swap together cannot stay below memory
	}
	if m.Limit != nil && *m.Limit != 0 {
		if err := p.limit("memory", "memory.limit_in_bytes", num(*m.Limit), "memory.max", maxOr(*m.Limit), "memory limit"); err != nil {
			return err
		}
	}
	if m.Reservation != nil && *m.Reservation != 0 {
		if err := p.limit("memory", "memory.soft_limit_in_bytes", num(*m.Reservation), "memory.low", maxOr(*m.Reservation), "memory reservation"); err != nil {
			return err
		}
	}
	if err := p.swap(m); err != nil {
		return err
	}
	if m.Swappiness != nil {
		if err := p.limit("memory", "memory.swappiness", num(*m.Swappiness), "", "", "memory swappiness"); err != nil {
			return err
		}
	}
	if m.DisableOOMKiller != nil && *m.DisableOOMKiller {
		if err := p.limit("memory", "memory.oom_control", "1", "", "", "disabling the OOM killer"); err != nil {
			return err
		}
	}
	if m.KernelTCP != nil && *m.KernelTCP != 0 {
		if err := p.limit("memory", "memory.kmem.tcp.limit_in_bytes", num(*m.KernelTCP), "", "", "kernel TCP memory limit"); err != nil {
			return err
		}
	}
	if m.Kernel != nil && *m.Kernel > 0 { //nolint:staticcheck // deprecated, but in the spec
		p.warn("kernel memory limit: Linux has none of its own any more; left out")
	}
	return nil
}

// swap: the spec's number is memory and swap together.
func (p *planner) swap(m *specs.LinuxMemory) error {
	if m.Swap == nil || *m.Swap == 0 {
		return nil
	}
	v, err := p.where("memory", "swap limit")
	if err != nil {
		return err
	}
	if v == 1 {
		// Not strict: Docker's default, twice the memory, must not keep a
		// container from starting where the kernel does not account swap.
		p.write1("memory", "memory.memsw.limit_in_bytes", num(*m.Swap), "swap limit", false)
		return nil
	}
	value := "max"
	if *m.Swap > 0 {
		if m.Limit == nil || *m.Limit <= 0 {
			return fmt.Errorf("a swap limit of %d needs a memory limit: %w", *m.Swap, errdefs.ErrInvalidArgument)
		}
		if *m.Swap < *m.Limit {
			return fmt.Errorf("the swap limit %d includes memory and cannot be below the memory limit %d: %w", *m.Swap, *m.Limit, errdefs.ErrInvalidArgument)
		}
		value = num(*m.Swap - *m.Limit)
	}
	p.write2("memory.swap.max", value, "swap limit", false)
	return nil
}

func (p *planner) cpu(r *specs.LinuxResources) error {
	c := r.CPU
	if c == nil {
		return nil
	}
	if c.Shares != nil && *c.Shares != 0 {
		if err := p.limit("cpu", "cpu.shares", num(*c.Shares), "cpu.weight", num(weight(*c.Shares)), "CPU shares"); err != nil {
			return err
		}
	}
	if c.Idle != nil {
		if err := p.limit("cpu", "cpu.idle", num(*c.Idle), "cpu.idle", num(*c.Idle), "CPU idle"); err != nil {
			return err
		}
	}
	if err := p.quota(c); err != nil {
		return err
	}
	if c.RealtimePeriod != nil && *c.RealtimePeriod != 0 {
		if err := p.limit("cpu", "cpu.rt_period_us", num(*c.RealtimePeriod), "", "", "CPU real-time period"); err != nil {
			return err
		}
	}
	if c.RealtimeRuntime != nil && *c.RealtimeRuntime != 0 {
		if err := p.limit("cpu", "cpu.rt_runtime_us", num(*c.RealtimeRuntime), "", "", "CPU real-time runtime"); err != nil {
			return err
		}
	}
	return nil
}

func (p *planner) quota(c *specs.LinuxCPU) error {
	hasPeriod := c.Period != nil && *c.Period != 0
	hasQuota := c.Quota != nil && *c.Quota != 0
	hasBurst := c.Burst != nil
	if !hasPeriod && !hasQuota && !hasBurst {
		return nil
	}
	v, err := p.where("cpu", "CPU quota")
	if err != nil {
		return err
	}
	if v == 1 {
		if hasPeriod {
			p.write1("cpu", "cpu.cfs_period_us", num(*c.Period), "CPU period", true)
		}
		if hasQuota {
			p.write1("cpu", "cpu.cfs_quota_us", num(*c.Quota), "CPU quota", true)
		}
		if hasBurst {
			p.write1("cpu", "cpu.cfs_burst_us", num(*c.Burst), "CPU burst", true)
		}
		return nil
	}
	if hasPeriod || hasQuota {
		quota, period := "max", uint64(100000)
		if hasQuota && *c.Quota > 0 {
			quota = num(*c.Quota)
		}
		if hasPeriod {
			period = *c.Period
		}
		p.write2("cpu.max", quota+" "+num(period), "CPU quota", true)
	}
	if hasBurst {
		p.write2("cpu.max.burst", num(*c.Burst), "CPU burst", true)
	}
	return nil
}

// weight maps shares 2..262144 to v2's 1..10000 (KEP-2254).
func weight(shares uint64) uint64 {
	shares = min(max(shares, 2), 262144)
	return 1 + (shares-2)*9999/262142
}

func (p *planner) cpuset(r *specs.LinuxResources) error {
	if r.CPU == nil {
		return nil
	}
	if r.CPU.Cpus != "" {
		if err := p.limit("cpuset", "cpuset.cpus", r.CPU.Cpus, "cpuset.cpus", r.CPU.Cpus, "CPU set"); err != nil {
			return err
		}
	}
	if r.CPU.Mems != "" {
		return p.limit("cpuset", "cpuset.mems", r.CPU.Mems, "cpuset.mems", r.CPU.Mems, "memory nodes")
	}
	return nil
}

func (p *planner) pids(r *specs.LinuxResources) error {
	if r.Pids == nil || r.Pids.Limit == nil || *r.Pids.Limit == 0 {
		return nil
	}
	v := maxOr(*r.Pids.Limit)
	return p.limit("pids", "pids.max", v, "pids.max", v, "pids limit")
}

func (p *planner) hugepages(r *specs.LinuxResources) error {
	for _, h := range r.HugepageLimits {
		v := num(h.Limit)
		if err := p.limit("hugetlb", "hugetlb."+h.Pagesize+".limit_in_bytes", v, "hugetlb."+h.Pagesize+".max", v, "hugepage limit "+h.Pagesize); err != nil {
			return err
		}
	}
	return nil
}

func (p *planner) network(r *specs.LinuxResources) error {
	n := r.Network
	if n == nil {
		return nil
	}
	if n.ClassID != nil && *n.ClassID != 0 {
		if err := p.limit("net_cls", "net_cls.classid", num(*n.ClassID), "", "", "network class"); err != nil {
			return err
		}
	}
	for _, prio := range n.Priorities {
		if err := p.limit("net_prio", "net_prio.ifpriomap", prio.Name+" "+num(prio.Priority), "", "", "network priority"); err != nil {
			return err
		}
	}
	return nil
}

func (p *planner) rdma(r *specs.LinuxResources) error {
	names := make([]string, 0, len(r.Rdma))
	for n := range r.Rdma {
		names = append(names, n)
	}
	sort.Strings(names)
	for _, n := range names {
		line := n
		if h := r.Rdma[n].HcaHandles; h != nil {
			line += " hca_handle=" + num(*h)
		}
		if o := r.Rdma[n].HcaObjects; o != nil {
			line += " hca_object=" + num(*o)
		}
		if err := p.limit("rdma", "rdma.max", line, "rdma.max", line, "RDMA limit"); err != nil {
			return err
		}
	}
	return nil
}

// unified takes v2's own file names.
func (p *planner) unified(r *specs.LinuxResources) error {
	keys := make([]string, 0, len(r.Unified))
	for k := range r.Unified {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	for _, k := range keys {
		controller, _, ok := strings.Cut(k, ".")
		if !ok || strings.Contains(k, "/") {
			return fmt.Errorf("unified resource %q is not a file name of cgroup v2: %w", k, errdefs.ErrInvalidArgument)
		}
		if controller != "cgroup" && !p.l.V2Controllers[controller] {
			return fmt.Errorf("invalid configuration: unified resource %q can't be set: controller %q not available in cgroup v2 here: %w", k, controller, errdefs.ErrInvalidArgument)
		}
		p.need[controller] = true
		p.write2(k, r.Unified[k], k, true)
	}
	return nil
}

// directories puts the writes into the order in which they are made.
func (p *planner) directories() *runtime.Cgroup {
	out := &runtime.Cgroup{}
	for _, base := range p.l.bases(p.need) {
		d := runtime.CgroupDir{Base: base, Path: p.path, Join: true}
		for _, c := range sortedKeys(p.l.V1) {
			if p.l.V1[c] != base {
				continue
			}
			d.Writes = append(d.Writes, p.v1[c]...)
			d.Inherit = d.Inherit || c == "cpuset"
		}
		out.Dirs = append(out.Dirs, d)
	}
	if p.l.Unified() || p.l.V2 != "" && (len(p.v2) > 0 || len(p.program) > 0) {
		d := runtime.CgroupDir{Base: p.l.V2, Path: p.path, Join: true, Writes: p.v2, Program: p.program}
		for _, c := range []string{"cpu", "cpuset", "io", "memory", "pids", "hugetlb", "rdma", "misc"} {
			usual := c == "cpu" || c == "io" || c == "memory" || c == "pids"
			if p.l.V2Controllers[c] && (p.need[c] || usual && p.l.Unified()) {
				d.Enable = append(d.Enable, c)
			}
		}
		out.Dirs = append(out.Dirs, d)
	}
	return out
}

func sortedKeys(m map[string]string) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	sort.Strings(out)
	return out
}
