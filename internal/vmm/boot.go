package vmm

import (
	"errors"
	"fmt"
	"os"
	"time"

	"wharf/api/guestapi"
	"wharf/api/monitorapi"
	"wharf/internal/monitor"
	"wharf/internal/vmm/vmmapi"
)

// errSilent is a machine that was ended because it did not answer in time.
type errSilent struct{ error }

// errDown is a machine whose QEMU ended before its agent answered.
type errDown struct{ error }

// notUp tells the driver of a machine that did not come up that this is what
// happened: it may have been the accelerator.
func notUp(err error) error {
	var silent errSilent
	var down errDown
	if errors.As(err, &silent) || errors.As(err, &down) {
		return &monitorapi.Failed{Kind: monitorapi.KindInternal, Text: err.Error(), Down: true}
	}
	return err
}

// A boot that hangs is rare, and the next one works: what hangs is the kernel
// finding out about clocks and processors, on a host that runs something else
// meanwhile. So a machine gets two boots within Machine.BootTime, the first one
// the shorter part of it. A clone gets one, since it can be started cold, and a
// machine that is to be a template has no time that somebody waits.

// firstPart is the first boot's part of BootTime.
func firstPart(limit time.Duration) time.Duration { return limit * 2 / 5 }

// bootTwice boots by try, which is given its time, and once more if the first
// machine was silent. hung is what that one was ended for.
func bootTwice[M any](limit time.Duration, try func(time.Duration) (M, error)) (m M, hung error, err error) {
	m, err = try(firstPart(limit))
	var silent errSilent
	if !errors.As(err, &silent) {
		return m, nil, err
	}
	hung = err
	if m, err = try(limit - firstPart(limit)); err != nil {
		err = fmt.Errorf("%w (a first boot had hung as well)", err)
	}
	return m, hung, err
}

// boot makes a machine that answers and is the instance's.
func (e *engine) boot(spec *vmmapi.Machine, f monitor.Files) (*machine, error) {
	taps := taps{}
	defer taps.close()
	if spec.Incoming != 0 || spec.Save {
		return e.attempt(spec, f, taps, spec.BootTime)
	}
	var before trace
	m, hung, err := bootTwice(spec.BootTime, func(limit time.Duration) (*machine, error) {
		m, err := e.attempt(spec, f, taps, limit)
		if err != nil && m != nil {
			before = append(before, m.trace...)
			before.add("boot hung, and was ended")
		}
		return m, err
	})
	if err == nil && hung != nil {
		m.trace = append(before, m.trace...)
		m.warnings = append(m.warnings, "the machine's first boot hung and it was started again: "+hung.Error())
	}
	return m, err
}

// attempt is one boot. On an error the machine is gone; it is returned for its
// trace.
func (e *engine) attempt(spec *vmmapi.Machine, f monitor.Files, taps taps, limit time.Duration) (*machine, error) {
	m, err := start(spec, f, taps)
	if err != nil {
		return nil, err
	}
	if err := m.become(limit); err != nil {
		m.kill()
		return m, err
	}
	return m, nil
}

// become waits until the agent answers and has done what Boot says.
func (m *machine) become(limit time.Duration) error {
	// What hangs does so before the agent answers: after that, being slow is no
	// reason to begin anew.
	end := time.Now().Add(m.spec.BootTime)
	if err := m.resume(); err != nil {
		return err
	}
	if m.spec.Incoming != 0 {
		limit = m.resumeLimit()
	}
	if err := m.greet(limit); err != nil {
		return err
	}
	m.trace.add("agent answers")
	if m.spec.Save {
		return nil
	}
	return m.configure(end)
}

// configure has the agent do what Boot says.
func (m *machine) configure(end time.Time) error {
	reply, err := m.insist(max(time.Until(end), time.Second), guestapi.Request{Op: guestapi.OpBoot, Boot: &m.spec.Boot})
	if err != nil {
		return m.stuck(fmt.Errorf("boot: %w", err))
	}
	m.warnings = append(m.warnings, reply.Warnings...)
	m.trace.inside(reply.Trace)
	m.trace.add("guest is configured")
	return nil
}

// taps are the taps of one machine by name. A tap goes with its last
// descriptor, so one is kept until the boot that is the last one.
type taps map[string]*os.File

func (t taps) close() {
	for _, f := range t {
		_ = f.Close()
	}
}

// open returns a descriptor of the tap, which is the caller's.
func (t taps) open(name string) (*os.File, error) {
	if t[name] == nil {
		open := OpenTap
		if name == "" {
			open = looseTap
		}
		f, err := open(name)
		if err != nil {
			return nil, fmt.Errorf("tap %s: %w", name, err)
		}
		t[name] = f
	}
	return duplicate(t[name])
}
