package image

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/registry"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"wharf/internal/model"
	"wharf/internal/trust"
)

// Limits on what is read to find an image's signatures.
const (
	maxSignature   = 1 << 20
	maxSignatures  = 100
	maxSigReferrer = 50
)

// labelVerified holds, at a manifest or index, by which key its signature was
// when it was pulled.
const labelVerified = "wharf/verified"

// SetTrust changes the policy for what comes from now on. nil accepts all.
func (s *Store) SetTrust(p *trust.Policy) {
	s.policy.Store(p)
	s.vouched.clear()
}

// getter reads a document of one repository at a registry, path being what
// follows the repository's name. ErrNotFound: it is not there.
type getter func(ctx context.Context, path, accept string, limit int64) ([]byte, error)

// getter asks the hosts of a reference, mirrors first, as a pull does.
func (r *remote) getter(s *Store) getter {
	return func(ctx context.Context, path, accept string, limit int64) (b []byte, err error) {
		hs, err := r.hosts(reference.Domain(r.ref))
		if err != nil {
			return nil, err
		}
		repo := reference.Path(r.ref)
		ctx = docker.WithScope(ctx, "repository:"+repo+":pull")
		err = model.Refuse(errdefs.ErrNotFound, "no registry for %s", r.ref)
		for _, h := range hs {
			if !h.Capabilities.Has(docker.HostCapabilityPull | docker.HostCapabilityResolve) {
				continue
			}
			u := h.Scheme + "://" + h.Host + h.Path + "/" + repo + "/" + path
			err = retry(ctx, nil, func() (bool, error) {
				resp, err := ask(ctx, h, u, s.opts.UserAgent, accept)
				if err != nil {
					return false, absent(err)
				}
				defer resp.Body.Close()
				b, err = readAll(resp.Body, limit, path)
				return false, err
			})
			if err == nil {
				return b, nil
			}
		}
		return nil, err
	}
}

func readAll(r io.Reader, limit int64, what string) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(b)) > limit {
		return nil, model.Refuse(errdefs.ErrInvalidArgument, "%s has more than the %d bytes allowed", what, limit)
	}
	return b, err
}

// signatureTag is where cosign puts the signatures of a manifest.
func signatureTag(d digest.Digest) string {
	return d.Algorithm().String() + "-" + d.Encoded() + ".sig"
}

const acceptManifest = ocispec.MediaTypeImageManifest + ", application/vnd.docker.distribution.manifest.v2+json"

// signatures finds what claims to sign d: under cosign's tag and among the
// manifests that refer to d.
func (get getter) signatures(ctx context.Context, d digest.Digest) ([]trust.Signature, error) {
	var out []trust.Signature
	b, err := get(ctx, "manifests/"+signatureTag(d), acceptManifest, maxManifest)
	switch {
	case errdefs.IsNotFound(err):
	case err != nil:
		return nil, err
	default:
		if out, err = get.fromManifest(ctx, b, signatureTag(d)); err != nil {
			return nil, err
		}
	}
	refs, err := get.referrers(ctx, d)
	if err != nil {
		return nil, err
	}
	for _, r := range refs {
		b, err := get(ctx, "manifests/"+r.Digest.String(), acceptManifest, maxManifest)
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		more, err := get.fromManifest(ctx, b, r.Digest.String())
		if err != nil {
			return nil, err
		}
		out = append(out, more...)
	}
	return out, nil
}

// referrers lists the manifests about d that can be signatures: by the
// registry's list, or under the tag that stands in for it where there is none.
func (get getter) referrers(ctx context.Context, d digest.Digest) ([]ocispec.Descriptor, error) {
	b, err := get(ctx, "referrers/"+d.String(), ocispec.MediaTypeImageIndex, maxManifest)
	if errdefs.IsNotFound(err) {
		b, err = get(ctx, "manifests/"+d.Algorithm().String()+"-"+d.Encoded(), ocispec.MediaTypeImageIndex, maxManifest)
	}
	if errdefs.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	idx, err := parseDocument(b, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: d})
	if err != nil {
		return nil, nil //nolint:nilerr // what is no list has no signatures
	}
	var out []ocispec.Descriptor
	for _, m := range idx.Manifests {
		if (m.ArtifactType == trust.CosignArtifact || strings.HasPrefix(m.ArtifactType, trust.BundlePrefix)) && len(out) < maxSigReferrer {
			out = append(out, m)
		}
	}
	return out, nil
}

