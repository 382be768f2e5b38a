package runtime

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// execute is the last stretch: give everything up, become the program. Only
// raw system calls of this thread, because limits on processes may keep the
// Go runtime from starting another one.
func (s *stage) execute() error {
	if err := s.startHooks(); err != nil {
		return err
	}
	if err := s.labels(); err != nil {
		return err
	}
	if u := s.Stage.User.Umask; u != nil {
		unix.Umask(int(*u))
	} else {
		unix.Umask(0o022)
	}
	exe := -1
	if s.Init {
		var err error
		if exe, err = s.openProcAt("self/exe", unix.O_PATH); err != nil {
			return err
		}
	}
	if err := s.descriptors(&exe); err != nil {
		return err
	}
	if s.NoNewPrivs {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("no_new_privs: %w", err)
		}
	}
	cwdErr := s.chdir()
	if cwdErr == errOutside {
		return s.cwdError(cwdErr)
	}
	if err := s.dropBounding(); err != nil {
		return err
	}
	if !s.NoNewPrivs {
		if err := s.seccomp(); err != nil { // needs CAP_SYS_ADMIN, so before it goes
			return err
		}
	}
	if err := s.become(); err != nil {
		return err
	}
	if cwdErr != nil {
		if cwdErr = s.chdir(); cwdErr != nil {
			return s.cwdError(cwdErr)
		}
	}
	if s.NoNewPrivs {
		if err := s.seccomp(); err != nil {
			return err
		}
	}
	return s.execve(exe)
}

// startHooks runs the startContainer hooks inside the container, with the
// program's own environment where they name none, as runc has it.
func (s *stage) startHooks() error {
	if len(s.StartHooks) == 0 {
		return nil
	}
	if err := s.seccompEarly(); err != nil { // they are of the container
		return err
	}
	for i := range s.StartHooks {
		if s.StartHooks[i].Env == nil {
			s.StartHooks[i].Env = s.Env
		}
	}
	return runHooks("startContainer", s.StartHooks, *s.HookState)
}

// streams makes a session and puts the terminal in place.
func (s *stage) streams() error {
	if _, err := unix.Setsid(); err != nil && err != unix.EPERM {
		return fmt.Errorf("setsid: %w", err)
	}
	if !s.Terminal {
		s.ownStreams()
		return nil
	}
	if err := unix.IoctlSetInt(s.console, unix.TIOCSCTTY, 0); err != nil {
		return fmt.Errorf("controlling terminal: %w", err)
	}
	for i := 0; i < 3; i++ {
		if err := unix.Dup3(s.console, i, 0); err != nil {
			return fmt.Errorf("terminal as stream %d: %w", i, err)
		}
	}
	return nil
}

// ownStreams gives pipes to the user, so that it may open /dev/stdout. The
// caller has given them to the container's root before.
func (s *stage) ownStreams() {
	for fd := 0; fd < 3; fd++ {
		var st unix.Stat_t
		if unix.Fstat(fd, &st) != nil || st.Uid == s.user.uid {
			continue
		}
		if kind := st.Mode & unix.S_IFMT; kind == unix.S_IFIFO || kind == unix.S_IFSOCK {
			_ = unix.Fchown(fd, int(s.user.uid), int(s.user.gid))
		}
	}
}

// descriptors puts the extra ones at 3, 4, ... and lets execve close all
// others, whatever they are.
func (s *stage) descriptors(exe *int) error {
	first := 3 + len(s.extra)
	move := func(fd *int) error {
		if *fd < 0 || *fd >= first {
			return nil
		}
		up, err := unix.FcntlInt(uintptr(*fd), unix.F_DUPFD_CLOEXEC, first)
		if err != nil {
			return fmt.Errorf("move descriptor: %w", err)
		}
		*fd = up
		return nil
	}
	all := []*int{&s.sock, exe} // -1 for those that are not there
	for i := range s.extra {
		all = append(all, &s.extra[i])
	}
	for _, fd := range all {
		if err := move(fd); err != nil {
			return err
		}
	}
	for i, fd := range s.extra {
		if err := unix.Dup3(fd, 3+i, 0); err != nil {
			return fmt.Errorf("extra descriptor %d: %w", 3+i, err)
		}
	}
	if err := unix.CloseRange(uint(first), math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return s.closeOnExec(first)
	}
	return nil
}

// closeOnExec is for kernels without close_range (before 5.11).
func (s *stage) closeOnExec(first int) error {
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		return err
	}
	for fd := first; fd < int(min(lim.Max, 1<<20)); fd++ {
		unix.CloseOnExec(fd)
	}
	return nil
}

func (s *stage) dropBounding() error {
	var keep uint64
	if s.Stage.Caps != nil {
		keep = s.Stage.Caps.Bounding
	}
	for c := 0; c < 64; c++ {
		if keep&(1<<c) != 0 {
			continue
		}
		_, _, e := unix.RawSyscall6(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0, 0)
		if e == unix.EINVAL {
			return nil // past the last one
		}
		if e != 0 {
			return fmt.Errorf("drop capability %d: %w", c, e)
		}
	}
	return nil
}

// become takes the user's ids, then the capabilities.
func (s *stage) become() error {
	if _, _, e := unix.RawSyscall(unix.SYS_PRCTL, unix.PR_SET_KEEPCAPS, 1, 0); e != 0 {
		return fmt.Errorf("keep capabilities: %w", e)
	}
	if err := s.setGroups(); err != nil {
		return err
	}
	gid, uid := uintptr(s.user.gid), uintptr(s.user.uid)
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESGID, gid, gid, gid); e != 0 {
		return &ExecError{Code: 128, Msg: fmt.Sprintf("group id %d: %v (is it in the container's range?)", gid, e)}
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, uid, uid, uid); e != 0 {
		return &ExecError{Code: 128, Msg: fmt.Sprintf("user id %d: %v (is it in the container's range?)", uid, e)}
	}
	_, _, _ = unix.RawSyscall(unix.SYS_PRCTL, unix.PR_SET_KEEPCAPS, 0, 0)
	return s.setCaps()
}

