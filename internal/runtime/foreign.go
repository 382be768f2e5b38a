package runtime

import (
	"errors"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// inContainer takes "/proc/PID/root/dev/shm" apart: a path in the mount
// namespace of another container's process.
func inContainer(source string) (pid, path string, ok bool) {
	rest, ok := strings.CutPrefix(source, "/proc/")
	if !ok {
		return "", "", false
	}
	pid, path, ok = strings.Cut(rest, "/root/")
	if !ok || pid == "" || strings.Trim(pid, "0123456789") != "" {
		return "", "", false
	}
	return pid, "/" + path, true
}

// openTreeIn clones a mount of pid's mount namespace. open_tree(2) clones only
// what is in the caller's namespace (EINVAL otherwise), so the thread goes
// there and comes back. A thread that cannot come back ends with its
// goroutine.
func openTreeIn(pid, path string, flags uint) (fd int, err error) {
	there, err := os.Open("/proc/" + pid + "/ns/mnt")
	if err != nil {
		return -1, err
	}
	defer there.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		var back *os.File
		if back, err = os.Open("/proc/thread-self/ns/mnt"); err != nil {
			runtime.UnlockOSThread()
			return
		}
		defer back.Close()
		// setns(2): a mount namespace cannot be changed while the root and
		// working directory are shared with other threads.
		if err = unix.Unshare(unix.CLONE_FS); err != nil {
			runtime.UnlockOSThread()
			return
		}
		if err = unix.Setns(int(there.Fd()), unix.CLONE_NEWNS); err != nil {
			runtime.UnlockOSThread()
			return
		}
		fd, err = unix.OpenTree(unix.AT_FDCWD, path, flags)
		if home := unix.Setns(int(back.Fd()), unix.CLONE_NEWNS); home != nil {
			err = errors.Join(err, home)
			return
		}
		runtime.UnlockOSThread()
	}()
	<-done
	if err != nil {
		return -1, err
	}
	return fd, nil
}
