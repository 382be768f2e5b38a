package image

import (
	"context"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/events"
)

// BuildImages is the table of names as BuildKit uses it: what it names becomes
// a tag, with all that a tag means here (the image that had it keeps a
// dangling name, an event is told).
func (s *Store) BuildImages() images.Store { return buildImages{s} }

type buildImages struct{ s *Store }

func (b buildImages) Get(ctx context.Context, name string) (images.Image, error) {
	return b.s.images.Get(b.s.ctx(ctx), storedName(name))
}

func (b buildImages) List(ctx context.Context, filters ...string) ([]images.Image, error) {
	return b.s.images.List(b.s.ctx(ctx), filters...)
}

func (b buildImages) Create(ctx context.Context, img images.Image) (images.Image, error) {
	return b.put(ctx, img)
}

// Update is Create: BuildKit tries it first.
func (b buildImages) Update(ctx context.Context, img images.Image, _ ...string) (images.Image, error) {
	return b.put(ctx, img)
}

func (b buildImages) Delete(context.Context, string, ...images.DeleteOpt) error {
	return errdefs.ErrNotImplemented.WithMessage("a build removes no image")
}

func (b buildImages) put(ctx context.Context, img images.Image) (images.Image, error) {
	s := b.s
	name := storedName(img.Name)
	s.names.Lock()
	defer s.names.Unlock()
	if isDangling(name) {
		// Only what has no other name needs it.
		same, err := s.siblings(ctx, img.Target.Digest)
		if err != nil || len(same) > 0 {
			return img, err
		}
	}
	if err := s.setName(ctx, name, img.Target, img.Labels); err != nil {
		return img, err
	}
	s.mu.Lock()
	clear(s.resolved)
	s.mu.Unlock()
	if !isDangling(name) {
		s.publish(s.ctx(ctx), events.ActionTag, img.Target.Digest.String(), familiar(name))
	}
	img.Name = name
	return img, nil
}

// storedName is a reference as it is stored: with domain and tag.
func storedName(name string) string {
	if isDangling(name) {
		return name
	}
	n, err := reference.ParseNormalizedNamed(strings.TrimSpace(name))
	if err != nil {
		return name
	}
	return reference.TagNameOnly(n).String()
}

// RegistryHosts says how to speak to any registry, without credentials: those
// come with a build's session. Manifests pass the trust policy's gate.
func (s *Store) RegistryHosts() docker.RegistryHosts {
	return func(domain string) ([]docker.RegistryHost, error) {
		hosts, err := s.hosts(context.Background(), domain, nil)
		if err != nil {
			return nil, err
		}
		hs, err := hosts(domain)
		return s.gated(domain, hs), err
	}
}
