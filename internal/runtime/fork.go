package runtime

import (
	"fmt"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The Go runtime's own preparations around fork(2), as syscall.forkExec and
// gVisor use them. Between them, in the child, only raw system calls may run:
// no allocation, no stack growth, no other function.

//go:linkname runtimeBeforeFork syscall.runtime_BeforeFork
func runtimeBeforeFork()

//go:linkname runtimeAfterFork syscall.runtime_AfterFork
func runtimeAfterFork()

//go:linkname runtimeAfterForkInChild syscall.runtime_AfterForkInChild
func runtimeAfterForkInChild()

// vforkCall makes clone(2) or clone3(2) with CLONE_VM and CLONE_VFORK: the
// child runs first, on our stack and in our memory, until it executes a
// program or ends. Only then does the call return here.
//
//go:noescape
func vforkCall(nr, a1, a2 uintptr) (r, errno uintptr)

// parkCall makes clone(2) with flags, which have CLONE_VM. The child touches
// no memory: it waits to be killed, or for the end of the calling thread.
//
//go:noescape
func parkCall(flags uintptr) (pid, errno uintptr)

// call is one raw system call of a forked child.
type call struct {
	nr   uintptr
	a    [6]uintptr
	name string // for messages
	// keep makes errors of this call no failure.
	keep bool
	// unless is 1 + the index of an earlier call: this one is left out when
	// that one succeeded.
	unless int
	// fd is 1 + the index of an earlier call whose result replaces a[0].
	fd int
	// store gets the result of the earlier call with index from - 1 before
	// this one is made (its argument points there).
	store *uint64
	from  int
}

// program is what a forked child does: the calls before run in an
// intermediate process, which then clones again with flags (and CLONE_PARENT)
// and exits; the calls after run in that clone. With nothing before, the first
// clone already uses flags.
type program struct {
	before, after []call
	flags         uintptr
	keep          []any      // what the calls' pointers point to
	into          *cloneArgs // the first clone is clone3(2) with these (CLONE_INTO_CGROUP)

	// copied makes the children copies of us as fork(2) does. Else they share
	// our memory and we wait for their execve, as vfork(2) does: nothing is
	// copied, and the program must end in an execve.
	copied bool
}

// cloneArgs is struct clone_args of clone3(2).
type cloneArgs struct {
	flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
}

// report is memory that the child shares with us.
type report struct {
	pid   uintptr // of the last clone
	errno uintptr // of the call that failed
	at    uintptr // 1 + index of it: before, then clone, then after
}

// result slots for "unless" and "fd"; child's own copy of the stack.
const maxCalls = 96

func newReport() (*report, func(), error) {
	mem, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, nil, fmt.Errorf("map report page: %w", err)
	}
	return (*report)(unsafe.Pointer(&mem[0])), func() { _ = unix.Munmap(mem) }, nil
}

// fork runs the program. It returns the pid of the process that runs p.after;
// that process is a child of ours. failed says, once that process has ended,
// which call of it went wrong; it must be called, and frees the report.
func (p *program) fork() (pid int, failed func() error, err error) {
	if len(p.before)+len(p.after)+1 > maxCalls {
		return 0, nil, fmt.Errorf("too many steps in a forked child: %d", len(p.before)+len(p.after))
	}
	rep, free, err := newReport()
	if err != nil {
		return 0, nil, err
	}
	failed = func() error { defer free(); return p.failure(rep) }

	var share uintptr
	if !p.copied {
		share = unix.CLONE_VM | unix.CLONE_VFORK
	}
	first := uintptr(unix.SIGCHLD) | share
	if len(p.before) == 0 {
		first |= p.flags
	}
	syscall.ForkLock.Lock()
	var args uintptr
	if p.into != nil {
		p.into.flags |= uint64(first &^ 0xff)
		p.into.exitSignal = uint64(unix.SIGCHLD)
		args = uintptr(unsafe.Pointer(p.into))
	}
	r, errno := forkRaw(p.before, p.after, first, args, p.flags|share|unix.CLONE_PARENT|uintptr(unix.SIGCHLD), rep)
	syscall.ForkLock.Unlock()
	runtime.KeepAlive(p)
	if errno != 0 {
		free()
		return 0, nil, fmt.Errorf("clone: %w", errno)
	}
	if len(p.before) == 0 {
		return int(r), failed, nil
	}
	reap(int(r))
	if rep.pid == 0 {
		err = failed()
		if err == nil {
			err = fmt.Errorf("the process that joins namespaces was killed")
		}
		return 0, nil, err
	}
	return int(rep.pid), failed, nil
}

