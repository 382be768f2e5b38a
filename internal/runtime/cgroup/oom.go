package cgroup

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// OOMWatch tells when the kernel runs out of memory in a control group, for
// any number of groups with one goroutine and no thread: what the kernel
// signals by (an eventfd for each group with version 1, one inotify instance
// for all with version 2) is in one epoll set, which Go's poller waits for.
//
// mu, then a group's mu; nothing is called while they are held.
type OOMWatch struct {
	mu     sync.Mutex
	epoll  *os.File // nil until the first group, and after Close
	notify int      // inotify, -1 where it is not needed
	groups map[int32]*oomGroup
	closed bool
}

// oomGroup is one watched group.
type oomGroup struct {
	g    *Group
	tell func(killed bool)
	wd   int // version 2; version 1 has event
	// event is the eventfd; memory.oom_control belongs to it.
	event int

	mu   sync.Mutex
	seen uint64 // kills told of
	busy bool   // a look is under way
	more bool   // and another is wanted
	over bool   // nothing is told any more
}

// oomLooks are the times between a notice and the looks for the kill: version
// 1 signals before the kernel chooses its victim.
var oomLooks = []time.Duration{0, 2 * time.Millisecond, 10 * time.Millisecond, 50 * time.Millisecond, 200 * time.Millisecond, time.Second}

// Add watches g. tell(true) follows each notice after which more processes had
// been killed for memory than before; tell(false) says that processes wait for
// memory, because the group's OOM killer is disabled. Kills before Add are
// told of too, unless told. tell is called from goroutines of its own, one at
// a time. stop ends the watching; it may be called twice.
func (w *OOMWatch) Add(g *Group, told bool, tell func(killed bool)) (stop func(), err error) {
	dir, version := g.dir("memory")
	o := &oomGroup{g: g, tell: tell, wd: -1, event: -1}
	if told {
		o.seen, _ = g.OOM()
	}
	w.mu.Lock()
	key, err := w.add(o, dir, version)
	w.mu.Unlock()
	if err != nil {
		return nil, fmt.Errorf("watch %s for lack of memory: %w", g.path, err)
	}
	if !told {
		if n, err := g.OOM(); err == nil && n > 0 {
			o.look()
		}
	}
	return func() { w.remove(key, o) }, nil
}

func (w *OOMWatch) add(o *oomGroup, dir string, version int) (key int32, err error) {
	if version == 0 {
		return 0, errors.New("there is no memory controller")
	}
	if err := w.open(); err != nil {
		return 0, err
	}
	if version == 2 {
		return w.add2(o, dir)
	}
	if o.event, err = eventOf(dir); err != nil {
		return 0, err
	}
	key = int32(o.event)
	if err := w.poll(o.event); err != nil {
		_ = unix.Close(o.event)
		return 0, err
	}
	w.groups[key] = o
	return key, nil
}

// add2 has keys below zero, so that they differ from descriptors.
func (w *OOMWatch) add2(o *oomGroup, dir string) (key int32, err error) {
	if w.notify < 0 {
		fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
		if err != nil {
			return 0, os.NewSyscallError("inotify_init1", err)
		}
		if err := w.poll(fd); err != nil {
			_ = unix.Close(fd)
			return 0, err
		}
		w.notify = fd
	}
	if o.wd, err = unix.InotifyAddWatch(w.notify, dir+"/memory.events", unix.IN_MODIFY); err != nil {
		return 0, os.NewSyscallError("inotify_add_watch", err)
	}
	w.groups[int32(-o.wd)] = o
	return int32(-o.wd), nil
}

// open makes the epoll set and its goroutine.
func (w *OOMWatch) open() error {
	if w.closed {
		return os.ErrClosed
	}
	if w.epoll != nil {
		return nil
	}
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("epoll_create1", err)
	}
	// Only what does not block does Go's poller take.
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return os.NewSyscallError("fcntl", err)
	}
	f := os.NewFile(uintptr(fd), "epoll")
	c, err := f.SyscallConn()
	if err != nil {
		_ = f.Close()
		return err
	}
	w.epoll, w.notify, w.groups = f, -1, map[int32]*oomGroup{}
	go w.run(c)
	return nil
}

// poll adds fd, edge-triggered: an eventfd needs no reading then.
func (w *OOMWatch) poll(fd int) error {
	c, err := w.epoll.SyscallConn()
	if err != nil {
		return err
	}
	cerr := c.Control(func(ep uintptr) {
		err = unix.EpollCtl(int(ep), unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: int32(fd)})
	})
	return errors.Join(cerr, os.NewSyscallError("epoll_ctl", err))
}

