package runtime

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// rootMountID names a mount for as long as the machine is up (before Linux 6.8:
// as long as the mount is).
func rootMountID(fd int, path string) uint64 {
	var st unix.Statx_t
	err := unix.Statx(fd, path, unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW|unix.AT_STATX_DONT_SYNC,
		unix.STATX_MNT_ID|unix.STATX_MNT_ID_UNIQUE, &st)
	if err != nil || st.Mask&(unix.STATX_MNT_ID|unix.STATX_MNT_ID_UNIQUE) == 0 {
		return 0
	}
	return st.Mnt_id
}

// DropRoot takes the root of a container that had no mount namespace of its
// own, and all that is mounted in it, out of the host's tree: what Create put
// at Prepared.HostRoot under the id that Process.RootMount says. Nothing
// happens where something else is mounted.
func DropRoot(path string, id uint64) error {
	if id == 0 || rootMountID(unix.AT_FDCWD, path) != id {
		return nil
	}
	if err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	return nil
}
