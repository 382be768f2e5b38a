package build

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
)

// TestSettler: the file is there before a change and goes when all is quiet.
func TestSettler(t *testing.T) {
	settled := 0
	s := &settler{root: t.TempDir(), boot: "b", quiet: 20 * time.Millisecond, log: slog.Default(), settle: func() error { settled++; return nil }}
	there := func() bool { _, err := os.Lstat(s.path()); return err == nil }
	if there() {
		t.Fatal("unsettled from the start")
	}
	for range 3 {
		if err := s.changed(); err != nil || !there() {
			t.Fatal("no file before a change", err)
		}
	}
	wait(t, func() bool { return !there() })
	// Changed behind its back: it stays until that has ended too.
	if err := s.changed(); err != nil || !there() {
		t.Fatal("no file before a change", err)
	}
	if err := os.WriteFile(filepath.Join(s.root, "cache.db"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.end(); err != nil || there() || settled < 2 {
		t.Error(err, there(), settled)
	}
	s.settle = func() error { return errors.New("the disk is gone") }
	if err := errors.Join(s.changed(), s.end()); err == nil || !there() {
		t.Error("settled without a disk")
	}
}

func wait(t *testing.T, ok func() bool) {
	t.Helper()
	for range 6000 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("never")
}

// fakeImages is an image room with leases alone.
type fakeImages struct {
	Images
	leases    fakeLeases
	collected int
}

func (f *fakeImages) LeaseManager() leases.Manager  { return &f.leases }
func (f *fakeImages) Collect(context.Context) error { f.collected++; return nil }
func (f *fakeImages) Settle() error                 { return nil }

type fakeLeases struct {
	leases.Manager
	have map[string]map[string]string
}

func (f *fakeLeases) List(context.Context, ...string) (out []leases.Lease, _ error) {
	for id, labels := range f.have {
		out = append(out, leases.Lease{ID: id, Labels: labels})
	}
	return out, nil
}

func (f *fakeLeases) Delete(_ context.Context, l leases.Lease, _ ...leases.DeleteOpt) error {
	if _, ok := f.have[l.ID]; !ok {
		return errdefs.ErrNotFound
	}
	delete(f.have, l.ID)
	return nil
}

// TestPowerCut: a cache that changed when the machine went down is thrown away,
// with its leases alone; one whose daemon was killed is kept.
func TestPowerCut(t *testing.T) {
	for boot, gone := range map[string]bool{bootID(): false, "another": true} {
		im := &fakeImages{leases: fakeLeases{have: map[string]map[string]string{"cache": {cacheLease: "now"}, "other": nil}}}
		dir := t.TempDir()
		for name, text := range map[string]string{"metadata.db": "x", "cache.db": "y", "history.db": "z", unsettledFile: boot} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := New(Options{Root: dir, Namespace: "n", Images: im, Steps: noSteps{}}); err != nil {
			t.Fatal(err)
		}
		left, _ := filepath.Glob(filepath.Join(dir, "*"))
		if want := map[bool]int{true: 1, false: 4}[gone]; len(left) != want {
			t.Errorf("boot %s: %v", boot, left)
		}
		if len(im.leases.have) != map[bool]int{true: 1, false: 2}[gone] || im.collected != map[bool]int{true: 1}[gone] {
			t.Errorf("boot %s: leases %v, collected %d", boot, im.leases.have, im.collected)
		}
	}
}

type noSteps struct{ Steps }

// TestSettlerFullDisk: the file is never made twice, so that a cache can be
// pruned where nothing can be made.
func TestSettlerFullDisk(t *testing.T) {
	s := &settler{root: t.TempDir(), boot: "b", quiet: time.Hour, log: slog.Default(), settle: func() error { return nil }}
	if err := errors.Join(s.changed(), s.clear(s.state())); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(s.spare())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.changed(); err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(s.path())
	if err != nil || !os.SameFile(before, after) {
		t.Error("another file", err)
	}
}
