package vmm

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/yamux"
	"golang.org/x/sys/unix"

	"wharf/api/frame"
	"wharf/api/guestapi"
	"wharf/api/monitorapi"
	"wharf/internal/monitor"
	"wharf/internal/runtime"
	"wharf/internal/undo"
	"wharf/internal/vmm/vmmapi"
)

// machine is a running QEMU and what belongs to it.
type machine struct {
	spec     *vmmapi.Machine
	qemu     *runtime.Process
	shares   []*runtime.Process
	agent    *os.File // our end of the agent's port
	qmp      *qmp
	console  tail
	words    tail // what QEMU itself says
	session  *yamux.Session
	trace    trace
	warnings []string
	bmu      sync.Mutex // held while the balloon is looked at
	balloon  balloon

	down   chan struct{} // closed when QEMU has ended
	status syscall.WaitStatus

	etc    *etcFiles // set before others see the machine
	health health

	mu     sync.Mutex
	reason string // why it was killed, "" when it was not
}

// trace says where the time of a start went.
type trace []monitorapi.Step

func (t *trace) add(name string) {
	*t = append(*t, monitorapi.Step{Name: name, At: time.Now().UnixNano()})
}

// inside takes over what the guest says of its steps, the last of which has just
// ended. Its clock is its own: only the time between them is believed.
func (t *trace) inside(steps []guestapi.Step) {
	const most = 32
	if len(steps) == 0 || len(steps) > most {
		return
	}
	now, last := time.Now().UnixNano(), steps[len(steps)-1].At
	for _, s := range steps {
		at := now - (last - s.At)
		if n := len(*t); n > 0 {
			at = max(at, (*t)[n-1].At)
		}
		*t = append(*t, monitorapi.Step{Name: "guest: " + frame.Printable(s.Name, 60), At: min(at, now)})
	}
}

// start runs QEMU and the shares' daemons. Nothing of the guest has been
// waited for when it returns.
func start(spec *vmmapi.Machine, f monitor.Files, taps taps) (_ *machine, err error) {
	m := &machine{spec: spec, balloon: newBalloon(spec), down: make(chan struct{})}
	var u, always undo.Stack
	defer u.OnError(&err)
	defer func() { _ = always.Run() }()
	m.trace.add("vmm has its orders")

	sockets := map[string]*os.File{} // QEMU's ends of shares
	for i := range spec.Shares {
		end, err := m.startShare(&spec.Shares[i], &u)
		if err != nil {
			return nil, fmt.Errorf("share %s: %w", spec.Shares[i].Name, err)
		}
		always.Push(end.Close)
		sockets[spec.Shares[i].Name] = end
	}
	extra, err := m.files(f.More, sockets, taps, &u, &always)
	if err != nil {
		return nil, err
	}
	out, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	always.Push(in.Close)
	go func() { m.words.follow(out); _ = out.Close() }()
	m.qemu, err = runtime.Create(&spec.QEMU, runtime.Files{Stdout: in, Stderr: in, User: f.User, Net: f.Net, Extra: extra})
	if err != nil {
		return nil, fmt.Errorf("container of QEMU: %w", err)
	}
	m.trace.add("QEMU's container is made")
	if err := m.qemu.Start(); err != nil {
		_ = m.qemu.Close()
		_, _ = m.qemu.Wait()
		return nil, fmt.Errorf("start QEMU: %w", err)
	}
	go m.reap()
	return m, nil
}

// files opens QEMU's descriptors, in the order in which the driver named them.
func (m *machine) files(given, shares map[string]*os.File, taps taps, u, always *undo.Stack) ([]*os.File, error) {
	var extra []*os.File
	for _, x := range m.spec.Files {
		var theirs *os.File
		var err error
		switch x.Kind {
		case vmmapi.FileDisk:
			theirs, err = openDisk(&x, lockTime)
		case vmmapi.FileGiven:
			if theirs = given[x.Name]; theirs == nil {
				err = fmt.Errorf("the descriptor %s did not come", x.Name)
			}
		case vmmapi.FileTap:
			theirs, err = taps.open(x.Name)
		case vmmapi.FileShare:
			if theirs = shares[x.Name]; theirs == nil {
				err = fmt.Errorf("there is no share %s", x.Name)
			}
		case vmmapi.FileQMP, vmmapi.FileAgent, vmmapi.FileConsole:
			theirs, err = m.socket(x.Kind, u)
		default:
			err = fmt.Errorf("unknown kind of file %q", x.Kind)
		}
		if err != nil {
			return nil, err
		}
		always.Push(theirs.Close)
		extra = append(extra, theirs)
	}
	return extra, nil
}

