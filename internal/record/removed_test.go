package record

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"

	"wharf/internal/model"
)

// TestRemoved moves a record to the removed ones and back, over restarts, and
// tears the write in which it moves.
func TestRemoved(t *testing.T) {
	dir := t.TempDir()
	ctx := t.Context()
	open := func() *Store {
		t.Helper()
		s, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	check := func(s *Store, there, removed int) {
		t.Helper()
		a, err := s.Containers(ctx)
		b, rerr := s.Removed(ctx)
		if err != nil || rerr != nil || len(a) != there || len(b) != removed {
			t.Errorf("%d and %d, want %d and %d; %v, %v", len(a), len(b), there, removed, err, rerr)
		}
	}
	c := model.Container{ID: "a", Name: "x", Removal: &model.Removal{How: model.RemovedByUser}}
	s := open()
	if err := s.PutContainer(ctx, c, false); err != nil {
		t.Fatal(err)
	}
	if err := s.RemoveContainer(ctx, c); err != nil {
		t.Fatal(err)
	}
	check(s, 0, 1)
	_ = s.Close()
	path := filepath.Join(dir, "record.log")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	s = open()
	check(s, 0, 1)
	if got, err := s.RemovedContainer(ctx, "a"); err != nil || got.Name != "x" || got.Removal == nil {
		t.Errorf("%+v, %v", got, err)
	}
	if err := s.RestoreContainer(ctx, c); err != nil {
		t.Fatal(err)
	}
	check(s, 1, 0)
	if err := s.RemoveContainer(ctx, c); err != nil {
		t.Fatal(err)
	}
	if err := s.ForgetRemoved(ctx, "a", "nobody"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.RemovedContainer(ctx, "a"); !errdefs.IsNotFound(err) {
		t.Errorf("forgotten: %v", err)
	}
	check(s, 0, 0)
	_ = s.Close()

	// The end of the write that moved it is torn off: both are left.
	if err := os.WriteFile(path, whole[:len(whole)-3], 0o600); err != nil {
		t.Fatal(err)
	}
	s = open()
	defer s.Close()
	check(s, 1, 1)
}
