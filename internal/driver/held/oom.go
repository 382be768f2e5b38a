package held

import (
	"wharf/internal/driver"
)

var _ driver.OOMNotifier = (*Instance)(nil)

// NotifyOOM watches the instance's control group, which for a virtual machine
// is that of its hypervisor: the guest's kernel tells of its own at the end.
func (i *Instance) NotifyOOM(told bool, f func(killed bool)) error {
	g, err := i.Group()
	if err != nil {
		return err
	}
	stop, err := i.d.oom.Add(g, told, f)
	if err != nil {
		return err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	select {
	case <-i.done: // meanwhile
		stop()
	default:
		i.unwatch = append(i.unwatch, stop)
	}
	return nil
}

// unwatchAll ends the notices. done is closed already.
func (i *Instance) unwatchAll() {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, stop := range i.unwatch {
		stop()
	}
	i.unwatch = nil
}
