package image

import (
	"context"
	"fmt"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// refer labels the indexes and manifests below desc with what they refer to,
// so that the collector keeps the children of what is kept. It checks every
// document on the way. Children that are not here are left out of the walk.
func (s *Store) refer(ctx context.Context, desc ocispec.Descriptor) error {
	return s.referDepth(ctx, desc, 4)
}

func (s *Store) referDepth(ctx context.Context, desc ocispec.Descriptor, depth int) error {
	if depth == 0 {
		return fmt.Errorf("index %s is nested too deep: %w", desc.Digest, errdefs.ErrInvalidArgument)
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
func (s *Store) hold(ctx context.Context, d digest.Digest) error {
	id, ok := leases.FromContext(ctx)
	if !ok {
		return nil
	}
	return s.leases.AddResource(ctx, leases.Lease{ID: id}, leases.Resource{ID: d.String(), Type: "content"})
}