func (s *stage) setGroups() error {
	var p uintptr
	if len(s.user.groups) > 0 {
		p = uintptr(unsafe.Pointer(&s.user.groups[0]))
	}
	_, _, e := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(s.user.groups)), p, 0)
	if e == unix.EPERM && len(s.user.groups) == 0 {
		return nil // setgroups is denied in this user namespace, and nothing is lost
	}
	if e != 0 {
		return &ExecError{Code: 128, Msg: fmt.Sprintf("groups %v: %v", s.user.groups, e)}
	}
	return nil
}

func (s *stage) setCaps() error {
	var c Caps
	if s.Stage.Caps != nil {
		c = *s.Stage.Caps
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var have [2]unix.CapUserData
	if _, _, e := unix.RawSyscall(unix.SYS_CAPGET, uintptr(unsafe.Pointer(&hdr)), uintptr(unsafe.Pointer(&have[0])), 0); e != 0 {
		return fmt.Errorf("capget: %w", e)
	}
	// What this machine does not have (CAP_SYS_RESOURCE in some VMs) cannot
	// be given on.
	got := uint64(have[0].Permitted) | uint64(have[1].Permitted)<<32
	eff, perm, inh := c.Effective&got, c.Permitted&got, c.Inheritable&got
	data := [2]unix.CapUserData{
		{Effective: uint32(eff), Permitted: uint32(perm), Inheritable: uint32(inh)},
		{Effective: uint32(eff >> 32), Permitted: uint32(perm >> 32), Inheritable: uint32(inh >> 32)},
	}
	if _, _, e := unix.RawSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&hdr)), uintptr(unsafe.Pointer(&data[0])), 0); e != 0 {
		return fmt.Errorf("capset: %w", e)
	}
	_, _, _ = unix.RawSyscall6(unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0, 0)
	for i := uintptr(0); i < 64; i++ {
		if c.Ambient&perm&inh&(1<<i) == 0 {
			continue
		}
		if _, _, e := unix.RawSyscall6(unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, i, 0, 0, 0); e != 0 {
			return fmt.Errorf("ambient capability %d: %w", i, e)
		}
	}
	return nil
}

type sockFprog struct {
	len    uint16
	filter *byte
}

// seccomp loads the filter into this thread; execve ends the others.
func (s *stage) seccomp() error {
	f := s.Seccomp
	if f == nil || len(f.Filter) == 0 {
		return nil
	}
	prog := sockFprog{len: uint16(len(f.Filter) / 8), filter: &f.Filter[0]}
	flags := f.Flags
	if f.Notify {
		flags |= unix.SECCOMP_FILTER_FLAG_NEW_LISTENER
	}
	r, _, e := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, uintptr(flags), uintptr(unsafe.Pointer(&prog)))
	if e != 0 {
		return fmt.Errorf("load seccomp filter: %w", e)
	}
	if f.Notify {
		err := sendFrame(s.sock, frameListener, nil, int(r))
		_ = unix.Close(int(r))
		return err
	}
	return nil
}

// seccompEarly loads the filter before the rest of what execute does, which it
// has to let through then.
func (s *stage) seccompEarly() error {
	if s.NoNewPrivs {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("no_new_privs: %w", err)
		}
	}
	err := s.seccomp()
	s.Seccomp = nil
	return err
}

// execve is not syscall.Exec: that would set RLIMIT_NOFILE to what it was
// before the Go runtime started, and the caller's side has set the right one.
func (s *stage) execve(exe int) error {
	defaultSignals()
	if s.Init {
		return s.execveInit(exe)
	}
	var p program
	argv, envp := p.ptrs(s.Args), p.ptrs(s.Env)
	path := p.ptr(s.program)
	for try := 0; ; try++ {
		_, _, e := unix.RawSyscall(unix.SYS_EXECVE, path, argv, envp)
		if e == unix.EAGAIN && try < 100 { // a thread of ours was just starting
			continue
		}
		return execError(s.program, e)
	}
}

// defaultSignals undoes what whoever started us ignored or blocked: execve
// keeps both.
func defaultSignals() {
	var action [4]uint64 // struct sigaction of the kernel: SIG_DFL, no flags
	var none sigset
	for sig := uintptr(1); sig <= 64; sig++ {
		_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGACTION, sig, uintptr(unsafe.Pointer(&action)), 0, sigsetSize, 0, 0)
	}
	_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&none)), 0, sigsetSize, 0, 0)
}

// execveInit starts this binary once more, as the container's init: with the
// user's ids, capabilities and filter, which it cannot shed.
func (s *stage) execveInit(exe int) error {
	if s.sock >= 0 {
		if _, err := unix.FcntlInt(uintptr(s.sock), unix.F_SETFD, 0); err != nil {
			return err
		}
	}
	var p program
	argv := p.ptrs(append([]string{initName, strconv.Itoa(s.sock), s.program}, s.Args...))
	envp := p.ptrs(append(append([]string{}, initEnv...), s.Env...))
	_, _, e := unix.RawSyscall6(unix.SYS_EXECVEAT, uintptr(exe), p.ptr(""), argv, envp, unix.AT_EMPTY_PATH, 0)
	return fmt.Errorf("execve of init: %w", e)
}

func execError(program string, err error) error {
	code := 126
	if err == syscall.ENOENT {
		code = 127
	}
	return &ExecError{Code: code, Msg: "exec " + program + ": " + strings.TrimSpace(err.Error())}
}
