package cgroup

import (
	"fmt"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"wharf/internal/runtime"
)

func (p *planner) blockIO(r *specs.LinuxResources) error {
	b := r.BlockIO
	if b == nil {
		return nil
	}
	if err := p.ioWeight(b); err != nil {
		return err
	}
	for _, t := range []struct {
		list      []specs.LinuxThrottleDevice
		file, key string
	}{
		{b.ThrottleReadBpsDevice, "blkio.throttle.read_bps_device", "rbps"},
		{b.ThrottleWriteBpsDevice, "blkio.throttle.write_bps_device", "wbps"},
		{b.ThrottleReadIOPSDevice, "blkio.throttle.read_iops_device", "riops"},
		{b.ThrottleWriteIOPSDevice, "blkio.throttle.write_iops_device", "wiops"},
	} {
		for _, d := range t.list {
			dev := fmt.Sprintf("%d:%d ", d.Major, d.Minor)
			rate := strconv.FormatUint(d.Rate, 10)
			v2 := rate
			if d.Rate == 0 {
				v2 = "max"
			}
			if err := p.limit("blkio", t.file, dev+rate, "io.max", dev+t.key+"="+v2, "device limit "+t.key); err != nil {
				return err
			}
		}
	}
	return nil
}

// ioWeight: the files are the I/O scheduler's (BFQ) or the controller's own,
// by kernel and machine; which is there is seen at the write. Not strict: a
// weight changes nothing when nobody competes.
func (p *planner) ioWeight(b *specs.LinuxBlockIO) error {
	if b.Weight == nil && len(b.WeightDevice) == 0 {
		return nil
	}
	v, err := p.where("blkio", "block I/O weight")
	if err != nil {
		return err
	}
	if b.Weight != nil && *b.Weight != 0 {
		if v == 1 {
			p.either("blkio.weight", "blkio.bfq.weight", num(*b.Weight), "block I/O weight")
		} else {
			p.write2("io.weight", "default "+num(ioWeight(*b.Weight)), "block I/O weight", false)
		}
	}
	for _, d := range b.WeightDevice {
		if d.Weight == nil {
			continue
		}
		dev := fmt.Sprintf("%d:%d ", d.Major, d.Minor)
		if v == 1 {
			p.either("blkio.weight_device", "blkio.bfq.weight_device", dev+num(*d.Weight), "block I/O weight of a device")
		} else {
			p.write2("io.weight", dev+num(ioWeight(*d.Weight)), "block I/O weight of a device", false)
		}
	}
	return nil
}

func (p *planner) either(file, or, value, option string) {
	p.v1["blkio"] = append(p.v1["blkio"], runtime.CgroupWrite{File: file, Or: or, Value: value, Option: option})
}

// ioWeight maps v1's 10..1000 to v2's 1..10000.
func ioWeight(w uint16) uint64 {
	w = min(max(w, 10), 1000)
	return 1 + uint64(w-10)*9999/990
}
