package plan

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/blkiodev"
	"github.com/moby/moby/api/types/container"
)

const minMemory = 6 << 20

// resources checks the limits and drops, with a warning, what the machine
// cannot do.
func (cr *creation) resources() error {
	r, f := &cr.hc.Resources, cr.f
	if cr.vm() {
		if r.Memory > 0 && r.MemorySwap > r.Memory {
			cr.warnf("A virtual machine has no swap: --memory-swap is not used.")
		}
		f = f.inMachine()
	}
	if r.Memory > 0 && r.MemorySwap == 0 {
		r.MemorySwap = 2 * r.Memory
	}
	w, err := checkResources(r, f, false)
	cr.warn = append(cr.warn, w...)
	if err != nil {
		return err
	}
	if r.OomKillDisable == nil && f.OomKillDisable {
		r.OomKillDisable = new(bool)
	}
	for _, rule := range r.DeviceCgroupRules {
		if _, err := parseDeviceRule(rule); err != nil {
			return err
		}
	}
	for _, u := range r.Ulimits {
		if err := checkUlimit(u); err != nil {
			return err
		}
	}
	return cr.deviceRequests()
}

// inMachine: the guest's control groups are of version 2, whatever the host's
// are. Shares of the processor and of disks hold on the host, around QEMU.
func (f Facts) inMachine() Facts {
	f.MemorySwappiness, f.OomKillDisable = false, false
	return f
}

func checkUlimit(u *container.Ulimit) error {
	if u == nil {
		return invalid("invalid ulimit: empty")
	}
	rl, err := u.GetRlimit()
	if err != nil {
		return invalid("%s", err)
	}
	if rl.Soft > rl.Hard {
		return invalid("ulimit %s: the soft limit %d must not be above the hard limit %d", u.Name, u.Soft, u.Hard)
	}
	return nil
}

// checkResources changes r to what will be; update: zero means "as it was".
func checkResources(r *container.Resources, f Facts, update bool) ([]string, error) {
	c := &resourceCheck{r: r, f: f, update: update}
	for _, step := range []func() error{c.memory, c.memoryRest, c.cpu, c.cpuTime, c.cpuset, c.blkio, c.windows} {
		if err := step(); err != nil {
			return c.warn, err
		}
	}
	return c.warn, nil
}

type resourceCheck struct {
	r      *container.Resources
	f      Facts
	update bool
	warn   []string
}

// drop warns, if set and not supported, that what is not honoured.
func (c *resourceCheck) drop(set, supported bool, warning string) bool {
	if set && !supported {
		c.warn = append(c.warn, warning)
		return true
	}
	return false
}

func (c *resourceCheck) memory() error {
	r, f := c.r, c.f
	if r.MemorySwappiness != nil && *r.MemorySwappiness == -1 {
		r.MemorySwappiness = nil // older clients' "not set"
	}
	if r.Memory < 0 {
		return invalid("invalid memory limit %d: must be positive", r.Memory)
	}
	if r.Memory != 0 && r.Memory < minMemory {
		return invalid("Minimum memory limit allowed is 6MB")
	}
	if c.drop(r.Memory > 0, f.Memory, "Your kernel does not support memory limit capabilities or the cgroup is not mounted. Limitation discarded.") {
		r.Memory, r.MemorySwap = 0, -1
	}
	if c.drop(r.Memory > 0 && r.MemorySwap != -1, f.Swap, "Your kernel does not support swap limit capabilities or the cgroup is not mounted. Memory limited without swap.") {
		r.MemorySwap = -1
	}
	if r.Memory > 0 && r.MemorySwap > 0 && r.MemorySwap < r.Memory {
		return invalid("Minimum memoryswap limit should be larger than memory limit, see usage")
	}
	if r.Memory == 0 && r.MemorySwap > 0 && !c.update {
		return invalid("You should always set the Memory limit when using Memoryswap limit, see usage")
	}
	if r.MemorySwap < -1 {
		return invalid("invalid memory-swap %d: must be positive, or -1 for unlimited swap", r.MemorySwap)
	}
	return nil
}

