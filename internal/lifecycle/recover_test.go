package lifecycle

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"wharf/internal/model"
)

// TestRecover restarts the daemon over containers in every state.
func TestRecover(t *testing.T) {
	w := newWorld(t)
	e := w.engine()
	runs := started(t, e, "runs", nil)
	ended := started(t, e, "ended", nil)
	lost := started(t, e, "lost", nil)
	rm := started(t, e, "rm", &container.HostConfig{AutoRemove: true})
	always := started(t, e, "always", &container.HostConfig{RestartPolicy: container.RestartPolicy{Name: "always"}})
	unless := started(t, e, "unless", &container.HostConfig{RestartPolicy: container.RestartPolicy{Name: "unless-stopped"}})
	created := create(t, e, "created", &container.HostConfig{RestartPolicy: container.RestartPolicy{Name: "always"}})
	stopped := started(t, e, "stopped", nil)
	for _, id := range []string{unless, stopped} {
		if err := e.Stop(bg, id, model.StopRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	paused := started(t, e, "paused", nil)
	if err := e.Pause(bg, paused); err != nil {
		t.Fatal(err)
	}
	ids := map[string]model.IDRange{}
	for _, c := range e.Records() {
		ids[string(c.ID)] = c.IDs
	}
	e.Close() // the daemon is gone; what follows it does not see
	w.instance(ended).end(7)
	w.instance(rm).end(8)
	w.instance(always).end(1)
	w.mu.Lock()
	delete(w.insts, model.ID(lost))
	w.layers["orphan"], w.nets["orphan"], w.insts["orphan"] = true, true, &fakeInstance{}
	w.mu.Unlock()

	e = w.engine()
	if err := e.Recover(bg); err != nil {
		t.Fatal(err)
	}
	wait(t, "the restart policy has acted", func() bool { return phase(e, always) == "running" })
	for id, want := range map[string]container.ContainerState{
		runs: "running", ended: "exited", lost: "exited", rm: "", always: "running", unless: "exited", created: "created", stopped: "exited", paused: "paused",
	} {
		if got := phase(e, id); got != want {
			t.Errorf("%s is %q, want %q", id[:12], got, want)
		}
	}
	for id, want := range map[string]int{ended: 7, lost: 255, stopped: 143} {
		if c, _ := e.Inspect(bg, id, false); c.State.ExitCode != want {
			t.Errorf("%s has the exit code %d, want %d", id[:12], c.State.ExitCode, want)
		}
	}
	if w.layers["orphan"] || w.nets["orphan"] || w.insts["orphan"] != nil {
		t.Error("the orphan was not swept")
	}
	if c := create(t, e, "new", nil); ids[c] != (model.IDRange{}) {
		t.Error("id range")
	} else {
		for _, r := range e.Records() {
			if string(r.ID) != c && r.IDs == e.core.index.get(model.ID(c)).record().IDs {
				t.Errorf("%s has the range of another container", c[:12])
			}
		}
	}
	// What was taken up is waited for again.
	exit, _ := e.Wait(bg, runs, "")
	w.instance(runs).end(9)
	if r := <-exit; r.Code != 9 {
		t.Errorf("exit code %d", r.Code)
	}
	for _, c := range e.Records() {
		if err := e.Remove(bg, string(c.ID), model.RemoveRequest{Force: true}); err != nil {
			t.Error(err)
		}
	}
	w.clean()
}

// TestDie kills the daemon at every operation on a room in turn, through a
// whole life, and starts another: it must come up, everything must be
// removable, and then nothing may be left.
func TestDie(t *testing.T) {
	for _, rm := range []bool{false, true} {
		for _, at := range []string{
			"check", "prepare", "use", "mount", "copyup", "unmount", "put-", "put-created", "rootfs", "sandbox", "attach", "instance", "put-running",
			"put-exited", "release", "detach", "put-removing", "unuse", "log-remove", "discard", "delete",
		} {
			t.Run(fmt.Sprintf("%s/rm=%t", at, rm), func(t *testing.T) {
				w := newWorld(t)
				e := w.engine()
				w.mu.Lock()
				w.die = at
				w.mu.Unlock()
				life(e, rm)
				e.Close()
				e = w.engine()
				if err := e.Recover(bg); err != nil {
					t.Fatal(err)
				}
				for _, c := range e.Records() {
					if c.State.Phase != container.StateCreated && c.State.Phase != container.StateRunning && c.State.Phase != container.StateExited {
						t.Errorf("recovered as %q", c.State.Phase)
					}
					if err := e.Remove(bg, string(c.ID), model.RemoveRequest{Force: true, Volumes: true}); err != nil {
						t.Error(err)
					}
				}
				w.clean()
			})
		}
	}
}

// life creates, starts, ends and removes a container as far as it gets.
func life(e *Engine, rm bool) {
	r, err := e.Create(bg, model.CreateRequest{
		Config:     &container.Config{Image: "busybox", Volumes: map[string]struct{}{"/data": {}}},
		HostConfig: &container.HostConfig{AutoRemove: rm},
	})
	if err != nil || e.Start(bg, r.ID) != nil {
		return
	}
	gone, err := e.Wait(bg, r.ID, container.WaitConditionNotRunning)
	if err != nil {
		return
	}
	e.core.index.get(model.ID(r.ID)).inst.(*fakeInstance).end(1)
	select {
	case <-gone:
	case <-time.After(time.Second):
	}
	_ = e.Remove(bg, r.ID, model.RemoveRequest{Volumes: true})
}

// TestBootOrder: those first that others need.
func TestBootOrder(t *testing.T) {
	w := newWorld(t)
	e := w.engine()
	policy := container.RestartPolicy{Name: "always"}
	a := started(t, e, "a", &container.HostConfig{RestartPolicy: policy})
	b := started(t, e, "b", &container.HostConfig{RestartPolicy: policy, NetworkMode: "container:a"})
	c := started(t, e, "c", &container.HostConfig{RestartPolicy: policy, Links: []string{"b:db"}})
	e.Close()
	w.mu.Lock()
	w.insts, w.nets = map[model.ID]*fakeInstance{}, map[model.ID]bool{} // the machine went down
	w.events = nil
	w.mu.Unlock()
	e = w.engine()
	if err := e.Recover(bg); err != nil {
		t.Fatal(err)
	}
	wait(t, "all are started", func() bool { return strings.Count(strings.Join(w.actions(), " "), "start") == 3 })
	e.Close()
	w.mu.Lock()
	defer w.mu.Unlock()
	var order []string
	for _, m := range w.events {
		if m.Action == "start" {
			order = append(order, m.Actor.ID)
		}
	}
	if len(order) != 3 || order[0] != a || order[1] != b || order[2] != c {
		t.Errorf("order %v, want %v", order, []string{a, b, c})
	}
}

// BenchmarkRecover1000 takes up 1,000 running containers from rooms that cost
// nothing; the budget with real ones is 3 s.
func BenchmarkRecover1000(b *testing.B) {
	w := newWorld(b)
	e := w.engine()
	for range 1000 {
		started(b, e, "", nil)
	}
	for b.Loop() {
		e.Close()
		e = w.engine()
		if err := e.Recover(bg); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkList1000 lists 1,000 running containers; the budget through the
// API is 50 ms.
func BenchmarkList1000(b *testing.B) {
	w := newWorld(b)
	e := w.engine()
	for range 1000 {
		started(b, e, "", nil)
	}
	for b.Loop() {
		if l, err := e.List(bg, model.ListRequest{}); err != nil || len(l) != 1000 {
			b.Fatal(len(l), err)
		}
	}
}

// BenchmarkStart is what the engine itself adds to a create, start and
// removal.
func BenchmarkStart(b *testing.B) {
	w := newWorld(b)
	e := w.engine()
	for b.Loop() {
		id := started(b, e, "", nil)
		if err := e.Remove(bg, id, model.RemoveRequest{Force: true}); err != nil {
			b.Fatal(err)
		}
	}
}

// TestRecoverUnanswered: a monitor that does not answer leaves the container
// "running", and removable by force.
func TestRecoverUnanswered(t *testing.T) {
	w := newWorld(t)
	e := w.engine()
	id := started(t, e, "x", nil)
	e.Close()
	e = w.engine()
	w.fail["recover"] = errors.New("no answer")
	if err := e.Recover(bg); err != nil {
		t.Fatal(err)
	}
	if got := phase(e, id); got != container.StateRunning {
		t.Errorf("it is %s", got)
	}
	if err := e.Start(bg, id); !errdefs.IsNotModified(err) {
		t.Errorf("start: %v", err)
	}
	if err := e.Stop(bg, id, model.StopRequest{}); !errdefs.IsConflict(err) {
		t.Errorf("stop: %v", err)
	}
	if err := e.Remove(bg, id, model.RemoveRequest{Force: true}); err != nil {
		t.Fatal(err)
	}
	w.clean()
}

// TestConnectByID: networks are known by name, whatever the client used.
func TestConnectByID(t *testing.T) {
	w := newWorld(t)
	e := w.engine()
	id := create(t, e, "x", nil)
	if err := e.Connect(bg, "net-back", id, nil); err != nil {
		t.Fatal(err)
	}
	if err := e.Connect(bg, "back", id, nil); !errdefs.IsConflict(err) {
		t.Errorf("connected twice: %v", err)
	}
	c, _ := e.Inspect(bg, id, false)
	if c.NetworkSettings.Networks["back"] == nil {
		t.Errorf("networks %v", c.NetworkSettings.Networks)
	}
}
