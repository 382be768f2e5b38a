package image

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/storage"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Inspect implements dockerapi.Images.
func (s *Store) Inspect(ctx context.Context, ref string, p *ocispec.Platform, manifests bool) (*image.InspectResponse, error) {
	ctx = s.ctx(ctx)
	f, err := s.find(ctx, ref)
	if err != nil {
		return nil, err
	}
	e := &entry{target: f.target}
	if e.names, err = s.siblings(ctx, f.id()); err != nil {
		return nil, err
	}
	if err := s.fill(ctx, e); err != nil && !errors.Is(err, errNoPlatform) {
		return nil, fmt.Errorf("image %s: %w", ref, err)
	}
	v := e.variant
	if p != nil {
		if v, err = s.variant(ctx, f.target, p); err != nil {
			if errors.Is(err, errNoPlatform) {
				return nil, noPlatform(ref, p)
			}
			return nil, err
		}
	}
	desc := f.target
	if p != nil {
		desc.Platform = v.desc.Platform // of the variant that is shown, as Docker
	}
	out := &image.InspectResponse{
		ID: f.id().String(), RepoTags: orEmpty(e.tags), RepoDigests: orEmpty(e.digests), Descriptor: &desc,
		Metadata: image.Metadata{LastTagTime: e.tagged}, Identity: s.identity(ctx, f.id()),
		RootFS: image.RootFS{Type: "layers"},
	}
	if v.config != nil {
		if err := s.inspectVariant(ctx, v, out); err != nil {
			return nil, err
		}
	}
	if manifests && p == nil {
		users, err := s.usersByImage(ctx)
		if err != nil {
			return nil, err
		}
		if out.Manifests, err = s.manifestSummaries(ctx, f.target, users[f.id()]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Parent implements dockerapi.Images: the id of the image that this one was
// committed from, or "".
func (s *Store) Parent(ctx context.Context, ref string) (string, error) {
	ctx = s.ctx(ctx)
	f, err := s.find(ctx, ref)
	if err != nil {
		return "", err
	}
	names, err := s.siblings(ctx, f.id())
	if err != nil {
		return "", err
	}
	return s.parentsOf(names).String(), nil
}

// inspectVariant fills in what one platform's image says.
func (s *Store) inspectVariant(ctx context.Context, v variant, out *image.InspectResponse) error {
	c := v.config
	cfg := c.Config
	out.Config = &cfg
	out.Author, out.Architecture, out.Variant, out.Os, out.OsVersion = c.Author, c.Architecture, c.Variant, c.OS, c.OSVersion
	if c.Created != nil {
		out.Created = c.Created.Format(time.RFC3339Nano)
	}
	if n := len(c.History); n > 0 {
		out.Comment = c.History[n-1].Comment
	}
	for _, d := range c.RootFS.DiffIDs {
		out.RootFS.Layers = append(out.RootFS.Layers, d.String())
	}
	parts, err := s.parts(ctx, v.desc)
	if err != nil {
		return err
	}
	out.Size = sum(parts)
	out.GraphDriver = s.driverData(ctx, c.chain())
	return nil
}

// driverData names the directories of an image's layers, as overlay2 did.
func (s *Store) driverData(ctx context.Context, chain digest.Digest) *storage.DriverData {
	d := &storage.DriverData{Name: snapshotter, Data: map[string]string{}}
	if low, err := s.lower(ctx, chain); err == nil && chain != "" {
		d.Data["UpperDir"] = low.dirs[0]
		if len(low.dirs) > 1 {
			d.Data["LowerDir"] = strings.Join(low.dirs[1:], ":")
		}
	}
	return d
}

// manifestSummaries describes everything that an image's index lists.
func (s *Store) manifestSummaries(ctx context.Context, target ocispec.Descriptor, users []User) ([]image.ManifestSummary, error) {
	out := []image.ManifestSummary{}
	best, _ := s.variant(ctx, target, nil)
	err := s.walkManifests(ctx, target, func(desc ocispec.Descriptor) error {
		m, err := s.manifestSummary(ctx, desc)
		if err != nil {
			return err
		}
		// A container's record says which image, and that is the best variant
		// unless somebody asked for another.
		if m.ImageData != nil && desc.Digest == best.desc.Digest {
			for _, u := range users {
				m.ImageData.Containers = append(m.ImageData.Containers, string(u.ID))
			}
		}
		out = append(out, m)
		return nil
	})
	return out, err
}

func (s *Store) manifestSummary(ctx context.Context, desc ocispec.Descriptor) (image.ManifestSummary, error) {
	m := image.ManifestSummary{ID: desc.Digest.String(), Descriptor: desc, Kind: image.ManifestKindUnknown}
	parts, err := s.parts(ctx, desc)
	if err != nil {
		return m, err
	}
	var unpacked int64
	for k, n := range parts {
		m.Size.Total += n
		if strings.HasPrefix(string(k), "chain ") {
			unpacked += n
		}
	}
	m.Size.Content = m.Size.Total - unpacked
	switch {
	case desc.Annotations[attestation] != "":
		m.Kind = image.ManifestKindAttestation
		m.AttestationData = &image.AttestationProperties{For: digest.Digest(desc.Annotations[attestedDigest])}
		m.Available = s.complete(ctx, desc) == nil
	case isImage(desc):
		m.Kind = image.ManifestKindImage
		m.ImageData = &image.ImageProperties{Containers: []string{}}
		m.ImageData.Size.Unpacked = unpacked
		if desc.Platform != nil {
			m.ImageData.Platform = platforms.Normalize(*desc.Platform)
		}
		if v, err := s.readVariant(ctx, desc); err == nil {
			m.ImageData.Platform = *v.desc.Platform
			m.ImageData.Identity = s.identity(ctx, desc.Digest)
			m.Available = s.complete(ctx, desc) == nil
		}
	}
	return m, nil
}

// complete fails with errPartial when a blob below desc is not here.
func (s *Store) complete(ctx context.Context, desc ocispec.Descriptor) error {
	if _, err := s.cs.Info(ctx, desc.Digest); err != nil {
		if errdefs.IsNotFound(err) {
			return errPartial
		}
		return err
	}
	if !images.IsManifestType(desc.MediaType) {
		return nil
	}
	d, err := readDocument(ctx, s.cs, desc)
	if err != nil {
		return err
	}
	for _, c := range d.children() {
		if _, err := s.cs.Info(ctx, c.Digest); err != nil {
			return errPartial
		}
	}
	return nil
}