func (c *resourceCheck) memoryRest() error {
	r, f := c.r, c.f
	if c.drop(r.MemorySwappiness != nil, f.MemorySwappiness, "Your kernel does not support memory swappiness capabilities or the cgroup is not mounted. Memory swappiness discarded.") {
		r.MemorySwappiness = nil
	}
	if s := r.MemorySwappiness; s != nil && (*s < 0 || *s > 100) {
		return invalid("Invalid value: %v, valid memory swappiness range is 0-100", *s)
	}
	if c.drop(r.MemoryReservation > 0, f.MemoryReservation, "Your kernel does not support memory soft limit capabilities or the cgroup is not mounted. Limitation discarded.") {
		r.MemoryReservation = 0
	}
	if r.MemoryReservation != 0 && r.MemoryReservation < minMemory {
		return invalid("Minimum memory reservation allowed is 6MB")
	}
	if r.Memory > 0 && r.MemoryReservation > 0 && r.Memory < r.MemoryReservation {
		return invalid("Minimum memory limit can not be less than memory reservation limit, see usage")
	}
	if r.OomKillDisable != nil && !f.OomKillDisable {
		c.drop(*r.OomKillDisable, false, "Your kernel does not support OomKillDisable. OomKillDisable discarded.")
		r.OomKillDisable = nil
	}
	if r.OomKillDisable != nil && *r.OomKillDisable && r.Memory == 0 {
		c.warn = append(c.warn, "OOM killer is disabled for the container, but no memory limit is set, this can result in the system running out of resources.")
	}
	if r.PidsLimit != nil && !f.Pids {
		c.drop(*r.PidsLimit > 0, false, "Your kernel does not support PIDs limit capabilities or the cgroup is not mounted. PIDs limit discarded.")
		r.PidsLimit = nil
	}
	return nil
}

func (c *resourceCheck) cpu() error {
	r, f := c.r, c.f
	switch {
	case r.NanoCPUs > 0 && r.CPUPeriod > 0:
		return invalid("Conflicting options: Nano CPUs and CPU Period cannot both be set")
	case r.NanoCPUs > 0 && r.CPUQuota > 0:
		return invalid("Conflicting options: Nano CPUs and CPU Quota cannot both be set")
	case r.NanoCPUs > 0 && !f.CPUQuota:
		return invalid("NanoCPUs can not be set, as your kernel does not support CPU CFS scheduler or the cgroup is not mounted")
	case r.NanoCPUs < 0 || f.CPUs > 0 && r.NanoCPUs > int64(f.CPUs)*1e9:
		return invalid("range of CPUs is from 0.01 to %[1]d.00, as there are only %[1]d CPUs available", f.CPUs)
	case r.CPUShares < 0:
		return invalid("invalid CPU shares (%d): value must be a positive integer", r.CPUShares)
	}
	if c.drop(r.CPUShares > 0, f.CPUShares, "Your kernel does not support CPU shares or the cgroup is not mounted. Shares discarded.") {
		r.CPUShares = 0
	}
	if c.drop(r.CPUPeriod != 0 || r.CPUQuota != 0, f.CPUQuota, "Your kernel does not support CPU CFS scheduler. CPU period/quota discarded.") {
		r.CPUPeriod, r.CPUQuota = 0, 0
	}
	return nil
}

