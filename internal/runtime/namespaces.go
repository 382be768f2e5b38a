package runtime

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// cloneFlags are the namespaces by the spec's names.
var cloneFlags = map[string]uintptr{
	"mount":   unix.CLONE_NEWNS,
	"pid":     unix.CLONE_NEWPID,
	"network": unix.CLONE_NEWNET,
	"ipc":     unix.CLONE_NEWIPC,
	"uts":     unix.CLONE_NEWUTS,
	"user":    unix.CLONE_NEWUSER,
	"cgroup":  unix.CLONE_NEWCGROUP,
	"time":    unix.CLONE_NEWTIME,
}

// NewNamespaces makes a user namespace with these maps and, with wantNet, a
// network namespace that belongs to it. Both live as long as the files. With
// empty maps user is nil and the network namespace belongs to the caller's
// user namespace.
func NewNamespaces(uids, gids []IDMap, wantNet bool) (user, net *os.File, err error) {
	var flags uintptr
	if len(uids) > 0 {
		flags |= unix.CLONE_NEWUSER
	}
	if wantNet {
		flags |= unix.CLONE_NEWNET
	}
	if flags == 0 {
		return nil, nil, nil
	}
	pid, done, err := fork(flags)
	if err != nil {
		return nil, nil, fmt.Errorf("new namespaces: %w", err)
	}
	defer done()
	proc := "/proc/" + strconv.Itoa(pid)
	if len(uids) > 0 {
		if err := writeMaps(proc, uids, gids); err != nil {
			return nil, nil, err
		}
		if user, err = os.Open(proc + "/ns/user"); err != nil {
			return nil, nil, err
		}
	}
	if wantNet {
		if net, err = os.Open(proc + "/ns/net"); err != nil {
			if user != nil {
				_ = user.Close()
			}
			return nil, nil, err
		}
	}
	return user, net, nil
}

// NewNetworkIn makes a network namespace that belongs to a user namespace
// that is there already (another container's).
func NewNetworkIn(user *os.File) (*os.File, error) {
	p := program{flags: unix.CLONE_NEWNET}
	p.before = append([]call{setnsCall(joined{int(user.Fd()), "user"}, false, 0)}, becomeRoot()...)
	pid, done, err := p.park()
	if err != nil {
		return nil, fmt.Errorf("new network namespace: %w", err)
	}
	defer done()
	return os.Open("/proc/" + strconv.Itoa(pid) + "/ns/net")
}

// fork clones a child with new namespaces that does nothing but live until
// done is called. It shares our memory, so that none has to be copied.
func fork(flags uintptr) (pid int, done func(), err error) {
	syscall.ForkLock.Lock()
	r, errno := parkRaw(flags | unix.CLONE_VM | uintptr(unix.SIGCHLD))
	syscall.ForkLock.Unlock()
	if errno != 0 {
		return 0, nil, fmt.Errorf("clone: %w", errno)
	}
	pid = int(r)
	return pid, func() {
		_ = unix.Kill(pid, unix.SIGKILL)
		reap(pid)
	}, nil
}

// park runs the program and leaves its last process waiting until done.
func (p *program) park() (pid int, done func(), err error) {
	p.after = []call{
		{nr: unix.SYS_PRCTL, a: [6]uintptr{unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL)}, name: "prctl"},
		{nr: unix.SYS_PPOLL, name: "ppoll"}, // no descriptors, no time limit: for ever
	}
	p.copied = true // we go on while it waits
	pid, failed, err := p.fork()
	if err != nil {
		return 0, nil, err
	}
	return pid, func() {
		_ = unix.Kill(pid, unix.SIGKILL)
		reap(pid)
		_ = failed()
	}, nil
}

func writeMaps(proc string, uids, gids []IDMap) error {
	if err := writeFile(proc+"/uid_map", mapLines(uids)); err != nil {
		return fmt.Errorf("map users: %w", err)
	}
	if err := writeFile(proc+"/gid_map", mapLines(gids)); err != nil {
		return fmt.Errorf("map groups: %w", err)
	}
	return nil
}

func mapLines(m []IDMap) string {
	var b []byte
	for _, e := range m {
		b = strconv.AppendUint(b, uint64(e.Inside), 10)
		b = append(b, ' ')
		b = strconv.AppendUint(b, uint64(e.Host), 10)
		b = append(b, ' ')
		b = strconv.AppendUint(b, uint64(e.Size), 10)
		b = append(b, '\n')
	}
	return string(b)
}

func readMap(file string) ([]IDMap, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var out []IDMap
	for _, line := range strings.Split(string(data), "\n") {
		f := strings.Fields(line)
		if len(f) != 3 {
			continue
		}
		var n [3]uint32
		for i := range f {
			v, err := strconv.ParseUint(f[i], 10, 32)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", file, err)
			}
			n[i] = uint32(v)
		}
		out = append(out, IDMap{Inside: n[0], Host: n[1], Size: n[2]})
	}
	return out, nil
}

// writeFile writes a kernel file in one write(2).
func writeFile(path, value string) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte(value)); err != nil {
		return &os.PathError{Op: "write", Path: path, Err: err}
	}
	return nil
}

// hostID is the host id of an inside id; ok is false when it is not mapped.
func hostID(m []IDMap, inside uint32) (host uint32, ok bool) {
	if len(m) == 0 {
		return inside, true
	}
	for _, e := range m {
		if inside >= e.Inside && inside-e.Inside < e.Size {
			return e.Host + (inside - e.Inside), true
		}
	}
	return 0, false
}

// sameNamespace reports whether the file at path is our own namespace of kind.
func sameNamespace(path, kind string) bool {
	var a, b unix.Stat_t
	if unix.Stat(path, &a) != nil || unix.Stat("/proc/self/ns/"+kind, &b) != nil {
		return false
	}
	return a.Ino == b.Ino && a.Dev == b.Dev
}
