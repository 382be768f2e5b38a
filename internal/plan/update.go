package plan

import (
	"github.com/moby/moby/api/types/container"

	"wharf/internal/model"
)

// Update changes the limits and the restart policy; zero values leave things
// as they are. The returned container's HostConfig.Resources is what
// Instance.Update has to be given. What cannot be changed after create is
// refused when it is set.
func Update(c model.Container, u container.UpdateConfig, f Facts) (model.Container, []string, error) {
	if c.State.Phase == container.StateRemoving || c.State.Phase == container.StateDead {
		return c, nil, cannotUpdate(c, conflict(`container is marked for removal and cannot be "update"`))
	}
	r := u.Resources
	if c.Isolation == model.IsolationVM {
		f = f.inMachine()
	}
	warn, err := checkResources(&r, f, true)
	if err != nil {
		return c, warn, err
	}
	if u.RestartPolicy.Name != "" || u.RestartPolicy.MaximumRetryCount != 0 {
		if err := container.ValidateRestartPolicy(u.RestartPolicy); err != nil {
			return c, warn, invalid("%s", err)
		}
	}
	if err := unchangeable(u.Resources); err != nil {
		return c, warn, err
	}
	hc := *c.HostConfig
	if err := updateConflicts(hc.Resources, r); err != nil {
		return c, warn, cannotUpdate(c, err)
	}
	mergeResources(&hc.Resources, r)
	if u.RestartPolicy.Name != "" {
		if hc.AutoRemove && !u.RestartPolicy.IsNone() {
			return c, warn, cannotUpdate(c, conflict("Restart policy cannot be updated because AutoRemove is enabled for the container"))
		}
		hc.RestartPolicy = u.RestartPolicy
	}
	c.HostConfig = &hc
	return c, warn, nil
}

func cannotUpdate(c model.Container, err error) error {
	return conflict("Cannot update container %s: %s", c.ID, err)
}

// unchangeable names what create takes and update does not.
func unchangeable(r container.Resources) error {
	for _, o := range []struct {
		set  bool
		name string
	}{
		{len(r.Devices) > 0, "devices"},
		{len(r.DeviceCgroupRules) > 0, "device cgroup rules"},
		{len(r.DeviceRequests) > 0, "device requests"},
		{len(r.Ulimits) > 0, "ulimits"},
		{r.CgroupParent != "", "the cgroup parent"},
		{r.MemorySwappiness != nil && *r.MemorySwappiness != -1, "memory swappiness"},
		{r.OomKillDisable != nil && *r.OomKillDisable, "the OOM killer"},
	} {
		if o.set {
			return invalid("%s cannot be changed by update; create the container anew", o.name)
		}
	}
	return nil
}

func updateConflicts(old, r container.Resources) error {
	switch {
	case r.NanoCPUs > 0 && old.CPUPeriod > 0:
		return conflict("Conflicting options: Nano CPUs cannot be updated as CPU Period has already been set")
	case r.NanoCPUs > 0 && old.CPUQuota > 0:
		return conflict("Conflicting options: Nano CPUs cannot be updated as CPU Quota has already been set")
	case r.CPUPeriod > 0 && old.NanoCPUs > 0:
		return conflict("Conflicting options: CPU Period cannot be updated as NanoCPUs has already been set")
	case r.CPUQuota > 0 && old.NanoCPUs > 0:
		return conflict("Conflicting options: CPU Quota cannot be updated as NanoCPUs has already been set")
	case r.Memory != 0 && r.MemorySwap == 0 && old.MemorySwap >= 0 && r.Memory > old.MemorySwap:
		return conflict("Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time")
	case r.MemorySwap > 0 && r.Memory == 0 && old.Memory > r.MemorySwap:
		return conflict("Minimum memoryswap limit should be larger than memory limit, see usage")
	}
	return nil
}

func setIf[T comparable](to *T, v T) {
	var zero T
	if v != zero {
		*to = v
	}
}

func setSlice[T any](to *[]T, v []T) {
	if v != nil {
		*to = v
	}
}

func mergeResources(to *container.Resources, r container.Resources) {
	setIf(&to.BlkioWeight, r.BlkioWeight)
	setSlice(&to.BlkioWeightDevice, r.BlkioWeightDevice)
	setSlice(&to.BlkioDeviceReadBps, r.BlkioDeviceReadBps)
	setSlice(&to.BlkioDeviceWriteBps, r.BlkioDeviceWriteBps)
	setSlice(&to.BlkioDeviceReadIOps, r.BlkioDeviceReadIOps)
	setSlice(&to.BlkioDeviceWriteIOps, r.BlkioDeviceWriteIOps)
	setIf(&to.CPUShares, r.CPUShares)
	setIf(&to.NanoCPUs, r.NanoCPUs)
	setIf(&to.CPUPeriod, r.CPUPeriod)
	setIf(&to.CPUQuota, r.CPUQuota)
	setIf(&to.CPURealtimePeriod, r.CPURealtimePeriod)
	setIf(&to.CPURealtimeRuntime, r.CPURealtimeRuntime)
	setIf(&to.CpusetCpus, r.CpusetCpus)
	setIf(&to.CpusetMems, r.CpusetMems)
	setIf(&to.Memory, r.Memory)
	setIf(&to.MemorySwap, r.MemorySwap)
	setIf(&to.MemoryReservation, r.MemoryReservation)
	if r.PidsLimit != nil {
		to.PidsLimit = r.PidsLimit
	}
}
