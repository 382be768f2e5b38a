package held

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"wharf/api/monitorapi"
	"wharf/internal/driver"
	"wharf/internal/model"
)

// Ahead is a monitor that has done a part of a start before it is known what it
// will hold. It ends with this daemon, or when it is closed, and then what it
// made ends too; BeginOn makes it an instance's.
type Ahead struct{ m *monitor }

// Ahead has a new monitor do what body says, in the namespaces of sb, which is
// its own then. The files are the caller's to close. name is for ps.
func (d *Driver) Ahead(ctx context.Context, name string, sb driver.Sandbox, body any, files []File) (*Ahead, error) {
	s, ok := sb.(*sandbox)
	if !ok {
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("sandbox %T is another driver's", sb))
	}
	defer s.Close()
	if s.user != nil {
		files = append(files, File{monitorapi.FileUser, s.user})
	}
	if s.net != nil {
		files = append(files, File{monitorapi.FileNet, s.net})
	}
	text, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	q := monitorapi.Ahead{Version: monitorapi.Version, Body: text}
	for _, f := range files {
		q.Files = append(q.Files, f.Name)
	}
	payload, err := json.Marshal(q)
	if err != nil {
		return nil, err
	}
	frame, err := monitorapi.Frame(monitorapi.AheadFrame, payload)
	if err != nil {
		return nil, err
	}
	m, err := d.spawn(placeholder(name))
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", d.program(), err)
	}
	a := &Ahead{m}
	stop := context.AfterFunc(ctx, func() { _ = m.kill() })
	defer stop()
	if err := d.order("", m, frame, files); err != nil {
		return nil, errors.Join(err, a.Close())
	}
	var ready monitorapi.Ready
	err = (&monitorapi.Reader{R: m.control}).Expect(monitorapi.ReadyFrame, &ready)
	if err == nil && !stop() {
		err = ctx.Err()
	}
	if err != nil {
		return nil, errors.Join(Kinded(err), a.Close())
	}
	return a, nil
}

// Ended is closed when the monitor has ended.
func (a *Ahead) Ended() <-chan struct{} { return a.m.ended }

// Close ends the monitor and what it made, and waits for it.
func (a *Ahead) Close() error {
	_ = a.m.control.Close()
	select {
	case <-a.m.ended:
		return nil
	case <-time.After(endTime):
	}
	err := a.m.kill()
	<-a.m.ended
	return err
}

// BeginOn is Begin on a monitor that has done its part ahead. Whatever comes of
// it, a is used up.
func (d *Driver) BeginOn(ctx context.Context, b *model.Bundle, sb driver.Sandbox, a *Ahead) (*Instance, error) {
	took := false
	i, err := d.begin(ctx, b, sb, nil, func(model.ID) (*monitor, error) {
		took = true
		return a.m, nil
	})
	if !took {
		err = errors.Join(err, a.Close())
	}
	return i, err
}
