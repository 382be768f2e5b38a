package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"wharf/internal/driver"
	"wharf/internal/model"
)

var bg = context.Background()

func create(t testing.TB, e *Engine, name string, hc *container.HostConfig) string {
	t.Helper()
	r, err := e.Create(bg, model.CreateRequest{Name: name, Config: &container.Config{Image: "busybox", Labels: map[string]string{"l": "v"}}, HostConfig: hc})
	if err != nil {
		t.Fatal(err)
	}
	return r.ID
}

func started(t testing.TB, e *Engine, name string, hc *container.HostConfig) string {
	t.Helper()
	id := create(t, e, name, hc)
	if err := e.Start(bg, id); err != nil {
		t.Fatal(err)
	}
	return id
}

func phase(e *Engine, ref string) container.ContainerState {
	c, err := e.Inspect(bg, ref, false)
	if err != nil {
		return ""
	}
	return c.State.Status
}

func TestLife(t *testing.T) {
	w := newWorld(t)
	e := w.engine()
	id := create(t, e, "web", nil)
	if got := phase(e, "web"); got != container.StateCreated {
		t.Errorf("after create: %s", got)
	}
	if w.puts != 1 || w.syncs != 1 {
		t.Errorf("create wrote %d records, %d synced; want 1 and 1", w.puts, w.syncs)
	}
	next, err := e.Wait(bg, id, container.WaitConditionNextExit)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Start(bg, id[:12]); err != nil {
		t.Fatal(err)
	}
	if err := e.Start(bg, "/web"); !errdefs.IsNotModified(err) {
		t.Errorf("second start: %v, want not modified", err)
	}
	if w.puts != 2 || w.syncs != 1 {
		t.Errorf("create and start wrote %d records, %d synced; want 2 and 1", w.puts, w.syncs)
	}
	tm, err := e.Timing(id)
	if err != nil || len(tm.Start) != 9 || len(tm.Create) != 5 {
		t.Errorf("timing %+v, %v", tm, err)
	}
	if err := e.Stop(bg, id, model.StopRequest{}); err != nil {
		t.Fatal(err)
	}
	if r := <-next; r.Code != 128+int(syscall.SIGTERM) {
		t.Errorf("next exit: %d", r.Code)
	}
	if err := e.Stop(bg, id, model.StopRequest{}); !errdefs.IsNotModified(err) {
		t.Errorf("second stop: %v, want not modified", err)
	}
	if got := phase(e, id); got != container.StateExited {
		t.Errorf("after stop: %s", got)
	}
	removed, _ := e.Wait(bg, id, container.WaitConditionRemoved)
	if err := e.Remove(bg, id, model.RemoveRequest{}); err != nil {
		t.Fatal(err)
	}
	<-removed
	if _, err := e.Inspect(bg, id, false); !errdefs.IsNotFound(err) || err.Error() != "No such container: "+id {
		t.Errorf("inspect after removal: %v", err)
	}
	want := []string{"create", "start", "kill", "die", "stop", "destroy"}
	if d := cmp.Diff(want, w.actions()); d != "" {
		t.Errorf("events (-want +got):\n%s", d)
	}
	die, _ := w.lastEvent(events.ActionDie)
	if d := cmp.Diff(map[string]string{"exitCode": "143", "execDuration": "0", "image": "busybox", "name": "web", "l": "v"}, die.Actor.Attributes); d != "" {
		t.Errorf("die (-want +got):\n%s", d)
	}
	w.clean()
}

func TestNames(t *testing.T) {
	w := newWorld(t)
	e := w.engine()
	id := create(t, e, "web", nil)
	_, err := e.Create(bg, model.CreateRequest{Name: "web", Config: &container.Config{Image: "busybox"}})
	want := fmt.Sprintf("Conflict. The container name \"/web\" is already in use by container %q. You have to remove (or rename) that container to be able to reuse that name.", id)
	if !errdefs.IsConflict(err) || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	if _, err := e.Create(bg, model.CreateRequest{Config: &container.Config{Image: "nope"}}); !errdefs.IsNotFound(err) || err.Error() != "No such image: nope" {
		t.Errorf("no image: %v", err)
	}
	other := create(t, e, "", nil)
	c, _ := e.Inspect(bg, other, false)
	if strings.Count(c.Name, "_") != 1 || c.Name[0] != '/' {
		t.Errorf("generated name %q", c.Name)
	}
	if err := e.Rename(bg, "web", "db"); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Inspect(bg, "web", false); !errdefs.IsNotFound(err) {
		t.Errorf("old name: %v", err)
	}
	if err := e.Rename(bg, other, "db"); !errdefs.IsConflict(err) {
		t.Errorf("rename to a taken name: %v", err)
	}
	create(t, e, "web", nil)
}

