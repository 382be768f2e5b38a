package monitor

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Signals that end or stop a process and that somebody may send to "all of
// wharf" without meaning the containers.
var (
	// kept are those whose being ignored the Go runtime of the next program
	// respects, so that it would reach the container: see ResetSignals.
	kept = []unix.Signal{unix.SIGHUP, unix.SIGINT}
	// retaken are those that the init and exec stages, Go programs, take over
	// in any case, and that are at their default again in the container.
	retaken = []unix.Signal{unix.SIGTERM, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGPIPE, unix.SIGALRM}
)

const (
	sigDfl = 0
	sigIgn = 1
)

// sigaction is the kernel's struct (rt_sigaction(2)), the same on amd64 and
// arm64.
type sigaction struct {
	handler  uintptr
	flags    uint64
	restorer uintptr
	mask     uint64
}

// set gives signals a disposition. os/signal would do it too, but with a
// goroutine and two threads, 40 KiB in every monitor.
func set(handler uintptr, signals []unix.Signal) {
	sa := sigaction{handler: handler}
	for _, s := range signals {
		_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(s), uintptr(unsafe.Pointer(&sa)), 0, unsafe.Sizeof(sa.mask), 0, 0)
	}
}

// ResetSignals undoes for a stage what the monitor ignores, and for the
// monitor what a daemon started by nohup(1) ignored. It is called first in
// main.
func ResetSignals() { set(sigDfl, kept) }

func ignoreSignals() {
	set(sigIgn, kept)
	set(sigIgn, retaken)
}
