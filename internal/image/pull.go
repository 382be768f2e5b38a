package image

import (
	"context"
	"fmt"
	"sync"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/registry"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"wharf/internal/model"
)

// Pull implements dockerapi.Images. A reference without tag and digest means
// every tag of the repository, as in Docker's API; "latest" is the client's
// default, not ours.
func (s *Store) Pull(ctx context.Context, ref string, p *ocispec.Platform, auth *registry.AuthConfig, progress model.Progress) error {
	ctx = s.ctx(ctx)
	n, err := reference.ParseNormalizedNamed(ref)
	if err != nil || len(ref) > maxRef {
		return model.Refuse(errdefs.ErrInvalidArgument, "invalid reference format: %.80q", ref)
	}
	rep := newReport(progress)
	if !reference.IsNameOnly(n) {
		if n, err = parseRef(ref); err != nil {
			return err
		}
		return s.pullOne(ctx, n, p, auth, rep)
	}
	tags, err := s.remoteTags(ctx, n, auth)
	if err != nil {
		return err
	}
	for _, t := range tags {
		tagged, err := reference.WithTag(n, t)
		if err != nil {
			return model.Refuse(errdefs.ErrInvalidArgument, "the registry lists tag %.80q: %w", t, err)
		}
		if err := s.pullOne(ctx, tagged, p, auth, rep); err != nil {
			return fmt.Errorf("pull %s: %w", reference.FamiliarString(tagged), err)
		}
	}
	return nil
}

// puller fetches one image.
type puller struct {
	s     *Store
	ctx   context.Context
	ref   reference.Named
	f     remotes.Fetcher
	u     *unpacker
	rep   *report
	p     *ocispec.Platform
	slots *semaphore.Weighted
}

func (s *Store) pullOne(ctx context.Context, ref reference.Named, p *ocispec.Platform, auth *registry.AuthConfig, rep *report) error {
	ctx, done, err := s.lease(ctx, "pull")
	if err != nil {
		return err
	}
	defer done()
	r, err := s.remote(ctx, ref, auth)
	if err != nil {
		return err
	}
	target, f, err := r.resolve(ctx)
	if err != nil {
		return resolveError(ref, err)
	}
	verified, err := s.demand(ctx, r, target.Digest, rep)
	if err != nil {
		return err
	}
	rep.status(tagOrDigest(ref), "Pulling from %s", reference.Path(ref))
	pl := &puller{s: s, ctx: ctx, ref: ref, f: f, u: s.newUnpacker(ctx), rep: rep, p: p, slots: semaphore.NewWeighted(int64(s.settings.Load().downloads))}
	defer pl.u.close()
	if err := pl.fetch(target); err != nil {
		s.gc.later()
		return registryError(ref, err)
	}
	s.noteVerified(ctx, target.Digest, verified)
	return s.pulled(ctx, ref, target, rep)
}

// pulled names the image and says how it went.
func (s *Store) pulled(ctx context.Context, ref reference.Named, target ocispec.Descriptor, rep *report) error {
	s.names.Lock()
	defer s.names.Unlock()
	verdict := "Downloaded newer image"
	if old, err := s.images.Get(ctx, ref.String()); err == nil && old.Target.Digest == target.Digest {
		verdict = "Image is up to date"
	} else if err := s.setName(ctx, ref.String(), target, nil); err != nil {
		return err
	}
	rep.status("", "Digest: %s", target.Digest)
	rep.status("", "Status: %s for %s", verdict, reference.FamiliarString(ref))
	shown := reference.FamiliarString(ref)
	s.publish(ctx, events.ActionPull, shown, reference.FamiliarName(ref))
	return nil
}

func tagOrDigest(ref reference.Named) string {
	switch r := ref.(type) {
	case reference.Digested:
		return r.Digest().String()
	case reference.Tagged:
		return r.Tag()
	}
	return ref.String()
}

// resolve asks the registry what the reference is.
func (r *remote) resolve(ctx context.Context) (ocispec.Descriptor, remotes.Fetcher, error) {
	var desc ocispec.Descriptor
	var name string
	err := retry(ctx, nil, func() (bool, error) {
		var err error
		name, desc, err = r.resolver.Resolve(ctx, r.ref.String())
		return false, err
	})
	if err != nil {
		return desc, nil, err
	}
	f, err := r.resolver.Fetcher(ctx, name)
	return ocispec.Descriptor{MediaType: desc.MediaType, Digest: desc.Digest, Size: desc.Size}, f, err
}

// fetch gets the target's documents and the layers of one platform.
func (p *puller) fetch(target ocispec.Descriptor) error {
	manifest := target
	var listed []ocispec.Descriptor
	for depth := 0; images.IsIndexType(manifest.MediaType); depth++ {
		if depth == 4 {
			return model.Refuse(errdefs.ErrInvalidArgument, "index %s is nested too deep", target.Digest)
		}
		b, err := p.s.fetchDocument(p.ctx, p.f, manifest, maxManifest)
		if err != nil {
			return err
		}
		idx, err := parseDocument(b, manifest)
		if err != nil {
			return err
		}
		listed = append(listed, idx.Manifests...)
		if manifest, err = p.s.pickManifest(idx, p.p); err != nil {
			return err
		}
	}
	b, err := p.s.fetchDocument(p.ctx, p.f, manifest, maxManifest)
	if err != nil {
		return err
	}
	m, err := parseDocument(b, manifest)
	if err != nil {
		return err
	}
	if b, err = p.s.fetchDocument(p.ctx, p.f, m.Config, maxConfig); err != nil {
		return err
	}
	c, err := parseConfig(b, m)
	if err != nil {
		return err
	}
	if p.p != nil && !p.s.matcher(p.p).Match(c.platform()) {
		return noPlatform(p.ref.String(), p.p)
	}
	var g errgroup.Group
	g.Go(func() error { return p.attestations(listed, manifest.Digest) })
	g.Go(func() error { return p.layers(variant{desc: manifest, manifest: m, config: c}) })
	if err := g.Wait(); err != nil {
		return err
	}
	p.s.noteSource(p.ctx, p.ref, target.Digest, manifest.Digest)
	return p.s.refer(p.ctx, target)
}

