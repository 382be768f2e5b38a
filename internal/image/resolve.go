package image

import (
	"context"
	"errors"
	"sort"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"wharf/internal/model"
)

// resolveKey is what an answer of Resolve depends on besides the names.
type resolveKey struct {
	id       digest.Digest
	platform string
}

// variant is one platform's image inside a target, with its documents.
type variant struct {
	desc     ocispec.Descriptor // of the manifest, Platform filled in
	manifest document
	config   *config
}

// Resolve implements lifecycle's images.
func (s *Store) Resolve(ctx context.Context, ref string, platform *ocispec.Platform) (model.Image, error) {
	ctx = s.ctx(ctx)
	f, err := s.find(ctx, ref)
	if err != nil {
		return model.Image{}, err
	}
	img, err := s.chooseTarget(ctx, f.target, platform)
	if errors.Is(err, errNoPlatform) {
		return model.Image{}, noPlatform(ref, platform)
	}
	return img, err
}

// errNoPlatform: the image is there, but not for the platform asked for.
var errNoPlatform = model.Refuse(errdefs.ErrNotFound, "not for this platform")

// noPlatform is Docker's text for it.
func noPlatform(ref string, p *ocispec.Platform) error {
	want := "any platform"
	if p != nil {
		want = "the specified platform (" + platforms.Format(*p) + ")"
	}
	return model.Refuse(errNoPlatform, "image with reference %s was found but does not provide %s", familiar(ref), want)
}

// choose is chooseTarget for an id whose descriptor is not at hand.
func (s *Store) choose(ctx context.Context, id digest.Digest, p *ocispec.Platform) (model.Image, error) {
	f, err := s.findPrefix(s.ctx(ctx), id.String(), id.String())
	if err != nil {
		return model.Image{}, err
	}
	return s.chooseTarget(ctx, f.target, p)
}

// chooseTarget picks the platform's image in target; the answer is cached
// until the next collection.
func (s *Store) chooseTarget(ctx context.Context, target ocispec.Descriptor, p *ocispec.Platform) (model.Image, error) {
	key := resolveKey{id: target.Digest}
	if p != nil {
		key.platform = platforms.FormatAll(*p)
	}
	s.mu.Lock()
	img, ok := s.resolved[key]
	s.mu.Unlock()
	if ok {
		return img, nil
	}
	s.gc.mu.RLock() // what is read now is not collected before it is cached
	defer s.gc.mu.RUnlock()
	v, err := s.variant(s.ctx(ctx), target, p)
	if err != nil {
		return model.Image{}, err
	}
	img = model.Image{
		ID: target.Digest, Manifest: v.desc, ChainID: v.config.chain(),
		Config: containerConfig(v.config), Platform: v.config.platform(),
	}
	s.mu.Lock()
	s.resolved[key] = img
	s.mu.Unlock()
	return img, nil
}

// variant picks the best image for p in target: the only one, or the first by
// the matcher whose manifest and configuration are here. Without p an image
// for a foreign platform is better than none.
func (s *Store) variant(ctx context.Context, target ocispec.Descriptor, p *ocispec.Platform) (variant, error) {
	vs, err := s.variants(ctx, target)
	if err != nil {
		return variant{}, err
	}
	m := s.matcher(p)
	sort.SliceStable(vs, func(i, j int) bool {
		a, b := *vs[i].desc.Platform, *vs[j].desc.Platform
		return m.Match(a) && (!m.Match(b) || m.Less(a, b))
	})
	if len(vs) == 0 || (p != nil && !m.Match(*vs[0].desc.Platform)) {
		return variant{}, errNoPlatform
	}
	return vs[0], nil
}

// variants lists the images in target whose manifest and configuration are
// in the content store.
func (s *Store) variants(ctx context.Context, target ocispec.Descriptor) ([]variant, error) {
	var vs []variant
	err := s.walkManifests(ctx, target, func(desc ocispec.Descriptor) error {
		if !isImage(desc) {
			return nil
		}
		v, err := s.readVariant(ctx, desc)
		if errdefs.IsNotFound(err) {
			return nil
		}
		if err == nil {
			vs = append(vs, v)
		}
		return err
	})
	return vs, err
}

// readVariant reads a manifest and its configuration.
func (s *Store) readVariant(ctx context.Context, desc ocispec.Descriptor) (variant, error) {
	m, err := readDocument(ctx, s.cs, desc)
	if err != nil {
		return variant{}, err
	}
	c, err := readConfig(ctx, s.cs, m)
	if err != nil {
		return variant{}, err
	}
	p := c.platform()
	if desc.Platform == nil || desc.Platform.OS == "" {
		desc.Platform = &p
	}
	return variant{desc: desc, manifest: m, config: c}, nil
}

// walkManifests calls fn for every manifest (not index) below target that an
// index lists, whether here or not. Nesting is bounded.
func (s *Store) walkManifests(ctx context.Context, target ocispec.Descriptor, fn func(ocispec.Descriptor) error) error {
	return s.walkDepth(ctx, target, 4, fn)
}

func (s *Store) walkDepth(ctx context.Context, desc ocispec.Descriptor, depth int, fn func(ocispec.Descriptor) error) error {
	if !images.IsIndexType(desc.MediaType) {
		return fn(desc)
	}
	if depth == 0 {
		return model.Refuse(errdefs.ErrInvalidArgument, "index %s is nested too deep", desc.Digest)
	}
	d, err := readDocument(ctx, s.cs, desc)
	if err != nil {
		return err
	}
	for _, m := range d.Manifests {
		if images.IsIndexType(m.MediaType) {
			if _, err := s.cs.Info(ctx, m.Digest); err != nil {
				continue
			}
		}
		if err := s.walkDepth(ctx, m, depth-1, fn); err != nil {
			return err
		}
	}
	return nil
}

// containerConfig is the part of an image's configuration that containers
// inherit. Ports that cannot be read are left out: the image's author cannot
// make a container unusable by them.
func containerConfig(c *config) container.Config {
	in := c.Config
	out := container.Config{
		User: in.User, Env: in.Env, Cmd: in.Cmd, Entrypoint: in.Entrypoint, WorkingDir: in.WorkingDir,
		Volumes: in.Volumes, Labels: in.Labels, StopSignal: in.StopSignal,
		OnBuild: in.OnBuild, Shell: in.Shell, ArgsEscaped: in.ArgsEscaped, //nolint:staticcheck // Docker carries it on
	}
	for spec := range in.ExposedPorts {
		r, err := network.ParsePortRange(spec)
		if err != nil {
			continue
		}
		if out.ExposedPorts == nil {
			out.ExposedPorts = network.PortSet{}
		}
		for p := range r.All() {
			out.ExposedPorts[p] = struct{}{}
		}
	}
	if h := in.Healthcheck; h != nil {
		out.Healthcheck = &container.HealthConfig{
			Test: h.Test, Interval: h.Interval, Timeout: h.Timeout, StartPeriod: h.StartPeriod,
			StartInterval: h.StartInterval, Retries: h.Retries,
		}
	}
	return out
}

// short is what progress lines show of a digest.
func short(d digest.Digest) string {
	h := strings.TrimPrefix(d.String(), "sha256:")
	return h[:min(12, len(h))]
}
