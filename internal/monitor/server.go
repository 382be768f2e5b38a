package monitor

import (
	"errors"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"wharf/api/monitorapi"
)

// requestTime is how long a connection may take to say what it wants.
const requestTime = 10 * time.Second

// accept serves connections until the socket is closed.
func (m *monitor) accept() {
	for {
		conn, err := accept(m.socket)
		if err != nil {
			if errors.Is(err, os.ErrClosed) {
				return
			}
			// Out of descriptors or memory: clients wait in the backlog.
			time.Sleep(50 * time.Millisecond)
			continue
		}
		m.busy.Add(1)
		go func() {
			defer m.busy.Done()
			m.serve(conn)
		}()
	}
}

// serve answers one connection.
func (m *monitor) serve(conn *os.File) {
	var keep bool
	defer func() {
		if !keep {
			_ = conn.Close()
		}
	}()
	_ = conn.SetReadDeadline(time.Now().Add(requestTime))
	r := &monitorapi.Reader{R: conn}
	var q monitorapi.Request
	if err := r.Expect(monitorapi.RequestFrame, &q); err != nil {
		return
	}
	_ = conn.SetReadDeadline(time.Time{})
	var err error
	switch q.Op {
	case monitorapi.OpAttach:
		keep, err = m.attach(conn, r, q)
	case monitorapi.OpExec:
		keep, err = m.exec(conn, r, q)
	case monitorapi.OpWait:
		err = m.wait(conn, q)
	case monitorapi.OpSignal:
		err = m.signal(conn, q)
	case monitorapi.OpResize:
		err = m.resize(conn, q)
	case monitorapi.OpState:
		err = reply(conn, monitorapi.Reply{State: m.state()})
	default:
		var handled bool
		if x, ok := m.engine.(Extras); ok {
			handled, keep, err = x.Serve(conn, r, q)
		}
		if handled {
			break
		}
		err = failed(monitorapi.KindUnimplemented, "this container's monitor does not know the operation "+string(q.Op)+": it was started by another version of wharf")
	}
	if err != nil {
		_ = monitorapi.WriteJSON(conn, monitorapi.Error, asFailed(err))
	}
}

// reply answers a request.
func reply(conn *os.File, r monitorapi.Reply) error {
	r.Version = monitorapi.Version
	return monitorapi.WriteJSON(conn, monitorapi.ReplyFrame, r)
}

// attach makes the connection a client of the main process's streams. It
// reports whether the connection is now the client's.
func (m *monitor) attach(conn *os.File, r *monitorapi.Reader, q monitorapi.Request) (bool, error) {
	if q.Attach == nil {
		return false, failed(monitorapi.KindInvalid, "an attach request has to name streams")
	}
	if err := reply(conn, monitorapi.Reply{Pid: m.proc.Pid()}); err != nil {
		return false, nil // gone already
	}
	c := newClient(conn, *q.Attach)
	if !m.main.add(c) {
		c.end(*m.ended())
		<-c.flushed
		return true, nil
	}
	c.serve(r, m.main, m.kill)
	if q.Attach.Stdin {
		m.main.closeStdin()
	}
	c.drop()
	m.main.remove(c)
	return true, nil
}

// ended returns the exit, nil while the container runs.
func (m *monitor) ended() *monitorapi.Exit {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.exit
}

// wait answers when the process has ended.
func (m *monitor) wait(conn *os.File, q monitorapi.Request) error {
	if q.Exec == "" {
		if err := reply(conn, monitorapi.Reply{Pid: m.proc.Pid()}); err != nil {
			return nil
		}
		m.sendExit(conn)
		return nil
	}
	x, err := m.execs.find(q.Exec)
	if err != nil {
		return err
	}
	if err := reply(conn, monitorapi.Reply{Pid: x.pid}); err != nil {
		return nil
	}
	<-x.done
	_ = monitorapi.WriteJSON(conn, monitorapi.ExitFrame, x.exit)
	return nil
}

// kill sends a signal to the main process.
func (m *monitor) kill(sig syscall.Signal) error { return killed(m.handle.signal(sig)) }

// killed gives the error of a signal its kind.
func killed(err error) error {
	if errors.Is(err, unix.ESRCH) || errors.Is(err, os.ErrClosed) {
		return failed(monitorapi.KindNotFound, "the process has ended")
	}
	return err
}

func (m *monitor) signal(conn *os.File, q monitorapi.Request) error {
	if !validSignal(q.Signal) {
		return failed(monitorapi.KindInvalid, "no such signal: "+itoa(int(q.Signal)))
	}
	kill := m.kill
	if q.Exec != "" {
		x, err := m.execs.find(q.Exec)
		if err != nil {
			return err
		}
		kill = x.kill
	}
	if err := kill(syscall.Signal(q.Signal)); err != nil {
		return err
	}
	return reply(conn, monitorapi.Reply{})
}

func (m *monitor) resize(conn *os.File, q monitorapi.Request) error {
	if q.Size == nil {
		return failed(monitorapi.KindInvalid, "a resize request has to give a size")
	}
	s := m.main
	if q.Exec != "" {
		x, err := m.execs.find(q.Exec)
		if err != nil {
			return err
		}
		s = x.streams
	}
	if err := s.resize(*q.Size); err != nil {
		return err
	}
	return reply(conn, monitorapi.Reply{})
}

// state says all that is known.
func (m *monitor) state() *monitorapi.State {
	s := &monitorapi.State{
		ID: m.start.ID, Pid: m.proc.Pid(), StartedAt: m.began, Exit: m.ended(), Warnings: m.proc.Warnings(),
		Execs: m.execs.states(), Attached: m.main.attached(),
	}
	if s.Exit != nil {
		s.Pid = 0
	}
	l := m.log.State()
	s.Log = monitorapi.LogState{Driver: l.Driver, LostLines: l.LostLines, LostBytes: l.LostBytes, Gaps: l.Gaps, Failing: l.Failing}
	return s
}
