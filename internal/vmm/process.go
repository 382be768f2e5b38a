package vmm

import (
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"wharf/api/guestapi"
	"wharf/api/monitorapi"
	"wharf/internal/monitor"
)

// killTime is how long a machine may take to act on SIGKILL.
const killTime = 10 * time.Second

// process is a process in the guest.
type process struct {
	m    *machine // set before Start
	id   string   // of an exec; "" is the main process
	spec guestapi.Process
	// limit is how long an exec may take to start.
	limit time.Duration

	stdin, stdout, stderr *os.File // the process's ends; of a terminal one socket
	terminal              *os.File // the other end of that
	gpid                  int

	wmu  sync.Mutex // frames to the guest
	conn net.Conn
	done chan struct{}
	exit monitorapi.Exit

	once sync.Once // Wait
}

var _ monitor.Remote = (*process)(nil)

func newProcess(id string, spec guestapi.Process, f monitor.Files) (_ *process, err error) {
	p := &process{id: id, spec: spec, done: make(chan struct{})}
	defer func() {
		if err != nil {
			p.Close()
		}
	}()
	if spec.Terminal {
		ours, theirs, err := socketpair("terminal")
		if err != nil {
			return nil, err
		}
		p.stdin, p.stdout, p.terminal = ours, ours, theirs
		return p, nil
	}
	for _, x := range []struct {
		from *os.File
		to   **os.File
	}{{f.Stdin, &p.stdin}, {f.Stdout, &p.stdout}, {f.Stderr, &p.stderr}} {
		if x.from == nil {
			continue
		}
		fd, err := unix.FcntlInt(x.from.Fd(), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			return nil, os.NewSyscallError("fcntl", err)
		}
		_ = unix.SetNonblock(fd, true)
		*x.to = os.NewFile(uintptr(fd), x.from.Name())
	}
	return p, nil
}

// Pid is QEMU's: what the host can see of the process.
func (p *process) Pid() int {
	if p.id != "" {
		return p.gpid
	}
	return p.m.qemu.Pid
}

// Console is the end of the terminal that the monitor holds.
func (p *process) Console() *os.File { return p.terminal }

func (p *process) Warnings() []string {
	if p.id != "" {
		return nil
	}
	return p.m.warnings
}

func (p *process) Trace() []monitorapi.Step {
	if p.id != "" {
		return nil
	}
	return p.m.trace
}

// Start starts the process in the guest.
func (p *process) Start() error {
	if p.id == "" && (p.m.spec.Helper || p.m.spec.Save) {
		go func() {
			<-p.m.down
			p.exit = monitorapi.Exit{At: time.Now().UTC()}
			p.closeOutput()
			close(p.done)
		}()
		return nil
	}
	open, limit, op := p.m.request, p.m.spec.BootTime, guestapi.OpStart
	if p.id != "" {
		open, limit, op = p.m.open, p.limit, guestapi.OpExec
	}
	conn, r, reply, err := open(limit, guestapi.Request{Op: op, Target: p.id, Process: &p.spec})
	if err != nil {
		if p.id == "" {
			err = p.m.told(p.m.stuck(err))
			p.m.kill()
		}
		close(p.done)
		return err
	}
	p.conn, p.gpid = conn, reply.Pid
	if p.id == "" {
		p.m.warnings = append(p.m.warnings, reply.Warnings...)
		p.m.trace.inside(reply.Trace)
	}
	go p.output(r)
	if p.stdin != nil {
		go p.input()
	}
	return nil
}

// told marks what the guest says of the process that it cannot start: that the
// machine itself is well.
func (m *machine) told(err error) error {
	var f *monitorapi.Failed
	if !errors.As(err, &f) || f.Kind == monitorapi.KindUnavailable {
		return err
	}
	select {
	case <-m.down: // the error is of the machine's end
		return err
	default:
	}
	g := *f
	g.Told = true
	return &g
}

