package cgroup

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
)

// Stats reads the counters in Docker's form. Read, PreRead, Name, ID and
// networks are the caller's. Times are nanoseconds, sizes bytes.
func (g *Group) Stats() (*container.StatsResponse, error) {
	if !g.Exists() {
		return nil, fmt.Errorf("cgroup %s: %w", g.path, errdefs.ErrNotFound)
	}
	s := &container.StatsResponse{OSType: "linux"}
	g.cpuStats(&s.CPUStats)
	g.memoryStats(&s.MemoryStats)
	g.pidsStats(&s.PidsStats)
	g.blkioStats(&s.BlkioStats)
	system, online := systemCPU()
	s.CPUStats.SystemUsage, s.CPUStats.OnlineCPUs = system, online
	return s, nil
}

func (g *Group) cpuStats(s *container.CPUStats) {
	dir, v := g.dir("cpu")
	if v == 2 {
		kv := keyed(dir + "/cpu.stat")
		s.CPUUsage.TotalUsage = kv["usage_usec"] * 1000
		s.CPUUsage.UsageInUsermode = kv["user_usec"] * 1000
		s.CPUUsage.UsageInKernelmode = kv["system_usec"] * 1000
		s.ThrottlingData = container.ThrottlingData{Periods: kv["nr_periods"], ThrottledPeriods: kv["nr_throttled"], ThrottledTime: kv["throttled_usec"] * 1000}
		return
	}
	if v == 1 {
		kv := keyed(dir + "/cpu.stat")
		s.ThrottlingData = container.ThrottlingData{Periods: kv["nr_periods"], ThrottledPeriods: kv["nr_throttled"], ThrottledTime: kv["throttled_time"]}
	}
	acct, v := g.dir("cpuacct")
	if v != 1 {
		return
	}
	s.CPUUsage.TotalUsage = number(acct + "/cpuacct.usage")
	for _, f := range strings.Fields(text(acct + "/cpuacct.usage_percpu")) {
		n, _ := strconv.ParseUint(f, 10, 64)
		s.CPUUsage.PercpuUsage = append(s.CPUUsage.PercpuUsage, n)
	}
	s.CPUUsage.UsageInUsermode = number(acct + "/cpuacct.usage_user")
	s.CPUUsage.UsageInKernelmode = number(acct + "/cpuacct.usage_sys")
}

func (g *Group) memoryStats(s *container.MemoryStats) {
	dir, v := g.dir("memory")
	switch v {
	case 1:
		s.Usage = number(dir + "/memory.usage_in_bytes")
		s.MaxUsage = number(dir + "/memory.max_usage_in_bytes")
		s.Failcnt = number(dir + "/memory.failcnt")
		s.Limit = number(dir + "/memory.limit_in_bytes")
	case 2:
		s.Usage = number(dir + "/memory.current")
		s.Limit = number(dir + "/memory.max")
		s.Failcnt = keyed(dir + "/memory.events")["oom"]
	default:
		return
	}
	s.Stats = keyed(dir + "/memory.stat")
	// Without a limit Docker shows the machine's memory.
	if total := machineMemory(); total != 0 && (s.Limit == 0 || s.Limit > total) {
		s.Limit = total
	}
}

func (g *Group) pidsStats(s *container.PidsStats) {
	dir, v := g.dir("pids")
	if v == 0 {
		return
	}
	s.Current = number(dir + "/pids.current")
	s.Limit = number(dir + "/pids.max") // "max" is 0
}