// fromManifest reads the signatures that a manifest holds. The registry is not
// trusted: what it says wrong just is no signature.
func (get getter) fromManifest(ctx context.Context, b []byte, name string) ([]trust.Signature, error) {
	d, err := parseDocument(b, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.Digest(name)})
	if err != nil {
		return nil, nil //nolint:nilerr // see above
	}
	var out []trust.Signature
	for i, l := range d.Layers {
		sig := trust.Signature{Format: trust.FormatSimple}
		switch {
		case i >= maxSignatures || l.Size > maxSignature:
			continue
		case l.MediaType == trust.SimpleSigning:
			if sig.Sig, err = base64.StdEncoding.DecodeString(l.Annotations[trust.SignatureKey]); err != nil || len(sig.Sig) == 0 {
				continue
			}
		case strings.HasPrefix(l.MediaType, trust.BundlePrefix):
			sig.Format = trust.FormatBundle
		default:
			continue
		}
		if sig.Payload, err = get(ctx, "blobs/"+l.Digest.String(), "*/*", maxSignature); err != nil {
			if errdefs.IsNotFound(err) {
				continue
			}
			return nil, err
		}
		if l.Digest.Algorithm().FromBytes(sig.Payload) == l.Digest {
			out = append(out, sig)
		}
	}
	return out, nil
}

// demand holds what a reference means now against the policy. What is fetched
// afterwards goes by that digest.
func (s *Store) demand(ctx context.Context, r *remote, d digest.Digest, rep *report) ([]trust.Verified, error) {
	v, err := s.accepted(ctx, r.ref.Name(), d, r.getter(s))
	if err == nil && len(v) > 0 {
		rep.status("", "Signature verified: %s by %s", d, keyName(v[0].Key))
	}
	return v, err
}

func keyName(k trust.PublicKey) string {
	if k.Name == "" {
		return "key " + k.ID
	}
	return k.Name + " (key " + k.ID + ")"
}

// accepted asks the policy about an image of a repository; without a demand
// for signatures the list is empty.
func (s *Store) accepted(ctx context.Context, repo string, d digest.Digest, get getter) ([]trust.Verified, error) {
	p := s.policy.Load()
	rule := p.For(repo)
	switch rule.Demand {
	case trust.Accept:
		return nil, nil
	case trust.Refuse:
		return nil, model.Refuse(errdefs.ErrPermissionDenied, "image %s@%s is refused: the trust policy %s takes no images of %s", repo, d, p.File, ruled(rule.Prefix))
	}
	sigs, err := get.signatures(ctx, d)
	if err != nil {
		return nil, fmt.Errorf("signatures of %s@%s cannot be read, and the trust policy %s wants one: %w", repo, d, p.File, err)
	}
	want := trust.Want{Digest: d, Repository: repo}
	if rule.AnyRepository {
		want.Repository = ""
	}
	good, err := trust.CheckAll(sigs, want, rule.Keys)
	if err != nil || len(good) == 0 {
		s.log.WarnContext(ctx, "image refused by the trust policy", "id", d, "image", repo, "signatures", len(sigs), "err", err)
		return nil, unsigned(repo, d, p.File, rule, len(sigs), err)
	}
	return good, nil
}

func ruled(prefix string) string {
	if prefix == "" {
		return "repositories that it does not name"
	}
	return prefix
}

// unsigned says what a signature is missing.
func unsigned(repo string, d digest.Digest, file string, rule trust.Rule, n int, err error) error {
	var keys []string
	for _, k := range rule.Keys {
		keys = append(keys, keyName(k))
	}
	keys = slices.Compact(keys)
	wants := fmt.Sprintf("the trust policy %s wants images of %s signed by %s", file, ruled(rule.Prefix), strings.Join(keys, " or "))
	switch {
	case n == 0:
		return model.Refuse(errdefs.ErrPermissionDenied, "image %s@%s is not signed: %s", repo, d, wants)
	case errors.Is(err, trust.ErrOther):
		return model.Refuse(errdefs.ErrPermissionDenied, "image %s@%s is not signed as what it is (%v): %s", repo, d, err, wants)
	}
	return model.Refuse(errdefs.ErrPermissionDenied, "image %s@%s is signed, but by none of the keys that count (%d signatures): %s", repo, d, n, wants)
}