// TestCreateFails makes every step fail in turn: nothing may be left.
func TestCreateFails(t *testing.T) {
	for _, at := range []string{"check", "prepare", "use", "mount", "copyup", "put-", "put-created"} {
		t.Run(at, func(t *testing.T) {
			w := newWorld(t)
			e := w.engine()
			w.fail[at] = errors.New("no " + at)
			req := model.CreateRequest{Name: "x", Config: &container.Config{Image: "busybox", Volumes: map[string]struct{}{"/data": {}}}}
			_, err := e.Create(bg, req)
			if err == nil || !strings.Contains(err.Error(), "no "+at) {
				t.Errorf("error %v", err)
			}
			w.clean()
			if len(w.volumes) != 0 {
				t.Errorf("volumes left: %v", w.volumes)
			}
			delete(w.fail, at)
			if _, err := e.Create(bg, req); err != nil {
				t.Errorf("after the failure: %v", err)
			}
		})
	}
}

// TestStartFails makes every step of the start fail in turn.
func TestStartFails(t *testing.T) {
	for _, at := range []string{"rootfs", "use", "sandbox", "attach", "instance", "put-running"} {
		t.Run(at, func(t *testing.T) {
			w := newWorld(t)
			e := w.engine()
			id := create(t, e, "x", &container.HostConfig{Binds: []string{"data:/data"}})
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
			c, _ := e.Inspect(bg, id, false)
			if c.State.Status != container.StateCreated || c.State.ExitCode != 128 || c.State.Error == "" {
				t.Errorf("state %+v", c.State)
			}
			if len(w.insts)+len(w.nets) != 0 {
				t.Errorf("left: %v %v", w.insts, w.nets)
			}
			delete(w.fail, at)
			if err := e.Start(bg, id); err != nil {
				t.Errorf("after the failure: %v", err)
			}
			if c, _ := e.Inspect(bg, id, false); c.State.ExitCode != 0 || c.State.Error != "" {
				t.Errorf("state %+v", c.State)
			}
		})
	}
}

func TestStartErrors(t *testing.T) {
	for _, x := range []struct {
		err  error
		code int
		text string
	}{
		{driver.NotExecutable(127, `exec: "nope": executable file not found in $PATH`), 127, "executable file not found"},
		{driver.NotExecutable(127, `exec: "nope"`), 127, "executable file not found"},
		{driver.NotExecutable(126, `exec "/etc/passwd"`), 126, "permission denied"},
		{errors.New("boom"), 128, "failed to create task for container: boom"},
	} {
		w := newWorld(t)
		e := w.engine()
		id := create(t, e, "", &container.HostConfig{AutoRemove: x.code == 126})
		w.fail["instance"] = x.err
		err := e.Start(bg, id)
		if err == nil || !strings.Contains(err.Error(), x.text) || !strings.HasPrefix(err.Error(), "failed to create task") {
			t.Errorf("%v: got %v", x.err, err)
		}
		if x.code != 128 && !errdefs.IsInvalidArgument(err) {
			t.Errorf("%v: kind of %v", x.err, err)
		}
		c, err := e.Inspect(bg, id, false)
		if x.code == 126 {
			if !errdefs.IsNotFound(err) {
				t.Errorf("--rm: still there after a failed start: %v", err)
			}
			w.clean()
		} else if c.State.ExitCode != x.code {
			t.Errorf("%v: exit code %d", x.err, c.State.ExitCode)
		}
	}
}

// TestRunRM does what docker run --rm does.
func TestRunRM(t *testing.T) {
	w := newWorld(t)
	e := w.engine()
	w.onRun = func(i *fakeInstance) { i.output = []string{"hello\n"}; go i.end(3) }
	id := create(t, e, "", &container.HostConfig{AutoRemove: true})
	s, _, err := e.Attach(bg, id, model.AttachRequest{Stream: true, Stdout: true, Stderr: true})
	if err != nil {
		t.Fatal(err)
	}
	gone, err := e.Wait(bg, id, container.WaitConditionRemoved)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Start(bg, id); err != nil {
		t.Fatal(err)
	}
	if _, p, err := s.Next(); string(p) != "hello\n" {
		t.Errorf("output %q, %v", p, err)
	}
	if r := <-gone; r.Code != 3 {
		t.Errorf("exit code %d", r.Code)
	}
	if w.syncs != 0 || w.puts != 3 {
		t.Errorf("%d records written, %d synced; want 3 and 0", w.puts, w.syncs)
	}
	if d := cmp.Diff([]string{"create", "attach", "start", "die", "destroy"}, w.actions()); d != "" {
		t.Errorf("events (-want +got):\n%s", d)
	}
	w.clean()
}

