package monitor

import (
	"os"
	"strconv"
	"sync"
	"syscall"

	"wharf/api/monitorapi"
)

// rememberedExits is how many ended execs are kept for whoever asks late.
const rememberedExits = 64

// execs are the processes that were started by exec.
type execs struct {
	mu   sync.Mutex
	byID map[string]*execd
	// past holds the ids of ended ones, oldest first.
	past []string
}

// execd is one exec'd process. exit is set when done is closed.
type execd struct {
	id      string
	pid     int
	handle  waiter
	streams *streams
	done    chan struct{}
	exit    monitorapi.Exit
}

func itoa(n int) string { return strconv.Itoa(n) }

// find returns an exec by id.
func (e *execs) find(id string) (*execd, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if x := e.byID[id]; x != nil {
		return x, nil
	}
	return nil, failed(monitorapi.KindNotFound, "No such exec instance: "+id)
}

func (e *execs) put(x *execd) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.byID[x.id] != nil {
		return failed(monitorapi.KindInvalid, "exec "+x.id+" was already started")
	}
	if e.byID == nil {
		e.byID = map[string]*execd{}
	}
	e.byID[x.id] = x
	return nil
}

func (e *execs) drop(x *execd) {
	e.mu.Lock()
	delete(e.byID, x.id)
	e.mu.Unlock()
}

// retire marks x as ended and forgets the oldest that has.
func (e *execs) retire(x *execd) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.past = append(e.past, x.id)
	if len(e.past) > rememberedExits {
		delete(e.byID, e.past[0])
		e.past = append(e.past[:0], e.past[1:]...)
	}
}

// states lists what is known, in no order.
func (e *execs) states() []monitorapi.ExecState {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []monitorapi.ExecState
	for _, x := range e.byID {
		s := monitorapi.ExecState{ID: x.id, Pid: x.pid}
		select {
		case <-x.done:
			exit := x.exit
			s.Pid, s.Exit = 0, &exit
		default:
		}
		out = append(out, s)
	}
	return out
}

func (x *execd) kill(sig syscall.Signal) error {
	select {
	case <-x.done:
		return failed(monitorapi.KindNotFound, "the process has ended")
	default:
	}
	return killed(x.handle.signal(sig))
}

// exec starts a further process; the connection becomes its streams. It
// reports whether the connection is now the client's.
func (m *monitor) exec(conn *os.File, r *monitorapi.Reader, q monitorapi.Request) (bool, error) {
	if q.Start == nil || q.Start.ID == "" {
		return false, failed(monitorapi.KindInvalid, "an exec request has to describe the process")
	}
	x := &execd{id: q.Start.ID, streams: newStreams(0, discard{}), done: make(chan struct{})}
	if err := m.execs.put(x); err != nil {
		return false, err
	}
	proc, err := m.startExec(x, q.Start)
	if err != nil {
		m.execs.drop(x)
		return false, err
	}
	want := monitorapi.Attach{Stdin: q.Start.OpenStdin || q.Start.Terminal, Stdout: true, Stderr: true}
	// A client that has gone ends neither this process nor its own.
	_ = reply(conn, monitorapi.Reply{Pid: x.pid, Warnings: proc.Warnings()})
	c := newClient(conn, want)
	x.streams.add(c)
	x.streams.run()
	m.busy.Add(1)
	go func() {
		defer m.busy.Done()
		m.holdExec(x, proc)
	}()
	c.serve(r, x.streams, x.kill)
	x.streams.closeStdin()
	c.drop()
	x.streams.remove(c)
	return true, nil
}

// startExec makes the process and its stdio.
func (m *monitor) startExec(x *execd, e *monitorapi.Exec) (Process, error) {
	if m.ended() != nil {
		return nil, failed(monitorapi.KindNotFound, "the container has ended")
	}
	var f Files
	var err error
	if !e.Terminal {
		if f, err = x.streams.pipes(e.OpenStdin, e.Owner); err != nil {
			return nil, err
		}
	}
	proc, err := m.engine.Exec(m.proc, e, f)
	f.closeStdio()
	if err != nil {
		x.streams.shut()
		return nil, err
	}
	if e.Terminal {
		err = x.streams.terminal(proc)
	}
	x.pid = proc.Pid()
	if err == nil {
		x.handle, err = openWaiter(proc)
	}
	if err == nil {
		if err = proc.Start(); err != nil {
			_ = x.handle.wait()
		}
	}
	if err != nil {
		proc.Close()
		x.streams.shut()
		return nil, err
	}
	return proc, nil
}

// holdExec waits for an exec's end and tells its client. A descendant that
// still writes afterwards is read to nowhere until it ends.
func (m *monitor) holdExec(x *execd, proc Process) {
	x.exit = x.handle.wait()
	x.streams.finish()
	close(x.done)
	m.execs.retire(x)
	proc.Close()
	x.handle.close()
	x.streams.close(x.exit)
	go func() {
		x.streams.pumps.Wait()
		x.streams.shut()
	}()
}
