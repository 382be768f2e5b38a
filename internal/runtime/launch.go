package runtime

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"wharf/internal/undo"
)

type rlimit = specs.POSIXRlimit

// launch starts the stage: this program again, with a socket to talk over,
// its standard streams in place and a few further descriptors.
type launch struct {
	program program
	sock    int // ours
	theirs  int
	std     [3]int
	opened  undo.Stack
}

func newLaunch(io *Files) (_ *launch, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socketpair: %w", err)
	}
	l := &launch{sock: pair[0], theirs: pair[1]}
	l.opened.Push(l.closeTheirs)
	defer func() {
		if err != nil {
			_ = unix.Close(l.sock)
			l.close()
		}
	}()
	for i, f := range []*os.File{io.Stdin, io.Stdout, io.Stderr} {
		if l.std[i], err = l.stdio(f); err != nil {
			return nil, err
		}
	}
	for _, f := range io.Extra {
		l.inherit(int(f.Fd()))
	}
	if io.Fifo != nil {
		l.inherit(int(io.Fifo.Fd()))
	}
	return l, nil
}

// stdio returns a descriptor above 2 for f, or /dev/null.
func (l *launch) stdio(f *os.File) (int, error) {
	var fd int
	var err error
	switch {
	case f == nil:
		fd, err = unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	case f.Fd() > 2:
		return int(f.Fd()), nil // Fd also makes it blocking, as programs expect
	default:
		fd, err = unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	}
	if err != nil {
		return -1, fmt.Errorf("standard stream: %w", err)
	}
	l.opened.Push(func() error { return unix.Close(fd) })
	return fd, nil
}

func (l *launch) inherit(fd int) {
	if fd >= 0 {
		l.program.after = append(l.program.after, call{nr: unix.SYS_FCNTL,
			a: [6]uintptr{uintptr(fd), unix.F_SETFD, 0}, name: "keep descriptor"})
	}
}

func (l *launch) close() { _ = l.opened.Run() }

// closeTheirs closes the stage's end of the socket on our side.
func (l *launch) closeTheirs() error {
	fd := l.theirs
	if l.theirs = -1; fd < 0 {
		return nil
	}
	return unix.Close(fd)
}

// start forks. The socket goes over to the Process.
func (l *launch) start() (*Process, error) {
	exe, err := selfExe()
	if err != nil {
		_ = unix.Close(l.sock)
		return nil, err
	}
	p := &l.program
	if !p.copied {
		// The child shares our memory for a moment in which processes of the
		// container may already see it: none of them may trace it.
		_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	}
	// What the caller itself inherited must not go on to the stage.
	p.after = append([]call{{nr: unix.SYS_CLOSE_RANGE, a: [6]uintptr{3, 1<<32 - 1, unix.CLOSE_RANGE_CLOEXEC}, name: "close_range", keep: true}}, p.after...)
	l.inherit(l.theirs)
	for i, fd := range l.std {
		p.after = append(p.after, call{nr: unix.SYS_DUP3, a: [6]uintptr{uintptr(fd), uintptr(i)}, name: "dup3"})
	}
	argv := p.ptrs([]string{stageName, strconv.Itoa(l.theirs)})
	envp := p.ptrs([]string{"GOMAXPROCS=1", "GOGC=off"})
	p.after = append(p.after,
		call{nr: unix.SYS_EXECVEAT, a: [6]uintptr{uintptr(exe), p.ptr(""), argv, envp, unix.AT_EMPTY_PATH},
			name: "execve of the stage (is the program executable for others, mode 0755 or 0711?)"})
	pid, failed, err := p.fork()
	if err != nil {
		_ = unix.Close(l.sock)
		return nil, err
	}
	// A stage that is killed must be an end of file for us, not silence.
	_ = l.closeTheirs()
	proc, err := newProcess(pid, l.sock, sync.OnceValue(failed))
	if err != nil {
		_ = unix.Close(l.sock)
		return nil, err
	}
	return proc, nil
}

// selfExe is this program as the stage executes it: through a read-only
// detached mount, or a sealed copy, so that a process of the container that
// reaches it through /proc/PID/exe can never write to it (CVE-2019-5736).
var selfExe = sync.OnceValues(func() (int, error) {
	if fd, err := readOnlyExe(); err == nil {
		return fd, nil
	}
	return sealedExe()
})

func readOnlyExe() (int, error) {
	tree, err := unix.OpenTree(unix.AT_FDCWD, "/proc/self/exe", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1, err
	}
	// The descriptor keeps the mount alive; it stays open as long as we live.
	if err := setAttr(tree, unix.MOUNT_ATTR_RDONLY, 0, unix.MS_PRIVATE, 0); err != nil {
		_ = unix.Close(tree)
		return -1, err
	}
	return tree, nil
}

func sealedExe() (int, error) {
	src, err := os.Open("/proc/self/exe")
	if err != nil {
		return -1, err
	}
	defer src.Close()
	fd, err := unix.MemfdCreate("wharf-stage", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // MFD_EXEC is new in Linux 6.3
		fd, err = unix.MemfdCreate("wharf-stage", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return -1, fmt.Errorf("copy of the stage: %w", err)
	}
	for {
		n, err := unix.Sendfile(fd, int(src.Fd()), nil, 1<<24)
		if err != nil {
			_ = unix.Close(fd)
			return -1, fmt.Errorf("copy of the stage: %w", err)
		}
		if n == 0 {
			break
		}
	}
	_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE)
	if err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("seal the stage: %w", err)
	}
	return fd, nil
}

var rlimits = map[string]int{
	"RLIMIT_CPU": unix.RLIMIT_CPU, "RLIMIT_FSIZE": unix.RLIMIT_FSIZE, "RLIMIT_DATA": unix.RLIMIT_DATA,
	"RLIMIT_STACK": unix.RLIMIT_STACK, "RLIMIT_CORE": unix.RLIMIT_CORE, "RLIMIT_RSS": unix.RLIMIT_RSS,
	"RLIMIT_NPROC": unix.RLIMIT_NPROC, "RLIMIT_NOFILE": unix.RLIMIT_NOFILE, "RLIMIT_MEMLOCK": unix.RLIMIT_MEMLOCK,
	"RLIMIT_AS": unix.RLIMIT_AS, "RLIMIT_LOCKS": unix.RLIMIT_LOCKS, "RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING,
	"RLIMIT_MSGQUEUE": unix.RLIMIT_MSGQUEUE, "RLIMIT_NICE": unix.RLIMIT_NICE, "RLIMIT_RTPRIO": unix.RLIMIT_RTPRIO,
	"RLIMIT_RTTIME": unix.RLIMIT_RTTIME,
}

// KnownRlimit reports whether name ("RLIMIT_NOFILE") is one of Linux'.
func KnownRlimit(name string) bool { _, ok := rlimits[name]; return ok }
