package lifecycle

import (
	"context"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"wharf/internal/model"
)

// settings changes what a container is called and how much it may use.
type settings struct{ *core }

// Rename gives a container another name.
func (s settings) Rename(ctx context.Context, ref, name string) error {
	name = strings.TrimPrefix(strings.TrimSpace(name), "/")
	if strings.TrimPrefix(strings.TrimSpace(ref), "/") == "" || name == "" {
		return invalid("Neither old nor new names may be empty")
	}
	ctx, e, done, err := s.begin(ctx, ref)
	if err != nil {
		return err
	}
	defer done()
	old := e.record().Name
	if old == name {
		return invalid("Renaming a container with the same name as its current name")
	}
	if err := s.plan.CheckName(name); err != nil {
		return wrap(err, "Error when allocating new name")
	}
	if err := s.index.reserve(name, e.id); err != nil {
		return wrap(err, "Error when allocating new name")
	}
	if err := s.save(ctx, e, true, func(c *model.Container) { c.Name = name }); err != nil {
		s.index.release(name, e.id)
		return err
	}
	s.index.release(old, e.id)
	if c := e.record(); c.State.Running() && len(c.Attached) > 0 { // others find it by its new name at once
		eps, err := s.rewired(ctx, c, c.Attached)
		if err == nil {
			err = s.save(ctx, e, false, func(c *model.Container) { c.Attached = eps })
		}
		if err != nil {
			s.slog.WarnContext(ctx, "networks still know the old name", "id", e.id, "err", err)
		}
	}
	s.event(e.record(), events.ActionRename, map[string]string{"oldName": "/" + old})
	return nil
}

// Update changes limits, at once if the container runs, and the restart
// policy.
func (s settings) Update(ctx context.Context, ref string, u container.UpdateConfig) (container.UpdateResponse, error) {
	none := container.UpdateResponse{Warnings: []string{}}
	ctx, e, done, err := s.begin(ctx, ref)
	if err != nil {
		return none, err
	}
	defer done()
	next, warnings, err := s.plan.Update(*e.record(), u)
	if err != nil {
		return none, err
	}
	if inst, err := e.instance(); err == nil {
		if err := inst.Update(ctx, next.HostConfig.Resources); err != nil {
			return none, wrap(err, "Cannot update container %s", e.id)
		}
	}
	if err := s.save(ctx, e, true, func(c *model.Container) { c.HostConfig = next.HostConfig }); err != nil {
		return none, err
	}
	s.event(e.record(), events.ActionUpdate, nil)
	if warnings == nil {
		warnings = []string{}
	}
	return container.UpdateResponse{Warnings: warnings}, nil
}
