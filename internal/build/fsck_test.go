package build

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	cachemeta "github.com/moby/buildkit/cache/metadata"
	bolt "go.etcd.io/bbolt"
)

// TestFsck: a lease without a record and a directory without a build are found
// and go; what belongs to a record or is held for a moment stays.
func TestFsck(t *testing.T) {
	ctx := context.Background()
	flat := map[string]string{cacheLease: "now"}
	im := &fakeImages{leases: fakeLeases{have: map[string]map[string]string{
		"known": flat, "known-view": flat, "lost": flat, "lost-view": {cacheLease: "now", temporaryLease: "now"}, "other": nil,
	}}}
	root, temp := t.TempDir(), t.TempDir()
	meta, err := cachemeta.NewStore(filepath.Join(root, cacheFiles[0]))
	if err != nil {
		t.Fatal(err)
	}
	item, _ := meta.Get("known")
	v, err := cachemeta.NewValue("x")
	if err != nil {
		t.Fatal(err)
	}
	if err := item.Update(func(b *bolt.Bucket) error { return item.SetValue(b, "k", v) }); err != nil {
		t.Fatal(err)
	}
	if err := meta.Close(); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"buildkit-mount1", "mine"} {
		if err := os.MkdirAll(filepath.Join(temp, d, "x"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	r, err := New(Options{Root: root, Temp: temp, Namespace: "n", Images: im, Steps: noSteps{}})
	if err != nil {
		t.Fatal(err)
	}
	r.busy.Add(1)
	if fs, err := r.Fsck(ctx, nil); err != nil || len(fs) != 1 {
		t.Errorf("while a build runs: %v %v", fs, err)
	}
	r.busy.Add(-1)
	fs, err := r.Fsck(ctx, nil)
	if err != nil || len(fs) != 2 || fs[0].Name != "lost" || fs[1].Name != filepath.Join(temp, "buildkit-mount1") {
		t.Fatalf("%v %v", fs, err)
	}
	for _, f := range fs {
		if err := r.Repair(ctx, f); err != nil {
			t.Error(err)
		}
	}
	if fs, err := r.Fsck(ctx, nil); err != nil || len(fs) != 0 || len(im.leases.have) != 4 {
		t.Errorf("after the repair: %v %v %v", fs, err, im.leases.have)
	}
}
