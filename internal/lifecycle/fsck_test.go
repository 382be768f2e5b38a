package lifecycle

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"

	"wharf/internal/model"
)

// findings are "room thing" of what an examination found.
func findings(t *testing.T, e *Engine, repair bool) (out []string, rep model.Fsck) {
	t.Helper()
	rep, err := e.Fsck(bg, repair)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range rep.Findings {
		out = append(out, f.Room+" "+f.Thing)
	}
	slices.Sort(out)
	return out, rep
}

func TestFsckFindsAndRepairs(t *testing.T) {
	w := newWorld(t)
	e := w.engine()
	t.Cleanup(e.Close)
	lost, dup := started(t, e, "lost", nil), create(t, e, "dup", nil)
	bare := create(t, e, "bare", nil)
	if got, rep := findings(t, e, false); len(got) != 0 || rep.Unsettled != 0 || rep.Containers != 3 {
		t.Fatalf("all is well, but: %v, %+v", got, rep)
	}
	w.mu.Lock()
	delete(w.insts, model.ID(lost)) // process and monitor are gone
	stray := strings.Repeat("5", 64)
	w.insts[model.ID(stray)] = &fakeInstance{w: w, id: model.ID(stray), over: make(chan struct{})}
	w.mu.Unlock()
	if err := errors.Join(os.RemoveAll(e.core.dir(model.ID(bare))), os.Mkdir(e.core.dir(model.ID(strings.Repeat("6", 64))), 0o700)); err != nil {
		t.Fatal(err)
	}
	same := *e.core.index.get(model.ID(dup)).record()
	same.IDs = e.core.index.get(model.ID(bare)).record().IDs
	e.core.index.get(model.ID(dup)).rec.Store(&same)

	want := []string{"container instance", "container instance", "lifecycle directory", "lifecycle directory", "lifecycle id range"}
	if got, _ := findings(t, e, false); !slices.Equal(got, want) {
		t.Errorf("found %q\n want %q", got, want)
	}
	if _, rep := findings(t, e, true); !rep.Clean() {
		t.Errorf("not repaired: %+v", rep.Findings)
	}
	if got, _ := findings(t, e, false); len(got) != 0 {
		t.Errorf("after the repair: %v", got)
	}
	c, err := e.Inspect(bg, lost, false)
	if err != nil || c.State.Status != container.StateExited || c.State.ExitCode != 255 {
		t.Errorf("the lost one: %+v, %v", c.State, err)
	}
	a, b := e.core.index.get(model.ID(dup)).record().IDs, e.core.index.get(model.ID(bare)).record().IDs
	if a == b || !a.Mapped() {
		t.Errorf("ranges %v and %v", a, b)
	}
}

// The trash and its table of records are the same, and no container is in it.
func TestFsckTrash(t *testing.T) {
	w := newWorld(t)
	w.bounds = TrashBounds{MaxAge: time.Hour, MaxSize: 1 << 30, MaxCount: 10}
	e := w.engine()
	alive := model.ID(create(t, e, "alive", nil))
	gone := model.ID(create(t, e, "gone", nil))
	if err := e.Remove(bg, string(gone), model.RemoveRequest{}); err != nil {
		t.Fatal(err)
	}
	if got, _ := findings(t, e, false); len(got) != 0 {
		t.Fatalf("all is well, but: %v", got)
	}
	w.mu.Lock()
	delete(w.removed, gone)
	w.removed[alive] = w.recs[alive]
	stray := model.ID(strings.Repeat("7", 64))
	w.removed[stray] = model.Container{ID: stray, Name: "stray"}
	w.mu.Unlock()
	want := []string{"lifecycle removed container", "lifecycle removed container", "lifecycle removed container"}
	if got, rep := findings(t, e, false); !slices.Equal(got, want) {
		t.Errorf("found %q: %+v", got, rep)
	}
	if _, rep := findings(t, e, true); !rep.Clean() {
		t.Errorf("not repaired: %+v", rep.Findings)
	}
	// What the entry without a record had is found now, and removed.
	if _, rep := findings(t, e, true); !rep.Clean() {
		t.Errorf("not repaired: %+v", rep.Findings)
	}
	if got, _ := findings(t, e, false); len(got) != 0 {
		t.Errorf("after the repair: %v", got)
	}
	if _, err := e.Inspect(bg, string(alive), false); err != nil {
		t.Errorf("the container that was in the trash as well: %v", err)
	}
}

