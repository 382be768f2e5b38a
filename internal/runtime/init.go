package runtime

import (
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// initName is argv[0] of the container's init (--init): a process 1 that
// forwards signals to the image's program and reaps orphans.
const initName = "wharf-init"

func isInit() bool { return len(os.Args) >= 4 && os.Args[0] == initName }

// initMain: wharf-init SOCKET PROGRAM ARGV0 ARG...
func initMain() {
	runtime.GOMAXPROCS(1)
	sock, err := strconv.Atoi(os.Args[1])
	if err != nil {
		os.Exit(1)
	}
	unix.CloseOnExec(sock)
	signals := make(chan os.Signal, 64)
	signal.Notify(signals)
	attr := &syscall.SysProcAttr{Setpgid: true}
	if _, err := unix.IoctlGetTermios(0, unix.TCGETS); err == nil {
		signal.Ignore(syscall.SIGTTIN, syscall.SIGTTOU)
		attr.Foreground, attr.Ctty = true, 0
	}
	pid, err := syscall.ForkExec(os.Args[2], os.Args[3:], &syscall.ProcAttr{
		Env: os.Environ(), Files: inheritedFiles(sock), Sys: attr,
	})
	if err != nil {
		e := execError(os.Args[2], err)
		_ = sendFrame(sock, frameError, encodeError(e))
		os.Exit(126)
	}
	_ = unix.Close(sock)
	for i := 3; i < sock; i++ {
		_ = unix.Close(i)
	}
	for sig := range signals {
		switch sig {
		case syscall.SIGCHLD:
			reapAll(pid)
		case syscall.SIGURG: // the Go runtime's own
		case syscall.SIGTTIN, syscall.SIGTTOU:
		default:
			if s, ok := sig.(syscall.Signal); ok {
				_ = syscall.Kill(pid, s)
			}
		}
	}
}

// inheritedFiles are the descriptors below the socket, which was moved above
// all that the program shall get.
func inheritedFiles(sock int) []uintptr {
	files := []uintptr{0, 1, 2}
	for fd := 3; fd < sock; fd++ {
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err != nil || flags&unix.FD_CLOEXEC != 0 {
			break
		}
		files = append(files, uintptr(fd))
	}
	return files
}

// reapAll takes every child that ended; when the program has, so does init,
// with its code.
func reapAll(pid int) {
	for {
		var ws unix.WaitStatus
		got, err := unix.Wait4(-1, &ws, unix.WNOHANG, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil || got <= 0 {
			return
		}
		if got != pid || !(ws.Exited() || ws.Signaled()) {
			continue
		}
		if ws.Signaled() {
			os.Exit(128 + int(ws.Signal()))
		}
		os.Exit(ws.ExitStatus())
	}
}
