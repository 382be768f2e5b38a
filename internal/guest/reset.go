package guest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"wharf/api/guestapi"
)

// releaseTime is how long the kernel may take to let go of a file system whose
// last user has ended.
const releaseTime = 20 * time.Second

// reset forgets a rehearsal: its process, mounts, files, names, addresses and
// counters are gone when it is answered, and its disks are nobody's. Its entropy
// stays in the kernel's pool, to which the next Boot adds its own.
func (a *Agent) reset(c *call) error {
	a.mu.Lock()
	b, main := a.boot, a.main
	a.mu.Unlock()
	if b == nil || b.ID != guestapi.RehearsalID {
		return failed(guestapi.KindConflict, "the machine is an instance's, and that is not forgotten")
	}
	if main != nil {
		if _, exit := main.state(); exit == nil {
			return failed(guestapi.KindConflict, "the rehearsal's process runs")
		}
		main.pumps.Wait()
	}
	if err := a.group.Kill(); err != nil {
		return err
	}
	if err := a.letGo(b); err != nil {
		return err
	}
	for _, dir := range []string{guestapi.EtcDir, guestapi.LayersDir, guestapi.WritableAt, guestapi.RootDir} {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	if err := os.Remove("/etc/machine-id"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := unix.Sethostname([]byte("(none)")); err != nil {
		return os.NewSyscallError("sethostname", err)
	}
	if err := a.group.Remove(); err != nil { // with its counters
		return err
	}
	if err := makeGroup(); err != nil {
		return err
	}
	if err := a.disconnect(b.Interfaces); err != nil {
		return err
	}
	a.mu.Lock()
	a.boot, a.main, a.root = nil, nil, nil
	a.mu.Unlock()
	return c.reply(guestapi.Reply{})
}

// letGo unmounts what b mounted and waits until its disks are free: an overlay
// that still ends has a mount of its own of them.
func (a *Agent) letGo(b *guestapi.Boot) error {
	unix.Sync()
	for i := len(b.Mounts) - 1; i >= 0; i-- {
		m := &b.Mounts[i]
		err := retry(func() error { return unix.Unmount(m.Target, unix.UMOUNT_NOFOLLOW) })
		if err != nil {
			return fmt.Errorf("unmount %s: %w", m.Target, err)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 1 && strings.HasPrefix(f[1], guestapi.RunDir+"/") {
			return fmt.Errorf("%s is still mounted", f[1])
		}
	}
	for i := range b.Mounts {
		if b.Mounts[i].Disk == "" {
			continue
		}
		dev, err := a.machine.disk(b.Mounts[i].Disk)
		if err != nil {
			return err
		}
		err = retry(func() error { // a mounted disk is somebody's (open(2), O_EXCL)
			fd, err := unix.Open(dev, unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
			if err == nil {
				err = unix.Close(fd)
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("%s is not free: %w", filepath.Base(dev), err)
		}
	}
	return nil
}

// retry tries again while f says that something is busy.
func retry(f func() error) error {
	for end := time.Now().Add(releaseTime); ; time.Sleep(5 * time.Millisecond) {
		err := f()
		if !errors.Is(err, unix.EBUSY) || time.Now().After(end) {
			return err
		}
	}
}

// disconnect takes the interfaces down and their addresses and routes off.
func (a *Agent) disconnect(list []guestapi.Interface) error {
	a.net.Lock()
	defer a.net.Unlock()
	l, err := a.networkLinks()
	if err != nil {
		return err
	}
	for i := range list {
		r, info, err := l.find(list[i].MAC)
		if err != nil {
			return err
		}
		if err := r.setLink(info.index, linkChange{down: true}); err != nil { // also takes routes off
			return err
		}
		if err := r.keepAddresses(info.index, nil); err != nil {
			return err
		}
	}
	return nil
}