func TestStopKills(t *testing.T) {
	w := newWorld(t)
	e := w.engine()
	w.onRun = func(i *fakeInstance) { i.stubborn = true }
	id := started(t, e, "x", nil)
	i := w.instance(id)
	zero := 0
	if err := e.Stop(bg, id, model.StopRequest{Signal: "INT", Timeout: &zero}); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]syscall.Signal{syscall.SIGINT, syscall.SIGKILL}, i.sent()); d != "" {
		t.Error(d)
	}
	// A stop without end is ended by somebody else's kill.
	if err := e.Start(bg, id); err != nil {
		t.Fatal(err)
	}
	i = w.instance(id)
	never, done := -1, make(chan error)
	go func() { done <- e.Stop(bg, id, model.StopRequest{Timeout: &never}) }()
	wait(t, "the stop signal is sent", func() bool { return len(i.sent()) == 1 })
	if err := e.Kill(bg, id, ""); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	// What the signal does not reach is killed all the same; or it hears a later one.
	for name, c := range map[string]struct {
		deaf, timeout int
		want          []syscall.Signal
	}{
		"deaf":           {100, 0, []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL}},
		"hears the next": {1, -1, []syscall.Signal{syscall.SIGTERM, syscall.SIGTERM}},
	} {
		w.onRun = func(i *fakeInstance) { i.deaf = c.deaf }
		if err := e.Start(bg, id); err != nil {
			t.Fatal(err)
		}
		i = w.instance(id)
		if err := e.Stop(bg, id, model.StopRequest{Timeout: &c.timeout}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if d := cmp.Diff(c.want, i.sent()); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
	err := e.Kill(bg, "x", "USR1")
	if want := "cannot kill container: x: container " + id + " is not running"; !errdefs.IsConflict(err) || err.Error() != want {
		t.Errorf("kill: %v", err)
	}
	if err := e.Kill(bg, "x", "NOPE"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("bad signal: %v", err)
	}
}

func TestRestartPolicy(t *testing.T) {
	w := newWorld(t)
	e := w.engine()
	id := started(t, e, "x", &container.HostConfig{RestartPolicy: container.RestartPolicy{Name: "on-failure", MaximumRetryCount: 1}})
	ended, _ := e.Wait(bg, id, "")
	w.instance(id).end(1)
	wait(t, "it is restarted", func() bool {
		c, _ := e.Inspect(bg, id, false)
		return c.RestartCount == 1 && c.State.Status == "running"
	})
	if r := <-ended; r.Code != 1 {
		t.Errorf("code %d", r.Code)
	}
	ended, _ = e.Wait(bg, id, "")
	w.instance(id).end(2)
	if r := <-ended; r.Code != 2 {
		t.Errorf("code %d", r.Code)
	}
	if c, _ := e.Inspect(bg, id, false); c.State.Status != container.StateExited {
		t.Errorf("after the last retry: %s", c.State.Status)
	}
	always := started(t, e, "y", &container.HostConfig{RestartPolicy: container.RestartPolicy{Name: "always"}})
	again := &e.core.index.get(model.ID(always)).again
	again.delay = lastDelay // so that the restart does not come before we have looked
	w.instance(always).end(0)
	wait(t, "it waits for its restart", func() bool { return phase(e, always) == container.StateRestarting })
	if err := e.Stop(bg, always, model.StopRequest{}); err != nil {
		t.Fatal(err)
	}
	if got := phase(e, always); got != container.StateExited || again.timer != nil {
		t.Errorf("stopped between two runs: %s, restart pending: %t", got, again.timer != nil)
	}
	if err := e.Restart(bg, always, model.StopRequest{}); err != nil {
		t.Fatal(err)
	}
	if err := e.Restart(bg, always, model.StopRequest{}); err != nil {
		t.Fatal(err)
	}
	if c, _ := e.Inspect(bg, always, false); c.State.Status != "running" || c.RestartCount != 0 {
		t.Errorf("after restart: %s, %d", c.State.Status, c.RestartCount)
	}
	if err := e.Remove(bg, always, model.RemoveRequest{Force: true}); err != nil {
		t.Fatal(err)
	}
	if err := e.Remove(bg, id, model.RemoveRequest{}); err != nil {
		t.Fatal(err)
	}
	w.clean()
}

func TestDelay(t *testing.T) {
	e := newEntry(model.Container{})
	for _, want := range []time.Duration{100, 200, 400, 800} {
		if got := e.delay(time.Second); got != want*time.Millisecond {
			t.Errorf("delay %v, want %vms", got, want)
		}
	}
	if got := e.delay(11 * time.Second); got != firstDelay {
		t.Errorf("after a steady run: %v", got)
	}
	for range 20 {
		e.delay(0)
	}
	if got := e.delay(0); got != lastDelay {
		t.Errorf("longest: %v", got)
	}
}

// TestMany runs 50 containers through their life at once.
func TestMany(t *testing.T) {
	w := newWorld(t)
	e := w.engine()
	var wg sync.WaitGroup
	for n := range 50 {
		wg.Go(func() {
			r, err := e.Create(bg, model.CreateRequest{Name: fmt.Sprint("c", n), Config: &container.Config{Image: "busybox"}})
			if err == nil {
				err = e.Start(bg, r.ID)
			}
			if err == nil {
				err = e.Remove(bg, r.ID, model.RemoveRequest{Force: true})
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	w.clean()
}

// TestOpposite lets opposite verbs fight over one container: only orders that
// make sense, and nothing left at the end.
func TestOpposite(t *testing.T) {
	w := newWorld(t)
	e := w.engine()
	id := create(t, e, "x", nil)
	zero := 0
	verbs := []func() error{
		func() error { return e.Start(bg, id) },
		func() error { return e.Stop(bg, id, model.StopRequest{Timeout: &zero}) },
		func() error { return e.Restart(bg, id, model.StopRequest{Timeout: &zero}) },
		func() error { return e.Pause(bg, id) },
		func() error { return e.Unpause(bg, id) },
		func() error { return e.Kill(bg, id, "") },
		func() error { return e.Remove(bg, id, model.RemoveRequest{}) },
	}
	var wg sync.WaitGroup
	for n := range 8 {
		wg.Go(func() {
			for k := range 30 {
				err := verbs[(n+k)%(len(verbs)-1)]()
				if err != nil && !errdefs.IsConflict(err) && !errdefs.IsNotModified(err) {
					t.Errorf("verb %d: %v", (n+k)%(len(verbs)-1), err)
				}
			}
		})
	}
	wg.Wait()
	if err := e.Remove(bg, id, model.RemoveRequest{Force: true}); err != nil {
		t.Fatal(err)
	}
	w.clean()
}

func TestIDRanges(t *testing.T) {
	w := newWorld(t)
	e := w.engine()
	a := started(t, e, "a", nil)
	b := create(t, e, "b", nil)
	p := create(t, e, "p", &container.HostConfig{Privileged: true})
	shared := create(t, e, "s", &container.HostConfig{NetworkMode: "container:a"})
	ids := func(ref string) model.IDRange { return e.core.index.get(model.ID(ref)).record().IDs }
	if ids(a) != (model.IDRange{Host: 1000000, Size: 65536}) || ids(b).Host != 1065536 || ids(p).Mapped() || ids(shared) != ids(a) {
		t.Errorf("a %v, b %v, p %v, shared %v", ids(a), ids(b), ids(p), ids(shared))
	}
	if err := e.Start(bg, shared); err != nil {
		t.Fatal(err)
	}
	if err := e.Kill(bg, a, ""); err != nil {
		t.Fatal(err)
	}
	_ = e.Kill(bg, shared, "")
	err := e.Start(bg, shared)
	if want := "cannot join network of a non running container: " + a; !errdefs.IsConflict(err) || err.Error() != want {
		t.Errorf("join: %v", err)
	}
	if err := e.Remove(bg, a, model.RemoveRequest{}); err != nil {
		t.Fatal(err)
	}
	if c := create(t, e, "c", nil); ids(c).Host == 1000000 {
		t.Error("a range was given away that another container still has")
	}
	for _, id := range []string{shared, b, p, "c"} {
		if err := e.Remove(bg, id, model.RemoveRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	if d := create(t, e, "d", nil); ids(d).Host != 1000000 {
		t.Errorf("free ranges are not used again: %v", ids(d))
	}
}

func TestRemoveRules(t *testing.T) {
	w := newWorld(t)
	e := w.engine()
	r, err := e.Create(bg, model.CreateRequest{Name: "v", Config: &container.Config{Image: "busybox", Volumes: map[string]struct{}{"/data": {}}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Start(bg, "v"); err != nil {
		t.Fatal(err)
	}
	err = e.Remove(bg, "v", model.RemoveRequest{})
	if want := `cannot remove container "v": container is running: stop the container before removing or force remove`; !errdefs.IsConflict(err) || err.Error() != want {
		t.Errorf("got %v", err)
	}
	w.fail["discard"] = errors.New("busy")
	if err := e.Remove(bg, "v", model.RemoveRequest{Force: true}); err == nil {
		t.Error("removed although the layer could not be")
	}
	if got := phase(e, "v"); got != container.StateDead {
		t.Errorf("after a failed removal: %s", got)
	}
	delete(w.fail, "discard")
	if err := e.Remove(bg, r.ID, model.RemoveRequest{Force: true}); err != nil {
		t.Fatal(err)
	}
	w.clean()
	if !slices.ContainsFunc(w.calls, func(s string) bool { return s == "copyup" }) || len(w.volumes) != 1 {
		t.Errorf("anonymous volume without -v: %v", w.volumes)
	}
}