func (g *Group) blkioStats(s *container.BlkioStats) {
	dir, v := g.dir("blkio")
	if v == 1 {
		for _, kind := range []string{"blkio.bfq.", "blkio.throttle."} {
			s.IoServiceBytesRecursive = blkio1(dir + "/" + kind + "io_service_bytes_recursive")
			s.IoServicedRecursive = blkio1(dir + "/" + kind + "io_serviced_recursive")
			if len(s.IoServiceBytesRecursive) > 0 {
				blkioDebug(s, dir+"/"+kind)
				return
			}
		}
		return
	}
	if dir, v = g.dir("io"); v != 2 {
		return
	}
	for _, line := range strings.Split(text(dir+"/io.stat"), "\n") {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		major, minor, ok := deviceNumber(f[0])
		if !ok {
			continue
		}
		for _, kv := range f[1:] {
			k, val, _ := strings.Cut(kv, "=")
			n, _ := strconv.ParseUint(val, 10, 64)
			e := container.BlkioStatEntry{Major: major, Minor: minor, Value: n}
			switch k {
			case "rbytes", "wbytes":
				e.Op = map[string]string{"rbytes": "read", "wbytes": "write"}[k]
				s.IoServiceBytesRecursive = append(s.IoServiceBytesRecursive, e)
			case "rios", "wios":
				e.Op = map[string]string{"rios": "read", "wios": "write"}[k]
				s.IoServicedRecursive = append(s.IoServicedRecursive, e)
			}
		}
	}
}

// blkioDebug reads what only a kernel with CONFIG_BFQ_CGROUP_DEBUG counts.
func blkioDebug(s *container.BlkioStats, prefix string) {
	for name, to := range map[string]*[]container.BlkioStatEntry{
		"io_merged": &s.IoMergedRecursive, "io_queued": &s.IoQueuedRecursive, "io_service_time": &s.IoServiceTimeRecursive,
		"io_wait_time": &s.IoWaitTimeRecursive, "time": &s.IoTimeRecursive, "sectors": &s.SectorsRecursive,
	} {
		*to = blkio1(prefix + name + "_recursive")
	}
}

// blkio1 parses "8:0 Read 4096" lines.
func blkio1(file string) []container.BlkioStatEntry {
	var out []container.BlkioStatEntry
	for _, line := range strings.Split(text(file), "\n") {
		f := strings.Fields(line)
		if len(f) != 3 {
			continue
		}
		major, minor, ok := deviceNumber(f[0])
		n, err := strconv.ParseUint(f[2], 10, 64)
		if ok && err == nil {
			out = append(out, container.BlkioStatEntry{Major: major, Minor: minor, Op: strings.ToLower(f[1]), Value: n})
		}
	}
	return out
}

func deviceNumber(s string) (major, minor uint64, ok bool) {
	a, b, ok := strings.Cut(s, ":")
	major, err1 := strconv.ParseUint(a, 10, 64)
	minor, err2 := strconv.ParseUint(b, 10, 64)
	return major, minor, ok && err1 == nil && err2 == nil
}

func text(file string) string {
	data, _ := os.ReadFile(file)
	return string(data)
}

func number(file string) uint64 {
	n, _ := strconv.ParseUint(strings.TrimSpace(text(file)), 10, 64)
	return n
}

func keyed(file string) map[string]uint64 {
	out := map[string]uint64{}
	for _, line := range strings.Split(text(file), "\n") {
		k, v, ok := strings.Cut(line, " ")
		if n, err := strconv.ParseUint(v, 10, 64); ok && err == nil {
			out[k] = n
		}
	}
	return out
}

// systemCPU is the machine's busy and idle time in nanoseconds, and its
// number of CPUs (proc_stat(5); a tick is 10 ms on Linux).
func systemCPU() (total uint64, online uint32) {
	const tick = 1e9 / 100
	for _, line := range strings.Split(text("/proc/stat"), "\n") {
		f := strings.Fields(line)
		if len(f) == 0 || !strings.HasPrefix(f[0], "cpu") {
			break
		}
		if f[0] != "cpu" {
			online++
			continue
		}
		for i := 1; i < len(f) && i <= 7; i++ { // guest time is in user time already
			n, _ := strconv.ParseUint(f[i], 10, 64)
			total += n * tick
		}
	}
	return total, online
}

func machineMemory() uint64 {
	for _, line := range strings.Split(text("/proc/meminfo"), "\n") {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "MemTotal:" {
			n, _ := strconv.ParseUint(f[1], 10, 64)
			return n << 10
		}
	}
	return 0
}
