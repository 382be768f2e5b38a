package image

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/image"
	"github.com/opencontainers/go-digest"

	"wharf/internal/model"
)

// Prune implements dockerapi.Images: dangling images that no container uses,
// or with dangling=false all that none uses.
func (s *Store) Prune(ctx context.Context, f model.Filters) (image.PruneReport, error) {
	ctx = s.ctx(ctx)
	rep := image.PruneReport{}
	danglingOnly, keep, err := s.pruneFilter(ctx, f)
	if err != nil {
		return rep, err
	}
	before, err := s.totalSize(ctx)
	if err != nil {
		return rep, err
	}
	if err := s.prune(ctx, danglingOnly, keep, &rep); err != nil {
		return rep, err
	}
	if err := s.gc.run(ctx); err != nil {
		return rep, err
	}
	after, err := s.totalSize(ctx)
	if err != nil {
		return rep, err
	}
	rep.SpaceReclaimed = uint64(max(0, before-after))
	s.opts.Publish(events.ImageEventType, events.ActionPrune, "", map[string]string{"reclaimed": fmt.Sprint(rep.SpaceReclaimed)})
	return rep, nil
}

func (s *Store) pruneFilter(ctx context.Context, f model.Filters) (danglingOnly bool, keep func(*entry) bool, err error) {
	rest := model.Filters{}
	danglingOnly = true
	for key, vs := range f {
		switch key {
		case "dangling":
			for v := range vs {
				if danglingOnly, err = boolValue(key, v); err != nil {
					return false, nil, err
				}
			}
		case "until", "label", "label!":
			if key == "until" && len(vs) > 1 {
				return false, nil, model.Refuse(errdefs.ErrInvalidArgument, "more than one until filter specified")
			}
			rest[key] = vs
		default:
			return false, nil, model.Refuse(errdefs.ErrInvalidArgument, "invalid filter '%s'", key)
		}
	}
	keep, err = s.listFilter(ctx, rest)
	return danglingOnly, keep, err
}

func (s *Store) prune(ctx context.Context, danglingOnly bool, keep func(*entry) bool, rep *image.PruneReport) error {
	s.names.Lock()
	defer s.names.Unlock()
	users, err := s.usersByImage(ctx)
	if err != nil {
		return err
	}
	es, err := s.entries(ctx)
	if err != nil {
		return err
	}
	r := &remover{s: s, ctx: ctx, users: users}
	for _, e := range es {
		if (danglingOnly && !e.dangling) || len(users[e.target.Digest]) > 0 || !keep(e) {
			continue
		}
		if err := r.untag(e.names); err != nil {
			return err
		}
		r.deleted(e.target.Digest)
	}
	rep.ImagesDeleted = r.out
	return nil
}

// totalSize is what all images take on disk, shared parts once.
func (s *Store) totalSize(ctx context.Context) (int64, error) {
	imgs, err := s.images.List(ctx)
	if err != nil {
		return 0, err
	}
	all := map[digest.Digest]int64{}
	for _, i := range imgs {
		parts, err := s.parts(ctx, i.Target)
		if err != nil {
			return 0, err
		}
		for d, n := range parts {
			all[d] = n
		}
	}
	return sum(all), nil
}

// DiskUsage implements dockerapi.Images.
func (s *Store) DiskUsage(ctx context.Context, verbose bool) (*image.DiskUsage, error) {
	ctx = s.ctx(ctx)
	users, err := s.usersByImage(ctx)
	if err != nil {
		return nil, err
	}
	es, err := s.entries(ctx)
	if err != nil {
		return nil, err
	}
	du := &image.DiskUsage{TotalCount: int64(len(es))}
	all, used := map[digest.Digest]int64{}, map[digest.Digest]int64{}
	for _, e := range es {
		parts, err := s.parts(ctx, e.target)
		if err != nil {
			return nil, err
		}
		active := len(users[e.target.Digest]) > 0
		if active {
			du.ActiveCount++
		}
		for d, n := range parts {
			all[d] = n
			if active {
				used[d] = n
			}
		}
	}
	du.TotalSize = sum(all)
	du.Reclaimable = du.TotalSize - sum(used)
	if !verbose {
		return du, nil
	}
	du.Items, err = s.summaries(ctx, es, func(*entry) bool { return true }, true)
	for i := range du.Items {
		du.Items[i].Containers = int64(len(users[digest.Digest(du.Items[i].ID)]))
	}
	return du, err
}