// lockTime is how long a disk is waited for whose last QEMU is still ending.
const lockTime = 10 * time.Second

// openDisk opens a disk for QEMU, which inherits the lock with the descriptor. A
// locked one is waited for.
func openDisk(d *vmmapi.File, wait time.Duration) (*os.File, error) {
	flag := os.O_RDWR
	if d.ReadOnly {
		flag = os.O_RDONLY
	}
	f, err := os.OpenFile(d.Path, flag, 0)
	if err != nil || !d.Lock {
		return f, err
	}
	for limit := time.Now().Add(wait); ; time.Sleep(50 * time.Millisecond) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if errors.Is(err, unix.EWOULDBLOCK) && time.Now().Before(limit) {
			continue
		}
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = fmt.Errorf("disk %s is locked: another machine has it; end that first", d.Path)
		}
		return nil, errors.Join(err, f.Close())
	}
}

// socket makes a pair: our end stays, QEMU's is returned.
func (m *machine) socket(kind vmmapi.FileKind, u *undo.Stack) (*os.File, error) {
	ours, theirs, err := socketpair(string(kind))
	if err != nil {
		return nil, err
	}
	u.Push(ours.Close)
	switch kind {
	case vmmapi.FileQMP:
		m.qmp = newQMP(ours)
	case vmmapi.FileAgent:
		m.agent = ours
	case vmmapi.FileConsole:
		go func() { m.console.follow(ours); _ = ours.Close() }()
	}
	return theirs, nil
}

// duplicate returns a further descriptor of what f is.
func duplicate(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// socketpair makes a pair of stream sockets; the first is polled.
func socketpair(name string) (ours, theirs *os.File, err error) {
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	_ = unix.SetNonblock(p[0], true)
	return os.NewFile(uintptr(p[0]), name), os.NewFile(uintptr(p[1]), name), nil
}

// reap waits for QEMU.
func (m *machine) reap() {
	m.status, _ = m.qemu.Wait()
	close(m.down)
	_ = m.agent.Close()
	if m.qmp != nil {
		m.qmp.close()
	}
	for _, s := range m.shares {
		_ = s.Signal(syscall.SIGKILL)
	}
}

// end kills the machine for a reason and waits for its end.
func (m *machine) end(reason string) {
	m.mu.Lock()
	if m.reason == "" {
		m.reason = reason
	}
	m.mu.Unlock()
	m.kill()
}

// kill ends QEMU and waits.
func (m *machine) kill() {
	_ = m.qemu.Signal(syscall.SIGKILL)
	<-m.down
	for _, s := range m.shares {
		_ = s.Signal(syscall.SIGKILL)
		_, _ = s.Wait()
	}
}

// lost explains a machine that has ended by itself, or was ended.
func (m *machine) lost() string {
	m.mu.Lock()
	text := m.reason
	m.mu.Unlock()
	if text == "" {
		text = "the virtual machine ended by itself"
		switch {
		case m.status.Signaled():
			text = "QEMU was killed by signal " + strconv.Itoa(int(m.status.Signal()))
		case m.status.ExitStatus() != 0:
			text = "QEMU ended with exit code " + strconv.Itoa(m.status.ExitStatus())
		}
		if why := m.console.panic(); why != "" {
			text = "the kernel of the virtual machine gave up: " + why
		}
	}
	// A network that waits for its tap is no news.
	if s := without(m.words.last(8), "is not connected to host network"); s != "" {
		text += "; QEMU said: " + oneLine(s)
	}
	if s := m.console.last(6); s != "" {
		text += "; last on its console: " + oneLine(s)
	}
	return text
}

func oneLine(s string) string { return strings.Join(strings.Split(s, "\n"), " | ") }

// greet begins the session with the agent.
func (m *machine) greet(limit time.Duration) error {
	done := make(chan error, 1)
	go func() {
		nonce, err := newNonce()
		if err == nil {
			err = guestapi.Greet(m.agent, nonce)
		}
		done <- err
	}()
	t := time.NewTimer(limit)
	defer t.Stop()
	var err error
	select {
	case err = <-done:
	case <-m.down:
		return errDown{errors.New(m.lost())}
	case <-t.C:
		m.end(fmt.Sprintf("the machine did not answer within %v of its start", limit))
		return errSilent{errors.New(m.lost())}
	}
	if err != nil {
		select {
		case <-m.down:
			return errDown{errors.New(m.lost())}
		case <-time.After(killTime): // a busy host
		}
		return fmt.Errorf("greet the agent: %w", err)
	}
	m.session, err = yamux.Client(newGuard(m.agent), session())
	return err
}
