package runtime

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"wharf/internal/undo"
)

// creation is one Create under way.
type creation struct {
	p        *Prepared
	io       Files
	cleanup  undo.Stack // on error only
	closing  undo.Stack // always
	warnings []string
	trace    Trace

	user   int // user namespace, -1 the host's
	root   int
	mounts []int
	joins  []joined
	fresh  uintptr // namespaces to make
	newNS  map[string]bool
}

type joined struct {
	fd   int
	kind string
}

// Create makes the container that p describes and its first process, up to
// execve. On error nothing is left, cgroup directories included.
func Create(p *Prepared, io Files) (_ *Process, err error) {
	c := &creation{p: p, io: io, user: -1, root: -1, warnings: append([]string{}, p.Warnings...)}
	if p.Terminal { // nothing of the caller's stays with the process
		c.io.Stdin, c.io.Stdout, c.io.Stderr = nil, nil, nil
	}
	defer c.cleanup.OnError(&err)
	defer func() { _ = c.closing.Run() }()

	group := startCgroup(p.Cgroup)
	c.cleanup.Push(group.remove)
	if err := c.namespaces(); err != nil {
		return nil, err
	}
	if err := c.makeMounts(group); err != nil {
		return nil, err
	}
	c.trace.add("detached mounts are made")
	var rootMount uint64
	if at := p.HostRoot; at != "" {
		rootMount = rootMountID(c.root, "")
		c.cleanup.Push(func() error { return DropRoot(at, rootMount) })
	}
	proc, err := c.clone(group)
	if err != nil {
		return nil, err
	}
	c.cleanup.Push(proc.Close)
	c.trace.add("stage is executed")
	proc.Trace, proc.RootMount = c.trace, rootMount
	if err := c.feed(proc); err != nil {
		return nil, err
	}
	proc.Warnings = append(append(c.warnings, group.warnings...), proc.Warnings...)
	return proc, nil
}

// keepFD closes fd when Create returns, whatever happened.
func (c *creation) keepFD(fd int) int {
	c.closing.Push(func() error { return unix.Close(fd) })
	return fd
}

// namespaces opens what is joined and notes what is new. The user namespace
// is always joined: it is made here when the caller did not.
func (c *creation) namespaces() error {
	given := map[string]*os.File{"user": c.io.User, "network": c.io.Net}
	c.newNS = map[string]bool{}
	for _, n := range c.p.Namespaces {
		flag, ok := cloneFlags[n.Kind]
		if !ok {
			return fmt.Errorf("unknown namespace %q", n.Kind)
		}
		switch {
		case given[n.Kind] != nil:
			c.joins = append(c.joins, joined{int(given[n.Kind].Fd()), n.Kind})
		case n.Path != "":
			fd, err := unix.Open(n.Path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return &os.PathError{Op: "open " + n.Kind + " namespace", Path: n.Path, Err: err}
			}
			c.joins = append(c.joins, joined{c.keepFD(fd), n.Kind})
		case n.Kind == "user":
			f, _, err := NewNamespaces(c.p.UIDMap, c.p.GIDMap, false)
			if err != nil {
				return err
			}
			c.closing.Push(f.Close)
			c.joins = append(c.joins, joined{int(f.Fd()), n.Kind})
		default:
			c.newNS[n.Kind] = true
			if n.Kind != "time" { // that has no clone(2) flag
				c.fresh |= flag
			}
		}
	}
	for _, j := range c.joins {
		if j.kind == "user" {
			c.user = j.fd
		}
	}
	if c.user >= 0 && len(c.p.UIDMap) == 0 {
		return c.readMaps()
	}
	return nil
}

// readMaps finds out what the joined user namespace maps, from a process in
// it.
func (c *creation) readMaps() error {
	p := program{flags: 0, before: []call{setnsCall(joined{c.user, "user"}, false, 0)}}
	pid, done, err := p.park()
	if err != nil {
		return fmt.Errorf("look at the user namespace: %w", err)
	}
	defer done()
	proc := "/proc/" + strconv.Itoa(pid)
	if c.p.UIDMap, err = readMap(proc + "/uid_map"); err != nil {
		return err
	}
	c.p.GIDMap, err = readMap(proc + "/gid_map")
	return err
}