func (p *program) failure(rep *report) error {
	if rep.errno == 0 {
		return nil
	}
	name, i := "clone", int(rep.at)-1
	switch {
	case i < len(p.before):
		name = p.before[i].name
	case i > len(p.before):
		name = p.after[i-len(p.before)-1].name
	}
	return fmt.Errorf("%s: %w", name, syscall.Errno(rep.errno))
}

// reap waits for a child that is known to end by itself.
func reap(pid int) {
	for {
		_, err := unix.Wait4(pid, nil, unix.WALL, nil)
		if err != unix.EINTR {
			return
		}
	}
}

// forkRaw is the part that may only make raw system calls in the child. It
// must not be inlined and must not allocate; see syscall.forkAndExecInChild1.
//
//go:noinline
//go:norace
//go:nocheckptr
func forkRaw(before, after []call, first, args, second uintptr, rep *report) (uintptr, syscall.Errno) {
	var (
		got  [maxCalls]uintptr
		ok   [maxCalls]bool
		i    int
		c    *call
		a0   uintptr
		r    uintptr
		e    syscall.Errno
		n    uintptr
		list []call
		base int
	)
	runtimeBeforeFork()
	if args != 0 {
		r, n = vforkCall(unix.SYS_CLONE3, args, unsafe.Sizeof(cloneArgs{}))
	} else {
		r, n = vforkCall(unix.SYS_CLONE, first, 0)
	}
	if n != 0 || r != 0 {
		runtimeAfterFork()
		return r, syscall.Errno(n)
	}
	runtimeAfterForkInChild()

	list, base = before, 0
	if len(before) == 0 {
		list, base = after, 1
	}
run:
	for i = 0; i < len(list); i++ {
		c = &list[i]
		if c.unless != 0 && ok[base+c.unless-1] {
			continue
		}
		a0 = c.a[0]
		if c.fd != 0 {
			a0 = got[base+c.fd-1]
		}
		if c.store != nil {
			*c.store = uint64(got[base+c.from-1])
		}
		r, _, e = syscall.RawSyscall6(c.nr, a0, c.a[1], c.a[2], c.a[3], c.a[4], c.a[5])
		if e != 0 {
			if c.keep {
				continue
			}
			rep.at = uintptr(base + i + 1)
			rep.errno = uintptr(e)
			goto dead
		}
		got[base+i], ok[base+i] = r, true
	}
	if base == 0 {
		r, n = vforkCall(unix.SYS_CLONE, second, 0)
		if n != 0 {
			rep.at = uintptr(len(before) + 1)
			rep.errno = n
			goto dead
		}
		if r != 0 {
			rep.pid = r
			goto dead
		}
		list, base = after, len(before)+1
		goto run
	}
dead:
	for {
		_, _, _ = syscall.RawSyscall(unix.SYS_EXIT_GROUP, 1, 0, 0)
	}
}

// parkRaw clones a child that waits, all signals blocked, in our memory.
//
//go:noinline
//go:norace
func parkRaw(flags uintptr) (uintptr, syscall.Errno) {
	runtimeBeforeFork()
	pid, e := parkCall(flags)
	runtimeAfterFork()
	return pid, syscall.Errno(e)
}

// ptr turns a string into a pointer for a call and keeps it alive.
func (p *program) ptr(s string) uintptr {
	b := append([]byte(s), 0)
	p.keep = append(p.keep, b)
	return uintptr(unsafe.Pointer(&b[0]))
}

// ptrs turns strings into a NULL-terminated vector, as execve wants it.
func (p *program) ptrs(list []string) uintptr {
	v := make([]uintptr, len(list)+1)
	for i, s := range list {
		v[i] = p.ptr(s)
	}
	p.keep = append(p.keep, v)
	return uintptr(unsafe.Pointer(&v[0]))
}