// output moves what the process writes to its files, until its exit.
func (p *process) output(r *guestapi.Reader) {
	defer close(p.done)
	q := newQueue()
	for {
		t, b, err := r.Next()
		if err != nil {
			p.exit = p.lost(err)
			break
		}
		switch t {
		case guestapi.Stdout:
			q.push(p.stdout, b, p.ended)
		case guestapi.Stderr:
			q.push(p.stderr, b, p.ended)
		case guestapi.ExitFrame:
			p.exit = exitOf(b)
		default:
			p.exit = p.lost(guestapi.ErrFrame)
		}
		if !p.exit.At.IsZero() {
			break
		}
	}
	_ = p.conn.Close()
	q.close(p.closeOutput)
}

// ended asks the agent whether the process has ended.
func (p *process) ended() bool {
	r, err := p.m.ask(askTime, guestapi.Request{Op: guestapi.OpState})
	if err != nil || r.State == nil {
		return false
	}
	if p.id == "" {
		return r.State.Pid == 0
	}
	return !slices.Contains(r.State.Execs, p.id)
}

func (p *process) closeOutput() {
	for _, f := range []*os.File{p.stdout, p.stderr} {
		if f != nil {
			_ = f.Close()
		}
	}
}

// lost is the exit of a process whose machine has gone, or whose agent talks
// nonsense.
func (p *process) lost(err error) monitorapi.Exit {
	if errors.Is(err, guestapi.ErrFrame) {
		p.m.end("the machine's agent broke its protocol: " + err.Error())
	}
	select {
	case <-p.m.down:
	case <-time.After(killTime):
		p.m.end("the machine's agent ended the session: " + err.Error())
	}
	return monitorapi.Exit{Code: 137, At: time.Now().UTC(), Error: p.m.lost()}
}

// input moves the clients' input to the process.
func (p *process) input() {
	buf := make([]byte, guestapi.MaxData)
	for {
		n, err := p.stdin.Read(buf)
		if n > 0 && p.send(guestapi.Stdin, buf[:n]) != nil {
			_, _ = io.Copy(io.Discard, p.stdin)
			return
		}
		if err != nil {
			_ = p.send(guestapi.CloseStdin, nil)
			return
		}
	}
}

func (p *process) send(t guestapi.Type, b []byte) error {
	p.wmu.Lock()
	defer p.wmu.Unlock()
	return guestapi.Write(p.conn, t, b)
}

// Wait returns the exit; the main process's when the machine is down.
func (p *process) Wait() monitorapi.Exit {
	<-p.done
	if p.id == "" {
		p.once.Do(p.m.stop)
	}
	return p.exit
}

// stop takes the machine down after its process has ended: what it wrote is on
// its disk then.
func (m *machine) stop() {
	select {
	case <-m.down:
		return
	default:
	}
	_, _ = m.ask(m.spec.StopTime, guestapi.Request{Op: guestapi.OpHalt})
	m.kill()
}

// Signal sends sig to the process. A machine that does not even act on SIGKILL
// is killed itself.
func (p *process) Signal(sig syscall.Signal) error {
	select {
	case <-p.done:
		return unix.ESRCH
	default:
	}
	if p.m.spec.Helper {
		p.m.end("it was killed")
		return nil
	}
	limit := askTime
	if sig == syscall.SIGKILL {
		limit = killTime
	}
	_, err := p.m.ask(limit, guestapi.Request{Op: guestapi.OpSignal, Target: p.id, Signal: guestapi.SignalNumber(sig)})
	var f *monitorapi.Failed
	switch {
	case err == nil:
		return nil
	case errors.As(err, &f) && f.Kind == monitorapi.KindNotFound:
		return unix.ESRCH
	case sig == syscall.SIGKILL && p.id == "":
		p.m.end("the machine did not answer and was killed")
		return nil
	}
	return err
}

// Resize sets the terminal's size.
func (p *process) Resize(w monitorapi.WinSize) error {
	_, err := p.m.ask(askTime, guestapi.Request{Op: guestapi.OpResize, Target: p.id, Size: &guestapi.WinSize{Height: w.Height, Width: w.Width}})
	return err
}

// Close frees what is held. A main process that was not started takes its
// machine with it.
func (p *process) Close() {
	for _, f := range []*os.File{p.stdin, p.stdout, p.stderr} {
		if f != nil {
			_ = f.Close()
		}
	}
	if p.id == "" && p.m != nil {
		p.m.kill()
	}
}