func (c *creation) makeMounts(group *cgroupWork) error {
	m := &rootMaker{user: c.user, label: c.p.MountLabel}
	defer m.close()
	defer func() { c.warnings = append(c.warnings, m.warnings...) }()
	if c.user >= 0 {
		var ok1, ok2 bool
		m.uid, ok1 = hostID(c.p.UIDMap, 0)
		m.gid, ok2 = hostID(c.p.GIDMap, 0)
		if !ok1 || !ok2 {
			return errors.New("the user namespace maps no user 0 or no group 0")
		}
	}
	root, err := m.root(&c.p.Root)
	if err != nil {
		return err
	}
	c.root = c.keepFD(root)
	for i := range c.p.Mounts {
		h := &c.p.Mounts[i]
		var fd int
		switch h.Kind {
		case HostDev:
			fd, err = m.dev(h)
		case HostLayers:
			fd, err = m.layersMount(h)
		case HostUser:
			fd, err = newUser(h.Own, h.OwnGID)
		case HostCgroup:
			if err := group.wait(); err != nil {
				return err
			}
			fd, err = m.bind(h)
		default:
			fd, err = m.bind(h)
		}
		if err != nil {
			return fmt.Errorf("mount for %s: %w", h.Dest, err)
		}
		c.mounts = append(c.mounts, c.keepFD(fd))
	}
	return nil
}

// newUser makes a user namespace for nothing but its maps.
func newUser(uids, gids []IDMap) (int, error) {
	f, _, err := NewNamespaces(uids, gids, false)
	if err != nil {
		return -1, err
	}
	defer f.Close()
	return unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
}

// clone starts the stage in its namespaces.
func (c *creation) clone(group *cgroupWork) (*Process, error) {
	l, err := newLaunch(&c.io)
	if err != nil {
		return nil, err
	}
	defer l.close()
	if err := group.wait(); err != nil {
		return nil, err
	}
	if err := l.enter(group.dirs()); err != nil {
		return nil, err
	}
	c.program(l)
	l.inherit(c.root)
	for _, fd := range c.mounts {
		l.inherit(fd)
	}
	return l.start()
}

// program is what happens before the stage: join, then clone into the new
// namespaces, which belong to the joined user namespace. Namespaces of the
// host can only be joined before the user namespace, those of a container
// only after: try before, and again after.
func (c *creation) program(l *launch) {
	p := &l.program
	p.flags = c.fresh
	first := map[int]int{} // descriptor -> 1 + index of its first try
	for _, j := range c.joins {
		if j.kind == "user" || c.user < 0 {
			continue
		}
		p.before = append(p.before, setnsCall(j, true, 0))
		first[j.fd] = len(p.before)
	}
	if c.user >= 0 {
		p.before = append(p.before, setnsCall(joined{c.user, "user"}, false, 0))
	}
	for _, j := range c.joins {
		if j.kind != "user" {
			p.before = append(p.before, setnsCall(j, false, first[j.fd]))
		}
	}
	// Time namespaces are joined and left by those who share memory with
	// nobody (time_namespaces(7)).
	p.copied = c.newNS["time"]
	for _, j := range c.joins {
		p.copied = p.copied || j.kind == "time"
	}
	if c.newNS["time"] {
		p.before = append(p.before, call{nr: unix.SYS_UNSHARE, a: [6]uintptr{unix.CLONE_NEWTIME}, name: "new time namespace"})
		if c.p.TimeOffset != "" { // writable for the host's root only, so before the ids change
			at := ^uintptr(99) // AT_FDCWD
			p.before = append(p.before,
				call{nr: unix.SYS_OPENAT, a: [6]uintptr{at, p.ptr("/proc/self/timens_offsets"), unix.O_WRONLY}, name: "open timens_offsets"})
			fd := len(p.before)
			p.before = append(p.before,
				call{nr: unix.SYS_WRITE, fd: fd, a: [6]uintptr{0, p.ptr(c.p.TimeOffset), uintptr(len(c.p.TimeOffset))}, name: "set time offsets"},
				call{nr: unix.SYS_CLOSE, fd: fd, name: "close"})
		}
	}
	if c.user >= 0 {
		p.before = append(p.before, becomeRoot()...)
	}
}

func setnsCall(j joined, keep bool, unless int) call {
	return call{nr: unix.SYS_SETNS, a: [6]uintptr{uintptr(j.fd), cloneFlags[j.kind]},
		name: "join " + j.kind + " namespace", keep: keep, unless: unless}
}

// becomeRoot takes the ids of root inside: with the host's, which are not
// mapped, execve would drop all capabilities.
func becomeRoot() []call {
	return []call{
		{nr: unix.SYS_SETRESGID, name: "setresgid"},
		{nr: unix.SYS_SETRESUID, name: "setresuid"},
		{nr: unix.SYS_SETGROUPS, name: "setgroups", keep: true},
	}
}

