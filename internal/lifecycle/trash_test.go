package lifecycle

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"

	"wharf/internal/model"
)

var roomy = TrashBounds{MaxAge: time.Hour, MaxSize: 1 << 40, MaxCount: 100}

func trashWorld(t *testing.T) (*world, *Engine) {
	w := newWorld(t)
	w.bounds = roomy
	return w, w.engine()
}

// withVolume makes a container with an anonymous volume.
func withVolume(t testing.TB, e *Engine, name string) string {
	t.Helper()
	r, err := e.Create(bg, model.CreateRequest{Name: name, Config: &container.Config{Image: "busybox", Volumes: map[string]struct{}{"/data": {}}}})
	if err != nil {
		t.Fatal(err)
	}
	return r.ID
}

func (w *world) put() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.puts
}

func TestTrashRestore(t *testing.T) {
	w, e := trashWorld(t)
	id := withVolume(t, e, "db")
	if err := e.Start(bg, id); err != nil {
		t.Fatal(err)
	}
	before := w.put()
	if err := e.Remove(bg, "db", model.RemoveRequest{Force: true, Volumes: true}); err != nil {
		t.Fatal(err)
	}
	if n := w.put() - before; n != 2 { // exit and removing; the move is the third write, as the deletion was
		t.Errorf("a removal by force wrote %d records before the last, want 2", n)
	}
	if got := phase(e, "db"); got != "" || len(w.layers) != 1 || len(w.vols) != 0 || len(w.volumes) != 0 {
		t.Fatalf("after rm: %q, layers %v, volumes %v", got, w.layers, w.volumes)
	}
	other := create(t, e, "db", nil) // the name is free
	if _, err := e.RestoreTrash(bg, "", "db", ""); !errdefs.IsConflict(err) || !strings.Contains(err.Error(), "--name") {
		t.Errorf("the name is taken: %v", err)
	}
	got, err := e.RestoreTrash(bg, "", id[:12], "db2")
	if err != nil {
		t.Fatal(err)
	}
	want := model.TrashRestored{ID: id, Type: "container", Name: "db2", Volumes: []string{"anon-" + id + "/data"}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if got := phase(e, "db2"); got != container.StateExited {
		t.Errorf("restored as %q", got)
	}
	if err := e.Start(bg, "db2"); err != nil {
		t.Error(err)
	}
	a, b := e.core.index.get(model.ID(id)).record().IDs, e.core.index.get(model.ID(other)).record().IDs
	if a == b {
		t.Errorf("both have the ids %v", a)
	}
	for _, ref := range []string{"db", "db2"} {
		if err := e.Remove(bg, ref, model.RemoveRequest{Force: true, Volumes: true}); err != nil {
			t.Error(err)
		}
	}
	if _, err := e.EmptyTrash(bg, nil, nil); err != nil {
		t.Error(err)
	}
	w.clean()
	if len(w.removed)+len(w.trashed) > 0 {
		t.Errorf("left in the trash: %v %v", w.removed, w.trashed)
	}
}

// TestTrashEnd is what ps --removed shows.
func TestTrashEnd(t *testing.T) {
	w, e := trashWorld(t)
	for _, tc := range []struct {
		name string
		end  func(id string, i *fakeInstance)
		want model.EndReason
		text string
	}{
		{"exited", func(_ string, i *fakeInstance) { i.end(3) }, model.EndExited, "code 3"},
		{"stopped", func(id string, _ *fakeInstance) { _ = e.Stop(bg, id, model.StopRequest{}) }, model.EndUser, "stopped by the user"},
		{"killed", func(id string, _ *fakeInstance) { _ = e.Kill(bg, id, "KILL") }, model.EndUser, "with SIGKILL"},
		{"segv", func(_ string, i *fakeInstance) { i.endWith(model.Exit{Code: 139, Signal: 11}) }, model.EndSignal, "SIGSEGV"},
		{"oom", func(_ string, i *fakeInstance) { i.endWith(model.Exit{Code: 137, Signal: 9, OOMKilled: true}) }, model.EndOOM, "memory"},
		{"lost", func(_ string, i *fakeInstance) { i.endWith(model.Exit{Code: 255, Error: "monitor lost"}) }, model.EndEngine, "monitor lost"},
	} {
		id := started(t, e, tc.name, nil)
		tc.end(id, w.instance(id))
		wait(t, tc.name+" has ended", func() bool { return phase(e, id) == container.StateExited })
		if end, err := e.End(id); err != nil || end == nil || end.Reason != tc.want || !strings.Contains(end.Text, tc.text) {
			t.Errorf("%s: %+v, %v", tc.name, end, err)
		}
		if err := e.Remove(bg, id, model.RemoveRequest{}); err != nil {
			t.Error(err)
		}
		all, err := e.RemovedList(bg, model.ListRequest{Filters: model.Filters{"reason": {string(tc.want): true}, "name": {tc.name: true}}})
		if err != nil || len(all) != 1 || !strings.Contains(all[0].Status, tc.text) || all[0].State != "removed" {
			t.Errorf("%s: %+v, %v", tc.name, all, err)
		}
	}
	if _, err := e.RemovedList(bg, model.ListRequest{Filters: model.Filters{"nonsense": {"x": true}}}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("an unknown filter: %v", err)
	}
	for _, k := range []string{"reason", "how"} {
		if _, err := e.RemovedList(bg, model.ListRequest{Filters: model.Filters{k: {"nonsense": true}}}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("an unknown %s: %v", k, err)
		}
	}
	if _, _, _, err := e.RemovedInspect(bg, "nobody"); !errdefs.IsNotFound(err) {
		t.Errorf("nobody: %v", err)
	}
	l, _, err := e.RemovedLogs(bg, "segv", model.LogsRequest{Stdout: true, Tail: -1})
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
}

// TestTrashGaveUp: an on-failure policy that does not try again.
func TestTrashGaveUp(t *testing.T) {
	w, e := trashWorld(t)
	w.onRun = func(i *fakeInstance) { go i.end(1) }
	id := started(t, e, "x", &container.HostConfig{RestartPolicy: container.RestartPolicy{Name: "on-failure", MaximumRetryCount: 1}})
	wait(t, "the policy gives up", func() bool { return phase(e, id) == container.StateExited })
	if end, _ := e.End(id); end == nil || end.GaveUp != 1 || !strings.Contains(end.Text, "gave up after 1") {
		t.Errorf("%+v", end)
	}
}

// TestTrashDie kills the daemon at every operation of removal, restoration
// and emptying. Afterwards a container is there or in the trash, whole, and
// when all is removed and emptied nothing is left.
func TestTrashDie(t *testing.T) {
	for _, at := range []string{
		"put-exited", "put-removing", "unuse", "trash", "rootfs", "put-removed", "vol-restore", "use", "untrash", "forget-removed", "discard", "vol-purge",
	} {
		for _, rm := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/rm=%t", at, rm), func(t *testing.T) {
				w, e := trashWorld(t)
				life(e, rm) // one that is whole
				r, err := e.Create(bg, model.CreateRequest{Name: "db", Config: &container.Config{Image: "busybox", Volumes: map[string]struct{}{"/data": {}}}, HostConfig: &container.HostConfig{AutoRemove: rm}})
				if err != nil {
					t.Fatal(err)
				}
				if err := e.Start(bg, r.ID); err != nil {
					t.Fatal(err)
				}
				w.mu.Lock()
				w.die = at
				w.mu.Unlock()
				_ = e.Remove(bg, r.ID, model.RemoveRequest{Force: true, Volumes: true})
				_, _ = e.RestoreTrash(bg, "", r.ID, "")
				_ = e.Remove(bg, r.ID, model.RemoveRequest{Force: true, Volumes: true})
				_, _ = e.EmptyTrash(bg, model.Filters{"name": {"db": true}}, nil)
				e.Close()
				e = w.engine()
				if err := e.Recover(bg); err != nil {
					t.Fatal(err)
				}
				w.whole(t, e)
				for _, c := range e.Records() {
					if err := e.Remove(bg, string(c.ID), model.RemoveRequest{Force: true, Volumes: true}); err != nil {
						t.Error(err)
					}
				}
				if _, err := e.EmptyTrash(bg, nil, nil); err != nil {
					t.Error(err)
				}
				w.clean()
			})
		}
	}
}

