package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/auxprogress"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/registry"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"wharf/internal/model"
)

// Push implements dockerapi.Images. A reference without tag and digest means
// every tag of the repository that is here.
func (s *Store) Push(ctx context.Context, ref string, p *ocispec.Platform, auth *registry.AuthConfig, progress model.Progress) error {
	ctx = s.ctx(ctx)
	n, err := reference.ParseNormalizedNamed(ref)
	if err != nil || len(ref) > maxRef {
		return model.Refuse(errdefs.ErrInvalidArgument, "invalid reference format: %.80q", ref)
	}
	refs := []reference.Named{n}
	if reference.IsNameOnly(n) {
		if refs, err = s.tagsOf(ctx, n); err != nil {
			return err
		}
	}
	rep := newReport(progress)
	for _, r := range refs {
		if err := s.pushOne(ctx, r, p, auth, rep); err != nil {
			return err
		}
	}
	return nil
}

// tagsOf are the local tags of a repository.
func (s *Store) tagsOf(ctx context.Context, n reference.Named) ([]reference.Named, error) {
	imgs, err := s.images.List(ctx)
	if err != nil {
		return nil, err
	}
	var refs []reference.Named
	for _, img := range imgs {
		m, err := reference.ParseNormalizedNamed(img.Name)
		if err != nil || m.Name() != n.Name() {
			continue
		}
		if _, ok := m.(reference.Tagged); ok {
			refs = append(refs, m)
		}
	}
	if len(refs) == 0 {
		return nil, model.Refuse(errdefs.ErrNotFound, "An image does not exist locally with the tag: %s", reference.FamiliarName(n)) //nolint:staticcheck // Docker's text
	}
	return refs, nil
}

// pusher sends one image.
type pusher struct {
	s     *Store
	r     *remote
	to    remotes.Pusher
	rep   *report
	from  string // label key of this host's repositories: where containerd's pusher looks
	exact string // label key of this registry's: host and port
	repo  string // the path of the repository
}

func (s *Store) pushOne(ctx context.Context, ref reference.Named, p *ocispec.Platform, auth *registry.AuthConfig, rep *report) error {
	ctx, done, err := s.lease(ctx, "push")
	if err != nil {
		return err
	}
	defer done()
	img, err := s.findNamed(ctx, ref)
	if err != nil {
		if errdefs.IsNotFound(err) {
			return model.Refuse(errdefs.ErrNotFound, "tag does not exist: %s", reference.FamiliarString(ref))
		}
		return err
	}
	if err := s.hold(ctx, img.id()); err != nil {
		return err
	}
	target, note, err := s.pushTarget(ctx, ref, img.target, p)
	if err != nil {
		return err
	}
	rep.status("", "The push refers to repository [%s]", ref.Name())
	r, err := s.remote(ctx, ref, auth)
	if err != nil {
		return err
	}
	full := ref
	if _, ok := ref.(reference.Digested); !ok {
		if full, err = reference.WithDigest(ref, target.Digest); err != nil {
			return err
		}
	}
	to, err := r.resolver.Pusher(ctx, full.String())
	if err != nil {
		return err
	}
	ps := &pusher{s: s, r: r, to: to, rep: rep, from: sourceKey(ref), exact: exactSourceKey(ref), repo: reference.Path(ref)}
	if err := ps.push(ctx, target); err != nil {
		return pushError(ref, err)
	}
	ps.sayPushed(ctx, ref, target, note)
	return nil
}

// sayPushed ends the stream, remembers where the blobs are now, and tells the
// feed.
func (p *pusher) sayPushed(ctx context.Context, ref reference.Named, target ocispec.Descriptor, note *auxprogress.ManifestPushedInsteadOfIndex) {
	if t, ok := ref.(reference.Tagged); ok {
		p.rep.status("", "%s: digest: %s size: %d", t.Tag(), target.Digest, target.Size)
		p.rep.aux(struct {
			Tag, Digest string
			Size        int64
		}{t.Tag(), target.Digest.String(), target.Size})
	}
	if note != nil {
		p.rep.aux(note)
	}
	p.remember(ctx, ref, target, 4)
	shown := reference.FamiliarString(ref)
	p.s.publish(ctx, events.ActionPush, shown, reference.FamiliarName(ref))
}

