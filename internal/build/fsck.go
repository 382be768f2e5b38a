package build

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	cachemeta "github.com/moby/buildkit/cache/metadata"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/containerd/containerd/v2/core/leases"

	"wharf/internal/model"
)

// Kinds of what Fsck finds.
const (
	thingLease = "build lease"
	thingTemp  = "build directory"
)

// temporaryLease marks, as a label, what BuildKit holds for a moment.
const temporaryLease = "buildkit/lease.temporary"

// Fsck looks for leases that hold what no record of the cache knows, and for
// mounts and directories of steps that are over. What a lease or a record
// speaks of is the image room's to look at; BuildKit itself forgets records
// whose layers are gone when it is set up.
func (r *Room) Fsck(ctx context.Context, _ []model.Container) ([]model.Finding, error) {
	out, err := r.fsckLeases(ctx)
	if err != nil {
		return nil, err
	}
	temp, err := r.fsckTemp()
	return append(out, temp...), err
}

func (r *Room) fsckLeases(ctx context.Context) ([]model.Finding, error) {
	// Read before the records: a lease is older than its record.
	all, err := r.opts.Images.LeaseManager().List(namespaces.WithNamespace(ctx, r.opts.Namespace))
	if err != nil {
		return nil, err
	}
	var held []leases.Lease
	for _, l := range all {
		_, cache := l.Labels[cacheLease]
		if _, temporary := l.Labels[temporaryLease]; cache && !temporary {
			held = append(held, l)
		}
	}
	if len(held) == 0 {
		return nil, nil
	}
	known, err := r.recordIDs()
	if err != nil {
		return nil, err
	}
	var out []model.Finding
	for _, l := range held {
		if id, _, _ := strings.Cut(l.ID, "-"); !known[id] { // "<id>-view" and the like belong to a record too
			out = append(out, model.Finding{Thing: thingLease, Name: l.ID,
				Detail: "holds layers for a record of the build cache that is gone", Remedy: "let go of them"})
		}
	}
	return out, nil
}

// recordIDs are the records of the cache, whether BuildKit is set up or not.
func (r *Room) recordIDs() (map[string]bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	path := filepath.Join(r.opts.Root, cacheFiles[0])
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var meta *cachemeta.Store
	if r.kit != nil {
		meta = r.kit.worker.MetadataStore
	} else {
		var err error
		if meta, err = cachemeta.NewStore(path); err != nil {
			return nil, err
		}
		defer func() { _ = meta.Close() }()
	}
	items, err := meta.All()
	if err != nil {
		return nil, err
	}
	out := make(map[string]bool, len(items))
	for _, i := range items {
		out[i.ID()] = true
	}
	return out, nil
}

// fsckTemp finds what steps left below Options.Temp, when none is under way.
func (r *Room) fsckTemp() ([]model.Finding, error) {
	if r.opts.Temp == "" || r.busy.Load() > 0 {
		return nil, nil
	}
	es, err := os.ReadDir(r.opts.Temp)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []model.Finding
	for _, e := range es {
		if strings.HasPrefix(e.Name(), tempPrefix) {
			out = append(out, model.Finding{Thing: thingTemp, Name: filepath.Join(r.opts.Temp, e.Name()),
				Detail: "left by a build that is over", Remedy: "unmount and remove it"})
		}
	}
	return out, nil
}

// tempPrefix is how names of BuildKit's temporary directories begin.
const tempPrefix = "buildkit-"

// Repair does what the remedies say.
func (r *Room) Repair(ctx context.Context, f model.Finding) error {
	switch f.Thing {
	case thingLease:
		ctx = namespaces.WithNamespace(ctx, r.opts.Namespace)
		err := r.opts.Images.LeaseManager().Delete(ctx, leases.Lease{ID: f.Name})
		if err != nil && !errdefs.IsNotFound(err) {
			return err
		}
		return r.opts.Images.Collect(ctx)
	case thingTemp:
		return removeTemp(f.Name)
	}
	return fmt.Errorf("there is no repair for a %s", f.Thing)
}

// removeTemp removes a directory, never through what is mounted there.
func removeTemp(dir string) error {
	ms, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return err
	}
	for i := len(ms) - 1; i >= 0; i-- {
		if err := unix.Unmount(ms[i].Mountpoint, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w", ms[i].Mountpoint, err)
		}
	}
	return os.RemoveAll(dir)
}