// pickManifest is the entry of idx for p or this host.
func (s *Store) pickManifest(idx document, p *ocispec.Platform) (ocispec.Descriptor, error) {
	m := s.matcher(p)
	best := ocispec.Descriptor{}
	for _, d := range idx.Manifests {
		if !isImage(d) {
			continue
		}
		have := ocispec.Platform{}
		if d.Platform != nil {
			have = *d.Platform
			if !m.Match(have) {
				continue
			}
		}
		if best.Digest == "" || (best.Platform != nil && m.Less(have, *best.Platform)) {
			best = d
		}
	}
	if best.Digest == "" {
		want := platforms.DefaultString()
		if p != nil {
			want = platforms.Format(*p)
		}
		return best, model.Refuse(errdefs.ErrNotFound, "no matching manifest for %s in the manifest list entries", want)
	}
	return best, nil
}

// layers fetches what is missing and unpacks it as it comes.
func (p *puller) layers(v variant) error {
	layers := v.manifest.Layers
	labels := sourceLabel(p.ref)
	seen := map[digest.Digest]bool{}
	p.u.extracting = func(d digest.Digest, n, total int64) { p.rep.bytes(short(d), "Extracting", n, total) }
	var done sync.Map
	p.u.extracted = func(d digest.Digest) {
		if _, twice := done.LoadOrStore(d, true); !twice && !p.u.had[d] {
			p.rep.state(short(d), "Pull complete")
		}
	}
	g, ctx := errgroup.WithContext(p.ctx)
	for _, l := range layers {
		if seen[l.Digest] {
			continue
		}
		seen[l.Digest] = true
		if p.s.hold(p.ctx, l.Digest) == nil {
			p.u.had[l.Digest] = true
			p.rep.status(short(l.Digest), "Already exists")
			continue
		}
		p.rep.status(short(l.Digest), "Pulling fs layer")
		g.Go(func() error { return p.layer(ctx, l, labels) })
	}
	// Layers are unpacked while others are still being fetched.
	if err := g.Wait(); err != nil {
		return err
	}
	return p.u.unpack(v)
}

// layer fetches one layer and begins to unpack it.
func (p *puller) layer(ctx context.Context, l ocispec.Descriptor, labels map[string]string) error {
	id := short(l.Digest)
	if !p.slots.TryAcquire(1) {
		p.rep.status(id, "Waiting")
		if err := p.slots.Acquire(ctx, 1); err != nil {
			return err
		}
	}
	defer p.slots.Release(1)
	tell := func(n int64) { p.rep.bytes(id, "Downloading", n, l.Size) }
	waiting := func(sec int) { p.rep.status(id, "Retrying in %d second", sec) }
	if err := p.s.fetchLayer(ctx, p.f, l, labels, tell, waiting); err != nil {
		return fmt.Errorf("layer %s: %w", l.Digest, err)
	}
	p.rep.state(id, "Download complete")
	if images.IsLayerType(l.MediaType) {
		p.u.start(l.Digest)
	}
	return nil
}

// sourceLabel says where a blob came from, for mounts across repositories when
// it is pushed: under containerd's label, and where the registry has a port,
// which that leaves out, under one with it.
func sourceLabel(ref reference.Named) map[string]string {
	return map[string]string{sourceKey(ref): reference.Path(ref), exactSourceKey(ref): reference.Path(ref)}
}

func sourceKey(ref reference.Named) string {
	host := reference.Domain(ref)
	if i := lastColon(host); i >= 0 {
		host = host[:i]
	}
	return sourcePrefix + host
}

func exactSourceKey(ref reference.Named) string { return sourcePrefix + reference.Domain(ref) }

func lastColon(host string) int {
	for i := len(host) - 1; i >= 0 && host[i] != ']'; i-- {
		if host[i] == ':' {
			return i
		}
	}
	return -1
}

// sourcePrefix is containerd's label of a blob's origin.
const sourcePrefix = "containerd.io/distribution.source."

// remoteTags lists a repository's tags.
func (s *Store) remoteTags(ctx context.Context, n reference.Named, auth *registry.AuthConfig) ([]string, error) {
	r, err := s.remote(ctx, n, auth)
	if err != nil {
		return nil, err
	}
	hs, err := r.hosts(reference.Domain(n))
	if err != nil {
		return nil, err
	}
	for i, h := range hs {
		if !h.Capabilities.Has(docker.HostCapabilityResolve) {
			continue
		}
		tags, err := listTags(ctx, h, reference.Path(n), s.opts.UserAgent)
		if err == nil || i == len(hs)-1 {
			return tags, resolveError(n, err)
		}
	}
	return nil, model.Refuse(errdefs.ErrNotFound, "no registry for %s", n)
}
