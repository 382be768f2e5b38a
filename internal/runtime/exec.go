package runtime

import (
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"
)

// Exec makes a further process in all namespaces of target, up to execve.
// target is a pid that the caller knows to be alive (it holds its pidfd).
func Exec(target int, p *PreparedExec, io Files) (_ *Process, err error) {
	if p.Terminal {
		io.Stdin, io.Stdout, io.Stderr = nil, nil, nil
	}
	pidfd, err := unix.PidfdOpen(target, 0)
	if err != nil {
		return nil, fmt.Errorf("exec in process %d: %w", target, err)
	}
	defer unix.Close(pidfd)
	l, err := newLaunch(&io)
	if err != nil {
		return nil, err
	}
	defer l.close()
	if err := l.enter(p.Cgroups); err != nil {
		return nil, err
	}
	root := -1
	if p.Chroot {
		if root, err = unix.Open("/proc/"+strconv.Itoa(target)+"/root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
			return nil, fmt.Errorf("root of process %d: %w", target, err)
		}
		defer unix.Close(root)
		if unix.PidfdSendSignal(pidfd, 0, nil, 0) != nil { // else it may be another's root
			return nil, fmt.Errorf("exec in process %d: %w", target, unix.ESRCH)
		}
		l.inherit(root)
	}
	joinAll(&l.program, target, pidfd)
	proc, err := l.start()
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = proc.Close()
		}
	}()
	if err := feedExec(proc, p, root, &io); err != nil {
		return nil, err
	}
	return proc, nil
}

// joinAll joins every namespace of the target at once; the kernel checks the
// others with the rights that the user namespace gives. Joining the user
// namespace that one is already in is refused.
func joinAll(p *program, target, pidfd int) {
	ns := "/proc/" + strconv.Itoa(target) + "/ns/"
	flags := uintptr(unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS)
	mapped := !sameNamespace(ns+"user", "user")
	if mapped {
		flags |= unix.CLONE_NEWUSER
	}
	for _, kind := range []string{"cgroup", "time"} { // may not be in this kernel, or not differ
		if !sameNamespace(ns+kind, kind) && exists(ns+kind) {
			flags |= cloneFlags[kind]
			p.copied = p.copied || kind == "time" // as in creation.program
		}
	}
	p.before = append(p.before, call{nr: unix.SYS_SETNS, a: [6]uintptr{uintptr(pidfd), flags}, name: "join namespaces"})
	if mapped {
		p.before = append(p.before, becomeRoot()...)
	}
}

func exists(path string) bool { return unix.Access(path, unix.F_OK) == nil }

func feedExec(proc *Process, p *PreparedExec, root int, io *Files) error {
	if err := sendFrame(proc.sock, frameConfig, configPayload(root, io, nil, p.Stage)); err != nil {
		return proc.lost(err)
	}
	err := proc.serve(func(kind byte, _ []byte, fds []int) error {
		if kind == frameListener {
			return sendListener(p.SeccompListener, "", p.SeccompListenerMetadata, proc.Pid, fds)
		}
		return fmt.Errorf("unexpected message %q from the stage", kind)
	})
	if err != nil {
		return err
	}
	warnings, err := settle(proc, p.Rlimits, p.OOMScoreAdj, p.ConsoleSize)
	proc.Warnings = append(append([]string{}, p.Warnings...), append(proc.Warnings, warnings...)...)
	return err
}
