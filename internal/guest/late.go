package guest

import (
	"errors"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"wharf/api/guestapi"
)

// slotDriver is the driver of virtio-mmio slots, and slotDevices are those of
// ACPI's that it takes.
const (
	slotDriver  = "/sys/bus/platform/drivers/virtio-mmio"
	slotDevices = "/sys/bus/platform/devices/LNRO0005:*"
)

// late has the driver look once more at the slots that it found empty, until n
// have a device. The table that names them (boot.LateSlots) does so in the order
// in which the host fills them.
func (m *pid1) late(n int) error {
	names, err := filepath.Glob(slotDevices)
	if err != nil {
		return err
	}
	slices.Sort(names)
	found := 0
	for _, name := range names {
		if found == n {
			break
		}
		if _, err := os.Lstat(filepath.Join(name, "driver")); err == nil {
			continue
		}
		err := os.WriteFile(filepath.Join(slotDriver, "bind"), []byte(filepath.Base(name)), 0)
		switch {
		case err == nil:
			found++
		case !errors.Is(err, unix.ENODEV): // which an empty one gives
			return err
		}
	}
	if found < n {
		return failed(guestapi.KindUnavailable, "the machine got %d devices, of which its kernel sees %d (it needs CONFIG_ACPI_TABLE_UPGRADE)", n, found)
	}
	return nil
}
