package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/moby/moby/api/types/image"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"wharf/internal/model"
)

// Annotations by which BuildKit attaches in-toto statements to an image: the
// manifest that holds them names the image's, its layers name their kind.
const (
	attestedDigest = "vnd.docker.reference.digest"
	attestedKind   = "attestation-manifest"
	predicateType  = "in-toto.io/predicate-type"
	maxStatement   = 64 << 20
)

// Attestations implements dockerapi.Images: the statements about one platform's
// image, the host's for nil. kinds empty: of every kind.
func (s *Store) Attestations(ctx context.Context, ref string, p *ocispec.Platform, kinds []string, bodies bool) ([]image.AttestationStatement, error) {
	ctx = s.ctx(ctx)
	f, err := s.find(ctx, ref)
	if err != nil {
		return nil, err
	}
	v, err := s.variant(ctx, f.target, p)
	if errors.Is(err, errNoPlatform) {
		want := p
		if want == nil {
			host := platforms.DefaultSpec()
			want = &host
		}
		return nil, noPlatform(ref, want)
	}
	if err != nil {
		return nil, err
	}
	out := []image.AttestationStatement{}
	err = s.walkManifests(ctx, f.target, func(desc ocispec.Descriptor) error {
		if desc.Annotations[attestation] != attestedKind || desc.Annotations[attestedDigest] != v.desc.Digest.String() {
			return nil
		}
		d, err := readDocument(ctx, s.cs, desc)
		if err != nil {
			return missingAttestation(err, ref)
		}
		for _, l := range d.Layers {
			kind := l.Annotations[predicateType]
			if kind == "" || len(kinds) > 0 && !slices.Contains(kinds, kind) {
				continue
			}
			st := image.AttestationStatement{Descriptor: l, PredicateType: kind}
			if bodies {
				b, err := readBlob(ctx, s.cs, l, maxStatement)
				if err != nil {
					return missingAttestation(err, ref)
				}
				raw := json.RawMessage(b)
				st.Statement = &raw
			}
			out = append(out, st)
		}
		return nil
	})
	return out, err
}

// missingAttestation: the image was pulled or loaded without them.
func missingAttestation(err error, ref string) error {
	if errdefs.IsNotFound(err) {
		return model.Refuse(errdefs.ErrNotFound, "image %s has attestations, but they are not here: %w", ref, err)
	}
	return err
}

// attestations fetches the statements about an image that its index lists, so
// that they are shown, pushed on and saved with it. One that the registry does
// not have, or that is larger than is ever shown, is left out.
func (p *puller) attestations(listed []ocispec.Descriptor, about digest.Digest) error {
	for _, d := range listed {
		if d.Annotations[attestation] != attestedKind || d.Annotations[attestedDigest] != about.String() {
			continue
		}
		err := p.attestation(d)
		if errdefs.IsNotFound(err) || errdefs.IsInvalidArgument(err) {
			p.s.log.WarnContext(p.ctx, "attestation not pulled", "id", d.Digest, "image", p.ref, "err", err)
			continue
		}
		if err != nil {
			return fmt.Errorf("attestation %s: %w", d.Digest, err)
		}
	}
	return nil
}

func (p *puller) attestation(d ocispec.Descriptor) error {
	b, err := p.s.fetchDocument(p.ctx, p.f, d, maxManifest)
	if err != nil {
		return err
	}
	m, err := parseDocument(b, d)
	if err != nil {
		return err
	}
	if _, err := p.s.fetchDocument(p.ctx, p.f, m.Config, maxConfig); err != nil {
		return err
	}
	for _, l := range m.Layers {
		if l.Size > maxStatement {
			return model.Refuse(errdefs.ErrInvalidArgument, "statement of %d bytes, more than %d", l.Size, maxStatement)
		}
		if err := p.s.fetchLayer(p.ctx, p.f, l, sourceLabel(p.ref), func(int64) {}, nil); err != nil {
			return err
		}
	}
	return nil
}
