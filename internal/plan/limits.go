package plan

import (
	"github.com/moby/moby/api/types/blkiodev"
	"github.com/moby/moby/api/types/container"
	"github.com/opencontainers/runtime-spec/specs-go"

	"wharf/internal/model"
)

// limits writes the cgroup's limits and the devices.
func (s *starting) limits() error {
	hc := s.hc
	everything := hc.Privileged && s.c.Isolation == model.IsolationVM
	if everything { // all of its own kernel's devices, none of this host's
		c := *hc
		c.Privileged, hc = false, &c
	}
	devs, rules, err := specDevices(hc, s.in.Lookup)
	if err != nil {
		return err
	}
	if everything {
		rules = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
	}
	r, err := Resources(s.hc.Resources, s.in.Lookup)
	if err != nil {
		return err
	}
	r.Devices = rules
	s.spec.Linux.Devices = devs
	s.spec.Linux.Resources = r
	return nil
}

// Resources translates limits into the OCI's form, without devices.
func Resources(r container.Resources, look Lookup) (*specs.LinuxResources, error) {
	out := &specs.LinuxResources{Memory: memoryLimits(r), CPU: cpuLimits(r)}
	if r.PidsLimit != nil {
		limit := *r.PidsLimit
		if limit <= 0 {
			limit = -1
		}
		out.Pids = &specs.LinuxPids{Limit: &limit}
	}
	b, err := blockLimits(r, look)
	if err != nil {
		return nil, err
	}
	out.BlockIO = b
	return out, nil
}

func memoryLimits(r container.Resources) *specs.LinuxMemory {
	m := specs.LinuxMemory{}
	if r.Memory > 0 {
		m.Limit = ptr(r.Memory)
	}
	if r.MemoryReservation > 0 {
		m.Reservation = ptr(r.MemoryReservation)
	}
	if r.MemorySwap > 0 { // a new group has no limit: -1 needs no write, and no memsw file
		m.Swap = ptr(r.MemorySwap)
	}
	if r.MemorySwappiness != nil {
		m.Swappiness = ptr(uint64(*r.MemorySwappiness))
	}
	if r.OomKillDisable != nil && *r.OomKillDisable {
		m.DisableOOMKiller = r.OomKillDisable
	}
	if m == (specs.LinuxMemory{}) {
		return nil
	}
	return &m
}

func cpuLimits(r container.Resources) *specs.LinuxCPU {
	c := specs.LinuxCPU{Cpus: r.CpusetCpus, Mems: r.CpusetMems}
	if r.CPUShares > 0 {
		c.Shares = ptr(uint64(r.CPUShares))
	}
	if r.NanoCPUs > 0 {
		const period = 100_000 // microseconds, the kernel's own default
		c.Period, c.Quota = ptr(uint64(period)), ptr(r.NanoCPUs*period/1e9)
	}
	if r.CPUPeriod != 0 {
		c.Period = ptr(uint64(r.CPUPeriod))
	}
	if r.CPUQuota != 0 {
		c.Quota = ptr(r.CPUQuota)
	}
	if r.CPURealtimePeriod != 0 {
		c.RealtimePeriod = ptr(uint64(r.CPURealtimePeriod))
	}
	if r.CPURealtimeRuntime != 0 {
		c.RealtimeRuntime = ptr(r.CPURealtimeRuntime)
	}
	if c == (specs.LinuxCPU{}) {
		return nil
	}
	return &c
}

// blockLimits names devices by number, as the kernel does.
func blockLimits(r container.Resources, look Lookup) (*specs.LinuxBlockIO, error) {
	number := func(p string) (specs.LinuxBlockIODevice, error) {
		var devs []specs.LinuxDevice
		var err error
		if look.Devices != nil {
			devs, err = look.Devices(p)
		}
		if err != nil {
			return specs.LinuxBlockIODevice{}, invalid("block device %q: %s", p, err)
		}
		if len(devs) != 1 {
			return specs.LinuxBlockIODevice{}, invalid("block device %q: no such device", p)
		}
		return specs.LinuxBlockIODevice{Major: devs[0].Major, Minor: devs[0].Minor}, nil
	}
	b, set := &specs.LinuxBlockIO{}, r.BlkioWeight != 0
	if set {
		b.Weight = ptr(r.BlkioWeight)
	}
	for _, w := range r.BlkioWeightDevice {
		n, err := number(w.Path)
		if err != nil {
			return nil, err
		}
		b.WeightDevice = append(b.WeightDevice, specs.LinuxWeightDevice{LinuxBlockIODevice: n, Weight: ptr(w.Weight)})
		set = true
	}
	for _, t := range []struct {
		from []*blkiodev.ThrottleDevice
		to   *[]specs.LinuxThrottleDevice
	}{
		{r.BlkioDeviceReadBps, &b.ThrottleReadBpsDevice}, {r.BlkioDeviceWriteBps, &b.ThrottleWriteBpsDevice},
		{r.BlkioDeviceReadIOps, &b.ThrottleReadIOPSDevice}, {r.BlkioDeviceWriteIOps, &b.ThrottleWriteIOPSDevice},
	} {
		for _, d := range t.from {
			n, err := number(d.Path)
			if err != nil {
				return nil, err
			}
			*t.to = append(*t.to, specs.LinuxThrottleDevice{LinuxBlockIODevice: n, Rate: d.Rate})
			set = true
		}
	}
	if !set {
		return nil, nil
	}
	return b, nil
}
