package lifecycle

import (
	"context"
	"maps"
	"slices"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"wharf/internal/model"
)

// committer makes images of containers.
type committer struct {
	*core
	pauser *pauser
}

// Commit makes an image of a container's root and configuration, paused
// meanwhile if the request says so. Reading a large root takes long, so the
// verb lock is held only to pause and to thaw: the container can be stopped
// meanwhile.
func (s committer) Commit(ctx context.Context, ref string, r model.CommitRequest) (string, error) {
	e, err := s.index.find(ref)
	if err != nil {
		return "", err
	}
	c := e.record()
	switch c.State.Phase {
	case container.StateDead:
		return "", conflict("You cannot commit container %s which is Dead", c.ID)
	case container.StateRemoving:
		return "", conflict("You cannot commit container %s which is being removed", c.ID)
	}
	base := r.Config
	if base == nil {
		base = c.Config
	}
	cfg, err := s.plan.Changes(base, r.Changes)
	if err != nil {
		return "", err
	}
	inherit(cfg, c.Config)
	if r.Pause {
		thaw, err := s.freeze(ctx, e)
		if err != nil {
			return "", err
		}
		defer thaw()
	}
	name := r.Repo
	if name != "" && r.Tag != "" {
		name += ":" + r.Tag
	}
	id, err := s.write(context.WithoutCancel(ctx), e, s.imageOf(c, cfg, r.Author), cfg, name, r)
	if err != nil {
		return "", wrap(err, "commit %s", c.ID.Short())
	}
	s.event(c, events.ActionCommit, map[string]string{"comment": r.Comment, "imageID": id.String(), "imageRef": name})
	return id.String(), nil
}

// write makes the image: of the layer on this host, or of the one that the
// instance's driver makes.
func (s committer) write(ctx context.Context, e *entry, img *ocispec.Image, cfg *container.Config, name string, r model.CommitRequest) (digest.Digest, error) {
	c := e.record()
	f, ok, err := s.through(ctx, c)
	if err != nil {
		return "", err
	}
	if !ok {
		return s.images.Commit(ctx, c.ID, c.Image, img, cfg, name, r.Author, r.Comment)
	}
	defer f.Close()
	layer, err := f.Layer(ctx)
	if err != nil {
		return "", err
	}
	defer layer.Close()
	return s.images.CommitLayer(ctx, c.ID, c.Image, img, cfg, name, r.Author, r.Comment, layer)
}

// freeze pauses e if it runs, and returns how to undo that.
func (s committer) freeze(ctx context.Context, e *entry) (thaw func(), err error) {
	work, _, done, err := s.begin(ctx, string(e.id))
	if err != nil {
		return nil, err
	}
	defer done()
	if e.record().State.Phase != container.StateRunning {
		return func() {}, nil
	}
	return func() {
		work, _, done, err := s.begin(context.WithoutCancel(ctx), string(e.id))
		if err != nil {
			return // removed meanwhile
		}
		defer done()
		if e.record().State.Phase != container.StatePaused {
			return // stopped meanwhile, or somebody else thawed it
		}
		if err := s.pauser.unpause(work, e); err != nil {
			s.slog.ErrorContext(ctx, "container stays paused after commit", "id", e.id, "err", err)
		}
	}, s.pauser.pause(work, e)
}

// inherit fills what cfg leaves open from the container's own configuration.
func inherit(cfg, from *container.Config) {
	if cfg.User == "" {
		cfg.User = from.User
	}
	if cfg.WorkingDir == "" {
		cfg.WorkingDir = from.WorkingDir
	}
	if cfg.StopSignal == "" {
		cfg.StopSignal = from.StopSignal
	}
	if len(cfg.Env) == 0 {
		cfg.Env = slices.Clone(from.Env)
	}
	if len(cfg.Entrypoint) == 0 && len(cfg.Cmd) == 0 {
		cfg.Cmd = from.Cmd
	}
	if cfg.Entrypoint == nil {
		cfg.Entrypoint = from.Entrypoint
	}
	if cfg.Healthcheck == nil {
		cfg.Healthcheck = from.Healthcheck
	}
	cfg.Labels = merged(cfg.Labels, from.Labels)
	cfg.Volumes = merged(cfg.Volumes, from.Volumes)
	cfg.ExposedPorts = merged(cfg.ExposedPorts, from.ExposedPorts)
}

// merged is a with what b has beside it; nil when both are empty.
func merged[M ~map[K]V, K comparable, V any](a, b M) M {
	if len(a)+len(b) == 0 {
		return nil
	}
	out := maps.Clone(b)
	if out == nil {
		out = M{}
	}
	maps.Copy(out, a)
	return out
}

// imageOf is the OCI form of the new image's configuration; layers and history
// are the image room's.
func (s committer) imageOf(c *model.Container, cfg *container.Config, author string) *ocispec.Image {
	now := s.now()
	exposed := map[string]struct{}{}
	for p := range cfg.ExposedPorts {
		exposed[p.String()] = struct{}{}
	}
	if len(exposed) == 0 {
		exposed = nil
	}
	return &ocispec.Image{
		Created: &now, Author: author, Platform: c.Image.Platform,
		Config: ocispec.ImageConfig{
			User: cfg.User, ExposedPorts: exposed, Env: cfg.Env, Entrypoint: cfg.Entrypoint, Cmd: cfg.Cmd,
			Volumes: cfg.Volumes, WorkingDir: cfg.WorkingDir, Labels: cfg.Labels, StopSignal: cfg.StopSignal,
		},
	}
}