// eventOf has the kernel signal an eventfd when the group of dir runs out of
// memory (Documentation/admin-guide/cgroup-v1/memory.rst, section 10).
func eventOf(dir string) (int, error) {
	event, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return -1, os.NewSyscallError("eventfd", err)
	}
	control, err := unix.Open(dir+"/memory.oom_control", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		order := strconv.Itoa(event) + " " + strconv.Itoa(control)
		err = os.WriteFile(dir+"/cgroup.event_control", []byte(order), 0)
		_ = unix.Close(control)
	}
	if err != nil {
		_ = unix.Close(event)
		return -1, err
	}
	return event, nil
}

func (w *OOMWatch) remove(key int32, o *oomGroup) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.groups[key] != o {
		return
	}
	delete(w.groups, key)
	w.forget(o)
}

func (w *OOMWatch) forget(o *oomGroup) {
	o.mu.Lock()
	o.over = true
	o.mu.Unlock()
	if o.event >= 0 {
		_ = unix.Close(o.event)
	} else {
		_, _ = unix.InotifyRmWatch(w.notify, uint32(o.wd)) // gone with its group, perhaps
	}
}

// Close ends all watching.
func (w *OOMWatch) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	if w.epoll == nil {
		return nil
	}
	for _, o := range w.groups {
		w.forget(o)
	}
	clear(w.groups)
	if w.notify >= 0 {
		_ = unix.Close(w.notify)
	}
	err := w.epoll.Close() // ends run
	w.epoll = nil
	return err
}

func (w *OOMWatch) run(c syscall.RawConn) {
	events := make([]unix.EpollEvent, 32)
	for {
		n := 0
		err := c.Read(func(fd uintptr) bool {
			var err error
			n, err = unix.EpollWait(int(fd), events, 0)
			return n > 0 || err != nil && err != unix.EINTR
		})
		if err != nil || n < 0 {
			return
		}
		for _, e := range events[:n] {
			w.dispatch(e.Fd)
		}
	}
}

func (w *OOMWatch) dispatch(fd int32) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return
	}
	if int(fd) == w.notify {
		w.changed()
		return
	}
	if o := w.groups[fd]; o != nil {
		o.look()
	}
}

// changed reads the inotify instance until it is empty.
func (w *OOMWatch) changed() {
	var buf [4096]byte
	for {
		n, err := unix.Read(w.notify, buf[:])
		if err == unix.EINTR {
			continue
		}
		if err != nil || n <= 0 {
			return
		}
		for p := buf[:n]; len(p) >= unix.SizeofInotifyEvent; {
			e := (*unix.InotifyEvent)(unsafe.Pointer(&p[0]))
			if o := w.groups[-e.Wd]; o != nil && e.Mask&unix.IN_MODIFY != 0 {
				o.look()
			}
			p = p[min(len(p), unix.SizeofInotifyEvent+int(e.Len)):]
		}
	}
}

// look finds out what a notice was about, in a goroutine of its own: notices
// of the group above and of groups that go come too.
func (o *oomGroup) look() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.more = o.busy; o.busy {
		return
	}
	o.busy = true
	go func() {
		for {
			o.find()
			o.mu.Lock()
			again := o.more
			o.more, o.busy = false, again
			o.mu.Unlock()
			if !again {
				return
			}
		}
	}()
}

// find looks a few times and tells at most once.
func (o *oomGroup) find() {
	for _, wait := range oomLooks {
		time.Sleep(wait)
		n, stalled, err := o.g.lacksMemory()
		if err != nil {
			return // the group has gone; its exit says the rest
		}
		o.mu.Lock()
		killed := n > o.seen
		o.seen = max(n, o.seen)
		over := o.over
		o.mu.Unlock()
		if over {
			return
		}
		if killed || stalled {
			o.tell(killed)
			return
		}
	}
}

// lacksMemory counts kills as OOM does, and reports whether processes wait for
// memory because nobody may be killed.
func (g *Group) lacksMemory() (kills uint64, stalled bool, err error) {
	dir, version := g.dir("memory")
	if version == 1 {
		f := dir + "/memory.oom_control"
		if _, err := os.Stat(f); err != nil {
			return 0, false, err
		}
		stalled = g.flag(f, "oom_kill_disable") == "1" && g.flag(f, "under_oom") == "1"
	}
	kills, err = g.OOM()
	return kills, stalled, err
}
