package runtime

import (
	"errors"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// initName is argv[0] of the container's init (--init): a process 1 that
// forwards signals to the image's program and reaps orphans. It is a Go
// program (GOMAXPROCS=1, no collector) of some threads, which count in
// the container's limit of processes. docs/decisions/init.md says why it waits
// for children and not for SIGCHLD.
const initName = "wharf-init"

// InitThreads is how much of a limit of processes an init may take: seven
// mostly, more where it was interrupted while it started.
const InitThreads = 11

// initEnv stands before the user's environment, in which the Go runtime looks
// for its settings; the first one counts.
var initEnv = []string{"GOMAXPROCS=1", "GOGC=off"}

func isInit() bool { return len(os.Args) >= 4 && os.Args[0] == initName }

type sigset [1]uint64

const sigsetSize = 8

// initMain: wharf-init SOCKET PROGRAM ARGV0 ARG...
func initMain() {
	sock, err := strconv.Atoi(os.Args[1])
	if err != nil {
		os.Exit(1)
	}
	if sock >= 0 {
		unix.CloseOnExec(sock)
	}
	signals := make(chan os.Signal, 64)
	signal.Notify(signals)
	warmThreads()
	pid, err := startChild(os.Args[2], os.Args[3:])
	if err != nil {
		e := execError(os.Args[2], err)
		if sock < 0 || sendFrame(sock, frameError, encodeError(e)) != nil {
			_, _ = os.Stderr.WriteString(e.Error() + "\n")
		}
		os.Exit(126)
	}
	_ = unix.CloseRange(3, ^uint(0)>>1, 0) // the socket too: that is the word that it runs
	go forward(signals, pid)
	for {
		reap1(pid)
	}
}

// warmThreads makes the threads that this process will need. Later there may
// be no room: the program may use up the container's limit of processes, and a
// Go program that needs a thread and cannot make one dies, here with the whole
// container.
func warmThreads() {
	const spare = 2
	var up, free, down sync.WaitGroup
	up.Add(spare)
	free.Add(1)
	for range spare {
		down.Go(func() {
			runtime.LockOSThread() // while it waits, this thread runs nothing else
			up.Done()
			free.Wait()
			runtime.UnlockOSThread() // idle from here on, and kept
		})
	}
	up.Wait()
	free.Done()
	down.Wait()
}

// forward passes every signal to the program.
func forward(signals <-chan os.Signal, pid int) {
	for sig := range signals {
		switch sig {
		case unix.SIGCHLD, unix.SIGTTIN, unix.SIGTTOU, unix.SIGURG: // the last is the Go runtime's own
		default:
			_ = unix.Kill(pid, sig.(unix.Signal))
		}
	}
}

// startChild forks the image's program, in a process group of its own, which
// gets the terminal. When it returns, execve has happened or failed.
func startChild(path string, args []string) (int, error) {
	p := program{}
	none, stop := new(sigset), new(sigset)
	stop[0] = 1<<(unix.SIGTTOU-1) | 1<<(unix.SIGTTIN-1)
	group := new(uint64)
	p.keep = append(p.keep, none, stop, group)
	p.after = []call{{nr: unix.SYS_SETPGID, name: "setpgid"}}
	if _, err := unix.IoctlGetTermios(0, unix.TCGETS); err == nil {
		p.after = append(p.after,
			call{nr: unix.SYS_GETPID, name: "getpid"},
			// Out of the terminal's group, taking the terminal would stop us.
			call{nr: unix.SYS_RT_SIGPROCMASK, a: [6]uintptr{unix.SIG_BLOCK, uintptr(unsafe.Pointer(stop)), 0, sigsetSize}, name: "sigprocmask"},
			call{nr: unix.SYS_IOCTL, a: [6]uintptr{0, unix.TIOCSPGRP, uintptr(unsafe.Pointer(group))}, name: "tcsetpgrp", keep: true, store: group, from: 2})
	}
	env := os.Environ()
	env = env[min(len(initEnv), len(env)):]
	p.after = append(p.after,
		call{nr: unix.SYS_RT_SIGPROCMASK, a: [6]uintptr{unix.SIG_SETMASK, uintptr(unsafe.Pointer(none)), 0, sigsetSize}, name: "sigprocmask"},
		call{nr: unix.SYS_EXECVE, a: [6]uintptr{p.ptr(path), p.ptrs(args), p.ptrs(env)}, name: "execve"})
	pid, failed, err := p.fork()
	if err != nil {
		return 0, err
	}
	if err := failed(); err != nil {
		reap(pid)
		return 0, errors.Unwrap(err)
	}
	return pid, nil
}

// reap1 waits for the next child that ends; when it is the program, init ends
// too, with its code.
func reap1(pid int) {
	var ws unix.WaitStatus
	got, err := unix.Wait4(-1, &ws, 0, nil)
	if err != nil || got != pid || !(ws.Exited() || ws.Signaled()) {
		return
	}
	if ws.Signaled() {
		os.Exit(128 + int(ws.Signal()))
	}
	os.Exit(ws.ExitStatus())
}
