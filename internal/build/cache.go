package build

import (
	"context"

	"github.com/moby/buildkit/client"
	"github.com/moby/moby/api/types/build"

	"wharf/internal/model"
)

// Records lists the build cache.
func (r *Room) Records(ctx context.Context) ([]build.CacheRecord, error) {
	if !r.used() {
		return []build.CacheRecord{}, nil
	}
	k, err := r.up()
	if err != nil {
		return nil, err
	}
	usage, err := k.client.DiskUsage(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]build.CacheRecord, 0, len(usage))
	for _, u := range usage {
		out = append(out, record(u))
	}
	return out, nil
}

func record(u *client.UsageInfo) build.CacheRecord {
	return build.CacheRecord{
		ID: u.ID, Parents: u.Parents, Type: string(u.RecordType), Description: u.Description,
		InUse: u.InUse, Shared: u.Shared, Size: u.Size,
		CreatedAt: u.CreatedAt, LastUsedAt: u.LastUsedAt, UsageCount: u.UsageCount,
	}
}

// Prune removes what of the cache is not in use.
func (r *Room) Prune(ctx context.Context, p model.BuildPrune) (*build.CachePruneReport, error) {
	out := &build.CachePruneReport{}
	if !r.used() {
		return out, nil
	}
	k, err := r.up()
	if err != nil {
		return nil, err
	}
	opts := []client.PruneOption{client.WithKeepOpt(p.OlderThan, p.Reserved, p.Max, p.MinFree), client.WithFilter(p.Filters)}
	if p.All {
		opts = append(opts, client.PruneAll)
	}
	gone := make(chan client.UsageInfo)
	counted := make(chan struct{})
	go func() {
		defer close(counted)
		for u := range gone {
			out.CachesDeleted = append(out.CachesDeleted, u.ID)
			out.SpaceReclaimed += uint64(max(0, u.Size))
		}
	}()
	err = k.client.Prune(ctx, gone, opts...)
	close(gone)
	<-counted
	if err == nil {
		r.pruned(out.SpaceReclaimed)
	}
	return out, err
}