// What somebody works on right now is nobody's finding.
func TestFsckWhileAVerbRuns(t *testing.T) {
	w := newWorld(t)
	e := w.engine()
	t.Cleanup(e.Close)
	id := model.ID(started(t, e, "web", nil))
	entry := e.core.index.get(id)
	if err := entry.lock(bg); err != nil {
		t.Fatal(err)
	}
	w.mu.Lock()
	inst := w.insts[id]
	delete(w.insts, id)
	w.mu.Unlock()
	time.AfterFunc(3*settleTime, func() {
		w.mu.Lock()
		w.insts[id] = inst
		w.mu.Unlock()
		entry.unlock()
	})
	if got, rep := findings(t, e, false); len(got) != 0 || rep.Unsettled != 0 {
		t.Errorf("%v, %+v", got, rep)
	}
}

func TestFsckOfOneContainer(t *testing.T) {
	w := newWorld(t)
	e := w.engine()
	t.Cleanup(e.Close)
	id := started(t, e, "web", nil)
	stray := model.ID(strings.Repeat("5", 64))
	w.mu.Lock()
	w.insts[stray] = &fakeInstance{w: w, id: stray, over: make(chan struct{})}
	w.mu.Unlock()
	for of, want := range map[model.ID]int{model.ID(id): 0, stray: 1} {
		rep, err := e.Fsck(bg, false, of)
		if err != nil || len(rep.Findings) != want {
			t.Errorf("of %s: %+v, %v", of.Short(), rep.Findings, err)
		}
	}
}

// An exit that cannot be recorded stays with the driver, which is all that
// survives this daemon, until the record is written.
func TestExitIsKeptUntilRecorded(t *testing.T) {
	w := newWorld(t)
	e := w.engine()
	id := started(t, e, "web", nil)
	w.mu.Lock()
	w.fail["put-exited"] = errors.New("no space left on device")
	w.mu.Unlock()
	end := w.instance(id)
	end.end(7)
	if got := <-mustWait(t, e, id); got.Code != 7 {
		t.Errorf("exit %d", got.Code)
	}
	if got := phase(e, id); got != container.StateExited {
		t.Errorf("phase %s", got)
	}
	w.mu.Lock()
	_, held := w.insts[model.ID(id)]
	w.mu.Unlock()
	if !held {
		t.Fatal("released before the exit was on record")
	}
	e.Close()

	// The next daemon has it from the driver.
	w.mu.Lock()
	delete(w.fail, "put-exited")
	w.mu.Unlock()
	next := w.engine()
	t.Cleanup(next.Close)
	if err := next.Recover(bg); err != nil {
		t.Fatal(err)
	}
	c, err := next.Inspect(bg, id, false)
	if err != nil || c.State.ExitCode != 7 || c.State.Status != container.StateExited {
		t.Errorf("the next daemon: %+v, %v", c.State, err)
	}
}

// With room again the same daemon writes the record and lets go.
func TestKeptExitIsReleased(t *testing.T) {
	w := newWorld(t)
	e := w.engine()
	t.Cleanup(e.Close)
	id := started(t, e, "web", nil)
	w.mu.Lock()
	w.fail["put-exited"] = errors.New("no space left on device")
	w.mu.Unlock()
	w.instance(id).end(7)
	<-mustWait(t, e, id)
	w.mu.Lock()
	delete(w.fail, "put-exited")
	w.mu.Unlock()
	ctx, cancel := context.WithTimeout(bg, time.Minute)
	defer cancel()
	for {
		w.mu.Lock()
		_, held := w.insts[model.ID(id)]
		w.mu.Unlock()
		if !held {
			break
		}
		if ctx.Err() != nil {
			t.Fatal("not released")
		}
		time.Sleep(20 * time.Millisecond)
	}
	if c := w.recs[model.ID(id)]; c.State.ExitCode != 7 {
		t.Errorf("recorded %+v", c.State)
	}
}

func mustWait(t *testing.T, e *Engine, id string) <-chan model.WaitResult {
	t.Helper()
	ch, err := e.Wait(bg, id, container.WaitConditionNotRunning)
	if err != nil {
		t.Fatal(err)
	}
	return ch
}

// What is being killed is not frozen: its end would wait for the thaw.
func TestPauseOfADoomedContainer(t *testing.T) {
	w := newWorld(t)
	e := w.engine()
	t.Cleanup(e.Close)
	id := started(t, e, "web", nil)
	e.core.index.get(model.ID(id)).doom(9)
	if err := e.Pause(bg, id); err == nil || !strings.Contains(err.Error(), "is not running") {
		t.Errorf("pause: %v", err)
	}
	if w.instance(id).frozen {
		t.Error("frozen")
	}
}
