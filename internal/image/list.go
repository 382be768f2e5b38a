package image

import (
	"context"
	"fmt"
	"sort"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/moby/moby/api/types/image"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"wharf/internal/model"
)

// isDocument: an index or a manifest.
func isDocument(mt string) bool { return images.IsIndexType(mt) || images.IsManifestType(mt) }

// entry is one image with all its names.
type entry struct {
	target   ocispec.Descriptor
	names    []images.Image
	tags     []string
	digests  []string
	variant  variant // the one shown; its config is nil when none is here
	created  time.Time
	tagged   time.Time // when a name was last given
	dangling bool
}

// entries lists all images, in order of their ids.
func (s *Store) entries(ctx context.Context) ([]*entry, error) {
	imgs, err := s.images.List(ctx)
	if err != nil {
		return nil, err
	}
	byID := map[digest.Digest]*entry{}
	var es []*entry
	for _, img := range imgs {
		e := byID[img.Target.Digest]
		if e == nil {
			e = &entry{target: img.Target}
			byID[img.Target.Digest] = e
			es = append(es, e)
		}
		e.names = append(e.names, img)
	}
	for _, e := range es {
		if err := s.fill(ctx, e); err != nil {
			// One damaged image must not hide the others.
			s.log.WarnContext(ctx, "image cannot be read", "id", e.target.Digest, "err", err)
		}
	}
	return es, nil
}

// fill derives what is shown from e.names and the content.
func (s *Store) fill(ctx context.Context, e *entry) error {
	digests := map[string]bool{}
	for _, img := range e.names {
		tag, dgst := repoForms(img)
		if tag != "" {
			e.tags = append(e.tags, tag)
		}
		if dgst != "" && !digests[dgst] {
			digests[dgst] = true
			e.digests = append(e.digests, dgst)
		}
		if t, err := time.Parse(time.RFC3339Nano, img.Labels[labelTagged]); err == nil && t.After(e.tagged) {
			e.tagged = t
		}
	}
	sort.Strings(e.tags)
	sort.Strings(e.digests)
	e.dangling = len(e.tags) == 0
	for _, n := range e.names {
		e.dangling = e.dangling && isDangling(n.Name)
	}
	v, err := s.variant(ctx, e.target, nil)
	if err != nil {
		return err
	}
	e.variant = v
	if v.config.Created != nil {
		e.created = *v.config.Created
	}
	return nil
}

// labels of the image that is shown.
func (e *entry) labels() map[string]string {
	if e.variant.config == nil {
		return nil
	}
	return e.variant.config.Config.Labels
}

// List implements dockerapi.Images. The newest image comes first.
func (s *Store) List(ctx context.Context, all, sharedSize, manifests bool, f model.Filters) ([]image.Summary, error) {
	ctx = s.ctx(ctx)
	keep, err := s.listFilter(ctx, f)
	if err != nil {
		return nil, err
	}
	es, err := s.entries(ctx)
	if err != nil {
		return nil, err
	}
	sums, err := s.summaries(ctx, es, keep, sharedSize)
	if err != nil || !manifests {
		return sums, err
	}
	users, err := s.usersByImage(ctx)
	if err != nil {
		return nil, err
	}
	for i := range sums {
		if sums[i].Manifests, err = s.manifestSummaries(ctx, *sums[i].Descriptor, users[digest.Digest(sums[i].ID)]); err != nil {
			return nil, err
		}
	}
	return sums, nil
}

// summaries makes one summary for each entry that keep lets through.
func (s *Store) summaries(ctx context.Context, es []*entry, keep func(*entry) bool, shared bool) ([]image.Summary, error) {
	uses := map[digest.Digest]int{}
	parts := make([]map[digest.Digest]int64, len(es))
	for i, e := range es {
		if !shared && !keep(e) {
			continue
		}
		var err error
		if parts[i], err = s.parts(ctx, e.target); err != nil {
			return nil, fmt.Errorf("image %s: %w", e.target.Digest, err)
		}
		for d := range parts[i] {
			uses[d]++
		}
	}
	sums := []image.Summary{}
	for i, e := range es {
		if !keep(e) {
			continue
		}
		desc := e.target
		sum := image.Summary{
			ID: e.target.Digest.String(), ParentID: e.parent(), Created: e.created.Unix(), Size: sum(parts[i]),
			RepoTags: orEmpty(e.tags), RepoDigests: orEmpty(e.digests), Labels: e.labels(),
			Containers: -1, SharedSize: -1, Descriptor: &desc,
		}
		if e.created.IsZero() {
			sum.Created = 0
		}
		if shared {
			sum.SharedSize = 0
			for d, n := range parts[i] {
				if uses[d] > 1 {
					sum.SharedSize += n
				}
			}
		}
		sums = append(sums, sum)
	}
	sort.SliceStable(sums, func(i, j int) bool { return sums[i].Created > sums[j].Created })
	return sums, nil
}

// parent is the id of the image that e was committed from.
func (e *entry) parent() string {
	for _, n := range e.names {
		if p := n.Labels[labelParent]; p != "" {
			return p
		}
	}
	return ""
}

func orEmpty(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}

// usersByImage lists the containers of each image.
func (s *Store) usersByImage(ctx context.Context) (map[digest.Digest][]User, error) {
	us, err := s.opts.Users(ctx)
	if err != nil {
		return nil, err
	}
	by := map[digest.Digest][]User{}
	for _, u := range us {
		by[u.Image] = append(by[u.Image], u)
	}
	return by, nil
}
