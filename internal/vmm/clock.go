package vmm

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"wharf/api/guestapi"
)

// A guest's clock is set at its start and then goes by its own: emulated, or
// after the host has slept, it goes wrong. It is compared with each sign of
// life, and at once when the host's clock was set or the host woke up, and put
// right when it is off by more than a question and its answer can explain.

// clockTolerance is how far off a guest's clock may be.
const clockTolerance = 250 * time.Millisecond

// offset is how far the guest's clock is ahead of the host's: its answer was
// made somewhere between the question and its arrival. What that explains is
// no offset.
func offset(asked, answered time.Time, guest int64) time.Duration {
	at := time.Unix(0, guest)
	switch {
	case at.Before(asked):
		return at.Sub(asked.Round(0))
	case at.After(answered):
		return at.Sub(answered.Round(0))
	}
	return 0
}

// alive asks the agent how it is, and puts its clock right.
func (m *machine) alive() error {
	asked := time.Now()
	r, err := m.insist(watchTime, guestapi.Request{Op: guestapi.OpState})
	if err != nil {
		return err
	}
	if r.State == nil || r.State.Time == 0 { // an agent of an earlier version
		return nil
	}
	if off := offset(asked, time.Now(), r.State.Time); off.Abs() > clockTolerance {
		_, _ = m.ask(askTime, guestapi.Request{Op: guestapi.OpFreshen, Fresh: &guestapi.Fresh{Time: time.Now().UnixNano()}})
	}
	return nil
}

// followClock looks after the guest's clock when the host's was set, or the
// host has slept (timerfd_create(2), TFD_TIMER_CANCEL_ON_SET).
func (m *machine) followClock() {
	f, err := clockSet()
	if err != nil {
		return // the signs of life do it too, only later
	}
	go func() { <-m.down; _ = f.Close() }()
	var ticks [8]byte
	for {
		_, err := f.Read(ticks[:])
		if err != nil && !errors.Is(err, unix.ECANCELED) {
			return
		}
		if arm(f) != nil {
			return
		}
		_ = m.alive()
	}
}

// clockSet returns a timer whose reading ends with ECANCELED when the clock is
// set.
func clockSet() (*os.File, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_REALTIME, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("timerfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "clock")
	if err := arm(f); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// arm sets the timer to a time that does not come soon.
func arm(f *os.File) error {
	rc, err := f.SyscallConn()
	if err != nil {
		return err
	}
	far := unix.ItimerSpec{Value: unix.NsecToTimespec(time.Now().AddDate(1, 0, 0).UnixNano())}
	var serr error
	err = rc.Control(func(fd uintptr) {
		serr = unix.TimerfdSettime(int(fd), unix.TFD_TIMER_ABSTIME|unix.TFD_TIMER_CANCEL_ON_SET, &far, nil)
	})
	return errors.Join(err, serr)
}
