package lifecycle

import (
	"context"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"wharf/internal/model"
)

// pauser freezes and thaws containers.
type pauser struct {
	*core
	health *health
}

// Pause stops every process of a container where it is.
func (s *pauser) Pause(ctx context.Context, ref string) error {
	ctx, e, done, err := s.begin(ctx, ref)
	if err != nil {
		return err
	}
	defer done()
	return s.pause(ctx, e)
}

// pause is Pause for who holds the verb lock.
func (s *pauser) pause(ctx context.Context, e *entry) error {
	inst, err := e.instance()
	if err != nil {
		return err
	}
	if e.record().State.Phase == container.StatePaused {
		return conflict("container %s is already paused", e.id)
	}
	if e.isDoomed() {
		return notRunning(e.id) // it is being killed
	}
	if err := e.freezing(ctx); err != nil {
		return err
	}
	defer e.freeze.Unlock()
	if err := inst.Pause(ctx); err != nil {
		return wrap(err, "cannot pause container %s", e.id)
	}
	s.health.end(e)
	return s.moved(ctx, e, container.StatePaused, events.ActionPause)
}

// Unpause lets a paused container go on.
func (s *pauser) Unpause(ctx context.Context, ref string) error {
	ctx, e, done, err := s.begin(ctx, ref)
	if err != nil {
		return err
	}
	defer done()
	return s.unpause(ctx, e)
}

func (s *pauser) unpause(ctx context.Context, e *entry) error {
	inst, err := e.instance()
	if err != nil {
		return err
	}
	if e.record().State.Phase != container.StatePaused {
		return conflict("Container %s is not paused", e.id)
	}
	if err := inst.Resume(ctx); err != nil {
		return wrap(err, "cannot unpause container %s", e.id)
	}
	err = s.moved(ctx, e, container.StateRunning, events.ActionUnPause)
	s.health.begin(e)
	return err
}

func (s *pauser) moved(ctx context.Context, e *entry, to model.Phase, action events.Action) error {
	st, err := e.record().State.To(to)
	if err != nil {
		return err
	}
	if err := s.save(ctx, e, false, func(c *model.Container) { c.State = st }); err != nil {
		return err
	}
	s.event(e.record(), action, nil)
	return nil
}
