package monitor

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"wharf/api/monitorapi"
	"wharf/internal/undo"
)

// pipes makes the stdio of a process without a terminal: our ends in s, the
// process's in f (the caller closes them after the start). owner is the host
// id of the container's root: who owns a pipe may open it again by
// /dev/stdout.
func (s *streams) pipes(openStdin bool, owner uint32) (f Files, err error) {
	var u undo.Stack
	defer u.OnError(&err)
	pair := func(name string, oursReads bool) (ours, theirs *os.File, err error) {
		var p [2]int
		if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
			return nil, nil, os.NewSyscallError("pipe2", err)
		}
		mine, other := p[0], p[1]
		if !oursReads {
			mine, other = p[1], p[0]
		}
		theirs = os.NewFile(uintptr(other), name)
		u.Push(theirs.Close)
		if ours, err = polled(mine, name); err != nil {
			_ = unix.Close(mine)
			return nil, nil, err
		}
		u.Push(ours.Close)
		if owner != 0 {
			if err := unix.Fchown(other, int(owner), int(owner)); err != nil {
				return nil, nil, os.NewSyscallError("fchown", err)
			}
		}
		return ours, theirs, nil
	}
	if openStdin {
		if s.stdin, f.Stdin, err = pair("stdin", false); err != nil {
			return f, err
		}
	}
	if s.stdout, f.Stdout, err = pair("stdout", true); err != nil {
		return f, err
	}
	s.stderr, f.Stderr, err = pair("stderr", true)
	return f, err
}

// terminal takes the master side of the process's terminal.
func (s *streams) terminal(p Process) error {
	if r, ok := p.(Remote); ok {
		s.size = r.Resize
	}
	master := p.Console()
	if master == nil {
		return fmt.Errorf("the runtime made no terminal")
	}
	fd, err := unix.FcntlInt(master.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	_ = master.Close()
	f, err := polled(fd, "terminal")
	if err != nil {
		_ = unix.Close(fd)
		return err
	}
	s.tty, s.stdin, s.stdout = true, f, f
	return nil
}

// closeStdio closes the process's ends.
func (f Files) closeStdio() {
	for _, x := range []*os.File{f.Stdin, f.Stdout, f.Stderr} {
		if x != nil {
			_ = x.Close()
		}
	}
}

// resize sets the terminal's size.
func (s *streams) resize(w monitorapi.WinSize) error {
	if !s.tty {
		return failed(monitorapi.KindInvalid, "the process has no terminal to resize")
	}
	if w.Height > 0xffff || w.Width > 0xffff {
		return failed(monitorapi.KindInvalid, fmt.Sprintf("terminal size %dx%d is out of range", w.Height, w.Width))
	}
	if s.size != nil {
		return s.size(w)
	}
	rc, err := s.stdout.SyscallConn()
	if err != nil {
		return err
	}
	var ierr error
	err = rc.Control(func(fd uintptr) {
		ierr = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(w.Height), Col: uint16(w.Width)})
	})
	if err == nil {
		err = ierr
	}
	return err
}

// shut closes our ends. A pump that still reads (a descendant of an ended
// process holds the pipe) ends by it.
func (s *streams) shut() {
	s.once.Do(func() {
		if s.stdin != nil {
			_ = s.stdin.Close()
		}
	})
	if s.stdout != nil {
		_ = s.stdout.Close()
	}
	if s.stderr != nil {
		_ = s.stderr.Close()
	}
}
