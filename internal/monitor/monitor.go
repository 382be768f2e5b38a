package monitor

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"wharf/api/monitorapi"
	"wharf/internal/lean"
	"wharf/internal/logs/logfile"
	"wharf/internal/runtime"
	"wharf/internal/undo"
)

// controlFd is the control socket's descriptor.
const controlFd = 3

// monitor is one container's.
type monitor struct {
	start  monitorapi.Start
	engine Engine
	dir    *os.File // instances/<id>
	socket *os.File
	log    *logfile.Log
	main   *streams
	proc   Process
	handle waiter
	began  time.Time
	trace  trace
	execs  execs

	mu     sync.Mutex
	exit   *monitorapi.Exit
	exited chan struct{} // closed when exit is recorded

	record exitFile
	told   atomic.Bool // somebody got the exit

	busy sync.WaitGroup // connections whose answer is under way
}

// Main is wharf-monitor: it reads a Start from descriptor 3, starts the
// container, holds it to its end and returns the process's exit code.
func Main() int { return Hold(native{}) }

// Hold is Main with another engine.
func Hold(e Engine) int {
	tr := trace{{Name: "monitor runs", At: time.Now().UnixNano()}}
	// Signals for the terminal or service that the daemon runs in are not for
	// us.
	ignoreSignals()
	control, err := ours()
	if err != nil {
		fmt.Fprintln(os.Stderr, "wharf-monitor is started by wharfd and not by hand:", err)
		return 2
	}
	from := &rights{conn: control}
	r := &monitorapi.Reader{R: from}
	st, err := orders(r, from, e)
	if err != nil {
		if errors.Is(err, io.EOF) {
			return 0 // a spare that was not needed
		}
		fmt.Fprintln(os.Stderr, "wharf-monitor:", err)
		return 2
	}
	f, err := from.take(st.Files)
	if err != nil {
		_ = monitorapi.WriteJSON(control, monitorapi.Error, asFailed(err))
		return 1
	}
	nameSelf(st.ID)
	tr.add("monitor has its orders")
	return run(st, f, control, r, e, tr)
}

// trace says where the time of a start went.
type trace []monitorapi.Step

func (t *trace) add(name string) {
	*t = append(*t, monitorapi.Step{Name: name, At: time.Now().UnixNano()})
}

// ours takes the control socket and closes every descriptor that the daemon
// did not mean for us. The one argument is the container's id, for ps.
func ours() (*os.File, error) {
	if len(os.Args) != 2 {
		return nil, errors.New("one argument is due")
	}
	// Before anything has been polled: the poller has descriptors as well.
	if err := unix.CloseRange(controlFd+1, 1<<31, 0); err != nil {
		return nil, err
	}
	unix.CloseOnExec(controlFd)
	if typ, err := unix.GetsockoptInt(controlFd, unix.SOL_SOCKET, unix.SO_TYPE); err != nil || typ != unix.SOCK_STREAM {
		return nil, errors.New("descriptor 3 is not a socket")
	}
	return polled(controlFd, "control")
}

// run is Main after the Start message.
func run(st monitorapi.Start, f Files, control *os.File, orders *monitorapi.Reader, e Engine, tr trace) int {
	m, err := begin(st, f, orders, e, tr)
	if err != nil {
		_ = monitorapi.WriteJSON(control, monitorapi.Error, asFailed(err))
		return 1
	}
	err = monitorapi.WriteJSON(control, monitorapi.StartedFrame,
		monitorapi.Started{Version: monitorapi.Version, Pid: m.proc.Pid(), Warnings: m.proc.Warnings(), Trace: m.trace})
	if err != nil {
		// The daemon has died before it could know of the container: no
		// record says that it runs, so it must not.
		_ = m.handle.signal(syscall.SIGKILL)
	}
	return m.hold(control)
}

