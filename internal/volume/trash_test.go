package volume

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/volume"

	"wharf/internal/model"
)

func trash(t testing.TB, r *Room) []model.TrashedVolume {
	t.Helper()
	all, err := r.Trashed(ctx)
	must(t, err)
	return all
}

// measured waits for the sizes.
func measured(t testing.TB, r *Room) []model.TrashedVolume {
	t.Helper()
	for range 6000 {
		all, ok := trash(t, r), true
		for _, x := range all {
			ok = ok && x.Size >= 0
		}
		if ok {
			return all
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("the trash was not measured")
	return nil
}

func TestTrashRestore(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir)
	made, err := r.Create(ctx, volume.CreateRequest{Name: "data", Labels: map[string]string{"a": "b"}})
	must(t, err)
	must(t, os.WriteFile(made.Mountpoint+"/f", make([]byte, 100<<10), 0o640))
	must(t, r.Remove(ctx, "data", false))
	if _, err := os.Stat(made.Mountpoint); err == nil {
		t.Error("still at its place")
	}
	got := measured(t, r)
	if len(got) != 1 || got[0].Name != "data" || got[0].Labels["a"] != "b" || got[0].Size < 100<<10 || time.Since(got[0].Removed) > time.Minute {
		t.Fatalf("%+v", got)
	}
	must(t, r.Close())

	again := open(t, dir) // the trash outlives the daemon
	if d := cmp.Diff(got, trash(t, again)); d != "" {
		t.Error(d)
	}
	id := got[0].ID
	_, err = again.Create(ctx, volume.CreateRequest{Name: "data"})
	must(t, err)
	if _, err := again.RestoreTrashed(ctx, id, ""); !errdefs.IsConflict(err) {
		t.Errorf("a taken name: %v", err)
	}
	if _, err := again.RestoreTrashed(ctx, id, "../x"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a bad name: %v", err)
	}
	v, err := again.RestoreTrashed(ctx, id, "data2")
	must(t, err)
	made.Name, made.Mountpoint = "data2", filepath.Join(dir, "data2", "_data")
	if d := cmp.Diff(made, v); d != "" {
		t.Error(d)
	}
	if st, err := os.Stat(v.Mountpoint + "/f"); err != nil || st.Size() != 100<<10 || st.Mode().Perm() != 0o640 {
		t.Errorf("%v %v", st, err)
	}
	if _, err := again.RestoreTrashed(ctx, id, ""); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	must(t, again.Remove(ctx, "data2", false))
	must(t, again.Purge(ctx, trash(t, again)[0].ID))
	if err := again.Purge(ctx, id); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	must(t, again.Close())
	if left, _ := filepath.Glob(dir + "/.*"); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// What a container's removal takes along says so; what was never used is not
// kept.
func TestTrashOfAContainer(t *testing.T) {
	r := open(t, t.TempDir())
	id := model.NewID()
	full, empty := model.Mount{Type: "volume", Name: "full", Anonymous: true}, model.Mount{Type: "volume", Name: "empty", Anonymous: true}
	must(t, os.WriteFile(use(t, r, id, full)+"/f", nil, 0o600))
	use(t, r, id, empty)
	must(t, r.Unuse(ctx, id, []model.Mount{full, empty}, true))
	got := measured(t, r)
	if len(got) != 1 || got[0].Name != "full" || got[0].Container != id {
		t.Errorf("%+v", got)
	}
	if _, err := r.RestoreTrashed(ctx, got[0].ID, ""); err != nil {
		t.Error(err)
	}
	use(t, r, id, full)
	must(t, r.Unuse(ctx, id, []model.Mount{full}, true))
	if got := trash(t, r); len(got) != 1 {
		t.Errorf("after a second removal: %+v", got)
	}
}

// A crash between the ticket and the rename, and one that lost the ticket.
func TestTrashCrash(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir)
	v, err := r.Create(ctx, volume.CreateRequest{Name: "data"})
	must(t, err)
	writeTicket(filepath.Join(dir, "data"), ticket{Size: -1})
	must(t, os.MkdirAll(filepath.Join(dir, newPrefix+"x", "_data"), 0o700))
	must(t, os.MkdirAll(filepath.Join(dir, trashPrefix+"lost", "_data"), 0o700))
	must(t, os.WriteFile(filepath.Join(dir, trashPrefix+"lost", "trashed.json"), []byte("{"), 0o600))
	must(t, r.Close())
	again := open(t, dir)
	if _, err := again.Inspect(ctx, v.Name); err != nil {
		t.Error(err)
	}
	got := measured(t, again)
	if len(got) != 1 || got[0].ID != "lost" || got[0].Removed.IsZero() {
		t.Errorf("%+v", got)
	}
	must(t, again.Close())
	if _, err := os.Stat(filepath.Join(dir, newPrefix+"x")); err == nil {
		t.Error("a half-made volume is still there")
	}
}
