package lifecycle

import (
	"context"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"wharf/internal/model"
)

// remover removes containers: it walks the creator's list backwards.
type remover struct {
	*core
	creator creator
	stopper *stopper
}

// Remove removes a container. Running ones only with Force. Volumes removes
// its anonymous volumes too.
func (s *remover) Remove(ctx context.Context, ref string, r model.RemoveRequest) error {
	if r.Link {
		return s.unlink(ctx, ref)
	}
	e, err := s.index.find(ref)
	if err != nil {
		return err
	}
	if e.record().State.Phase == container.StateRemoving {
		return conflict("removal of container %s is already in progress", ref)
	}
	ctx, e, done, err := s.begin(ctx, string(e.id))
	if err != nil {
		return err
	}
	defer done()
	if p := e.record().State.Phase; active(p) && !r.Force {
		err = conflict("container is %s: stop the container before removing or force remove", p)
		if p == container.StatePaused {
			err = conflict("container is paused and must be unpaused first")
		}
	} else if active(p) {
		err = s.stopper.killNow(ctx, e)
	}
	if err == nil {
		err = s.remove(ctx, e, s.removal(orName(r.How, model.RemovedByUser), r.Volumes))
	}
	return wrap(err, "cannot remove container %q", ref)
}

// removal is how a container goes, from now on.
func (c *core) removal(how string, volumes bool) *model.Removal {
	return &model.Removal{At: c.now(), How: how, Volumes: volumes, Keep: c.trash.limits().On()}
}

// remove marks a container that does not run and unmakes it. The caller holds
// the verb lock.
func (s *remover) remove(ctx context.Context, e *entry, how *model.Removal) error {
	if e.record().State.Phase != container.StateRemoving {
		st, err := e.record().State.To(container.StateRemoving)
		if err != nil {
			return err
		}
		// A failed write does not stop a removal: on a full disk it is the remedy.
		s.force(ctx, e, func(c *model.Container) { c.State, c.Removal = st, how })
	}
	return s.finish(ctx, e)
}

// finish unmakes a container that is marked as removing: it goes to the trash,
// or for good. What cannot be released makes it "dead"; it can be removed
// again.
func (s *remover) finish(ctx context.Context, e *entry) error {
	s.settle(ctx, e)
	m := &making{c: *e.record()}
	if r := m.c.Removal; r != nil {
		m.anonymous, m.keep = r.Volumes, r.Keep
	}
	if err := unwind(ctx, s.creator.steps(), m, s.report(e.id)); err != nil {
		s.force(ctx, e, func(c *model.Container) {
			c.State.Phase, c.State.Error = container.StateDead, err.Error()
		})
		return err
	}
	c := e.record()
	e.mu.Lock()
	e.gone = true
	e.mu.Unlock()
	s.index.remove(e)
	s.ids.free(e.id)
	if m.keep {
		s.trash.add(&m.c)
	}
	e.late.fail()
	s.event(c, events.ActionDestroy, nil)
	e.waiters.removed(result(c))
	return nil
}
