package image

import (
	"context"
	"errors"

	"github.com/moby/moby/api/types/image"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// History implements dockerapi.Images: newest first. Only the newest step has
// an id; of older ones no image exists ("<missing>").
func (s *Store) History(ctx context.Context, ref string, p *ocispec.Platform) ([]image.HistoryResponseItem, error) {
	ctx = s.ctx(ctx)
	f, err := s.find(ctx, ref)
	if err != nil {
		return nil, err
	}
	v, err := s.variant(ctx, f.target, p)
	if errors.Is(err, errNoPlatform) {
		return nil, noPlatform(ref, p)
	}
	if err != nil {
		return nil, err
	}
	out := s.steps(ctx, v.config)
	out[0].ID = f.id().String()
	names, err := s.siblings(ctx, f.id())
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		if tag, _ := repoForms(n); tag != "" {
			out[0].Tags = append(out[0].Tags, tag)
		}
	}
	return out, nil
}

// steps are the history of a configuration, newest first, never empty: an
// image whose history says nothing has one step for each layer.
func (s *Store) steps(ctx context.Context, c *config) []image.HistoryResponseItem {
	history := c.History
	layers := 0
	for _, h := range history {
		if !h.EmptyLayer {
			layers++
		}
	}
	for ; layers < len(c.chains); layers++ {
		history = append(history, ocispec.History{})
	}
	if len(history) == 0 {
		history = []ocispec.History{{Created: c.Created, EmptyLayer: true}}
	}
	out := make([]image.HistoryResponseItem, len(history))
	chains := c.chains
	for i, h := range history {
		item := image.HistoryResponseItem{ID: "<missing>", Comment: h.Comment, CreatedBy: h.CreatedBy}
		if h.Created != nil {
			item.Created = h.Created.Unix()
		}
		if !h.EmptyLayer && len(chains) > 0 {
			var chain digest.Digest
			chain, chains = chains[0], chains[1:]
			item.Size = s.layerSize(ctx, chain)
		}
		out[len(history)-1-i] = item
	}
	return out
}
