package guest

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"wharf/api/guestapi"
)

// slotDriver is the driver of virtio-mmio slots, and slotDevices are those of
// ACPI's that it takes.
const (
	slotDriver  = "/sys/bus/platform/drivers/virtio-mmio"
	slotDevices = "/sys/bus/platform/devices/LNRO0005:*"
)

// lateTime is how long late shares may take to answer.
const lateTime = 20 * time.Second

// answering asks each share for something. One whose requests or answers get lost
// would hang whoever asks first, for ever; now the host can begin anew, cold.
func answering(mounts []guestapi.Mount, limit time.Duration) error {
	end := time.After(limit)
	for i := range mounts {
		if mounts[i].Type != "virtiofs" {
			continue
		}
		done := make(chan error, 1)
		go func() {
			var st unix.Statfs_t
			done <- unix.Statfs(mounts[i].Target, &st)
		}()
		select {
		case err := <-done:
			if err != nil {
				return os.NewSyscallError("statfs "+mounts[i].Target, err)
			}
		case <-end:
			return failed(guestapi.KindUnavailable, "the shared directory %s does not answer within %v", mounts[i].Tag, limit)
		}
	}
	return nil
}

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
