package runtime

import (
	"fmt"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// overlayWay is the first of the three ways of overlay that this kernel knows;
// it logs each option that it does not. detached: layers are on mounts that
// are attached nowhere.
func overlayWay(detached bool) int {
	switch v := kernelVersion(); {
	case v < version(6, 8): // no "lowerdir+"
		return 2
	case v < version(6, 15) && detached:
		return 1
	}
	return 0
}

// kernelVersion is that of the running kernel; one that cannot be read counts
// as new.
var kernelVersion = sync.OnceValue(func() int {
	var u unix.Utsname
	var major, minor int
	if unix.Uname(&u) != nil {
		return version(99, 0)
	}
	if n, _ := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor); n != 2 {
		return version(99, 0)
	}
	return version(major, minor)
})

func version(major, minor int) int { return major<<16 | minor }

// atFDs runs f on a thread of its own whose working directory is
// /proc/self/fd, and with clones in a mount namespace of its own in which
// these are attached: overlay takes no layer from a mount that is attached
// nowhere before Linux 6.15. The thread ends with it, and its namespace with
// the thread; the overlay has copies of the mounts that it needs.
func atFDs(clones []int, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked
		err := standAtFDs(clones)
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

func standAtFDs(clones []int) error {
	flags := unix.CLONE_FS
	if len(clones) > 0 {
		flags |= unix.CLONE_NEWNS
	}
	if err := unix.Unshare(flags); err != nil {
		return fmt.Errorf("a mount namespace to make the overlay in: %w", err)
	}
	if err := unix.Chdir("/proc/thread-self/fd"); err != nil {
		return err
	}
	if len(clones) == 0 {
		return nil
	}
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("make / private: %w", err)
	}
	for _, fd := range clones { // on top of the root: who stands in it does not see them
		// The next one lies on this one, and would come out on the host where
		// this one is a peer of a shared mount.
		if err := setAttr(fd, 0, 0, unix.MS_PRIVATE, 0); err != nil {
			return fmt.Errorf("make layers private: %w", err)
		}
		if err := unix.MoveMount(fd, "", unix.AT_FDCWD, "/", unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return fmt.Errorf("attach layers: %w", err)
		}
	}
	return nil
}
