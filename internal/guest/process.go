package guest

import (
	"errors"
	"os"
	"sync"
	"syscall"
	"time"

	"encoding/json"

	"golang.org/x/sys/unix"

	"wharf/api/guestapi"
	"wharf/internal/runtime"
)

// drainTime is how long output is read after the process's end while a
// descendant still holds its stdout or stderr open. The monitor of a
// container waits as long.
const drainTime = 2 * time.Second

// process is the main process or an exec'd one.
type process struct {
	id     string
	call   *call
	proc   *runtime.Process
	tty    bool
	stdin  *os.File // nil: the process reads /dev/null
	stdout *os.File // of a terminal its master, and then stdin as well
	stderr *os.File
	once   sync.Once // closes stdin
	pumps  sync.WaitGroup

	mu   sync.Mutex
	send sync.Mutex // one frame at a time
	gone bool       // the host reads no more
	exit *guestapi.Exit
}

// state is the pid while it lives, or how it ended.
func (p *process) state() (int, *guestapi.Exit) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.exit != nil || p.proc == nil {
		return 0, p.exit
	}
	return p.proc.Pid, nil
}

// start starts the main process.
func (a *Agent) start(c *call) error {
	q := c.req.Process
	if q == nil {
		return invalid("a start has to describe the process")
	}
	var prepared runtime.Prepared
	if err := decode(q.Prepared, "prepared process", &prepared); err != nil {
		return err
	}
	p := &process{call: c, tty: q.Terminal}
	a.mu.Lock()
	if a.main != nil {
		a.mu.Unlock()
		return failed(guestapi.KindConflict, "the machine has started its process before")
	}
	a.main = p
	a.root = &guestapi.Overlay{Lower: prepared.Root.Lower, Upper: prepared.Root.Upper, Work: prepared.Root.Work}
	a.mu.Unlock()
	err := p.begin(q, func(f runtime.Files) (*runtime.Process, error) { return runtime.Create(&prepared, f) })
	if err != nil {
		a.mu.Lock()
		a.main = nil
		a.mu.Unlock()
		return err
	}
	p.hold(a)
	return nil
}

// exec starts a further process.
func (a *Agent) exec(c *call) error {
	q := c.req.Process
	if q == nil || q.ID == "" {
		return invalid("an exec has to describe the process")
	}
	var prepared runtime.PreparedExec
	if err := decode(q.Prepared, "prepared process", &prepared); err != nil {
		return err
	}
	// The host plans it and cannot see which directories there are here.
	prepared.Cgroups = a.group.Dirs()
	a.mu.Lock()
	target := 0
	if a.main != nil {
		target, _ = a.main.state()
	}
	if target == 0 {
		a.mu.Unlock()
		return failed(guestapi.KindNotFound, "the container has ended")
	}
	if a.execs[q.ID] != nil {
		a.mu.Unlock()
		return failed(guestapi.KindConflict, "exec %s was already started", q.ID)
	}
	p := &process{id: q.ID, call: c, tty: q.Terminal}
	a.execs[q.ID] = p
	a.mu.Unlock()
	err := p.begin(q, func(f runtime.Files) (*runtime.Process, error) { return runtime.Exec(target, &prepared, f) })
	if err == nil {
		p.hold(a)
	}
	a.mu.Lock()
	delete(a.execs, q.ID)
	a.mu.Unlock()
	return err
}

// begin makes the stdio, makes the process, lets it execute and replies.
func (p *process) begin(q *guestapi.Process, make func(runtime.Files) (*runtime.Process, error)) (err error) {
	var f runtime.Files
	defer func() {
		for _, theirs := range []*os.File{f.Stdin, f.Stdout, f.Stderr} {
			if theirs != nil {
				_ = theirs.Close()
			}
		}
		if err != nil {
			p.shut()
		}
	}()
	if !q.Terminal {
		if err := p.pipes(&f, q.OpenStdin); err != nil {
			return err
		}
	}
	proc, err := make(f)
	if err != nil {
		return err
	}
	if q.Terminal {
		err = p.terminal(proc.Console)
	}
	if err == nil {
		err = proc.Start()
	}
	if err != nil {
		_ = proc.Close()
		_, _ = proc.Wait()
		return err
	}
	p.mu.Lock()
	p.proc = proc
	p.mu.Unlock()
	reply := guestapi.Reply{Pid: proc.Pid, Warnings: proc.Warnings}
	for _, s := range proc.Trace {
		reply.Trace = append(reply.Trace, guestapi.Step{Name: s.Name, At: s.At})
	}
	// A host that has gone ends no process.
	if p.call.reply(reply) != nil {
		p.gone = true
	}
	return nil
}

