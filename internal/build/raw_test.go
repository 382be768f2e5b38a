package build

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	"github.com/moby/buildkit/cache"
	cachemeta "github.com/moby/buildkit/cache/metadata"
	bksnapshot "github.com/moby/buildkit/snapshot/containerd"
	"github.com/moby/buildkit/util/leaseutil"
	bolt "go.etcd.io/bbolt"
)

// TestRaw holds BuildKit to what raw relies on: below the wrappers of a
// writable reference is the overlay's description, and nothing is mounted.
func TestRaw(t *testing.T) {
	const ns, name = "test", "overlayfs"
	dir := t.TempDir()
	layers, err := overlay.NewSnapshotter(filepath.Join(dir, "layers"))
	if err != nil {
		t.Skip("overlay does not work here: ", err)
	}
	blobs, err := local.NewStore(filepath.Join(dir, "blobs"))
	if err != nil {
		t.Fatal(err)
	}
	db, err := bolt.Open(filepath.Join(dir, "meta.db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	meta := metadata.NewDB(db, blobs, map[string]snapshots.Snapshotter{name: layers})
	if err := meta.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	own, err := cachemeta.NewStore(filepath.Join(dir, "own.db"))
	if err != nil {
		t.Fatal(err)
	}
	cm, err := cache.NewManager(cache.ManagerOpt{
		Snapshotter:  bksnapshot.NewSnapshotter(name, meta.Snapshotter(name), ns, nil),
		ContentStore: bksnapshot.NewContentStore(meta.ContentStore(), ns), LeaseManager: leaseutil.WithNamespace(metadata.NewLeaseManager(meta), ns),
		MetadataStore: own, MountPoolRoot: filepath.Join(dir, "pool"),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx := namespaces.WithNamespace(context.Background(), ns)
	first, err := cm.New(ctx, nil, nil, cache.CachePolicyRetain)
	if err != nil {
		t.Fatal(err)
	}
	parent, err := first.Commit(ctx)
	if err != nil {
		t.Fatal(err)
	}
	ref, err := cm.New(ctx, parent, nil, cache.CachePolicyRetain)
	if err != nil {
		t.Fatal(err)
	}
	// A cache mount's reference is one whose mounts are shared.
	mountable, err := ref.Mount(ctx, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	ms, release, err := raw(mountable).Mount()
	if err != nil {
		t.Fatal(err)
	}
	if release != nil {
		defer func() { _ = release() }()
	}
	if len(ms) != 1 || ms[0].Type != "overlay" || !strings.Contains(strings.Join(ms[0].Options, " "), "upperdir="+dir) {
		t.Errorf("BuildKit's wrappers have changed: %T gives %+v", mountable, ms)
	}
}
