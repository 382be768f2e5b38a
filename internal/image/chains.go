package image

import (
	"context"

	"github.com/opencontainers/go-digest"
)

// Chains implements lifecycle's images. It reads metadata only.
func (s *Store) Chains(ctx context.Context, chain digest.Digest) ([]digest.Digest, error) {
	ctx = s.ctx(ctx)
	var out []digest.Digest
	for key := chain.String(); key != ""; {
		info, err := s.snaps.Stat(ctx, key)
		if err != nil {
			return nil, err
		}
		out = append(out, digest.Digest(key))
		key = info.Parent
	}
	return out, nil
}