func (p *process) pipes(f *runtime.Files, openStdin bool) (err error) {
	if openStdin {
		if f.Stdin, p.stdin, err = os.Pipe(); err != nil {
			return err
		}
	}
	if p.stdout, f.Stdout, err = os.Pipe(); err != nil {
		return err
	}
	p.stderr, f.Stderr, err = os.Pipe()
	return err
}

// terminal takes the master side: as a descriptor that is polled, so that a
// read ends when it is closed.
func (p *process) terminal(master *os.File) error {
	if master == nil {
		return errors.New("the runtime made no terminal")
	}
	fd, err := unix.FcntlInt(master.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	_ = master.Close()
	if err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return os.NewSyscallError("fcntl", err)
	}
	tty := os.NewFile(uintptr(fd), "terminal")
	p.stdin, p.stdout = tty, tty
	return nil
}

// hold moves the streams until the process has ended, and tells the exit.
func (p *process) hold(a *Agent) {
	oom, _ := a.group.OOM()
	for _, s := range []struct {
		t    guestapi.Type
		from *os.File
	}{{guestapi.Stdout, p.stdout}, {guestapi.Stderr, p.stderr}} {
		if s.from != nil {
			p.pumps.Add(1)
			a.spawn(func() { p.pump(s.t, s.from) })
		}
	}
	a.spawn(p.input)
	e := p.wait()
	if now, _ := a.group.OOM(); now > oom && e.Code == 128+int(unix.SIGKILL) {
		e.OOMKilled = true
	}
	p.drain()
	p.mu.Lock()
	p.exit = &e
	p.mu.Unlock()
	p.frame(guestapi.ExitFrame, e)
	_ = p.proc.Close()
	_ = p.call.stream.Close()
	a.spawn(func() { // a descendant that still writes is read to nowhere
		p.pumps.Wait()
		p.shut()
	})
}

// wait reaps the process.
func (p *process) wait() guestapi.Exit {
	status, err := p.proc.Wait()
	e := guestapi.Exit{At: time.Now().UTC()}
	switch {
	case err != nil:
		e.Code, e.Error = 255, "the exit code is not known: "+err.Error()
	case status.Signaled():
		e.Signal = int(status.Signal())
		e.Code = 128 + e.Signal
	default:
		e.Code = status.ExitStatus()
	}
	return e
}

// drain waits for the output that is in the pipes.
func (p *process) drain() {
	done := make(chan struct{})
	go func() { p.pumps.Wait(); close(done) }()
	// The host decides how fast it reads; only a descendant that keeps the
	// pipes open is not waited for. It is told from a slow host by asking
	// whether anything is under way, and from a machine that was held up by
	// asking whether there is anything to read.
	for full := 0; full < 5; {
		select {
		case <-done:
			return
		case <-time.After(drainTime):
		}
		if !p.send.TryLock() {
			continue
		}
		p.send.Unlock()
		if p.unread() == 0 {
			return
		}
		full++ // or the descendant writes and writes
	}
}

// unread is how many bytes wait in the pipes.
func (p *process) unread() (total int) {
	for _, f := range []*os.File{p.stdout, p.stderr} {
		if f == nil {
			continue
		}
		if c, err := f.SyscallConn(); err == nil {
			_ = c.Control(func(fd uintptr) {
				n, _ := unix.IoctlGetInt(int(fd), unix.TIOCINQ) // FIONREAD
				total += n
			})
		}
	}
	return total
}

