package vmm

import (
	"encoding/json"
	"fmt"

	"wharf/internal/vmm/vmmapi"
)

// A device whose state QEMU cannot save keeps it from reading a state as well,
// so a clone gets such devices afterwards. Slots of virtio-mmio take none in a
// running machine because nobody is there to handle it (a bus's link
// hotplug-handler). The bus of a SCSI adapter is a handler that does nothing
// more than QEMU does for every device; the adapter is there for this only, and
// is gone before the guest goes on.
//
// The link does not keep what it points to, so each slot's is cut again, the
// adapter's own slot's last.

// plugLate plugs in what came too late for the state.
func (m *machine) plugLate() error {
	if len(m.spec.Late) == 0 {
		return nil
	}
	for _, l := range m.spec.Late {
		if err := m.plugSlot(&l); err != nil {
			return fmt.Errorf("plug a device into slot %d: %w", l.Slot, err)
		}
	}
	const own = vmmapi.PluggerSlot
	err := m.handle(own, true)
	if err == nil {
		_, err = m.qmp.run("device_del", object("id", vmmapi.Plugger))
	}
	if err == nil {
		err = m.handle(own, false)
	}
	if err != nil {
		return fmt.Errorf("take the adapter out of slot %d: %w", own, err)
	}
	m.trace.add("devices are plugged in")
	return nil
}

func (m *machine) plugSlot(l *vmmapi.Late) error {
	var device map[string]any
	if err := json.Unmarshal(l.Device, &device); err != nil {
		return err
	}
	device["bus"] = vmmapi.Slot(l.Slot)
	arguments, err := json.Marshal(device)
	if err != nil {
		return err
	}
	if err := m.handle(l.Slot, true); err != nil {
		return err
	}
	if _, err := m.qmp.run("device_add", arguments); err != nil {
		return err
	}
	return m.handle(l.Slot, false)
}

// handle gives a slot its hotplug handler, or takes it away.
func (m *machine) handle(slot int, on bool) error {
	handler := ""
	if on {
		handler = "/machine/peripheral/" + vmmapi.Plugger + "/" + vmmapi.Plugger + ".0"
	}
	_, err := m.qmp.run("qom-set", object("path", vmmapi.Slot(slot), "property", "hotplug-handler", "value", handler))
	return err
}
