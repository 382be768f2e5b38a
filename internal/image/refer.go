package image

import (
	"context"
	"fmt"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"wharf/internal/model"
)

// refer labels the indexes and manifests below desc with what they refer to,
// so that the collector keeps the children of what is kept. It checks every
// document on the way. Children that are not here are left out of the walk.
func (s *Store) refer(ctx context.Context, desc ocispec.Descriptor) error {
	return s.referDepth(ctx, desc, 4)
}

func (s *Store) referDepth(ctx context.Context, desc ocispec.Descriptor, depth int) error {
	if depth == 0 {
		return model.Refuse(errdefs.ErrInvalidArgument, "index %s is nested too deep", desc.Digest)
	}
	d, err := readDocument(ctx, s.cs, desc)
	if err != nil {
		return err
	}
	refs := map[string]string{}
	for i, c := range d.children() {
		refs[fmt.Sprintf("containerd.io/gc.ref.content.%d", i)] = c.Digest.String()
	}
	if err := s.addLabels(ctx, desc.Digest, refs); err != nil {
		return err
	}
	for _, c := range d.Manifests {
		if !images.IsManifestType(c.MediaType) && !images.IsIndexType(c.MediaType) {
			continue
		}
		err := s.referDepth(ctx, c, depth-1)
		if err != nil && !errdefs.IsNotFound(err) {
			return err
		}
	}
	return nil
}

// hold puts a blob that was there before under the operation's lease.
// ErrNotFound: it is not there, or the collector was faster.
func (s *Store) hold(ctx context.Context, d digest.Digest) error {
	if _, err := s.cs.Info(ctx, d); err != nil {
		return err
	}
	if err := s.holdResource(ctx, leases.Resource{ID: d.String(), Type: "content"}); err != nil {
		return err
	}
	// Looked at again: between the first look and the lease it may have gone.
	_, err := s.cs.Info(ctx, d)
	return err
}

// holdChain is hold for an unpacked layer (and with it those below).
func (s *Store) holdChain(ctx context.Context, chain digest.Digest) error {
	if _, err := s.snaps.Stat(ctx, chain.String()); err != nil {
		return err
	}
	if err := s.holdResource(ctx, leases.Resource{ID: chain.String(), Type: "snapshots/" + snapshotter}); err != nil {
		return err
	}
	_, err := s.snaps.Stat(ctx, chain.String())
	return err
}

func (s *Store) holdResource(ctx context.Context, r leases.Resource) error {
	id, ok := leases.FromContext(ctx)
	if !ok {
		return nil
	}
	return s.leases.AddResource(ctx, leases.Lease{ID: id}, r)
}