// pump moves one output stream to the host until its end.
func (p *process) pump(t guestapi.Type, from *os.File) {
	defer p.pumps.Done()
	buf := make([]byte, portWrite-yamuxHeader) // with its header one write to the port
	for {
		n, err := from.Read(buf[guestapi.HeaderLen:])
		if n > 0 {
			guestapi.PutHeader(buf, t, n)
			p.write(buf[:guestapi.HeaderLen+n])
		}
		if err != nil {
			return
		}
	}
}

// write sends a frame; once the host has gone, to nowhere.
func (p *process) write(frame []byte) {
	p.send.Lock()
	defer p.send.Unlock()
	if p.gone {
		return
	}
	if _, err := p.call.stream.Write(frame); err != nil {
		p.gone = true
	}
}

func (p *process) frame(t guestapi.Type, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		return
	}
	if f, err := guestapi.Frame(t, data); err == nil {
		p.write(f)
	}
}

// input acts on the host's frames until the stream ends.
func (p *process) input() {
	defer p.closeStdin()
	for {
		t, data, err := p.call.reader.Next()
		if err != nil {
			return
		}
		switch t {
		case guestapi.Stdin:
			if p.stdin != nil {
				// A process that closed its stdin wants no more: not the
				// host's mistake.
				_, _ = p.stdin.Write(data)
			}
		case guestapi.CloseStdin:
			p.closeStdin()
		case guestapi.Resize:
			var w guestapi.WinSize
			if json.Unmarshal(data, &w) == nil {
				_ = p.resize(w)
			}
		case guestapi.Signal:
			var n guestapi.SignalNumber
			if json.Unmarshal(data, &n) == nil && n > 0 {
				_ = p.kill(n)
			}
		default:
			return // not our protocol
		}
	}
}

// closeStdin makes the process read the end of its input. A terminal has no
// such thing: it stays open.
func (p *process) closeStdin() {
	if p.stdin == nil || p.tty {
		return
	}
	p.once.Do(func() { _ = p.stdin.Close() })
}

// shut closes our ends.
func (p *process) shut() {
	p.closeStdin()
	for _, f := range []*os.File{p.stdout, p.stderr} {
		if f != nil {
			_ = f.Close()
		}
	}
}

func (p *process) kill(n guestapi.SignalNumber) error {
	p.mu.Lock()
	proc, ended := p.proc, p.exit != nil
	p.mu.Unlock()
	if proc == nil || ended {
		return failed(guestapi.KindNotFound, "the process has ended")
	}
	err := proc.Signal(syscall.Signal(n))
	if errors.Is(err, os.ErrProcessDone) || errors.Is(err, unix.EBADF) {
		return failed(guestapi.KindNotFound, "the process has ended")
	}
	return err
}

func (p *process) resize(w guestapi.WinSize) error {
	if !p.tty {
		return invalid("the process has no terminal to resize")
	}
	rc, err := p.stdout.SyscallConn()
	if err != nil {
		return err
	}
	var ierr error
	err = rc.Control(func(fd uintptr) {
		ierr = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(w.Height), Col: uint16(w.Width)})
	})
	return errors.Join(err, ierr)
}

// target finds the process that a signal or resize is for.
func (a *Agent) target(id string) (*process, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.main
	if id != "" {
		p = a.execs[id]
	}
	if p == nil {
		return nil, failed(guestapi.KindNotFound, "there is no such process")
	}
	return p, nil
}

func (a *Agent) signal(c *call) error {
	if c.req.Signal <= 0 || c.req.Signal > 64 {
		return invalid("no such signal: %d", c.req.Signal)
	}
	p, err := a.target(c.req.Target)
	if err == nil {
		err = p.kill(c.req.Signal)
	}
	if err != nil {
		return err
	}
	return c.reply(guestapi.Reply{})
}

func (a *Agent) resize(c *call) error {
	if c.req.Size == nil {
		return invalid("a resize has to give a size")
	}
	p, err := a.target(c.req.Target)
	if err == nil {
		err = p.resize(*c.req.Size)
	}
	if err != nil {
		return err
	}
	return c.reply(guestapi.Reply{})
}
