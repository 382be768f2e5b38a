package runtime

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// process prepares everything of the process that can be done before the
// word to go.
func (s *stage) process() error {
	if err := s.identify(); err != nil {
		return err
	}
	if home, _ := getenv(s.Env, "HOME"); home == "" {
		s.Env = append(withoutEnv(s.Env, "HOME"), "HOME="+s.user.home)
	}
	if s.Terminal && s.Stage.Exec {
		if err := s.openConsole(); err != nil {
			return err
		}
	}
	if s.Terminal {
		if err := unix.Fchown(s.console, int(s.user.uid), -1); err != nil && err != unix.EPERM && err != unix.EINVAL {
			return fmt.Errorf("owner of the terminal: %w", err)
		}
	}
	if s.Keyring != "" {
		s.joinKeyring()
	}
	if err := s.schedule(); err != nil {
		return err
	}
	if !s.Stage.Exec && s.Cwd != "" {
		if err := os.MkdirAll(s.Cwd, 0o755); err != nil && !errors.Is(err, unix.EROFS) {
			return &ExecError{Code: 126, Msg: fmt.Sprintf("mkdir %s: %v", s.Cwd, errors.Unwrap(err))}
		}
	}
	return s.findProgram()
}

func withoutEnv(env []string, key string) []string {
	var out []string
	for _, e := range env {
		if !strings.HasPrefix(e, key+"=") {
			out = append(out, e)
		}
	}
	return out
}

func getenv(env []string, key string) (v string, ok bool) {
	for _, e := range env { // the last one counts, as in a shell
		if strings.HasPrefix(e, key+"=") {
			v, ok = e[len(key)+1:], true
		}
	}
	return v, ok
}

// findProgram replaces a name by its path, by the rules of exec.LookPath. A
// relative path is left to execve, after chdir.
func (s *stage) findProgram() error {
	if len(s.Args) == 0 || s.Args[0] == "" {
		return &ExecError{Code: 127, Msg: "no command specified"}
	}
	p, err := lookPath(s.Args[0], s.Cwd, s.Env)
	if err != nil {
		return err
	}
	s.program = p
	return nil
}

func lookPath(name, cwd string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		full := name
		if !strings.HasPrefix(name, "/") {
			full = path.Join("/", cwd, name)
		}
		if err := executable(full); err != nil {
			return "", notExecutable(name, err)
		}
		return full, nil
	}
	dirs, _ := getenv(env, "PATH")
	var denied error
	for _, dir := range strings.Split(dirs, ":") {
		if !strings.HasPrefix(dir, "/") {
			if dir == "" || dirs == "" {
				continue
			}
			dir = path.Join("/", cwd, dir)
		}
		full := path.Join(dir, name)
		err := executable(full)
		if err == nil {
			return full, nil
		}
		if err == unix.EACCES && denied == nil {
			denied = err
		}
	}
	return "", &ExecError{Code: 127, Msg: fmt.Sprintf("exec: %q: executable file not found in $PATH", name)}
}

func executable(full string) error {
	var st unix.Stat_t
	if err := unix.Stat(full, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return unix.EISDIR
	}
	if st.Mode&0o111 == 0 {
		return unix.EACCES
	}
	return nil
}

func notExecutable(name string, err error) error {
	switch err {
	case unix.ENOENT:
		return &ExecError{Code: 127, Msg: fmt.Sprintf("exec: %q: stat %s: no such file or directory", name, name)}
	case unix.EISDIR, unix.EACCES:
		return &ExecError{Code: 126, Msg: fmt.Sprintf("exec: %q: %v", name, err)}
	}
	return &ExecError{Code: 126, Msg: fmt.Sprintf("exec: %q: stat %s: %v", name, name, err)}
}

// openConsole makes a terminal in the container's devpts.
func (s *stage) openConsole() error {
	how := unix.OpenHow{Flags: unix.O_RDWR | unix.O_NOCTTY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS}
	master, err := unix.Openat2(unix.AT_FDCWD, "/dev/pts/ptmx", &how)
	if err != nil {
		return fmt.Errorf("open a terminal (the spec needs a devpts mount at /dev/pts): %w", err)
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(master, &fs); err != nil || int64(fs.Type) != unix.DEVPTS_SUPER_MAGIC {
		return errors.New("open a terminal: /dev/pts/ptmx is not in a devpts")
	}
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return fmt.Errorf("unlock terminal: %w", err)
	}
	slave, err := ptPeer(master)
	if err != nil {
		return fmt.Errorf("open terminal's other end: %w", err)
	}
	s.master, s.console = master, slave
	return nil
}

// ptPeer opens the other end without any path.
func ptPeer(master int) (int, error) {
	r, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if e != 0 {
		return -1, e
	}
	return int(r), nil
}

