package guest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"wharf/api/guestapi"
)

// mountTypes are what the host may have mounted.
var mountTypes = map[string]bool{"erofs": true, "ext4": true, "xfs": true, "virtiofs": true, "tmpfs": true, "9p": true}

// mountFlags are mount(8)'s words for flags of mount(2).
var mountFlags = map[string]uintptr{
	"ro": unix.MS_RDONLY, "rw": 0, "nosuid": unix.MS_NOSUID, "nodev": unix.MS_NODEV, "noexec": unix.MS_NOEXEC, "suid": 0, "dev": 0, "exec": 0,
	"sync": unix.MS_SYNCHRONOUS, "dirsync": unix.MS_DIRSYNC, "noatime": unix.MS_NOATIME, "nodiratime": unix.MS_NODIRATIME,
	"relatime": unix.MS_RELATIME, "strictatime": unix.MS_STRICTATIME, "lazytime": unix.MS_LAZYTIME, "nosymfollow": unix.MS_NOSYMFOLLOW, "defaults": 0,
}

func (a *Agent) mountOp(c *call) error {
	if c.req.Mount == nil {
		return invalid("there is nothing to mount")
	}
	if err := a.mount(c.req.Mount); err != nil {
		return err
	}
	return c.reply(guestapi.Reply{})
}

// mount mounts one file system.
func (a *Agent) mount(m *guestapi.Mount) error {
	target, err := below(m.Target)
	if err != nil {
		return err
	}
	if !mountTypes[m.Type] {
		return invalid("mount of type %q at %s", m.Type, target)
	}
	source := m.Tag
	switch {
	case m.Disk != "":
		if source, err = a.machine.disk(m.Disk); err != nil {
			return err
		}
	case m.Type == "tmpfs":
		source = "tmpfs"
	case m.Tag == "":
		return invalid("the mount at %s has neither disk nor tag", target)
	}
	flags, data := options(m)
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(source, target, m.Type, flags, data); err != nil {
		return fmt.Errorf("mount %s (%s) at %s: %w", source, m.Type, target, err)
	}
	if m.Grow {
		if err := grow(target, source); err != nil {
			return fmt.Errorf("resize %s: %w", source, err)
		}
	}
	for _, d := range m.Dirs {
		if err := os.MkdirAll(filepath.Join(target, filepath.Clean("/"+d)), 0o755); err != nil {
			return err
		}
	}
	return nil
}

func options(m *guestapi.Mount) (flags uintptr, data string) {
	var rest []string
	for _, o := range m.Options {
		if f, ok := mountFlags[o]; ok {
			flags |= f
		} else if o != "" {
			rest = append(rest, o)
		}
	}
	if m.ReadOnly {
		flags |= unix.MS_RDONLY
	}
	return flags, strings.Join(rest, ",")
}

// extResize is EXT4_IOC_RESIZE_FS: _IOW('f', 16, __u64).
const extResize = 0x40086610

// grow makes an ext4 as large as its disk, which may have grown since it was
// made.
func grow(target, disk string) error {
	text, err := os.ReadFile("/sys/class/block/" + filepath.Base(disk) + "/size")
	if err != nil {
		return err
	}
	var sectors uint64
	if _, err := fmt.Sscan(string(text), &sectors); err != nil {
		return err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(target, &st); err != nil || st.Bsize <= 0 {
		return err
	}
	blocks := sectors * 512 / uint64(st.Bsize)
	if blocks <= st.Blocks { // Blocks leaves out what the file system needs itself
		return nil
	}
	dir, err := os.Open(target)
	if err != nil {
		return err
	}
	defer dir.Close()
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, dir.Fd(), extResize, uintptr(unsafe.Pointer(&blocks)))
	if errno != 0 {
		return errno
	}
	return nil
}

// mountOverlay mounts a stopped instance's root at RootDir.
func mountOverlay(o *guestapi.Overlay) error {
	if err := os.MkdirAll(guestapi.RootDir, 0o755); err != nil {
		return err
	}
	if len(o.Lower) == 0 {
		return invalid("the root has no layers")
	}
	// mount(2) and not fsconfig(2), whose strings end at 255 bytes. The options
	// are those of the runtime's overlays.
	data := "redirect_dir=nofollow,metacopy=off,index=off,lowerdir=" + strings.Join(o.Lower, ":")
	switch {
	case o.Upper != "":
		data += ",upperdir=" + o.Upper + ",workdir=" + o.Work
	case len(o.Lower) == 1: // an overlay needs two
		if err := unix.Mount(o.Lower[0], guestapi.RootDir, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount root: %w", err)
		}
		return nil
	}
	if err := unix.Mount("overlay", guestapi.RootDir, "overlay", 0, data); err != nil {
		return fmt.Errorf("mount overlay of %d layers: %w", len(o.Lower), err)
	}
	return nil
}

func (a *Agent) unmount(c *call) error {
	path, err := below(c.req.Path)
	if err != nil {
		return err
	}
	if err := unix.Unmount(path, unix.UMOUNT_NOFOLLOW); err != nil {
		if err == unix.EINVAL || err == unix.ENOENT {
			return failed(guestapi.KindNotFound, "nothing is mounted at %s", path)
		}
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	return c.reply(guestapi.Reply{})
}

// unmountAll lets go of the disks, the latest mount first; what is still in use is
// made read-only, which writes it out as well.
func (a *Agent) unmountAll() {
	b := a.booted()
	if b == nil {
		return
	}
	if b.Root != nil {
		_ = unix.Unmount(guestapi.RootDir, 0)
	}
	for i := len(b.Mounts) - 1; i >= 0; i-- {
		m := &b.Mounts[i]
		if m.ReadOnly {
			continue
		}
		if unix.Unmount(m.Target, 0) != nil && m.Disk != "" {
			_ = unix.Mount("", m.Target, "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
		}
	}
}

// fstrimRange is struct fstrim_range of FITRIM.
type fstrimRange struct{ start, length, minimum uint64 }

// fitrim is FITRIM: _IOWR('X', 121, struct fstrim_range).
const fitrim = 0xc0185879

// trim gives the free blocks of the writable disk back to the host.
func (a *Agent) trim(c *call) error {
	dir, err := os.Open(guestapi.WritableAt)
	if err != nil {
		return err
	}
	defer dir.Close()
	r := fstrimRange{length: 1<<64 - 1}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, dir.Fd(), fitrim, uintptr(unsafe.Pointer(&r))); errno != 0 {
		return fmt.Errorf("trim %s: %w", guestapi.WritableAt, errno)
	}
	return c.reply(guestapi.Reply{Freed: r.length})
}