// feed takes the stage through to "ready".
func (c *creation) feed(proc *Process) error {
	proc.hooks = newHookRunner(c.p)
	if err := sendFrame(proc.sock, frameConfig, configPayload(c.root, &c.io, c.mounts, c.p.Stage)); err != nil {
		return proc.lost(err)
	}
	if err := proc.serve(c.answer(proc)); err != nil {
		return err
	}
	return c.settle(proc)
}

func (c *creation) answer(proc *Process) func(byte, []byte, []int) error {
	return func(kind byte, _ []byte, fds []int) error {
		switch kind {
		case frameHooks:
			if err := proc.hooks.created(proc.Pid); err != nil {
				return err
			}
			return sendFrame(proc.sock, frameHooks, nil)
		case frameListener:
			return sendListener(c.p.SeccompListener, c.p.ID, c.p.SeccompListenerMetadata, proc.Pid, fds)
		}
		return fmt.Errorf("unexpected message %q from the stage", kind)
	}
}

// settle does what needs the host's capabilities: limits and the like.
func (c *creation) settle(proc *Process) error {
	warnings, err := settle(proc, c.p.Rlimits, c.p.OOMScoreAdj, c.p.ConsoleSize)
	c.warnings = append(c.warnings, warnings...)
	return err
}

// configPayload: number of descriptors, root, fifo, count of extra, extra...,
// mounts..., then the stage's JSON.
func configPayload(root int, io *Files, mounts []int, stage []byte) []byte {
	fifo := -1
	if io.Fifo != nil {
		fifo = int(io.Fifo.Fd())
	}
	table := []int{root, fifo, len(io.Extra)}
	for _, f := range io.Extra {
		table = append(table, int(f.Fd()))
	}
	table = append(table, mounts...)
	out := make([]byte, 0, 4*len(table)+4+len(stage))
	out = binary.LittleEndian.AppendUint32(out, uint32(len(table)))
	for _, v := range table {
		out = binary.LittleEndian.AppendUint32(out, uint32(int32(v)))
	}
	return append(out, stage...)
}

// settle sets rlimits and oom_score_adj of a process from outside. What the
// kernel refuses with EPERM stays as inherited, with a warning.
func settle(proc *Process, limits []rlimit, oom *int, size [2]uint) (warnings []string, err error) {
	if err := softNofile(proc.Pid, limits); err != nil {
		return nil, err
	}
	for _, r := range limits {
		res, ok := rlimits[r.Type]
		if !ok {
			return nil, fmt.Errorf("unknown rlimit %q", r.Type)
		}
		want := unix.Rlimit{Cur: r.Soft, Max: r.Hard}
		err := unix.Prlimit(proc.Pid, res, &want, nil)
		if err == unix.EPERM {
			warnings = append(warnings, fmt.Sprintf("rlimit %s=%d:%d not permitted here (needs CAP_SYS_RESOURCE); the inherited limit stays", r.Type, r.Soft, r.Hard))
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("rlimit %s=%d:%d: %w", r.Type, r.Soft, r.Hard, err)
		}
	}
	if oom != nil {
		err := writeFile("/proc/"+strconv.Itoa(proc.Pid)+"/oom_score_adj", strconv.Itoa(*oom))
		if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
			warnings = append(warnings, fmt.Sprintf("oom_score_adj %d not permitted here (needs CAP_SYS_RESOURCE); the inherited value stays", *oom))
		} else if err != nil {
			return nil, err
		}
	}
	if proc.Console != nil && size != [2]uint{} {
		ws := unix.Winsize{Row: uint16(size[0]), Col: uint16(size[1])}
		if err := unix.IoctlSetWinsize(int(proc.Console.Fd()), unix.TIOCSWINSZ, &ws); err != nil {
			warnings = append(warnings, "console size: "+err.Error())
		}
	}
	return warnings, nil
}

// defaultNofile is the soft limit that Linux itself and systemd start
// programs with.
const defaultNofile = 1024

// softNofile undoes that the Go runtime raised our soft limit of open files
// to the hard one, which children would inherit: programs that use select(2)
// or close every possible descriptor suffer from it.
func softNofile(pid int, limits []rlimit) error {
	for _, r := range limits {
		if r.Type == "RLIMIT_NOFILE" {
			return nil
		}
	}
	var now unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &now); err != nil {
		return fmt.Errorf("read rlimit RLIMIT_NOFILE: %w", err)
	}
	if now.Cur <= defaultNofile {
		return nil
	}
	now.Cur = defaultNofile
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &now, nil); err != nil {
		return fmt.Errorf("rlimit RLIMIT_NOFILE: %w", err)
	}
	return nil
}