// bindConsole shows the terminal as /dev/console.
func (s *stage) bindConsole() error {
	to, err := s.target("/dev/console", false)
	if err != nil {
		return err
	}
	defer unix.Close(to)
	tree, err := unix.OpenTree(s.console, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return fmt.Errorf("/dev/console: %w", err)
	}
	defer unix.Close(tree)
	return wrapPath("mount", "/dev/console", attach(tree, to))
}

func (s *stage) joinKeyring() {
	_, err := unix.KeyctlJoinSessionKeyring(s.Keyring)
	if err != nil {
		s.warn("session keyring: %v; the caller's stays", err)
	}
}

func (s *stage) schedule() error {
	if sch := s.Scheduler; sch != nil {
		attr := unix.SchedAttr{
			Size: unix.SizeofSchedAttr, Policy: sch.Policy, Flags: sch.Flags, Nice: sch.Nice, Priority: sch.Priority,
			Runtime: sch.Runtime, Deadline: sch.Deadline, Period: sch.Period,
		}
		if err := unix.SchedSetAttr(0, &attr, 0); err != nil {
			return fmt.Errorf("scheduler policy %d: %w", sch.Policy, err)
		}
	}
	if s.IOPriority != nil {
		const who = 1 // IOPRIO_WHO_PROCESS
		if _, _, e := unix.RawSyscall(unix.SYS_IOPRIO_SET, who, 0, uintptr(*s.IOPriority)); e != 0 {
			return fmt.Errorf("I/O priority: %w", e)
		}
	}
	if len(s.Affinity) == 0 {
		s.anyCPU()
	} else {
		_, _, e := unix.RawSyscall(unix.SYS_SCHED_SETAFFINITY, 0, uintptr(8*len(s.Affinity)), uintptr(unsafe.Pointer(&s.Affinity[0])))
		if e != 0 {
			return fmt.Errorf("CPU affinity: %w", e)
		}
	}
	if m := s.MemPolicy; m != nil {
		var mask uintptr
		if len(m.Nodes) > 0 {
			mask = uintptr(unsafe.Pointer(&m.Nodes[0]))
		}
		// One more than there are: the kernel does not count the last one.
		if _, _, e := unix.RawSyscall(unix.SYS_SET_MEMPOLICY, uintptr(m.Mode), mask, uintptr(64*len(m.Nodes)+1)); e != 0 {
			return fmt.Errorf("memory policy %#x of nodes %x: %w", m.Mode, m.Nodes, e)
		}
	}
	if s.Personality != nil {
		if _, _, e := unix.RawSyscall(unix.SYS_PERSONALITY, uintptr(*s.Personality), 0, 0); e != 0 {
			return fmt.Errorf("personality 0x%x: %w", *s.Personality, e)
		}
	}
	return nil
}

// anyCPU undoes what our caller was bound to: the cgroup says where the
// process may run. The kernel leaves out the CPUs that it does not allow.
func (s *stage) anyCPU() {
	var all [128]uint64 // 8192 CPUs
	for i := range all {
		all[i] = ^uint64(0)
	}
	_, _, _ = unix.RawSyscall(unix.SYS_SCHED_SETAFFINITY, 0, unsafe.Sizeof(all), uintptr(unsafe.Pointer(&all[0])))
}

// labels sets what the next execve shall get from SELinux or AppArmor.
func (s *stage) labels() error {
	if s.Label != "" {
		if err := s.writeProc("thread-self/attr/exec", s.Label); err != nil {
			return fmt.Errorf("SELinux label %q: %w", s.Label, err)
		}
	}
	if s.AppArmor != "" {
		err := s.writeProc("thread-self/attr/apparmor/exec", "exec "+s.AppArmor)
		if errors.Is(err, unix.ENOENT) {
			err = s.writeProc("thread-self/attr/exec", "exec "+s.AppArmor)
		}
		if err != nil {
			return fmt.Errorf("AppArmor profile %q: %w", s.AppArmor, err)
		}
	}
	return nil
}

// chdir enters the working directory and makes sure that it is inside: a
// path like /proc/self/fd/N can lead anywhere (CVE-2024-21626).
func (s *stage) chdir() error {
	if s.Cwd != "" {
		if err := unix.Chdir(s.Cwd); err != nil {
			return err
		}
	}
	var buf [unix.PathMax]byte
	n, err := unix.Getcwd(buf[:])
	if err != nil || n < 1 || buf[0] != '/' {
		return errOutside
	}
	return nil
}

var errOutside = errors.New("current working directory is outside of container mount namespace root -- possible container breakout detected")

func (s *stage) cwdError(err error) error {
	if err == errOutside {
		return &ExecError{Code: 126, Msg: err.Error()}
	}
	code := 126
	if err == unix.ENOENT {
		code = 127
	}
	return &ExecError{Code: code, Msg: "chdir to cwd (" + strconv.Quote(s.Cwd) + ") set in config.json failed: " + err.Error()}
}
