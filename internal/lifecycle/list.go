package lifecycle

import (
	"context"
	"maps"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"golang.org/x/sync/errgroup"

	"wharf/internal/model"
)

// lists answers list and disk usage.
type lists struct{ *core }

// List returns the containers that r selects, newest first.
func (s lists) List(ctx context.Context, r model.ListRequest) ([]container.Summary, error) {
	f, err := s.filter(ctx, r)
	if err != nil {
		return nil, err
	}
	out := []container.Summary{}
	names := imageNames{core: s.core, seen: map[string]string{}}
	all := s.index.all()
	links := s.linkNames(all)
	for _, e := range all {
		c := e.record()
		switch f.judge(c) {
		case skip:
			continue
		case stop:
			return s.sized(ctx, r, out)
		}
		sum := s.summary(c, names.of(ctx, c))
		sum.Names = append(sum.Names, links[c.ID]...)
		out = append(out, sum)
		if f.limit > 0 && len(out) == f.limit {
			break
		}
	}
	return s.sized(ctx, r, out)
}

// sized fills in the sizes if they were asked for.
func (s lists) sized(ctx context.Context, r model.ListRequest, out []container.Summary) ([]container.Summary, error) {
	if !r.Size {
		return out, nil
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for i := range out {
		g.Go(func() (err error) {
			out[i].SizeRw, out[i].SizeRootFs, err = s.images.Usage(ctx, model.ID(out[i].ID))
			if errdefs.IsNotFound(err) {
				return nil // removed meanwhile
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, wrap(err, "size of containers")
	}
	return out, nil
}

// Records returns every container's record, newest first. They must not be
// changed.
func (s lists) Records() []model.Container {
	all := s.index.all()
	out := make([]model.Container, len(all))
	for i, e := range all {
		out[i] = *e.record()
	}
	return out
}

// summary is c as list shows it.
func (s lists) summary(c *model.Container, image string) container.Summary {
	status := c.State.Phase
	if status == "" {
		status = container.StateCreated
	}
	out := container.Summary{
		ID: string(c.ID), Names: []string{"/" + c.Name}, Image: image, ImageID: c.Image.ID.String(),
		Command: commandText(c.Config), Created: c.Created.Unix(), Ports: portList(c), Labels: c.Config.Labels,
		State: status, Status: statusOf(c, s.now()), Mounts: mountPoints(c),
		NetworkSettings: &container.NetworkSettingsSummary{Networks: endpoints(c)},
		Health:          &container.HealthSummary{Status: container.NoHealthcheck},
	}
	if out.Labels == nil {
		out.Labels = map[string]string{}
	}
	if h := c.State.Health; h != nil {
		out.Health = &container.HealthSummary{Status: h.Status, FailingStreak: h.FailingStreak}
	}
	out.HostConfig.NetworkMode = string(c.HostConfig.NetworkMode)
	out.HostConfig.Annotations = maps.Clone(c.HostConfig.Annotations)
	if c.Image.Manifest.Digest != "" {
		m := c.Image.Manifest
		if m.Platform == nil {
			m.Platform = &c.Image.Platform
		}
		out.ImageManifestDescriptor = &m
	}
	return out
}

// imageNames finds what to show as a container's image: the reference it was
// made from while that still means the same image, else the image's id. Each
// reference is looked up once per list.
type imageNames struct {
	*core
	seen map[string]string // reference -> id
}

func (n imageNames) of(ctx context.Context, c *model.Container) string {
	ref, id := c.Config.Image, c.Image.ID.String()
	if ref == id {
		return ref
	}
	now, ok := n.seen[ref]
	if !ok {
		if img, err := n.images.Resolve(ctx, ref, nil); err == nil {
			now = img.ID.String()
		}
		n.seen[ref] = now
	}
	if now == id {
		return ref
	}
	return id
}

// DiskUsage sums up what containers hold. Active ones run; the others'
// writable layers can be reclaimed.
func (s lists) DiskUsage(ctx context.Context, verbose bool) (*container.DiskUsage, error) {
	all, err := s.List(ctx, model.ListRequest{All: true, Size: true})
	if err != nil {
		return nil, err
	}
	out := &container.DiskUsage{TotalCount: int64(len(all))}
	for _, c := range all {
		out.TotalSize += c.SizeRw
		if active(c.State) {
			out.ActiveCount++
		} else {
			out.Reclaimable += c.SizeRw
		}
	}
	if verbose {
		out.Items = all
	}
	return out, nil
}
