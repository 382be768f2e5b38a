package vmm

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"wharf/api/guestapi"
	"wharf/api/monitorapi"
	"wharf/internal/monitor"
	"wharf/internal/runtime"
	"wharf/internal/vmm/vmmapi"
)

// A machine that is kept ready is a clone that has rehearsed: it has booted as
// an instance that is nobody's, has run a program and has forgotten both. What
// its kernel and its agent do at a start has been translated by QEMU then, which
// is most of an emulated start, and its devices were used. It stands still
// (QMP's stop) and costs memory, no processor time. An instance takes it by
// giving it its disks, taps and control group.

// Times of a machine that nobody waits for. It has the least share of the
// processor.
const (
	readyTime    = 2 * time.Minute // for each step
	pressureTime = 10 * time.Second
)

// rehearsals is how often it does: the second time it runs through 3,000 pieces
// of code that the first one did not (68,000), a third one through 900 more.
const rehearsals = 2

var _ monitor.Aheader = (*engine)(nil)

// Ahead makes the machine and has it rehearse.
func (e *engine) Ahead(body []byte, f monitor.Files) error {
	var spec vmmapi.Machine
	if err := json.Unmarshal(body, &spec); err != nil {
		return fmt.Errorf("prepared machine: %w", err)
	}
	if spec.Pressure > 0 && readHost().presses(spec.Pressure+spec.Memory, false) {
		return &monitorapi.Failed{Kind: monitorapi.KindUnavailable, Text: "the host is short of memory"}
	}
	taps := taps{}
	defer taps.close()
	for i := range spec.Files {
		if spec.Files[i].Kind != vmmapi.FileTap {
			continue
		}
		r, err := newRoamer()
		if err != nil {
			return err
		}
		e.roamer = r
		if taps[""], err = duplicate(r.tap); err != nil {
			return err
		}
		break // there is one at most: the others are hubs
	}
	m, err := start(&spec, f, taps)
	if err == nil {
		if err = e.await(m); err == nil {
			err = m.rehearse()
		}
	}
	for _, x := range f.More { // QEMU has them
		_ = x.Close()
	}
	if err != nil {
		if m == nil {
			m = &machine{spec: &spec}
		}
		m.letGo()
		e.GiveUp()
		return err
	}
	go e.attend(m)
	return nil
}

// await makes m the one that is waited for, unless nobody does any more.
func (e *engine) await(m *machine) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.givenUp {
		return errors.New("the daemon has gone")
	}
	e.waiting = m
	return nil
}

// attend ends this process when the machine that waits has ended, or the host
// needs its memory.
func (e *engine) attend(m *machine) {
	tick := time.NewTicker(pressureTime)
	defer tick.Stop()
	for {
		ended := false
		select {
		case <-m.down:
			ended = true
		case <-tick.C:
			ended = m.spec.Pressure > 0 && readHost().presses(m.spec.Pressure, false)
		}
		e.mu.Lock()
		mine := e.waiting == m
		if mine && ended {
			m.letGo()
			os.Exit(1)
		}
		e.mu.Unlock()
		if !mine {
			return
		}
	}
}

// GiveUp ends the machine that nobody took, also while it rehearses.
func (e *engine) GiveUp() {
	e.mu.Lock()
	m := e.waiting
	e.waiting, e.givenUp = nil, true
	e.mu.Unlock()
	if m != nil {
		m.letGo()
	}
}

// letGo ends a machine that waits, and its control group.
func (m *machine) letGo() {
	if m.qemu != nil {
		m.kill()
	}
	if g := m.spec.QEMU.Cgroup; g != nil {
		_ = runtime.RemoveCgroups(g)
	}
}

func (e *engine) dropRoamer() {
	if e.roamer != nil {
		e.roamer.close()
		e.roamer = nil
	}
}

// rehearse has a clone do what a start is, forget it, and stand still.
func (m *machine) rehearse() error {
	if err := m.resume(); err != nil {
		return err
	}
	if err := m.greet(readyTime); err != nil {
		return err
	}
	for range rehearsals {
		if err := m.rehearseStart(); err != nil {
			return err
		}
	}
	time.Sleep(50 * time.Millisecond) // for the agent to be idle again
	_, err := m.qmp.run("stop", nil)
	return err
}

// rehearseStart is one start, and its end.
func (m *machine) rehearseStart() error {
	if _, err := m.ask(readyTime, guestapi.Request{Op: guestapi.OpBoot, Boot: &m.spec.Boot}); err != nil {
		return fmt.Errorf("rehearse the boot: %w", err)
	}
	if len(m.spec.Main.Prepared) > 0 {
		if err := m.rehearseProcess(); err != nil {
			return fmt.Errorf("rehearse a process: %w", err)
		}
	}
	if _, err := m.ask(readyTime, guestapi.Request{Op: guestapi.OpReset}); err != nil {
		return fmt.Errorf("forget the rehearsal: %w", err)
	}
	return nil
}

