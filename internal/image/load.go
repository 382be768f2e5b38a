package image

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/moby/moby/api/types/events"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"wharf/internal/model"
)

// Limits on what an archive may make us remember.
const (
	maxArchiveEntries = 100_000
	maxArchiveJSON    = 16 << 20 // manifest.json, index.json
)

// loader reads one archive: docker-archive or OCI layout, or both in one.
type loader struct {
	s    *Store
	ctx  context.Context
	u    *unpacker
	what string // the verb, for refusals by the trust policy; "" for none

	blobs map[string]ocispec.Descriptor // by name in the archive
	links map[string]string             // symbolic links of old archives
	docs  map[string][]byte             // manifest.json, index.json, oci-layout, repositories
}

// Load implements dockerapi.Images. Each byte of the archive is read once:
// blobs go into the content store as they come, and layers are unpacked from
// the same stream.
func (s *Store) Load(ctx context.Context, r io.Reader, ps []ocispec.Platform, quiet bool, p model.Progress) error {
	return s.load(ctx, r, ps, "load", p)
}

func (s *Store) load(ctx context.Context, r io.Reader, ps []ocispec.Platform, what string, p model.Progress) error {
	ctx, done, err := s.lease(ctx, "load")
	if err != nil {
		return err
	}
	defer s.gc.later()
	defer done()
	z, err := decompress(r)
	if err != nil {
		return fmt.Errorf("load: %w", err)
	}
	defer z.Close()
	l := &loader{s: s, ctx: ctx, u: s.newUnpacker(ctx), what: what, blobs: map[string]ocispec.Descriptor{}, links: map[string]string{}, docs: map[string][]byte{}}
	defer l.u.close()
	rep := newReport(p)
	if err := l.read(z); err != nil {
		return fmt.Errorf("load: %w", err)
	}
	entries, err := l.entries()
	if err != nil {
		return fmt.Errorf("load: %w", err)
	}
	for _, e := range entries {
		if err := l.add(e, ps, rep); err != nil {
			return fmt.Errorf("load: %w", err)
		}
	}
	return nil
}

// read takes in the whole archive.
func (l *loader) read(r io.Reader) error {
	tr := tar.NewReader(r)
	for n := 0; ; n++ {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) && n > 0 {
			return nil
		}
		if err != nil {
			return model.Refuse(errdefs.ErrInvalidArgument, "not a whole tar archive: %w", err)
		}
		if n >= maxArchiveEntries {
			return model.Refuse(errdefs.ErrInvalidArgument, "archive has more than %d entries", maxArchiveEntries)
		}
		if err := l.entry(h, tr); err != nil {
			return err
		}
	}
}

func (l *loader) entry(h *tar.Header, r io.Reader) error {
	name, err := archiveName(h.Name)
	if err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeSymlink, tar.TypeLink:
		to := h.Linkname
		if h.Typeflag == tar.TypeSymlink {
			to = path.Join(path.Dir(name), to)
		}
		if l.links[name], err = archiveName(to); err != nil {
			return err
		}
		return nil
	case tar.TypeReg:
	default:
		return nil
	}
	for k := range h.PAXRecords {
		if strings.HasPrefix(k, "GNU.sparse.") {
			return model.Refuse(errdefs.ErrInvalidArgument, "archive entry %q is sparse", name)
		}
	}
	switch name {
	case "manifest.json", "index.json", "oci-layout", "repositories":
		b, err := readLimited(r, h.Size, maxArchiveJSON)
		if err != nil {
			return fmt.Errorf("archive entry %s: %w", name, err)
		}
		l.docs[name] = b
		return nil
	}
	return l.blob(name, h.Size, r)
}

// archiveName refuses names that climb. Names are only keys here, nothing is
// written under them; an archive that has such names is not one of ours.
func archiveName(name string) (string, error) {
	clean := path.Clean(name)
	if len(name) > 4096 || strings.HasPrefix(clean, "/") || clean == ".." || strings.HasPrefix(clean, "../") {
		return "", model.Refuse(errdefs.ErrInvalidArgument, "archive entry %.80q points outside of the archive", name)
	}
	return clean, nil
}

func readLimited(r io.Reader, size, limit int64) ([]byte, error) {
	if size > limit {
		return nil, model.Refuse(errdefs.ErrInvalidArgument, "%d bytes, more than the %d allowed", size, limit)
	}
	return io.ReadAll(io.LimitReader(r, limit))
}