func (c *resourceCheck) cpuTime() error {
	r := c.r
	switch {
	case r.CPUPeriod != 0 && (r.CPUPeriod < 1000 || r.CPUPeriod > 1000000):
		return invalid("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
	case r.CPUQuota > 0 && r.CPUQuota < 1000:
		return invalid("CPU cfs quota can not be less than 1ms (i.e. 1000)")
	case (r.CPURealtimePeriod != 0 || r.CPURealtimeRuntime != 0) && !c.f.CPURealtime:
		return invalid("kernel does not support CPU real-time scheduler")
	case r.CPURealtimePeriod < 0 || r.CPURealtimeRuntime < 0:
		return invalid("invalid cpu real-time period %d or runtime %d: must be positive", r.CPURealtimePeriod, r.CPURealtimeRuntime)
	case r.CPURealtimePeriod != 0 && r.CPURealtimeRuntime > r.CPURealtimePeriod:
		return invalid("cpu real-time runtime cannot be higher than cpu real-time period")
	}
	return nil
}

func (c *resourceCheck) cpuset() error {
	r, f := c.r, c.f
	if c.drop(r.CpusetCpus != "" || r.CpusetMems != "", f.Cpuset, "Your kernel does not support cpuset or the cgroup is not mounted. Cpuset discarded.") {
		r.CpusetCpus, r.CpusetMems = "", ""
	}
	for _, s := range []struct{ name, long, want, have string }{
		{"cpus", "CPUs", r.CpusetCpus, f.Cpus}, {"mems", "memory nodes", r.CpusetMems, f.Mems},
	} {
		want, err := parseSet(s.want)
		if err != nil {
			return invalid("Invalid value %s for cpuset %s: %s", s.want, s.name, err)
		}
		if s.have == "" {
			continue
		}
		have, err := parseSet(s.have)
		if err != nil {
			return fmt.Errorf("cpuset of the machine %q: %w", s.have, err)
		}
		for n := range want {
			if !have[n] {
				return invalid("Requested %s are not available - requested %s, available: %s", s.long, s.want, s.have)
			}
		}
	}
	return nil
}

// parseSet reads a list in the kernel's form: "0-2,7".
func parseSet(s string) (map[int]bool, error) {
	out := make(map[int]bool)
	if s == "" {
		return out, nil
	}
	for _, part := range strings.Split(s, ",") {
		low, high, isRange := strings.Cut(part, "-")
		a, err := strconv.Atoi(low)
		if err != nil {
			return nil, fmt.Errorf("%q is not a number", low)
		}
		b := a
		if isRange {
			if b, err = strconv.Atoi(high); err != nil {
				return nil, fmt.Errorf("%q is not a number", high)
			}
		}
		if a < 0 || b < a || b > 8191 {
			return nil, fmt.Errorf("invalid range %q", part)
		}
		for ; a <= b; a++ {
			out[a] = true
		}
	}
	return out, nil
}

func (c *resourceCheck) blkio() error {
	r, f := c.r, c.f
	if c.drop(r.BlkioWeight > 0, f.BlkioWeight, "Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded.") {
		r.BlkioWeight = 0
	}
	if r.BlkioWeight > 0 && (r.BlkioWeight < 10 || r.BlkioWeight > 1000) {
		return invalid("Range of blkio weight is from 10 to 1000")
	}
	if c.drop(len(r.BlkioWeightDevice) > 0, f.BlkioWeight, "Your kernel does not support Block I/O weight_device or the cgroup is not mounted. Weight-device discarded.") {
		r.BlkioWeightDevice = nil
	}
	for _, d := range r.BlkioWeightDevice {
		if d == nil || d.Weight > 0 && (d.Weight < 10 || d.Weight > 1000) {
			return invalid("Range of blkio weight is from 10 to 1000")
		}
	}
	for _, t := range []struct {
		list       *[]*blkiodev.ThrottleDevice
		what, then string
	}{
		{&r.BlkioDeviceReadBps, "BPS Block I/O read limit", "Block I/O BPS read limit"},
		{&r.BlkioDeviceWriteBps, "BPS Block I/O write limit", "Block I/O BPS write limit"},
		{&r.BlkioDeviceReadIOps, "IOPS Block read limit", "Block I/O IOPS read limit"},
		{&r.BlkioDeviceWriteIOps, "IOPS Block write limit", "Block I/O IOPS write limit"},
	} {
		if c.drop(len(*t.list) > 0, f.Blkio, "Your kernel does not support "+t.what+" or the cgroup is not mounted. "+t.then+" discarded.") {
			*t.list = nil
		}
		for _, d := range *t.list {
			if d == nil || d.Path == "" {
				return invalid("%s: the device has no path", t.then)
			}
		}
	}
	return nil
}

// windows are the fields that exist only there.
func (c *resourceCheck) windows() error {
	r := c.r
	if r.IOMaximumBandwidth != 0 || r.IOMaximumIOps != 0 {
		return invalid("Invalid QoS settings: linux does not support Maximum IO Bandwidth or Maximum IO IOps")
	}
	if c.drop(r.CPUPercent > 0, false, "linux does not support CPU percent. Percent discarded.") {
		r.CPUPercent = 0
	}
	if c.drop(r.CPUCount > 0, false, "linux does not support CPU count. Count discarded; use --cpus.") {
		r.CPUCount = 0
	}
	return nil
}
