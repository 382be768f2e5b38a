package monitor

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"wharf/api/monitorapi"
	"wharf/internal/lean"
)

// Aheader is an engine that can do a part of what a start needs before it is
// known what will be started.
type Aheader interface {
	// Ahead does what body says. Create is called next, or GiveUp.
	Ahead(body []byte, f Files) error
	// GiveUp ends what Ahead made, or is making: no start will come. It may be
	// called again.
	GiveUp()
}

// orders reads the Start, and does what is to be done ahead of it.
func orders(r *monitorapi.Reader, from *rights, e Engine) (st monitorapi.Start, err error) {
	t, p, err := r.Next()
	if err == nil && t == monitorapi.AheadFrame {
		if err = ahead(p, from, e); err != nil {
			_ = monitorapi.WriteJSON(from.conn, monitorapi.Error, asFailed(err))
			return st, err
		}
		err = monitorapi.WriteJSON(from.conn, monitorapi.ReadyFrame, monitorapi.Ready{Version: monitorapi.Version})
		if err == nil {
			t, p, err = r.Next()
		}
		defer func() {
			if err != nil {
				e.(Aheader).GiveUp()
			}
		}()
	}
	if err != nil {
		return st, err
	}
	if t != monitorapi.StartFrame {
		return st, fmt.Errorf("%w: type %d where a start was due", monitorapi.ErrFrame, t)
	}
	if err := lean.Unmarshal(p, &st); err != nil {
		return st, fmt.Errorf("%w: start: %v", monitorapi.ErrFrame, err)
	}
	return st, nil
}

func ahead(p []byte, from *rights, e Engine) error {
	a, ok := e.(Aheader)
	if !ok {
		return failed(monitorapi.KindUnimplemented, "this monitor does nothing ahead of a start")
	}
	var q monitorapi.Ahead
	if err := lean.Unmarshal(p, &q); err != nil {
		return fmt.Errorf("%w: ahead: %v", monitorapi.ErrFrame, err)
	}
	f, err := from.take(q.Files)
	from.fds = nil // the start's come with the start
	if err != nil {
		return err
	}
	defer f.closeNamespaces()
	watched := make(chan struct{})
	defer close(watched)
	go hangUp(from.conn, watched, a.GiveUp)
	return a.Ahead(q.Body, f)
}

// hangUp calls then if the other end of conn is closed before until is. It holds a
// thread: nobody reads conn meanwhile.
func hangUp(conn *os.File, until <-chan struct{}, then func()) {
	rc, err := conn.SyscallConn()
	if err != nil {
		return
	}
	own := -1
	if rc.Control(func(fd uintptr) { own, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 3) }) != nil || err != nil {
		return
	}
	defer unix.Close(own)
	for hung := false; ; {
		select {
		case <-until:
			return
		default:
		}
		if hung {
			then()
			return
		}
		const look = 200 // milliseconds
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(own), Events: unix.POLLRDHUP}}, look)
		hung = err == nil && n > 0
	}
}
