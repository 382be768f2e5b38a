package vmm

import (
	"encoding/json"
	"time"

	"wharf/api/frame"
)

// fullTime is how often QEMU is asked how its machine is, and a machine that it
// has stopped for a full disk is let go on.
const fullTime = 5 * time.Second

// watchState follows QEMU's state of the machine, and lets one go on that it has
// stopped because the host's disk is full (the block devices' werror=enospc,
// QEMU's default): the request that failed is made again. Nothing is lost by
// waiting, while an error would make the guest's file system read-only. Until
// there is room the machine stands still, and its silence is not held against
// it.
func (m *machine) watchState() {
	tick := time.NewTicker(fullTime)
	defer tick.Stop()
	for {
		select {
		case <-m.down:
			return
		case <-tick.C:
		}
		state := m.state()
		if m.health.see(state) && state == stateFull {
			m.words.add([]byte("the host's disk is full: the machine stands still until there is room\n"))
		}
		if state == stateFull {
			_, _ = m.qmp.run("cont", nil)
		}
	}
}

// state is how QEMU says that its machine is.
func (m *machine) state() string {
	v, err := m.qmp.runFor(fullTime, "query-status")
	var s struct{ Status string }
	if err != nil || json.Unmarshal(v, &s) != nil {
		return stateNone
	}
	return frame.Printable(s.Status, 40)
}
