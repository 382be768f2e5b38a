package image

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/events"

	"wharf/internal/model"
)

// Tag implements dockerapi.Images.
func (s *Store) Tag(ctx context.Context, ref, target string) error {
	ctx = s.ctx(ctx)
	n, err := parseRef(target)
	if err != nil {
		return err
	}
	if _, ok := n.(reference.Digested); ok {
		return model.Refuse(errdefs.ErrInvalidArgument, "refusing to create a tag with a digest reference")
	}
	if reference.FamiliarName(n) == "sha256" {
		return model.Refuse(errdefs.ErrInvalidArgument, "refusing to create an ambiguous tag using digest algorithm as name")
	}
	s.names.Lock()
	defer s.names.Unlock()
	f, err := s.find(ctx, ref)
	if err != nil {
		return err
	}
	if err := s.setName(ctx, n.String(), f.target, nil); err != nil {
		return fmt.Errorf("tag %s: %w", target, err)
	}
	s.publish(ctx, events.ActionTag, f.id().String(), reference.FamiliarString(n))
	return nil
}