// blob puts an entry into the content store. Under blobs/ALG/HEX its digest
// must be that.
func (l *loader) blob(name string, size int64, r io.Reader) error {
	var want digest.Digest
	if rest, ok := strings.CutPrefix(name, "blobs/"); ok {
		want = digest.Digest(strings.Replace(rest, "/", ":", 1))
		if err := want.Validate(); err != nil {
			return model.Refuse(errdefs.ErrInvalidArgument, "archive entry %q: %w", name, err)
		}
	}
	desc := ocispec.Descriptor{Digest: want, Size: size}
	if want != "" {
		if l.s.hold(l.ctx, want) == nil {
			info, err := l.s.cs.Info(l.ctx, want)
			desc.Size = info.Size
			l.blobs[name] = desc
			return err
		}
	}
	br := bufio.NewReaderSize(r, 64<<10)
	src, ended := io.Reader(br), func(digest.Digest, error) {}
	if looksLikeLayer(br) {
		src, ended = l.u.stream(br)
	}
	dgst, fresh, err := l.s.ingest(l.ctx, "load-"+string(model.NewID()), src, size, want)
	if err == nil && !fresh {
		ended(dgst, errNotFresh)
	} else {
		ended(dgst, err)
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = model.Refuse(errdefs.ErrInvalidArgument, "not a whole tar archive: %w", err)
	}
	if err != nil {
		return fmt.Errorf("archive entry %q: %w", name, err)
	}
	desc.Digest = dgst
	l.blobs[name] = desc
	return nil
}

// errNotFresh: the store had the blob, and its layer most likely too; what was
// streamed may not be the whole.
var errNotFresh = errors.New("the blob was here before")

// looksLikeLayer peeks: a tar, or something compressed.
func looksLikeLayer(br *bufio.Reader) bool {
	head, _ := br.Peek(512)
	for _, m := range [][]byte{magicGzip, magicZstd} {
		if bytes.HasPrefix(head, m) {
			return true
		}
	}
	return len(head) == 512 && bytes.HasPrefix(head[257:], []byte("ustar"))
}

// lookup finds an archive entry, through links.
func (l *loader) lookup(name string) (ocispec.Descriptor, error) {
	key := path.Clean(name)
	for range 8 {
		if d, ok := l.blobs[key]; ok {
			return d, nil
		}
		to, ok := l.links[key]
		if !ok {
			break
		}
		key = to
	}
	return ocispec.Descriptor{}, model.Refuse(errdefs.ErrInvalidArgument, "%.120q is named but not in the archive", name)
}

// loadEntry is one image of an archive.
type loadEntry struct {
	desc  ocispec.Descriptor
	names []string // canonical
}

// entries finds the images. An archive that is both forms is read as OCI
// layout, which has the real manifests.
func (l *loader) entries() ([]loadEntry, error) {
	switch {
	case l.docs["index.json"] != nil && l.docs["oci-layout"] != nil:
		return l.ociEntries()
	case l.docs["manifest.json"] != nil:
		return l.dockerEntries()
	case l.docs["repositories"] != nil:
		return nil, model.Refuse(errdefs.ErrNotImplemented, "archive was written by Docker before 1.10; save it again with a newer one")
	}
	return nil, model.Refuse(errdefs.ErrInvalidArgument, "archive has neither index.json with oci-layout nor manifest.json: not an image archive (a root file system goes through `import`)")
}

func (l *loader) ociEntries() ([]loadEntry, error) {
	idx, err := parseDocument(l.docs["index.json"], ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: "index.json"})
	if err != nil {
		return nil, err
	}
	if len(idx.Manifests) > maxLayers {
		return nil, model.Refuse(errdefs.ErrInvalidArgument, "index.json lists %d images, more than %d", len(idx.Manifests), maxLayers)
	}
	var es []loadEntry
	byDigest := map[digest.Digest]int{}
	for _, d := range idx.Manifests {
		name, err := annotatedName(d.Annotations)
		if err != nil {
			return nil, err
		}
		d.Annotations = nil
		i, ok := byDigest[d.Digest]
		if !ok {
			i = len(es)
			byDigest[d.Digest] = i
			es = append(es, loadEntry{desc: d})
		}
		if name != "" {
			es[i].names = append(es[i].names, name)
		}
	}
	return es, nil
}

// annotatedName is the name that an archive's index gives an image. A bare tag
// ("latest") in ref.name is none.
func annotatedName(a map[string]string) (string, error) {
	name := a[images.AnnotationImageName]
	if name == "" {
		name = a[ocispec.AnnotationRefName]
		if !strings.ContainsAny(name, ":/") {
			return "", nil
		}
	}
	n, err := parseRef(name)
	if err != nil {
		return "", fmt.Errorf("name %.120q in index.json: %w", name, err)
	}
	return n.String(), nil
}

// dockerEntry is an element of manifest.json.
type dockerEntry struct {
	Config   string
	RepoTags []string
	Layers   []string
}

