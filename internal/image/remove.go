package image

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/image"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"wharf/internal/model"
)

// conflictError is Docker's refusal to delete an image (409).
type conflictError struct {
	what   string
	force  bool // it helps to force
	reason string
}

func (e *conflictError) Error() string {
	how := "cannot be forced"
	if e.force {
		how = "must be forced"
	}
	return fmt.Sprintf("conflict: unable to delete %s (%s) - %s", e.what, how, e.reason)
}
func (e *conflictError) Unwrap() error { return errdefs.ErrConflict }

// Remove implements dockerapi.Images. A name of several is only taken away;
// the last one takes the image with it, and its untagged parents unless
// noPrune. With platforms only their content goes; the image stays.
func (s *Store) Remove(ctx context.Context, ref string, force, noPrune bool, ps []ocispec.Platform) ([]image.DeleteResponse, error) {
	ctx = s.ctx(ctx)
	out, err := s.remove(ctx, ref, force, noPrune, ps)
	if len(out) > 0 {
		// The content goes now, so that who asks for the disk sees it.
		if e := s.gc.run(ctx); err == nil && e != nil {
			s.log.WarnContext(ctx, "garbage collection after remove", "err", e)
		}
	}
	return out, err
}

func (s *Store) remove(ctx context.Context, ref string, force, noPrune bool, ps []ocispec.Platform) ([]image.DeleteResponse, error) {
	s.names.Lock()
	defer s.names.Unlock()
	f, err := s.find(ctx, ref)
	if err != nil {
		return nil, err
	}
	names, err := s.siblings(ctx, f.id())
	if err != nil {
		return nil, err
	}
	if len(ps) > 0 {
		return s.removePlatforms(ctx, ref, f, force, ps)
	}
	users, err := s.usersByImage(ctx)
	if err != nil {
		return nil, err
	}
	r := &remover{s: s, ctx: ctx, users: users}
	if f.name != "" {
		same := sameNames(f.name, names)
		if len(same) < len(names) {
			return r.out, r.untag(same)
		}
		if us := users[f.id()]; len(us) > 0 {
			return r.removeUsed(f, names, us, force)
		}
	} else if err := refusal(f.id(), names, users[f.id()], force); err != nil {
		return nil, err
	}
	parents := s.parentsOf(names)
	if err := r.untag(names); err != nil {
		return r.out, err
	}
	r.deleted(f.id())
	if !noPrune {
		r.prune(parents)
	}
	return r.out, nil
}

// sameNames are those of names that go when name goes: itself, and digest
// references of the repository whose last tag it is.
func sameNames(name string, names []images.Image) []images.Image {
	n, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return names[:1]
	}
	_, byDigest := n.(reference.Digested)
	otherTag := false
	var same, digests []images.Image
	for _, img := range names {
		m, err := reference.ParseNormalizedNamed(img.Name)
		switch {
		case isDangling(img.Name):
			same = append(same, img)
		case err != nil || m.Name() != n.Name():
		case img.Name == name || byDigest:
			same = append(same, img)
		default:
			if _, ok := m.(reference.Digested); ok {
				digests = append(digests, img)
			} else {
				otherTag = true
			}
		}
	}
	if !otherTag {
		same = append(same, digests...)
	}
	return same
}

// refusal says why the image cannot be deleted by its id, nil if it can.
func refusal(id digest.Digest, names []images.Image, users []User, force bool) error {
	if i := slices.IndexFunc(users, func(u User) bool { return u.Running }); i >= 0 {
		return &conflictError{short(id), false, "image is being used by running container " + users[i].ID.Short()}
	}
	if force {
		return nil
	}
	if len(users) > 0 {
		return &conflictError{short(id), true, "image is being used by stopped container " + users[0].ID.Short()}
	}
	repos := map[string]bool{}
	tags := 0
	for _, n := range names {
		if tag, dgst := repoForms(n); dgst != "" {
			repos[dgst] = true
			if tag != "" {
				tags++
			}
		}
	}
	if len(repos) > 1 || tags > 1 {
		return &conflictError{short(id), true, "image is referenced in multiple repositories"}
	}
	return nil
}

// remover collects what one removal did.
type remover struct {
	s     *Store
	ctx   context.Context
	users map[digest.Digest][]User
	out   []image.DeleteResponse
}