// pushTarget is what goes to the registry: the image as it is, or one
// platform's manifest when that was asked for or when the others' content is
// not here.
func (s *Store) pushTarget(ctx context.Context, ref reference.Named, target ocispec.Descriptor, p *ocispec.Platform) (ocispec.Descriptor, *auxprogress.ManifestPushedInsteadOfIndex, error) {
	if p == nil && s.whole(ctx, target) {
		return target, nil, nil
	}
	v, err := s.variant(ctx, target, p)
	if errors.Is(err, errNoPlatform) {
		return target, nil, noPlatform(ref.String(), p)
	}
	if err != nil {
		return target, nil, err
	}
	if s.complete(ctx, v.desc) != nil {
		return target, nil, model.Refuse(errdefs.ErrNotFound, "image %s: layers of %s are not here; pull it again", reference.FamiliarString(ref), platforms.Format(*v.desc.Platform))
	}
	if v.desc.Digest == target.Digest || p != nil {
		return v.desc, nil, nil
	}
	return v.desc, &auxprogress.ManifestPushedInsteadOfIndex{
		ManifestPushedInsteadOfIndex: true, OriginalIndex: target, SelectedManifest: v.desc,
	}, nil
}

// whole reports whether everything below target is here.
func (s *Store) whole(ctx context.Context, target ocispec.Descriptor) bool {
	return s.walkManifests(ctx, target, func(d ocispec.Descriptor) error { return s.complete(ctx, d) }) == nil
}

