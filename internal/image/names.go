package image

import (
	"context"
	"regexp"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"wharf/internal/model"
)

// danglingPrefix starts the names of images that lost their last tag.
const danglingPrefix = "moby-dangling@"

// labelTagged holds when a name was last given to its image (RFC 3339).
const labelTagged = "wharf/tagged"

// labelParent holds, at a committed image, the id of what it was made from.
const labelParent = "wharf/parent"

func danglingName(id digest.Digest) string { return danglingPrefix + id.String() }
func isDangling(name string) bool          { return strings.HasPrefix(name, danglingPrefix) }

// maxRef bounds references before they meet a parser.
const maxRef = 1024

// parseRef makes the canonical form of what a user wrote: with registry, and
// with tag "latest" when neither tag nor digest is there. With a digest the
// tag is dropped, as Docker does.
func parseRef(ref string) (reference.Named, error) {
	if len(ref) > maxRef {
		return nil, model.Refuse(errdefs.ErrInvalidArgument, "invalid reference format: longer than %d characters", maxRef)
	}
	n, err := reference.ParseDockerRef(ref)
	if err != nil {
		return nil, model.Refuse(errdefs.ErrInvalidArgument, "%w", err)
	}
	return n, nil
}

// familiar is the short form that users know: busybox:latest.
func familiar(name string) string {
	n, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return name
	}
	return reference.FamiliarString(n)
}

// repoForms splits a stored name into what RepoTags and RepoDigests show.
// Either may be "".
func repoForms(img images.Image) (tag, dgst string) {
	if isDangling(img.Name) {
		return "", ""
	}
	n, err := reference.ParseNormalizedNamed(img.Name)
	if err != nil {
		return img.Name, ""
	}
	if _, ok := n.(reference.Tagged); ok {
		tag = reference.FamiliarString(n)
	}
	return tag, reference.FamiliarName(n) + "@" + img.Target.Digest.String()
}

var hexID = regexp.MustCompile(`^(sha256:)?[a-f0-9]{1,64}$`)

// notFound is Docker's text for an image that is not there: "No such image:
// x:latest".
func notFound(ref string) error {
	if r, err := reference.ParseAnyReference(ref); err == nil {
		if n, ok := r.(reference.Named); ok {
			r = reference.TagNameOnly(n)
		}
		ref = reference.FamiliarString(r)
	}
	return model.Refuse(errdefs.ErrNotFound, "No such image: %s", ref)
}

// found is what a reference led to: the names that point to one target.
// name is the stored name that matched, "" when it was found by id.
type found struct {
	target ocispec.Descriptor
	name   string
}

func (f found) id() digest.Digest { return f.target.Digest }

// find resolves a name, name@digest, id or id prefix.
func (s *Store) find(ctx context.Context, ref string) (found, error) {
	ctx = s.ctx(ctx)
	if ref == "" || len(ref) > maxRef {
		return found{}, model.Refuse(errdefs.ErrInvalidArgument, "invalid reference format")
	}
	if dgst, err := digest.Parse(ref); err == nil {
		return s.findPrefix(ctx, ref, dgst.String())
	}
	named, perr := reference.ParseNormalizedNamed(ref)
	if perr == nil {
		f, err := s.findNamed(ctx, named)
		if err == nil || !errdefs.IsNotFound(err) {
			return f, err
		}
	}
	if hexID.MatchString(ref) {
		return s.findPrefix(ctx, ref, "sha256:"+strings.TrimPrefix(ref, "sha256:"))
	}
	if perr != nil {
		return found{}, model.Refuse(errdefs.ErrInvalidArgument, "%w", perr)
	}
	return found{}, notFound(ref)
}

func (s *Store) findNamed(ctx context.Context, named reference.Named) (found, error) {
	if d, ok := named.(reference.Digested); ok {
		if img, err := s.images.Get(ctx, reference.TrimNamed(named).Name()+"@"+d.Digest().String()); err == nil {
			return found{img.Target, img.Name}, nil
		}
		imgs, err := s.images.List(ctx, "target.digest=="+d.Digest().String())
		if err != nil {
			return found{}, err
		}
		for _, img := range imgs {
			if n, err := reference.ParseNormalizedNamed(img.Name); err == nil && n.Name() == named.Name() {
				return found{img.Target, img.Name}, nil
			}
		}
		return found{}, notFound(named.String())
	}
	img, err := s.images.Get(ctx, reference.TagNameOnly(named).String())
	if err != nil {
		return found{}, err
	}
	return found{img.Target, img.Name}, nil
}

// findPrefix finds the one image whose id begins with prefix.
func (s *Store) findPrefix(ctx context.Context, ref, prefix string) (found, error) {
	imgs, err := s.images.List(ctx)
	if err != nil {
		return found{}, err
	}
	var f found
	for _, img := range imgs {
		d := img.Target.Digest
		if !strings.HasPrefix(d.String(), prefix) {
			continue
		}
		if f.target.Digest != "" && f.target.Digest != d {
			return found{}, model.Refuse(errdefs.ErrInvalidArgument, "ambiguous reference: several images have an id that begins with %q; give more digits", ref)
		}
		f.target = img.Target
	}
	if f.target.Digest == "" {
		return found{}, notFound(ref)
	}
	return f, nil
}

// siblings lists every stored name of an image.
func (s *Store) siblings(ctx context.Context, id digest.Digest) ([]images.Image, error) {
	return s.images.List(s.ctx(ctx), "target.digest=="+id.String())
}

// setName points name at target. What the name pointed to before keeps a
// dangling name if it has no other. The caller holds s.names.
func (s *Store) setName(ctx context.Context, name string, target ocispec.Descriptor, labels map[string]string) error {
	ctx = s.ctx(ctx)
	img := images.Image{Name: name, Target: target, Labels: map[string]string{labelTagged: time.Now().UTC().Format(time.RFC3339Nano)}}
	for k, v := range labels {
		img.Labels[k] = v
	}
	old, err := s.images.Get(ctx, name)
	switch {
	case errdefs.IsNotFound(err):
		if _, err := s.images.Create(ctx, img); err != nil {
			return err
		}
	case err != nil:
		return err
	default:
		if old.Target.Digest != target.Digest {
			if err := s.keepDangling(ctx, old); err != nil {
				return err
			}
		}
		if _, err := s.images.Update(ctx, img); err != nil {
			return err
		}
	}
	if isDangling(name) {
		return nil
	}
	// Tagged now: the dangling name has served.
	err = s.images.Delete(ctx, danglingName(target.Digest))
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	return nil
}

// keepDangling gives img a dangling name when img.Name is its only one.
func (s *Store) keepDangling(ctx context.Context, img images.Image) error {
	names, err := s.siblings(ctx, img.Target.Digest)
	if err != nil || len(names) > 1 {
		return err
	}
	_, err = s.images.Create(ctx, images.Image{Name: danglingName(img.Target.Digest), Target: img.Target, Labels: img.Labels})
	if errdefs.IsAlreadyExists(err) {
		return nil
	}
	return err
}
