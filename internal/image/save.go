package image

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/events"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"wharf/internal/model"
)

// saved is one image to write, with all names it goes by in the archive.
type saved struct {
	target ocispec.Descriptor
	names  []string // canonical, with tag
	shown  []variant
}

// saver writes one archive: an OCI layout that also has the manifest.json of a
// docker-archive, so that every reader since Docker 1.10 finds its way.
type saver struct {
	s     *Store
	ctx   context.Context
	tw    *tar.Writer
	blobs map[digest.Digest]bool
	only  map[digest.Digest]bool // the manifests of an index that are wanted; nil: all
}

// Save implements dockerapi.Images. References are checked before the first
// byte is written. A repository without tag stands for all its tags.
func (s *Store) Save(ctx context.Context, refs []string, ps []ocispec.Platform, w io.Writer) error {
	ctx, done, err := s.lease(ctx, "save")
	if err != nil {
		return err
	}
	defer done()
	var all []*saved
	for _, ref := range refs {
		if all, err = s.selectSaved(ctx, all, ref); err != nil {
			return err
		}
	}
	for _, img := range all {
		if err := s.hold(ctx, img.target.Digest); err != nil {
			return err
		}
		if err := s.choosePlatforms(ctx, img, ps); err != nil {
			return err
		}
	}
	v := &saver{s: s, ctx: ctx, tw: tar.NewWriter(w), blobs: map[digest.Digest]bool{}}
	if err := v.write(all, len(ps) > 0); err != nil {
		return fmt.Errorf("save: %w", err)
	}
	for _, img := range all {
		s.publish(ctx, events.ActionSave, img.target.Digest.String(), img.target.Digest.String())
	}
	return nil
}

// selectSaved adds what ref means to all.
func (s *Store) selectSaved(ctx context.Context, all []*saved, ref string) ([]*saved, error) {
	add := func(target ocispec.Descriptor, name string) {
		i := slices.IndexFunc(all, func(o *saved) bool { return o.target.Digest == target.Digest })
		if i < 0 {
			i = len(all)
			all = append(all, &saved{target: target})
		}
		if name != "" && !slices.Contains(all[i].names, name) {
			all[i].names = append(all[i].names, name)
		}
	}
	n, err := reference.ParseNormalizedNamed(ref)
	if err == nil && reference.IsNameOnly(n) {
		imgs, err := s.images.List(ctx)
		if err != nil {
			return nil, err
		}
		count := len(all)
		for _, img := range imgs {
			m, err := reference.ParseNormalizedNamed(img.Name)
			if err != nil || m.Name() != n.Name() {
				continue
			}
			if _, tagged := m.(reference.Tagged); tagged {
				count = -1
				add(img.Target, img.Name)
			}
		}
		if count < 0 {
			return all, nil
		}
	}
	f, err := s.find(ctx, ref)
	if err != nil {
		return nil, err
	}
	add(f.target, savedName(n, f.name))
	return all, nil
}

// savedName is the name that an image found under found has in the archive: a
// tag, unless asked names a digest only (asked is nil for an id).
func savedName(asked reference.Named, found string) string {
	if _, byDigest := asked.(reference.Digested); byDigest {
		if _, tagged := asked.(reference.Tagged); !tagged {
			return ""
		}
	}
	if m, err := reference.ParseNormalizedNamed(found); err == nil {
		if _, tagged := m.(reference.Tagged); tagged {
			return found
		}
	}
	return ""
}

// choosePlatforms finds the variants that manifest.json lists: those asked for,
// or the best one.
func (s *Store) choosePlatforms(ctx context.Context, img *saved, ps []ocispec.Platform) error {
	shown := img.target.Digest.String()
	if len(img.names) > 0 {
		shown = familiar(img.names[0])
	}
	pick := func(p *ocispec.Platform) error {
		v, err := s.variant(ctx, img.target, p)
		if errors.Is(err, errNoPlatform) {
			return noPlatform(shown, p)
		}
		if err == nil && s.complete(ctx, v.desc) != nil {
			return model.Refuse(errdefs.ErrNotFound, "image %s: layers of %s are not here; pull it again", shown, platforms.Format(*v.desc.Platform))
		}
		img.shown = append(img.shown, v)
		return err
	}
	if len(ps) == 0 {
		return pick(nil)
	}
	for i := range ps {
		if err := pick(&ps[i]); err != nil {
			return err
		}
	}
	return nil
}

