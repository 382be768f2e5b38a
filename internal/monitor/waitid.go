package monitor

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// waitid reaps the process of a pidfd that is in non-blocking mode: EAGAIN
// while it runs (waitid(2), Linux 5.10).
func waitid(fd int, info *siginfo) error {
	_, _, e := unix.Syscall6(unix.SYS_WAITID, unix.P_PIDFD, uintptr(fd),
		uintptr(unsafe.Pointer(info)), unix.WEXITED|unix.WALL, 0, 0)
	if e != 0 {
		return e
	}
	return nil
}