// rehearseProcess runs a process to its end.
func (m *machine) rehearseProcess() error {
	conn, r, _, err := m.open(readyTime, guestapi.Request{Op: guestapi.OpStart, Process: &m.spec.Main})
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(readyTime))
	for {
		t, b, err := r.Next()
		if err != nil {
			return err
		}
		if t != guestapi.ExitFrame {
			continue
		}
		if e := exitOf(b); e.Code != 0 {
			return fmt.Errorf("it ended with exit code %d %s", e.Code, e.Error)
		}
		return nil
	}
}

// takeOver makes the machine that waits the instance's.
func (e *engine) takeOver(spec *vmmapi.Machine, f monitor.Files) (*machine, error) {
	e.mu.Lock()
	m := e.waiting
	e.waiting = nil
	e.mu.Unlock()
	if m == nil {
		return nil, errors.New("no machine waits here")
	}
	before := m.spec
	m.spec, m.trace = spec, nil
	m.trace.add("vmm has its orders")
	err := m.take(before, e.roamer)
	e.dropRoamer()
	if err != nil {
		m.kill()
		return nil, err
	}
	return m, nil
}

// take gives the machine what is the instance's. Its control group and its
// networks are there before its process is started, not before its kernel goes on.
func (m *machine) take(before *vmmapi.Machine, r *roamer) error {
	moved, wired := make(chan error, 1), make(chan error, 1)
	var warnings []string
	go func() {
		var err error
		warnings, err = m.moveTo(m.spec.QEMU.Cgroup, before.QEMU.Cgroup)
		moved <- err
	}()
	go func() { wired <- m.wire(m.spec.Take.Taps, r) }()
	err := m.exchange(m.spec.Take.Disks)
	m.trace.add("disks are exchanged")
	// A tap without its link is readable for ever: QEMU would turn round it
	// beside the guest's first steps.
	err = errors.Join(err, <-wired)
	m.trace.add("taps are exchanged")
	if err == nil {
		_, err = m.qmp.run("cont", nil)
	}
	m.trace.add("machine goes on")
	if err == nil {
		err = m.configure(time.Now().Add(m.spec.BootTime))
	}
	err = errors.Join(err, <-moved)
	m.warnings = append(m.warnings, warnings...)
	m.trace.add("control group and networks are there")
	if err == nil && r != nil { // not before: a machine in its place would need the tap
		err = passing(int(r.tap.Fd()))
	}
	if err != nil {
		return m.gone(err)
	}
	return nil
}

// moveTo moves QEMU into its instance's control group.
func (m *machine) moveTo(to, from *runtime.Cgroup) (warnings []string, err error) {
	if to == nil {
		return nil, nil
	}
	if warnings, err = runtime.Move(to, m.qemu.Pid); err != nil {
		return nil, fmt.Errorf("control group: %w", err)
	}
	if from != nil {
		go func() { _ = runtime.RemoveCgroups(from) }() // what is left, the daemon removes
	}
	return warnings, nil
}

// wire connects the network devices: the first one's tap becomes the instance's,
// the others are plugged in.
func (m *machine) wire(names []string, r *roamer) error {
	for i, name := range names {
		if name == "" {
			continue
		}
		if i > 0 {
			if err := m.plugIn(&vmmapi.Plug{Device: i, Tap: name}); err != nil {
				return err
			}
			continue
		}
		if r == nil {
			return errors.New("the machine was made without a tap")
		}
		if err := r.become(name); err != nil {
			return fmt.Errorf("tap %s: %w", name, err)
		}
	}
	return nil
}

// firstSet is above the numbers of the descriptor sets of QEMU's command line.
const firstSet = 100

// exchange gives the machine's disks other files. The guest has none of them
// mounted, and they look alike.
func (m *machine) exchange(disks []vmmapi.File) error {
	for i := range disks {
		if err := m.exchangeDisk(i, &disks[i]); err != nil {
			return fmt.Errorf("disk %s: %w", disks[i].Path, err)
		}
	}
	return nil
}

func (m *machine) exchangeDisk(n int, d *vmmapi.File) error {
	f, err := openDisk(d, lockTime)
	if err != nil {
		return err
	}
	defer f.Close()
	set := firstSet + n
	if _, err := m.qmp.runWith("add-fd", json.RawMessage(`{"fdset-id":`+strconv.Itoa(set)+`}`), f); err != nil {
		return err
	}
	node := "own" + strconv.Itoa(n)
	add, err := json.Marshal(map[string]any{"driver": "raw", "node-name": node, "read-only": d.ReadOnly, "discard": "unmap",
		"file": map[string]any{"driver": "file", "filename": "/dev/fdset/" + strconv.Itoa(set), "aio": "threads", "locking": "off"}})
	if err != nil {
		return err
	}
	if _, err := m.qmp.run("blockdev-add", add); err != nil {
		return err
	}
	if _, err := m.qmp.run("qom-set", object("path", "/machine/peripheral/"+vmmapi.DeviceID(n), "property", "drive", "value", node)); err != nil {
		return err
	}
	_, err = m.qmp.run("blockdev-del", object("node-name", vmmapi.DiskNode(n)))
	return err
}
