package image

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/registry"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"wharf/internal/model"
	"wharf/internal/trust"
)

// AddSignature implements dockerapi.ImageTrust: it puts a signature beside an
// image at its registry, where cosign looks for it. ref is repository@digest,
// so that what is signed is what the signer saw. Earlier signatures stay.
func (s *Store) AddSignature(ctx context.Context, ref string, sig model.ImageSignature, auth *registry.AuthConfig) error {
	n, err := parseRef(ref)
	if err != nil {
		return err
	}
	image, ok := n.(reference.Digested)
	if !ok {
		return model.Refuse(errdefs.ErrInvalidArgument, "%s: signatures are for a digest: NAME@sha256:...", ref)
	}
	d := image.Digest()
	if about, err := trust.About(sig.Payload); err != nil || about != d {
		return model.Refuse(errdefs.ErrInvalidArgument, "what is signed is not about %s", d)
	}
	if len(sig.Signature) == 0 || len(sig.Signature) > maxManifest/4 || len(sig.Payload) > maxSignature {
		return model.Refuse(errdefs.ErrInvalidArgument, "a signature of %d bytes over %d bytes", len(sig.Signature), len(sig.Payload))
	}
	ctx, done, err := s.lease(ctx, "sign")
	if err != nil {
		return err
	}
	defer s.gc.later()
	defer done()
	r, err := s.remote(ctx, n, auth)
	if err != nil {
		return err
	}
	target, err := s.signatureManifest(ctx, r.getter(s), d, sig)
	if err != nil {
		return registryError(n, err)
	}
	tagged, err := reference.WithTag(reference.TrimNamed(n), signatureTag(d))
	if err != nil {
		return err
	}
	full, err := reference.WithDigest(tagged, target.Digest)
	if err != nil {
		return err
	}
	to, err := r.resolver.Pusher(ctx, full.String())
	if err != nil {
		return err
	}
	ps := &pusher{s: s, r: r, to: to, rep: newReport(nil), from: sourceKey(n), exact: exactSourceKey(n), repo: reference.Path(n)}
	if err := ps.push(ctx, target); err != nil {
		return pushError(n, err)
	}
	s.log.InfoContext(ctx, "image signed", "id", d, "image", n.Name())
	return nil
}

// signatureManifest makes, in the content store, the manifest of all
// signatures of d: those that the registry has, and one more.
func (s *Store) signatureManifest(ctx context.Context, get getter, d digest.Digest, sig model.ImageSignature) (ocispec.Descriptor, error) {
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	b, err := get(ctx, "manifests/"+signatureTag(d), acceptManifest, maxManifest)
	if err == nil {
		err = json.Unmarshal(b, &m)
	} else if errdefs.IsNotFound(err) {
		err = nil
	}
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if len(m.Layers) >= maxSignatures {
		return ocispec.Descriptor{}, model.Refuse(errdefs.ErrFailedPrecondition, "%s has %d signatures already; remove the tag %s at the registry to begin anew", d, len(m.Layers), signatureTag(d))
	}
	for _, l := range m.Layers {
		b, err := get(ctx, "blobs/"+l.Digest.String(), "*/*", maxSignature)
		if err == nil {
			_, err = s.writeBytes(ctx, b, l.MediaType)
		}
		if err != nil {
			return ocispec.Descriptor{}, err
		}
	}
	layer, err := s.writeBytes(ctx, sig.Payload, trust.SimpleSigning)
	if err != nil {
		return layer, err
	}
	text := base64.StdEncoding.EncodeToString(sig.Signature)
	layer.Annotations = map[string]string{trust.SignatureKey: text}
	if !slices.ContainsFunc(m.Layers, func(l ocispec.Descriptor) bool { return l.Annotations[trust.SignatureKey] == text }) {
		m.Layers = append(m.Layers, layer)
	}
	// The configuration of an image of those layers: every registry and tool
	// takes it.
	c := ocispec.Image{Created: &time.Time{}, RootFS: ocispec.RootFS{Type: "layers"}}
	for _, l := range m.Layers {
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, l.Digest)
		c.History = append(c.History, ocispec.History{Created: &time.Time{}})
	}
	if m.Config, err = s.writeJSON(ctx, c, ocispec.MediaTypeImageConfig); err != nil {
		return m.Config, err
	}
	m.MediaType = ocispec.MediaTypeImageManifest
	return s.writeJSON(ctx, m, m.MediaType)
}
