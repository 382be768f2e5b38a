package monitor

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// deaf are the signals that end or stop a process and that somebody may send to
// "all of wharf" without meaning the containers. The stage puts them back to
// their default before it executes the container's program.
var deaf = []unix.Signal{
	unix.SIGHUP, unix.SIGINT, unix.SIGTERM, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGPIPE, unix.SIGALRM,
}

const sigIgn = 1

// sigaction is the kernel's struct (rt_sigaction(2)), the same on amd64 and
// arm64.
type sigaction struct {
	handler  uintptr
	flags    uint64
	restorer uintptr
	mask     uint64
}

// ignoreSignals: os/signal would do it too, but with a goroutine and two
// threads, 40 KiB in every monitor.
func ignoreSignals() {
	sa := sigaction{handler: sigIgn}
	for _, s := range deaf {
		_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(s), uintptr(unsafe.Pointer(&sa)), 0, unsafe.Sizeof(sa.mask), 0, 0)
	}
}
