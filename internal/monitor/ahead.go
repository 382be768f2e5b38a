package monitor

import (
	"fmt"

	"wharf/api/monitorapi"
	"wharf/internal/lean"
)

// Aheader is an engine that can do a part of what a start needs before it is
// known what will be started.
type Aheader interface {
	// Ahead does what body says. Create is called next, or GiveUp.
	Ahead(body []byte, f Files) error
	// GiveUp ends what Ahead made: no start will come.
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
	return a.Ahead(q.Body, f)
}
