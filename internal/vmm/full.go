package vmm

import (
	"encoding/json"
	"time"
)

// fullTime is how often QEMU is asked whether it has stopped its machine, and a
// machine that it has stopped is let go on.
const fullTime = 5 * time.Second

// watchDisk lets a machine go on that QEMU has stopped because the host's disk
// is full (the block devices' werror=enospc, QEMU's default): the request that
// failed is made again. Nothing is lost by waiting, while an error would make
// the guest's file system read-only. Until there is room the machine stands
// still, and its silence is not held against it.
func (m *machine) watchDisk() {
	tick := time.NewTicker(fullTime)
	defer tick.Stop()
	for {
		select {
		case <-m.down:
			return
		case <-tick.C:
		}
		full := m.outOfSpace()
		if full && !m.full.Load() {
			m.words.add([]byte("the host's disk is full: the machine stands still until there is room\n"))
		}
		m.full.Store(full)
		if full {
			_, _ = m.qmp.run("cont", nil)
		}
	}
}

// outOfSpace says whether QEMU has stopped the machine for an error of a disk.
func (m *machine) outOfSpace() bool {
	v, err := m.qmp.run("query-status", nil)
	if err != nil {
		return false
	}
	var s struct{ Status string }
	return json.Unmarshal(v, &s) == nil && s.Status == "io-error"
}