func (l *loader) dockerEntries() ([]loadEntry, error) {
	var ds []dockerEntry
	if err := json.Unmarshal(l.docs["manifest.json"], &ds); err != nil {
		return nil, model.Refuse(errdefs.ErrInvalidArgument, "manifest.json: %w", err)
	}
	if len(ds) > maxLayers {
		return nil, model.Refuse(errdefs.ErrInvalidArgument, "manifest.json lists %d images, more than %d", len(ds), maxLayers)
	}
	var es []loadEntry
	for _, d := range ds {
		e := loadEntry{}
		for _, t := range d.RepoTags {
			n, err := parseRef(t)
			if err != nil {
				return nil, fmt.Errorf("tag %.120q in manifest.json: %w", t, err)
			}
			e.names = append(e.names, n.String())
		}
		var err error
		if e.desc, err = l.dockerManifest(d); err != nil {
			return nil, err
		}
		es = append(es, e)
	}
	return es, nil
}

// dockerManifest writes the manifest that a docker-archive lacks.
func (l *loader) dockerManifest(d dockerEntry) (ocispec.Descriptor, error) {
	cfg, err := l.lookup(d.Config)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	cfg.MediaType = images.MediaTypeDockerSchema2Config
	m := struct {
		SchemaVersion int                  `json:"schemaVersion"`
		MediaType     string               `json:"mediaType"`
		Config        ocispec.Descriptor   `json:"config"`
		Layers        []ocispec.Descriptor `json:"layers"`
	}{2, images.MediaTypeDockerSchema2Manifest, cfg, []ocispec.Descriptor{}}
	if len(d.Layers) > maxLayers {
		return ocispec.Descriptor{}, model.Refuse(errdefs.ErrInvalidArgument, "image with %d layers, more than %d", len(d.Layers), maxLayers)
	}
	for _, name := range d.Layers {
		layer, err := l.lookup(name)
		if err != nil {
			return ocispec.Descriptor{}, err
		}
		if layer.MediaType, err = l.s.layerType(l.ctx, layer); err != nil {
			return ocispec.Descriptor{}, err
		}
		m.Layers = append(m.Layers, layer)
	}
	return l.s.writeJSON(l.ctx, m, m.MediaType)
}

// layerType looks at a layer's first bytes.
func (s *Store) layerType(ctx context.Context, d ocispec.Descriptor) (string, error) {
	ra, err := s.cs.ReaderAt(ctx, d)
	if err != nil {
		return "", err
	}
	defer ra.Close()
	head := make([]byte, 4)
	_, _ = ra.ReadAt(head, 0)
	switch {
	case bytes.HasPrefix(head, magicGzip):
		return images.MediaTypeDockerSchema2LayerGzip, nil
	case bytes.HasPrefix(head, magicZstd):
		return images.MediaTypeDockerSchema2LayerZstd, nil
	}
	return images.MediaTypeDockerSchema2Layer, nil
}

// add unpacks and names one image of the archive.
func (l *loader) add(e loadEntry, ps []ocispec.Platform, rep *report) error {
	s := l.s
	for _, n := range e.names {
		if l.what == "" {
			break
		}
		if err := s.unsignable(n, l.what); err != nil {
			return err
		}
	}
	if err := s.refer(l.ctx, e.desc); err != nil {
		return err
	}
	if err := l.unpack(e, ps); err != nil {
		return err
	}
	s.names.Lock()
	defer s.names.Unlock()
	if len(e.names) == 0 {
		if err := s.nameless(l.ctx, e.desc); err != nil {
			return err
		}
		rep.stream("Loaded image ID: %s\n", e.desc.Digest)
		s.publish(l.ctx, events.ActionLoad, e.desc.Digest.String(), e.desc.Digest.String())
	}
	for _, n := range e.names {
		if err := s.setName(l.ctx, n, e.desc, nil); err != nil {
			return err
		}
		rep.stream("Loaded image: %s\n", familiar(n))
		s.publish(l.ctx, events.ActionLoad, e.desc.Digest.String(), n)
	}
	return nil
}

// nameless keeps an image that has no name. The caller holds s.names.
func (s *Store) nameless(ctx context.Context, target ocispec.Descriptor) error {
	if names, err := s.siblings(ctx, target.Digest); err != nil || len(names) > 0 {
		return err
	}
	return s.setName(ctx, danglingName(target.Digest), target, nil)
}

// unpack unpacks the images for ps, or the one for this host.
func (l *loader) unpack(e loadEntry, ps []ocispec.Platform) error {
	for i := range ps {
		v, err := l.s.variant(l.ctx, e.desc, &ps[i])
		if errors.Is(err, errNoPlatform) {
			return model.Refuse(errdefs.ErrNotFound, "the archive has no image for %s", platforms.Format(ps[i]))
		}
		if err != nil {
			return err
		}
		if err := l.u.unpack(v); err != nil {
			return err
		}
	}
	if len(ps) > 0 {
		return nil
	}
	v, err := l.s.variant(l.ctx, e.desc, nil)
	if errors.Is(err, errNoPlatform) {
		if !images.IsIndexType(e.desc.MediaType) {
			return model.Refuse(errdefs.ErrInvalidArgument, "image %s: its configuration is not in the archive", e.desc.Digest)
		}
		return nil
	}
	if err != nil {
		return err
	}
	return l.u.unpack(v)
}
