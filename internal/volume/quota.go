package volume

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	"golang.org/x/sys/unix"

	"wharf/internal/model"
)

// Project quotas (quotactl(2), ioctl_xfs_fsgetxattr(2)): a directory's project
// number is inherited by all that is made in it, and the file system bounds
// the blocks of a project. Who has CAP_SYS_RESOURCE on the host is not held by
// the bound on ext4: containers with a user namespace of their own are.
const (
	prjQuota    = 2
	qSetQuota   = 0x800008
	qGetQuota   = 0x800007
	qXGetQStat  = 'X'<<8 + 5
	qifBLimits  = 1
	prjEnforced = 1 << 5 // FS_QUOTA_PDQ_ENFD

	fsIocGetXattr = 0x801c581f // FS_IOC_FSGETXATTR
	fsIocSetXattr = 0x401c5820 // FS_IOC_FSSETXATTR
	projInherit   = 0x200      // FS_XFLAG_PROJINHERIT

	// firstProject keeps clear of numbers that people give by hand.
	firstProject = 0x57480000
)

// fsxattr is struct fsxattr of linux/fs.h.
type fsxattr struct {
	xflags, extsize, nextents, projid, cowextsize uint32
	pad                                           [8]byte
}

// dqblk is struct if_dqblk of linux/quota.h. Block limits count 1 KiB.
type dqblk struct {
	bhard, bsoft, space, ihard, isoft, inodes, btime, itime uint64
	valid                                                   uint32
	_                                                       uint32
}

func quotactl(fd, cmd int, id uint32, p unsafe.Pointer) error {
	_, _, e := unix.Syscall6(unix.SYS_QUOTACTL_FD, uintptr(fd), uintptr(cmd<<8|prjQuota), uintptr(id), uintptr(p), 0, 0)
	if e != 0 {
		return e
	}
	return nil
}

func xattrIoctl(fd int, req uint, x *fsxattr) error {
	_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(req), uintptr(unsafe.Pointer(x)))
	if e != 0 {
		return e
	}
	return nil
}

// parseSize reads the option size.
func parseSize(s string) (int64, error) {
	n, err := units.RAMInBytes(s)
	if err != nil || n < 64<<10 {
		return 0, model.Refuse(errdefs.ErrInvalidArgument, "invalid size %q: give at least 64k, such as 512m or 10g", s)
	}
	return n, nil
}

// canLimit says whether the file system of dir enforces project quotas; the
// error names the remedy.
func canLimit(dir string) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(fd)
	var stat [128]byte // struct fs_quota_stat: its flags are at 2
	err = quotactl(fd, qXGetQStat, 0, unsafe.Pointer(&stat))
	if err == nil && *(*uint16)(unsafe.Pointer(&stat[2]))&prjEnforced != 0 {
		return nil
	}
	why := "project quotas are not turned on there"
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EOPNOTSUPP) {
		why = "kernel or file system have no project quotas"
	}
	fsName, remedy := remedy(fd)
	return model.Refuse(errdefs.ErrInvalidArgument, "option size: the file system of %s (%s) cannot limit a volume's size: %s; %s, or use a volume with type=tmpfs and o=size=..., or a device of that size",
		dir, fsName, why, remedy)
}

func remedy(fd int) (fsName, remedy string) {
	var st unix.Statfs_t
	_ = unix.Fstatfs(fd, &st)
	switch uint32(st.Type) {
	case unix.EXT4_SUPER_MAGIC:
		return "ext4", "unmount it, run `tune2fs -O project,quota DEVICE` and mount it with -o prjquota"
	case unix.XFS_SUPER_MAGIC:
		return "xfs", "mount it with -o prjquota (for the root file system: rootflags=prjquota)"
	case unix.BTRFS_SUPER_MAGIC:
		return "btrfs", "put the data root on ext4 or xfs with project quotas"
	}
	return fmt.Sprintf("type %#x", uint32(st.Type)), "put the data root on ext4 or xfs with project quotas"
}

// limit gives a directory, which has to be empty, a project of its own and
// that a bound. taken reports numbers that are in use.
func limit(dir string, size int64, taken func(uint32) bool) error {
	if err := canLimit(filepath.Dir(filepath.Dir(dir))); err != nil {
		return err
	}
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(fd)
	id := uint32(firstProject)
	for ; ; id++ {
		if taken(id) {
			continue
		}
		var q dqblk
		err := quotactl(fd, qGetQuota, id, unsafe.Pointer(&q))
		if errors.Is(err, unix.ENOENT) || err == nil && q.bhard == 0 && q.space == 0 && q.inodes == 0 {
			break
		}
		if err != nil {
			return fmt.Errorf("project quota %d: %w", id, err)
		}
	}
	var x fsxattr
	if err := xattrIoctl(fd, fsIocGetXattr, &x); err != nil {
		return fmt.Errorf("read the project of %s: %w", dir, err)
	}
	x.projid, x.xflags = id, x.xflags|projInherit
	if err := xattrIoctl(fd, fsIocSetXattr, &x); err != nil {
		return fmt.Errorf("set the project of %s: %w", dir, err)
	}
	q := dqblk{bhard: uint64(size+1023) / 1024, bsoft: uint64(size+1023) / 1024, valid: qifBLimits}
	if err := quotactl(fd, qSetQuota, id, unsafe.Pointer(&q)); err != nil {
		return fmt.Errorf("limit project %d: %w", id, err)
	}
	return nil
}

// project is the number of a directory; 0 for none.
func project(dir string) uint32 {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0
	}
	defer unix.Close(fd)
	var x fsxattr
	if xattrIoctl(fd, fsIocGetXattr, &x) != nil || x.xflags&projInherit == 0 {
		return 0
	}
	return x.projid
}

// unlimit takes a project's bound off, when nothing has its number any more.
func unlimit(dir string, id uint32) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil || id < firstProject {
		return
	}
	defer unix.Close(fd)
	q := dqblk{valid: qifBLimits}
	_ = quotactl(fd, qSetQuota, id, unsafe.Pointer(&q)) // left behind, the number is not used again
}

// bound gives the data directory of a new volume the size that its options
// say. The directories of volumes and of the trash keep their numbers.
func (r *Room) bound(opts map[string]string, data string) error {
	text, ok := opts["size"]
	if !ok || opts["type"] == typeBlock { // a disk is as large as it is
		return nil
	}
	size, err := parseSize(text)
	if err != nil {
		return err
	}
	r.projects.Lock()
	defer r.projects.Unlock()
	dirs, err := os.ReadDir(r.opts.Dir)
	if err != nil {
		return err
	}
	used := map[uint32]bool{}
	for _, d := range dirs {
		used[project(r.opts.Dir+"/"+d.Name()+"/_data")] = true
	}
	return limit(data, size, func(id uint32) bool { return used[id] })
}

// full explains a copy that the volume's own bound has ended.
func full(err error, opts map[string]string) error {
	if errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.ENOSPC) && strings.TrimSpace(opts["size"]) != "" {
		return model.Refuse(errdefs.ErrInvalidArgument, "the volume's size of %s is too small for the data: %w", opts["size"], err)
	}
	return err
}
