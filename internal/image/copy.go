package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"wharf/internal/model"
)

// copyLabel marks the leases that hold what copies from other engines have
// brought so far. They outlive the daemon, so that a copy that was cut goes on.
const copyLabel = "wharf/copy"

// maxCopied bounds the pieces of one image.
const maxCopied = 10_000

// Content implements dockerapi.ImageCopies: what is here of an image, or of it
// for some platforms. The image stays the same: its index lists others too.
func (s *Store) Content(ctx context.Context, ref string, ps []ocispec.Platform) (model.ImageContent, error) {
	ctx = s.ctx(ctx)
	f, err := s.find(ctx, ref)
	if err != nil {
		return model.ImageContent{}, err
	}
	only, err := s.onlyPlatforms(ctx, ref, f.target, ps)
	if err != nil {
		return model.ImageContent{}, err
	}
	out := model.ImageContent{Target: f.target}
	if n, err := reference.ParseNormalizedNamed(f.name); err == nil {
		if _, ok := n.(reference.Tagged); ok {
			out.Name = n.String()
		}
	}
	seen := map[digest.Digest]bool{}
	var add func(d ocispec.Descriptor, depth int) error
	add = func(d ocispec.Descriptor, depth int) error {
		info, err := s.cs.Info(ctx, d.Digest)
		if errdefs.IsNotFound(err) || seen[d.Digest] {
			return nil // a platform that was not pulled
		}
		if err != nil {
			return err
		}
		seen[d.Digest] = true
		if isDocument(d.MediaType) && depth > 0 {
			doc, err := readDocument(ctx, s.cs, d)
			if err != nil {
				return err
			}
			for _, c := range doc.children() {
				if only != nil && images.IsManifestType(c.MediaType) && !only[c.Digest] && !only[digest.Digest(c.Annotations[attestedDigest])] {
					continue
				}
				if err := add(c, depth-1); err != nil {
					return err
				}
			}
		}
		out.Blobs = append(out.Blobs, model.ImageBlob{Digest: d.Digest, Size: info.Size})
		return nil
	}
	return out, add(f.target, 4)
}

// onlyPlatforms are the manifests for ps; nil for all.
func (s *Store) onlyPlatforms(ctx context.Context, ref string, target ocispec.Descriptor, ps []ocispec.Platform) (map[digest.Digest]bool, error) {
	if len(ps) == 0 {
		return nil, nil
	}
	only := map[digest.Digest]bool{}
	for i := range ps {
		v, err := s.variant(ctx, target, &ps[i])
		if errors.Is(err, errNoPlatform) {
			return nil, noPlatform(ref, &ps[i])
		}
		if err != nil {
			return nil, err
		}
		if s.complete(ctx, v.desc) != nil {
			return nil, model.Refuse(errdefs.ErrNotFound, "image %s: layers of %s are not here; pull it again", ref, platforms.Format(ps[i]))
		}
		only[v.desc.Digest] = true
	}
	return only, nil
}

// ReadBlob opens a piece of content at an offset.
func (s *Store) ReadBlob(ctx context.Context, d digest.Digest, offset int64) (io.ReadCloser, int64, error) {
	ctx = s.ctx(ctx)
	if err := d.Validate(); err != nil {
		return nil, 0, model.Refuse(errdefs.ErrInvalidArgument, "invalid digest %.120q: %w", d, err)
	}
	ra, err := s.cs.ReaderAt(ctx, ocispec.Descriptor{Digest: d})
	if err != nil {
		return nil, 0, err
	}
	if offset < 0 || offset > ra.Size() {
		_ = ra.Close()
		return nil, 0, model.Refuse(errdefs.ErrInvalidArgument, "offset %d is outside of the %d bytes of %s", offset, ra.Size(), d)
	}
	n := ra.Size() - offset
	return struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(ra, offset, n), ra}, n, nil
}

func copyRef(d digest.Digest) string { return "copy-" + d.String() }

// BeginCopy takes under a lease what is here of blobs, and says what is not.
func (s *Store) BeginCopy(ctx context.Context, blobs []model.ImageBlob) (model.ImageCopy, error) {
	ctx = s.ctx(ctx)
	if len(blobs) > maxCopied {
		return model.ImageCopy{}, model.Refuse(errdefs.ErrInvalidArgument, "an image of %d pieces, more than %d", len(blobs), maxCopied)
	}
	for _, b := range blobs {
		if err := b.Digest.Validate(); err != nil || b.Size < 0 {
			return model.ImageCopy{}, model.Refuse(errdefs.ErrInvalidArgument, "invalid digest %.120q or size %d", b.Digest, b.Size)
		}
	}
	l, err := s.leases.Create(ctx, leases.WithRandomID(), leases.WithExpiration(leaseTime), leases.WithLabel(copyLabel, time.Now().UTC().Format(time.RFC3339)))
	if err != nil {
		return model.ImageCopy{}, err
	}
	c := model.ImageCopy{ID: l.ID, Missing: []model.ImageBlob{}}
	leased := leases.WithLease(ctx, l.ID)
	for _, b := range blobs {
		err := s.hold(leased, b.Digest)
		if err == nil {
			continue
		}
		if !errdefs.IsNotFound(err) {
			return c, err
		}
		b.Offset = 0
		if st, err := s.cs.Status(ctx, copyRef(b.Digest)); err == nil && st.Offset <= b.Size {
			b.Offset = st.Offset
		}
		c.Missing = append(c.Missing, b)
	}
	return c, nil
}