// removeUsed takes the last name of an image that containers use: only by
// force, and the image stays, untagged, as long as they do.
func (r *remover) removeUsed(f found, names []images.Image, users []User, force bool) ([]image.DeleteResponse, error) {
	if !force {
		return nil, &conflictError{familiar(f.name), true,
			fmt.Sprintf("container %s is using its referenced image %s", users[0].ID.Short(), short(f.id()))}
	}
	if err := r.s.keep(r.ctx, names[0]); err != nil {
		return nil, err
	}
	err := r.untag(slices.DeleteFunc(names, func(i images.Image) bool { return isDangling(i.Name) }))
	return r.out, err
}

// keep gives an image a dangling name beside those it has.
func (s *Store) keep(ctx context.Context, img images.Image) error {
	_, err := s.images.Create(ctx, images.Image{Name: danglingName(img.Target.Digest), Target: img.Target, Labels: img.Labels})
	if errdefs.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// untag takes names away.
func (r *remover) untag(names []images.Image) error {
	for _, n := range names {
		if err := r.s.images.Delete(r.ctx, n.Name); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("untag %s: %w", familiar(n.Name), err)
		}
		if isDangling(n.Name) {
			continue
		}
		shown := familiar(n.Name)
		r.s.opts.Publish(events.ImageEventType, events.ActionUnTag, n.Target.Digest.String(), map[string]string{"name": shown})
		r.out = append(r.out, image.DeleteResponse{Untagged: shown})
	}
	return nil
}

func (r *remover) deleted(id digest.Digest) {
	r.s.opts.Publish(events.ImageEventType, events.ActionDelete, id.String(), map[string]string{"name": id.String()})
	r.out = append(r.out, image.DeleteResponse{Deleted: id.String()})
}

// prune deletes untagged ancestors that nobody uses and nothing else was made
// from; the first that must stay ends it.
func (r *remover) prune(parent digest.Digest) {
	for range maxLayers {
		if parent == "" || len(r.users[parent]) > 0 {
			return
		}
		names, err := r.s.siblings(r.ctx, parent)
		if err != nil || len(names) == 0 || slices.ContainsFunc(names, func(i images.Image) bool { return !isDangling(i.Name) }) {
			return
		}
		if children, err := r.s.childrenOf(r.ctx, parent); err != nil || len(children) > 0 {
			return
		}
		next := r.s.parentsOf(names)
		if err := r.untag(names); err != nil {
			r.s.log.WarnContext(r.ctx, "parent image not removed", "id", parent, "err", err)
			return
		}
		r.deleted(parent)
		parent = next
	}
}

// parentsOf is the id of what an image was committed from, or "".
func (s *Store) parentsOf(names []images.Image) digest.Digest {
	for _, n := range names {
		if p := n.Labels[labelParent]; p != "" {
			return digest.Digest(p)
		}
	}
	return ""
}

// childrenOf are the images committed from id.
func (s *Store) childrenOf(ctx context.Context, id digest.Digest) ([]images.Image, error) {
	return s.images.List(ctx, "labels.\""+labelParent+"\"=="+id.String())
}

// removePlatforms deletes what only some platforms of an image need.
func (s *Store) removePlatforms(ctx context.Context, ref string, f found, force bool, ps []ocispec.Platform) ([]image.DeleteResponse, error) {
	if !images.IsIndexType(f.target.MediaType) {
		return nil, model.Refuse(errdefs.ErrInvalidArgument, "image %s is for one platform only: remove it without --platform", ref)
	}
	users, err := s.usersByImage(ctx)
	if err != nil {
		return nil, err
	}
	if us := users[f.id()]; len(us) > 0 && !force {
		return nil, &conflictError{short(f.id()), true, "image is being used by container " + us[0].ID.Short()}
	}
	var out []image.DeleteResponse
	for i := range ps {
		v, err := s.variant(ctx, f.target, &ps[i])
		if errors.Is(err, errNoPlatform) {
			return out, noPlatform(ref, &ps[i])
		}
		if err != nil {
			return out, err
		}
		// The index still lists the manifest; without its blob the collector
		// finds nothing below it.
		if err := s.cs.Delete(ctx, v.desc.Digest); err != nil && !errdefs.IsNotFound(err) {
			return out, err
		}
		out = append(out, image.DeleteResponse{Deleted: v.desc.Digest.String()})
	}
	return out, nil
}
