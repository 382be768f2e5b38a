package vmm

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"wharf/api/frame"
	"wharf/api/guestapi"
	"wharf/api/monitorapi"
	"wharf/internal/monitor"
	"wharf/internal/runtime"
	"wharf/internal/undo"
	"wharf/internal/vmm/vmmapi"
)

// Main is wharf-vmm.
func Main() int { return monitor.Hold(&engine{}) }

// engine is the monitor's engine that boots a machine.
type engine struct {
	mu sync.Mutex
	m  *machine // once it answers

	waiting *machine // made ahead, of nobody's yet
	roamer  *roamer  // its first device's tap
	givenUp bool     // none is wanted
}

var _ monitor.Extras = (*engine)(nil)

func (e *engine) machine() (*machine, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.m == nil {
		return nil, &monitorapi.Failed{Kind: monitorapi.KindUnavailable, Text: "the machine is still starting"}
	}
	return e.m, nil
}

// Create boots the machine and makes it the instance's.
func (e *engine) Create(st *monitorapi.Start, f monitor.Files) (_ monitor.Process, err error) {
	var u undo.Stack
	defer u.OnError(&err)
	var spec vmmapi.Machine
	if err := json.Unmarshal(st.Prepared, &spec); err != nil {
		return nil, fmt.Errorf("prepared machine: %w", err)
	}
	p, err := newProcess("", spec.Main, f)
	if err != nil {
		return nil, err
	}
	u.Push(func() error { p.Close(); return nil })
	etc := newEtc(spec.Etc) // what changes during the boot is sent after it
	begin := e.boot
	if spec.Take != nil {
		begin = e.takeOver
	}
	m, err := begin(&spec, f)
	if err != nil {
		return nil, notUp(err)
	}
	u.Push(func() error { m.kill(); return nil })
	p.m = m
	if spec.Save {
		return p, m.save(f.More[vmmapi.SaveFile])
	}
	m.etc = etc
	e.mu.Lock()
	e.m = m
	e.mu.Unlock()
	go m.watch()
	go m.followClock()
	go m.breathe()
	go m.watchState()
	go m.followEtc()
	go m.relieve()
	return p, nil
}

// Exec makes a further process in the guest.
func (e *engine) Exec(_ monitor.Process, x *monitorapi.Exec, f monitor.Files) (monitor.Process, error) {
	m, err := e.machine()
	if err != nil {
		return nil, err
	}
	began := time.Now()
	if err := m.sendEtc(); err != nil {
		return nil, err
	}
	p, err := newProcess(x.ID, guestapi.Process{ID: x.ID, Prepared: x.Prepared, Terminal: x.Terminal, OpenStdin: x.OpenStdin}, f)
	if err != nil {
		return nil, err
	}
	p.m, p.limit = m, max(replyTime-time.Since(began), briefTime)
	return p, nil
}

// failed makes of a guest's error one for the daemon. It is a person's text
// from a hostile place, so its length is bounded.
func failed(err error) error {
	var f *guestapi.Failed
	if !errors.As(err, &f) {
		return err
	}
	text := frame.Printable(f.Text, 4000)
	if f.Code == 126 || f.Code == 127 || f.Code == 128 {
		return &runtime.ExecError{Code: f.Code, Msg: text}
	}
	kind := monitorapi.KindInternal
	switch f.Kind {
	case guestapi.KindInvalid, guestapi.KindNotFound, guestapi.KindUnavailable, guestapi.KindUnimplemented, guestapi.KindConflict:
		kind = f.Kind
	}
	return &monitorapi.Failed{Kind: kind, Text: text}
}

// Serve answers what only a VM's holder knows.
func (e *engine) Serve(conn *os.File, r *monitorapi.Reader, q monitorapi.Request) (handled, keep bool, err error) {
	m, err := e.machine()
	if err != nil {
		return true, false, err
	}
	switch q.Op {
	case vmmapi.OpGuest:
		return true, true, m.pass(conn, r, q)
	case vmmapi.OpPlug:
		return true, false, m.plug(conn, q)
	case vmmapi.OpBalloon:
		return true, false, m.serveBalloon(conn, q)
	case vmmapi.OpQMP:
		return true, false, m.serveQMP(conn, q)
	}
	return false, false, nil
}