// unsignable refuses a name for what came without a registry, when the policy
// has demands on images of that name. what: load, import, copy.
func (s *Store) unsignable(name, what string) error {
	p := s.policy.Load()
	n, err := reference.ParseNormalizedNamed(name)
	if err != nil || p.Archives() {
		return nil //nolint:nilerr // others refuse bad names
	}
	rule := p.For(n.Name())
	if rule.Demand == trust.Accept {
		return nil
	}
	return model.Refuse(errdefs.ErrPermissionDenied, "%s of %s is refused: the trust policy %s has demands on images of %s, and what comes without a registry has no signature; pull it, give it another name, or set \"archives\": \"accept\" there", what, reference.FamiliarString(n), p.File, ruled(rule.Prefix))
}

// noteVerified remembers by whose signature an image was taken, for inspect.
func (s *Store) noteVerified(ctx context.Context, d digest.Digest, all []trust.Verified) {
	if len(all) == 0 {
		return
	}
	v := all[0]
	if err := s.addLabels(ctx, d, map[string]string{labelVerified: v.Format + " " + v.Key.ID + " " + v.Repository}); err != nil {
		s.log.WarnContext(ctx, "signature not noted", "id", d, "err", err)
	}
}

// RemoteImage implements dockerapi.ImageTrust.
func (s *Store) RemoteImage(ctx context.Context, ref string, auth *registry.AuthConfig) (model.RemoteImage, error) {
	out, _, err := s.ask(ctx, ref, auth)
	return out, err
}

func (s *Store) ask(ctx context.Context, ref string, auth *registry.AuthConfig) (model.RemoteImage, *remote, error) {
	var out model.RemoteImage
	ctx = s.ctx(ctx)
	n, err := parseRef(ref)
	if err != nil {
		return out, nil, err
	}
	r, err := s.remote(ctx, n, auth)
	if err != nil {
		return out, nil, err
	}
	desc, _, err := r.resolve(ctx)
	if err != nil {
		return out, nil, resolveError(n, err)
	}
	out.Repository, out.Digest = n.Name(), desc.Digest
	out.Name = out.Repository + "@" + desc.Digest.String()
	return out, r, nil
}

// Verify implements dockerapi.ImageTrust: the good signatures of what ref
// means at its registry, by the given keys or the policy's. None is an error.
func (s *Store) Verify(ctx context.Context, ref string, k model.ImageKeys, auth *registry.AuthConfig) (model.ImageVerification, error) {
	out := model.ImageVerification{}
	var keys []trust.PublicKey
	var err error
	if k.Keys != "" {
		if keys, err = trust.PublicKeys([]byte(k.Keys), "the given key"); err != nil {
			return out, model.Refuse(errdefs.ErrInvalidArgument, "%w", err)
		}
	}
	img, r, err := s.ask(ctx, ref, auth)
	if err != nil {
		return out, err
	}
	out.RemoteImage = img
	want := trust.Want{Digest: img.Digest, Repository: img.Repository}
	if k.Keys == "" {
		rule := s.policy.Load().For(img.Repository)
		if rule.Demand != trust.Signed {
			return out, model.Refuse(errdefs.ErrInvalidArgument, "no key is given, and the trust policy names none for %s", img.Repository)
		}
		keys, k.AnyRepository = rule.Keys, k.AnyRepository || rule.AnyRepository
	}
	if k.AnyRepository {
		want.Repository = ""
	}
	sigs, err := r.getter(s).signatures(s.ctx(ctx), img.Digest)
	if err != nil {
		return out, registryError(r.ref, err)
	}
	good, err := trust.CheckAll(sigs, want, keys)
	switch {
	case len(sigs) == 0:
		return out, model.Refuse(errdefs.ErrFailedPrecondition, "%s is not signed", img.Name)
	case errors.Is(err, trust.ErrOther):
		return out, model.Refuse(errdefs.ErrFailedPrecondition, "%s is not signed as what it is: %v", img.Name, err)
	case len(good) == 0:
		return out, model.Refuse(errdefs.ErrFailedPrecondition, "%s has %d signatures, but none by this key", img.Name, len(sigs))
	}
	for _, v := range good {
		vs := model.VerifiedSignature{Key: v.Key.ID, Format: v.Format, Repository: v.Repository, Annotations: maps.Clone(v.Annotations)}
		if k.Keys == "" {
			vs.KeyFile = v.Key.Name
		}
		out.Signatures = append(out.Signatures, vs)
	}
	return out, nil
}
