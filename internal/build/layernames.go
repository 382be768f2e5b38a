package build

import (
	"context"
	"errors"
	"strings"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	bksnapshot "github.com/moby/buildkit/snapshot"
	"github.com/opencontainers/go-digest"
)

// chainNames gives BuildKit the image room's unpacked layers as its own, and
// the other way round: BuildKit calls the layer of a chain
// "buildkit-layer-snapshot-v1-sha256-x", lest it trust what an older daemon
// filed as "sha256:x" without a look at its digest. Here nobody does: both rooms
// commit a layer when its digest was right. So they are one name.
type chainNames struct{ snapshots.Snapshotter }

// chainName is the image room's name of a snapshot.
func chainName(key string) string {
	if d, ok := bksnapshot.ParseLayerSnapshotID(key); ok {
		return d.String()
	}
	return key
}

// layerName is BuildKit's.
func layerName(key string) string {
	if d := digest.Digest(key); strings.HasPrefix(key, "sha256:") && d.Validate() == nil {
		return bksnapshot.LayerSnapshotID(d)
	}
	return key
}

func theirs(i snapshots.Info) snapshots.Info {
	i.Name, i.Parent = layerName(i.Name), layerName(i.Parent)
	return i
}

func (c chainNames) Stat(ctx context.Context, key string) (snapshots.Info, error) {
	i, err := c.Snapshotter.Stat(ctx, chainName(key))
	return theirs(i), err
}

func (c chainNames) Update(ctx context.Context, i snapshots.Info, fields ...string) (snapshots.Info, error) {
	i.Name, i.Parent = chainName(i.Name), chainName(i.Parent)
	i, err := c.Snapshotter.Update(ctx, i, fields...)
	return theirs(i), err
}

func (c chainNames) Usage(ctx context.Context, key string) (snapshots.Usage, error) {
	return c.Snapshotter.Usage(ctx, chainName(key))
}

func (c chainNames) Mounts(ctx context.Context, key string) ([]mount.Mount, error) {
	return c.Snapshotter.Mounts(ctx, chainName(key))
}

func (c chainNames) Prepare(ctx context.Context, key, parent string, o ...snapshots.Opt) ([]mount.Mount, error) {
	return c.Snapshotter.Prepare(ctx, chainName(key), chainName(parent), o...)
}

func (c chainNames) View(ctx context.Context, key, parent string, o ...snapshots.Opt) ([]mount.Mount, error) {
	return c.Snapshotter.View(ctx, chainName(key), chainName(parent), o...)
}

func (c chainNames) Commit(ctx context.Context, name, key string, o ...snapshots.Opt) error {
	return c.Snapshotter.Commit(ctx, chainName(name), chainName(key), o...)
}

// Remove leaves a chain's layer to the collector: an image may stand on it.
func (c chainNames) Remove(ctx context.Context, key string) error {
	if chainName(key) != key {
		return nil
	}
	return c.Snapshotter.Remove(ctx, key)
}

func (c chainNames) Walk(ctx context.Context, fn snapshots.WalkFunc, filters ...string) error {
	return c.Snapshotter.Walk(ctx, func(ctx context.Context, i snapshots.Info) error { return fn(ctx, theirs(i)) }, filters...)
}

// Close leaves the image room's snapshotter open.
func (c chainNames) Close() error { return nil }

// Cleanup implements containerd's Cleaner.
func (c chainNames) Cleanup(ctx context.Context) error {
	if x, ok := c.Snapshotter.(snapshots.Cleaner); ok {
		return x.Cleanup(ctx)
	}
	return errors.ErrUnsupported
}

// chainResource is a lease's resource under the image room's name.
func chainResource(r leases.Resource) leases.Resource {
	if strings.HasPrefix(r.Type, "snapshots/") {
		r.ID = chainName(r.ID)
	}
	return r
}