// begin makes the container and its stdio and starts it.
func begin(st monitorapi.Start, f Files, orders *monitorapi.Reader, e Engine, tr trace) (m *monitor, err error) {
	var u undo.Stack
	defer u.OnError(&err)
	m = &monitor{start: st, engine: e, trace: tr, exited: make(chan struct{})}
	if m.dir, err = os.Open("."); err != nil {
		return nil, err
	}
	if err := m.record.reserve(m.dir); err != nil {
		return nil, err
	}
	// The log and the socket are made while the init stage sets itself up.
	aside := make(chan error, 1)
	go func() { aside <- m.open() }()

	m.main = newStreams(st.Waiting, nil)
	m.main.keep = !st.StdinOnce
	if !st.Terminal {
		pipes, err := m.main.pipes(st.OpenStdin, st.Owner)
		if err != nil {
			return nil, err
		}
		f.Stdin, f.Stdout, f.Stderr = pipes.Stdin, pipes.Stdout, pipes.Stderr
	}
	m.proc, err = e.Create(&m.start, f)
	f.closeStdio()
	f.closeNamespaces()
	asideErr := <-aside
	if err != nil {
		return nil, err
	}
	m.trace = append(m.trace, m.proc.Trace()...)
	m.trace.add("container is made")
	made := m.proc // m is nil when an error is returned
	u.Push(func() error { made.Close(); return nil })
	if asideErr != nil {
		return nil, asideErr
	}
	if st.Terminal {
		if err := m.main.terminal(m.proc); err != nil {
			return nil, err
		}
	}
	if m.handle, err = openWaiter(m.proc); err != nil {
		return nil, err
	}
	if st.Hold {
		if t, _, err := orders.Next(); err != nil || t != monitorapi.GoFrame {
			return nil, failed(monitorapi.KindUnavailable, "the start was given up")
		}
		m.trace.add("told to go")
	}
	known := len(m.proc.Trace())
	if err := m.proc.Start(); err != nil {
		return nil, err
	}
	m.trace = append(m.trace, m.proc.Trace()[known:]...)
	m.began = time.Now().UTC()
	m.trace.add("process runs")
	return m, nil
}

func (f Files) closeNamespaces() {
	for _, x := range []*os.File{f.User, f.Net} {
		if x != nil {
			_ = x.Close()
		}
	}
}

// open opens the log and the socket.
func (m *monitor) open() error {
	var p logfile.Plan
	if err := lean.Unmarshal(m.start.Log, &p); err != nil {
		return fmt.Errorf("log plan: %w", err)
	}
	var err error
	if m.log, err = logfile.Open(p); err != nil {
		return fmt.Errorf("failed to initialize logging driver: %w", err) // Docker's words
	}
	m.socket, err = listen(monitorapi.SocketName)
	return err
}

// hold keeps the container until it has ended and everybody was told.
func (m *monitor) hold(control *os.File) int {
	m.main.sink = logSink{m.log}
	m.main.run()
	protect()
	go m.accept()
	if m.start.Waiting > 0 {
		go m.giveUp(control)
	}
	m.busy.Add(1)
	go func() { // the daemon's held wait
		defer m.busy.Done()
		m.sendExit(control)
		_ = control.Close()
	}()

	e := m.handle.wait()
	m.main.finish()
	m.main.shut()
	_ = m.log.Close()
	err := m.record.record(e)
	if err != nil {
		fmt.Fprintln(os.Stderr, "wharf-monitor: the exit is not written yet:", err)
	}
	m.mu.Lock()
	m.exit = &e
	close(m.exited)
	m.mu.Unlock()
	if err != nil {
		m.unsaved(e)
	}

	_ = unix.Unlinkat(int(m.dir.Fd()), monitorapi.SocketName, 0)
	_ = m.socket.Close()
	m.proc.Close()
	m.main.close(e)
	m.busy.Wait()
	return 0
}

// giveUp stops waiting for announced clients when the daemon is gone, through
// which they would have come: the next one would have to wait for them, too.
func (m *monitor) giveUp(control *os.File) {
	_, _ = control.Read(make([]byte, 1)) // nothing is sent after the orders
	m.main.release()
}

// protect keeps the kernel from choosing the monitor when memory is short: the
// container would be lost with it. Not before the container is made, which
// would inherit it where its own value cannot be set; execs get the
// container's. Without CAP_SYS_RESOURCE it cannot be had.
func protect() {
	if f, err := os.OpenFile("/proc/self/oom_score_adj", os.O_WRONLY, 0); err == nil {
		_, _ = f.WriteString("-999")
		_ = f.Close()
	}
}

// sendExit waits for the exit and sends it.
func (m *monitor) sendExit(conn *os.File) {
	<-m.exited
	if monitorapi.WriteJSON(conn, monitorapi.ExitFrame, m.exit) == nil {
		m.told.Store(true)
	}
}

// logSink adapts the log.
type logSink struct{ l *logfile.Log }

func (s logSink) write(t monitorapi.Type, p []byte) { s.l.Write(byte(t), p) }
func (s logSink) end(t monitorapi.Type)             { s.l.Flush(byte(t)) }

// failed makes an error for the other side.
func failed(kind, text string) error { return &monitorapi.Failed{Kind: kind, Text: text} }

// asFailed is what the other side is told of err.
func asFailed(err error) *monitorapi.Failed {
	var f *monitorapi.Failed
	var x *runtime.ExecError
	switch {
	case errors.As(err, &f):
		return f
	case errors.As(err, &x):
		return &monitorapi.Failed{Kind: monitorapi.KindInvalid, Code: x.Code, Text: x.Msg}
	}
	return &monitorapi.Failed{Kind: monitorapi.KindInternal, Text: err.Error()}
}

// validSignal reports whether n can be sent.
func validSignal(n monitorapi.SignalNumber) bool { return n > 0 && n <= 64 }
