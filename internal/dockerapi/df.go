package dockerapi

import (
	"context"
	"net/http"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/build"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/api/types/volume"
	"golang.org/x/sync/errgroup"
)

// legacyUsage is disk usage as versions before 1.52 had it.
type legacyUsage struct {
	LayersSize int64               `json:"LayersSize"`
	Images     any                 `json:"Images,omitzero"`
	Containers []container.Summary `json:"Containers,omitzero"`
	Volumes    []volume.Volume     `json:"Volumes,omitzero"`
	BuildCache []build.CacheRecord `json:"BuildCache,omitzero"`
}

// usageTypes reads which kinds of object are asked for; none named is all.
func usageTypes(c *call) (map[system.DiskUsageObject]bool, error) {
	all := map[system.DiskUsageObject]bool{
		system.ContainerObject: true, system.ImageObject: true,
		system.VolumeObject: true, system.BuildCacheObject: true,
	}
	if c.v < 42 || !c.q.Has("type") {
		return all, nil
	}
	want := map[system.DiskUsageObject]bool{}
	for _, t := range c.q["type"] {
		if !all[system.DiskUsageObject(t)] {
			return nil, invalid("unknown object type: %s", t)
		}
		want[system.DiskUsageObject(t)] = true
	}
	return want, nil
}

func (s *server) diskUsage(c *call) error {
	want, err := usageTypes(c)
	if err != nil {
		return err
	}
	if s.Containers == nil && s.Images == nil && s.Volumes == nil {
		return errdefs.ErrNotImplemented.WithMessage("this daemon runs without rooms that use the disk")
	}
	// Newer versions answer in both forms, unless the client asks for details:
	// only clients that know the new form do. docker-py speaks the newest
	// version and reads the old form.
	verbose := c.v >= 52 && c.truth("verbose")
	du, err := s.collectUsage(c, want, true)
	if err != nil {
		return err
	}
	legacy := legacyOf(c.v, du)
	switch {
	case c.v < 52:
		return c.json(http.StatusOK, legacy)
	case verbose:
		return c.json(http.StatusOK, du)
	}
	return c.json(http.StatusOK, struct {
		*legacyUsage
		*system.DiskUsage
	}{legacy, brief(du)})
}

// brief is du without the lists.
func brief(du *system.DiskUsage) *system.DiskUsage {
	b := *du
	if u := du.ImageUsage; u != nil {
		v := *u
		v.Items, b.ImageUsage = nil, &v
	}
	if u := du.ContainerUsage; u != nil {
		v := *u
		v.Items, b.ContainerUsage = nil, &v
	}
	if u := du.VolumeUsage; u != nil {
		v := *u
		v.Items, b.VolumeUsage = nil, &v
	}
	return &b
}

// collectUsage asks the rooms at the same time.
func (s *server) collectUsage(c *call, want map[system.DiskUsageObject]bool, verbose bool) (*system.DiskUsage, error) {
	var du system.DiskUsage
	eg, ctx := errgroup.WithContext(c.ctx())
	if want[system.ContainerObject] && s.Containers != nil {
		eg.Go(func() (err error) { du.ContainerUsage, err = s.Containers.DiskUsage(ctx, verbose); return err })
	}
	if want[system.ImageObject] && s.Images != nil {
		eg.Go(func() (err error) { du.ImageUsage, err = s.Images.DiskUsage(ctx, verbose); return err })
	}
	if want[system.VolumeObject] && s.Volumes != nil {
		eg.Go(func() (err error) { du.VolumeUsage, err = s.Volumes.DiskUsage(ctx, verbose); return err })
	}
	if want[system.BuildCacheObject] {
		eg.Go(func() (err error) { du.BuildCacheUsage, err = s.buildUsage(ctx); return err })
	}
	if err := eg.Wait(); err != nil {
		return nil, err
	}
	return &du, nil
}

// buildUsage counts the build cache. Shared records belong to images.
func (s *server) buildUsage(ctx context.Context) (*build.DiskUsage, error) {
	u := &build.DiskUsage{}
	if s.Builds == nil {
		return u, nil
	}
	records, err := s.Builds.Records(ctx)
	if err != nil {
		return nil, err
	}
	u.Items, u.TotalCount = records, int64(len(records))
	for _, r := range records {
		if r.InUse {
			u.ActiveCount++
		}
		if r.Shared {
			continue
		}
		u.TotalSize += r.Size
		if !r.InUse {
			u.Reclaimable += r.Size
		}
	}
	return u, nil
}

func legacyOf(v version, du *system.DiskUsage) *legacyUsage {
	var l legacyUsage
	if u := du.ImageUsage; u != nil {
		l.LayersSize = u.TotalSize
		l.Images = imagesFor(v, append([]image.Summary{}, u.Items...))
	}
	if u := du.ContainerUsage; u != nil {
		l.Containers = list(u.Items)
	}
	if u := du.VolumeUsage; u != nil {
		l.Volumes = list(u.Items)
	}
	if u := du.BuildCacheUsage; u != nil {
		l.BuildCache = list(u.Items)
	}
	return &l
}
