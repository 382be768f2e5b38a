package lifecycle

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"

	"wharf/internal/driver"
	"wharf/internal/model"
)

// earlyDriver begins before the network is attached.
type earlyDriver struct{ fakeDriver }

func (f earlyDriver) Sandbox(ctx context.Context, b *model.Bundle) (driver.Sandbox, error) {
	sb, err := f.fakeDriver.Sandbox(ctx, b)
	return realSandbox{sb}, err
}

// realSandbox has a namespace that can be opened.
type realSandbox struct{ driver.Sandbox }

func (realSandbox) Netns() string { return "/proc/self/ns/net" }

func (f earlyDriver) StartWhen(ctx context.Context, b *model.Bundle, sb driver.Sandbox, ready func(context.Context) error) (driver.Instance, error) {
	if err := f.w.step("begin"); err != nil {
		return nil, err
	}
	if err := ready(ctx); err != nil {
		_ = f.w.step("given up")
		return nil, err
	}
	return f.Start(ctx, b, sb)
}

func (w *reign) driver() driver.Driver {
	if w.early {
		return earlyDriver{fakeDriver{w}}
	}
	return fakeDriver{w}
}

// TestEarlyStart: the program waits for the network.
func TestEarlyStart(t *testing.T) {
	w := newWorld(t)
	w.early = true
	e := w.engine()
	id := create(t, e, "x", nil)
	if err := e.Start(bg, id); err != nil {
		t.Fatal(err)
	}
	attached, started := slices.Index(w.calls, "attach"), slices.Index(w.calls, "instance")
	if attached < 0 || started < attached || !slices.Contains(w.calls, "begin") {
		t.Errorf("calls: %v", w.calls)
	}
}

// TestEarlyStartFails makes every step of such a start fail in turn.
func TestEarlyStartFails(t *testing.T) {
	for _, at := range []string{"sandbox", "begin", "attach", "instance", "put-running"} {
		t.Run(at, func(t *testing.T) {
			w := newWorld(t)
			w.early = true
			e := w.engine()
			id := create(t, e, "x", &container.HostConfig{})
			s, _, err := e.Attach(bg, id, model.AttachRequest{Stream: true, Stdout: true})
			if err != nil {
				t.Fatal(err)
			}
			w.fail[at] = errors.New("no " + at)
			if err := e.Start(bg, id); err == nil || !strings.Contains(err.Error(), "no "+at) {
				t.Errorf("error %v", err)
			}
			if _, _, err := s.Next(); err != io.EOF {
				t.Errorf("stream after a failed start: %v", err)
			}
			if at == "attach" && !slices.Contains(w.calls, "given up") {
				t.Errorf("the driver still waits: %v", w.calls)
			}
			if len(w.insts)+len(w.nets) != 0 {
				t.Errorf("left: %v %v", w.insts, w.nets)
			}
			delete(w.fail, at)
			if err := e.Start(bg, id); err != nil {
				t.Errorf("after the failure: %v", err)
			}
		})
	}
}