// whole checks that everything in the trash has what it needs to come back,
// and that nobody is both.
func (w *world) whole(t *testing.T, e *Engine) {
	t.Helper()
	rep, err := e.Trash(bg, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, it := range rep.Items {
		id := model.ID(it.ID)
		if it.Type != "container" {
			continue
		}
		if !w.layers[id] {
			t.Errorf("%s is in the trash without a layer", id.Short())
		}
		if _, there := w.recs[id]; there {
			t.Errorf("%s is there and in the trash", id.Short())
		}
	}
	for id := range w.layers {
		_, there := w.recs[id]
		_, gone := w.removed[id]
		if !there && !gone {
			t.Errorf("layer %s belongs to nobody", id.Short())
		}
	}
}

// TestTrashBounds: by age, number and size; those with --rm first.
func TestTrashBounds(t *testing.T) {
	now := time.Now()
	item := func(id string, age time.Duration, how string, size int64) discarded {
		return discarded{id: model.ID(id), size: size, removal: model.Removal{At: now.Add(-age), How: how}}
	}
	items := []discarded{ // newest first
		item("a", 1*time.Minute, model.RemovedAuto, 10), item("b", 2*time.Minute, model.RemovedByUser, 10),
		item("c", 3*time.Minute, model.RemovedAuto, 10), item("d", 4*time.Minute, model.RemovedPrune, 10), item("e", 2*time.Hour, model.RemovedByUser, 10),
	}
	vols := []model.TrashedVolume{{ID: "w", Removed: now.Add(-3 * time.Hour), Size: 10}, {ID: "v", Removed: now.Add(-5 * time.Minute), Size: 10}}
	names := func(os []old) (out []string) {
		for _, o := range os {
			out = append(out, string(o.id)+o.vol)
		}
		return out
	}
	b := TrashBounds{MaxAge: time.Hour, MaxCount: 5, MaxSize: 1}
	if d := cmp.Diff([]string{"c", "e", "w"}, names(overAgeAndCount(items, vols, b, now))); d != "" {
		t.Errorf("age and count: %s", d)
	}
	all := everything(items, vols)
	if d := cmp.Diff([]string{"c", "a", "w", "e", "v", "d", "b"}, names(all)); d != "" {
		t.Errorf("order: %s", d)
	}
	for _, tc := range []struct {
		excess int64
		want   int
	}{{-5, 0}, {0, 0}, {1, 1}, {10, 1}, {11, 2}, {1000, 7}} {
		if got := len(overSize(all, tc.excess)); got != tc.want {
			t.Errorf("%d bytes too much: %d go, want %d", tc.excess, got, tc.want)
		}
	}
}

// TestTrashOff: nothing is kept, as if there were no trash; and what is there
// goes when it is turned off.
func TestTrashOff(t *testing.T) {
	w, e := trashWorld(t)
	id := withVolume(t, e, "x")
	if err := e.Remove(bg, id, model.RemoveRequest{Volumes: true}); err != nil {
		t.Fatal(err)
	}
	e.SetTrash(TrashBounds{})
	wait(t, "the trash is empty", func() bool { rep, _ := e.Trash(bg, nil); return len(rep.Items) == 0 })
	id = withVolume(t, e, "y")
	if err := e.Remove(bg, id, model.RemoveRequest{Volumes: true}); err != nil {
		t.Fatal(err)
	}
	wait(t, "nothing is left", func() bool { w.mu.Lock(); defer w.mu.Unlock(); return len(w.layers)+len(w.trashed)+len(w.removed) == 0 })
	w.clean()
}

// TestTrashFullDisk: a record that cannot be written does not stop a removal.
func TestTrashFullDisk(t *testing.T) {
	w, e := trashWorld(t)
	id := withVolume(t, e, "x")
	w.mu.Lock()
	w.fail["trash"] = errors.New("no space left on device")
	w.mu.Unlock()
	if err := e.Remove(bg, id, model.RemoveRequest{Volumes: true}); err != nil {
		t.Fatal(err)
	}
	w.clean()
	if _, err := os.Stat(e.core.dir(model.ID(id))); !os.IsNotExist(err) {
		t.Errorf("its directory: %v", err)
	}
}

// TestTrashTwo: a restoration and an emptying at the same time; one wins,
// whole.
func TestTrashTwo(t *testing.T) {
	w, e := trashWorld(t)
	for i := range 50 {
		id := withVolume(t, e, fmt.Sprint("c", i))
		if err := e.Remove(bg, id, model.RemoveRequest{Volumes: true}); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		var err error
		wg.Go(func() { _, err = e.RestoreTrash(bg, "container", id, "") })
		wg.Go(func() { _, _ = e.EmptyTrash(bg, model.Filters{"type": {"container": true}}, nil) })
		wg.Go(func() { _, _ = e.RestoreTrash(bg, "container", id, "") })
		wg.Wait()
		w.whole(t, e)
		there := phase(e, id) != ""
		if w.layers[model.ID(id)] != there {
			t.Fatalf("restored: %v; there: %v; layer: %v", err, there, w.layers[model.ID(id)])
		}
	}
}

// TestTrashSharedRange: who lives in another's namespace gets its ids back.
func TestTrashSharedRange(t *testing.T) {
	_, e := trashWorld(t)
	a := create(t, e, "a", nil)
	b := create(t, e, "b", &container.HostConfig{NetworkMode: container.NetworkMode("container:" + a)})
	for _, id := range []string{a, b} {
		if err := e.Remove(bg, id, model.RemoveRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	create(t, e, "c", nil) // takes the range
	if _, err := e.RestoreTrash(bg, "", "b", ""); !errdefs.IsConflict(err) {
		t.Errorf("b before a: %v", err)
	}
	for _, id := range []string{a, b} {
		if _, err := e.RestoreTrash(bg, "", id, ""); err != nil {
			t.Fatal(err)
		}
	}
	ids := map[string]model.IDRange{}
	for _, c := range e.Records() {
		ids[c.Name] = c.IDs
	}
	if ids["a"] != ids["b"] || ids["a"] == ids["c"] {
		t.Errorf("%v", ids)
	}
}