// push sends what target refers to, then target: a registry refuses a document
// whose parts it does not have.
func (p *pusher) push(ctx context.Context, target ocispec.Descriptor) error {
	var blobs []ocispec.Descriptor
	docs := []ocispec.Descriptor{}
	if err := p.collect(ctx, target, &blobs, &docs, map[digest.Digest]bool{}, 4); err != nil {
		return err
	}
	for _, b := range blobs {
		if showsProgress(b) {
			p.rep.status(short(b.Digest), "Preparing")
		}
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(p.s.settings.Load().uploads)
	for _, b := range blobs {
		g.Go(func() error { return p.send(gctx, b) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, d := range docs {
		if err := p.send(ctx, d); err != nil {
			return err
		}
	}
	return nil
}

// collect lists the blobs and, children first, the documents below desc.
func (p *pusher) collect(ctx context.Context, desc ocispec.Descriptor, blobs, docs *[]ocispec.Descriptor, seen map[digest.Digest]bool, depth int) error {
	if seen[desc.Digest] {
		return nil
	}
	seen[desc.Digest] = true
	if !isDocument(desc.MediaType) || depth == 0 {
		if len(desc.URLs) == 0 || !images.IsNonDistributable(desc.MediaType) {
			*blobs = append(*blobs, desc)
		}
		return nil
	}
	d, err := readDocument(ctx, p.s.cs, desc)
	if err != nil {
		return err
	}
	for _, c := range d.children() {
		if err := p.collect(ctx, c, blobs, docs, seen, depth-1); err != nil {
			return err
		}
	}
	*docs = append(*docs, desc)
	return nil
}

// showsProgress: layers and other large blobs.
func showsProgress(d ocispec.Descriptor) bool {
	return !isDocument(d.MediaType) && !images.IsConfigType(d.MediaType)
}

// send sends one blob or document, unless the registry has it.
func (p *pusher) send(ctx context.Context, desc ocispec.Descriptor) error {
	id, show := short(desc.Digest), showsProgress(desc)
	ra, err := p.s.cs.ReaderAt(ctx, ocispec.Descriptor{Digest: desc.Digest})
	if err != nil {
		return err
	}
	defer ra.Close()
	desc.Size = ra.Size()
	if info, err := p.s.cs.Info(ctx, desc.Digest); err == nil && info.Labels[p.exact] != "" {
		// The pusher looks here for a repository to mount the blob from. It
		// tries one, so another registry of this host must not be among them.
		desc.Annotations = maps.Clone(desc.Annotations)
		if desc.Annotations == nil {
			desc.Annotations = map[string]string{}
		}
		desc.Annotations[p.from] = info.Labels[p.exact]
	}
	mounted := ""
	if isDocument(desc.MediaType) {
		err = errWhole
	} else {
		mounted, err = p.sendBlob(ctx, desc, ra, p.teller(desc, show))
	}
	if errors.Is(err, errWhole) {
		err = retry(ctx, nil, func() (bool, error) { return p.sendOnce(ctx, desc, ra, show) })
	}
	there := errdefs.IsAlreadyExists(err)
	if there {
		err = nil
	}
	switch {
	case err != nil || !show:
	case mounted != "":
		p.rep.status(id, "Mounted from %s", mounted)
	case there:
		p.rep.status(id, "Layer already exists")
	default:
		p.rep.status(id, "Pushed")
	}
	return err
}

// teller shows how far an upload is.
func (p *pusher) teller(desc ocispec.Descriptor, show bool) func(int64) {
	if !show {
		return func(int64) {}
	}
	id := short(desc.Digest)
	return func(n int64) { p.rep.bytes(id, "Pushing", n, desc.Size) }
}

// sendOnce sends a document, or as a whole the blob that a registry takes no
// other way.
func (p *pusher) sendOnce(ctx context.Context, desc ocispec.Descriptor, ra content.ReaderAt, show bool) (bool, error) {
	w, err := p.to.Push(ctx, desc)
	if err != nil {
		if errdefs.IsAlreadyExists(err) {
			return false, &alreadyThere{}
		}
		return false, err
	}
	defer w.Close()
	r := &pushReader{SectionReader: io.NewSectionReader(ra, 0, desc.Size), tell: p.teller(desc, show)}
	r.tell(0)
	err = content.Copy(ctx, w, r, desc.Size, desc.Digest)
	if errdefs.IsAlreadyExists(err) {
		err = nil
	}
	return r.last > 0, err
}

// alreadyThere ends a retry: the registry has the blob.
type alreadyThere struct{}

func (*alreadyThere) Error() string { return "the registry has it" }
func (*alreadyThere) Unwrap() []error {
	return []error{errdefs.ErrAlreadyExists, errdefs.ErrInvalidArgument} // lasting
}

// pushReader tells how far the upload is; it can be sought, since a registry
// may ask for the whole again.
type pushReader struct {
	*io.SectionReader
	tell func(int64)
	last int64
}

func (r *pushReader) Read(b []byte) (int, error) {
	n, err := r.SectionReader.Read(b)
	at, _ := r.SectionReader.Seek(0, io.SeekCurrent)
	if r.tell != nil && (at-r.last >= 512<<10 || at < r.last) {
		r.tell(at)
		r.last = at
	}
	return n, err
}

// remember labels everything that was pushed with its new home.
func (p *pusher) remember(ctx context.Context, ref reference.Named, desc ocispec.Descriptor, depth int) {
	add, err := docker.AppendDistributionSourceLabel(p.s.cs, ref.String())
	if err != nil || depth == 0 {
		return
	}
	if _, err := add(ctx, desc); err != nil && !errdefs.IsNotFound(err) {
		p.s.log.WarnContext(ctx, "where a blob was pushed to is not remembered", "digest", desc.Digest, "err", err)
	}
	if p.exact != p.from {
		if err := p.s.addSource(ctx, desc.Digest, p.exact, reference.Path(ref)); err != nil && !errdefs.IsNotFound(err) {
			p.s.log.WarnContext(ctx, "where a blob was pushed to is not remembered", "digest", desc.Digest, "err", err)
		}
	}
	if !isDocument(desc.MediaType) {
		return
	}
	d, err := readDocument(ctx, p.s.cs, desc)
	if err != nil {
		return
	}
	for _, c := range d.children() {
		p.remember(ctx, ref, c, depth-1)
	}
}

// maxSources bounds the repositories that are remembered for a blob; a label
// has at most 4096 bytes.
const maxSources = 10

// addSource adds a repository to the label key of a blob, the newest first.
func (s *Store) addSource(ctx context.Context, d digest.Digest, key, path string) error {
	info, err := s.cs.Info(ctx, d)
	if err != nil {
		return err
	}
	repos := []string{path}
	for _, r := range strings.Split(info.Labels[key], ",") {
		if r != "" && r != path && len(repos) < maxSources {
			repos = append(repos, r)
		}
	}
	v := strings.Join(repos, ",")
	if v == info.Labels[key] || len(key)+len(v) > 4000 {
		return nil
	}
	_, err = s.cs.Update(ctx, content.Info{Digest: d, Labels: map[string]string{key: v}}, "labels."+key)
	return err
}

// pushError is registryError in the words of a push.
func pushError(ref reference.Named, err error) error {
	if refused(err) {
		return &registryRefusal{fmt.Sprintf("push access denied for %s, repository does not exist or may require 'docker login': denied: requested access to the resource is denied", reference.FamiliarName(ref)), err, errdefs.ErrPermissionDenied}
	}
	return err
}