// write writes the whole archive. Blobs come first, so that a reader who
// unpacks on the fly has everything when it meets the documents.
func (v *saver) write(all []*saved, byPlatform bool) error {
	idx := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}}
	idx.SchemaVersion = 2
	legacy := []dockerEntry{}
	for _, d := range []string{"blobs/", "blobs/sha256/"} {
		if err := v.tw.WriteHeader(&tar.Header{Name: d, Typeflag: tar.TypeDir, Mode: 0o755, ModTime: time.Unix(0, 0)}); err != nil {
			return err
		}
	}
	for _, img := range all {
		top := v.top(img, byPlatform)
		if err := v.tree(top, 4); err != nil {
			return err
		}
		idx.Manifests = append(idx.Manifests, named(top, img.names)...)
		for i, s := range img.shown {
			e := dockerEntry{Config: blobName(s.manifest.Config.Digest), RepoTags: []string{}, Layers: []string{}}
			for _, n := range img.names {
				if i == 0 {
					e.RepoTags = append(e.RepoTags, familiar(n))
				}
			}
			for _, l := range imageLayers(s.manifest) {
				e.Layers = append(e.Layers, blobName(l.Digest))
			}
			legacy = append(legacy, e)
		}
	}
	return v.documents(idx, legacy)
}

// top is what the archive's index names for img: all of it; of one platform
// asked for its manifest; of several the image's own index, as one name can
// stand for one thing only, with the content of these.
func (v *saver) top(img *saved, byPlatform bool) ocispec.Descriptor {
	v.only = nil
	if !byPlatform {
		return img.target
	}
	if len(img.shown) == 1 {
		return img.shown[0].desc
	}
	v.only = map[digest.Digest]bool{}
	for _, s := range img.shown {
		v.only[s.desc.Digest] = true
	}
	return img.target
}

func (v *saver) documents(idx ocispec.Index, legacy []dockerEntry) error {
	for _, doc := range []struct {
		name string
		v    any
	}{
		{"index.json", idx},
		{"manifest.json", legacy},
		{ocispec.ImageLayoutFile, ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}},
	} {
		b, err := json.Marshal(doc.v)
		if err != nil {
			return err
		}
		if err := v.tw.WriteHeader(&tar.Header{Name: doc.name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(b)), ModTime: time.Unix(0, 0)}); err != nil {
			return err
		}
		if _, err := v.tw.Write(b); err != nil {
			return err
		}
	}
	return v.tw.Close()
}

// named is top once for each name, or once without.
func named(top ocispec.Descriptor, names []string) []ocispec.Descriptor {
	if len(names) == 0 {
		return []ocispec.Descriptor{top}
	}
	var out []ocispec.Descriptor
	for _, n := range names {
		d := top
		d.Annotations = map[string]string{images.AnnotationImageName: n}
		for k, a := range top.Annotations {
			d.Annotations[k] = a
		}
		if r, err := reference.ParseNormalizedNamed(n); err == nil {
			if t, ok := r.(reference.Tagged); ok {
				d.Annotations[ocispec.AnnotationRefName] = t.Tag()
			}
		}
		out = append(out, d)
	}
	return out
}

func blobName(d digest.Digest) string { return "blobs/" + d.Algorithm().String() + "/" + d.Encoded() }

// tree writes desc and all below it that is here, each blob once. Platforms of
// an index that were never pulled are left out.
func (v *saver) tree(desc ocispec.Descriptor, depth int) error {
	if v.blobs[desc.Digest] || depth == 0 {
		return nil
	}
	v.blobs[desc.Digest] = true
	if isDocument(desc.MediaType) {
		d, err := readDocument(v.ctx, v.s.cs, desc)
		if err != nil {
			return err
		}
		for _, c := range d.children() {
			if v.only != nil && images.IsManifestType(c.MediaType) && !v.only[c.Digest] && !v.only[digest.Digest(c.Annotations[attestedDigest])] {
				continue
			}
			err := v.tree(c, depth-1)
			if errdefs.IsNotFound(err) && len(d.Manifests) > 0 {
				continue
			}
			if err != nil {
				return err
			}
		}
	}
	return v.blob(desc)
}

func (v *saver) blob(desc ocispec.Descriptor) error {
	ra, err := v.s.cs.ReaderAt(v.ctx, ocispec.Descriptor{Digest: desc.Digest})
	if err != nil {
		return err
	}
	defer ra.Close()
	h := &tar.Header{Name: blobName(desc.Digest), Typeflag: tar.TypeReg, Mode: 0o444, Size: ra.Size(), ModTime: time.Unix(0, 0)}
	if err := v.tw.WriteHeader(h); err != nil {
		return err
	}
	_, err = io.Copy(v.tw, content.NewReader(ra))
	return err
}
