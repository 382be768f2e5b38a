package image

import (
	"context"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"wharf/internal/model"
)

// KeepsRemoved says that Fsck wants the records of removed containers in the
// trash too: their writable layers are here.
func (s *Store) KeepsRemoved() bool { return true }

// Kept says how many bytes of layers and blobs only removed containers keep
// from the collector: their image has no name any more and no other container
// stands on it. removed is newest first; what several share counts for the
// newest, which is the last to go.
func (s *Store) Kept(ctx context.Context, removed []model.ID) (map[model.ID]int64, error) {
	out := map[model.ID]int64{}
	if len(removed) == 0 {
		return out, nil
	}
	ctx = s.ctx(ctx)
	used, err := s.namedParts(ctx)
	if err != nil {
		return nil, err
	}
	gone := make(map[model.ID]bool, len(removed))
	for _, id := range removed {
		gone[id] = true
	}
	ids, err := s.preparedIDs()
	if err != nil {
		return nil, err
	}
	seen := map[base]bool{} // most containers stand on the same few
	for _, id := range ids {
		if !gone[id] {
			_ = s.standsOn(ctx, id, seen, used)
		}
	}
	for _, id := range removed {
		if n := s.standsOn(ctx, id, seen, used); n > 0 {
			out[id] = n
		}
	}
	return out, ctx.Err()
}

// namedParts are the pieces of disk of all images with a name.
func (s *Store) namedParts(ctx context.Context) (map[digest.Digest]bool, error) {
	es, err := s.entries(ctx)
	if err != nil {
		return nil, err
	}
	used := map[digest.Digest]bool{}
	for _, e := range es {
		parts, err := s.parts(ctx, e.target)
		if err != nil && !errdefs.IsNotFound(err) {
			return nil, err
		}
		for d := range parts {
			used[d] = true
		}
	}
	return used, nil
}

// standsOn adds what a container stands on to used and returns the bytes of
// what was not there.
func (s *Store) standsOn(ctx context.Context, id model.ID, seen map[base]bool, used map[digest.Digest]bool) (n int64) {
	for _, b := range s.bases(id) {
		if seen[b] {
			continue
		}
		seen[b] = true
		for key := b.chain.String(); key != ""; {
			part := "chain " + digest.Digest(key)
			if !used[part] {
				used[part] = true
				n += s.layerSize(ctx, digest.Digest(key))
			}
			info, err := s.snaps.Stat(ctx, key)
			if err != nil {
				break
			}
			key = info.Parent
		}
		desc, err := s.manifestDesc(ctx, b.manifest)
		if err != nil {
			continue
		}
		parts, _ := s.parts(ctx, desc)
		for d, size := range parts {
			if !used[d] {
				used[d] = true
				n += size
			}
		}
	}
	return n
}