// copying is the context of a copy that was begun.
func (s *Store) copying(ctx context.Context, id string) (context.Context, error) {
	ctx = s.ctx(ctx)
	ls, err := s.leases.List(ctx, fmt.Sprintf("id==%q,labels.%q", id, copyLabel))
	if err != nil {
		return nil, model.Refuse(errdefs.ErrInvalidArgument, "copy %.80q: %w", id, err)
	}
	if len(ls) != 1 {
		return nil, model.Refuse(errdefs.ErrNotFound, "no such copy: %.80s; begin it again", id)
	}
	return context.WithValue(leases.WithLease(ctx, id), unleased{}, ctx), nil
}

// WriteBlob goes on with a piece of a copy at offset. What came before the
// sender broke off stays for the next time.
func (s *Store) WriteBlob(ctx context.Context, id string, b model.ImageBlob, r io.Reader) error {
	ctx, err := s.copying(ctx, id)
	if err != nil {
		return err
	}
	if err := b.Digest.Validate(); err != nil || b.Size < 0 {
		return model.Refuse(errdefs.ErrInvalidArgument, "invalid digest %.120q or size %d", b.Digest, b.Size)
	}
	desc := ocispec.Descriptor{Digest: b.Digest, Size: b.Size}
	w, err := content.OpenWriter(withoutLease(ctx), s.cs, content.WithRef(copyRef(b.Digest)), content.WithDescriptor(desc))
	if errdefs.IsAlreadyExists(err) {
		return s.hold(ctx, b.Digest)
	}
	if err != nil {
		return err
	}
	defer w.Close()
	st, err := w.Status()
	if err != nil {
		return err
	}
	if st.Offset != b.Offset {
		return model.Refuse(errdefs.ErrConflict, "%s has %d bytes here, not %d; begin the copy again", b.Digest, st.Offset, b.Offset)
	}
	n, err := io.Copy(w, io.LimitReader(r, b.Size-b.Offset))
	if err != nil {
		return fmt.Errorf("%s after %d bytes: %w", b.Digest, b.Offset+n, err)
	}
	if b.Offset+n < b.Size {
		return model.Refuse(errdefs.ErrInvalidArgument, "%s ended after %d of %d bytes", b.Digest, b.Offset+n, b.Size)
	}
	err = w.Commit(ctx, b.Size, b.Digest)
	if errdefs.IsAlreadyExists(err) {
		return s.hold(ctx, b.Digest)
	}
	if err != nil && w.Digest() != b.Digest {
		_ = s.cs.Abort(context.WithoutCancel(ctx), copyRef(b.Digest))
		return model.Refuse(errdefs.ErrInvalidArgument, "what was sent as %s is %s", b.Digest, w.Digest())
	}
	return err
}

// CommitCopy checks, unpacks and names what was copied, and ends the copy.
func (s *Store) CommitCopy(ctx context.Context, id string, img model.ImageContent, p model.Progress) error {
	ctx, err := s.copying(ctx, id)
	if err != nil {
		return err
	}
	if err := img.Target.Digest.Validate(); err != nil {
		return model.Refuse(errdefs.ErrInvalidArgument, "invalid digest %.120q: %w", img.Target.Digest, err)
	}
	e := loadEntry{desc: ocispec.Descriptor{MediaType: img.Target.MediaType, Digest: img.Target.Digest, Size: img.Target.Size}}
	if img.Name != "" {
		n, err := parseRef(img.Name)
		if err != nil {
			return err
		}
		e.names = []string{n.String()}
	}
	l := &loader{s: s, ctx: ctx, u: s.newUnpacker(ctx), what: "copy"}
	defer l.u.close()
	if err := l.add(e, nil, newReport(p)); err != nil {
		return fmt.Errorf("copy %s: %w", img.Target.Digest, err)
	}
	return s.EndCopy(ctx, id)
}

// EndCopy lets go of what a copy held.
func (s *Store) EndCopy(ctx context.Context, id string) error {
	ctx, err := s.copying(ctx, id)
	if err != nil {
		return err
	}
	defer s.gc.later()
	return s.leases.Delete(context.WithoutCancel(ctx), leases.Lease{ID: id})
}
