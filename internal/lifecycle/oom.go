package lifecycle

import (
	"github.com/moby/moby/api/types/events"

	"wharf/internal/driver"
	"wharf/internal/model"
)

// oomTold is what was told of the present run: the event, and that it was about
// a kill. entry.mu protects it.
type oomTold struct{ event, killed bool }

// watchMemory publishes the event oom whenever the kernel runs out of memory
// in a run. As with Docker, State.OOMKilled then says so at once and until the
// next start, whichever process it was that the kernel killed.
func (x *exits) watchMemory(e *entry, inst driver.Instance) {
	n, ok := inst.(driver.OOMNotifier)
	if !ok {
		return
	}
	err := n.NotifyOOM(e.record().State.OOMKilled, func(killed bool) {
		if !e.lacksMemory(inst, killed) {
			return
		}
		x.event(e.record(), events.ActionOOM, nil)
		if killed {
			x.oomKilled(e, inst)
		}
	})
	if err != nil && inst.Pid() != 0 {
		x.slog.Warn("lack of memory will be told of at the end only", "id", e.id, "err", err)
	}
}

// lacksMemory notes that the event oom is published. It reports false when
// inst is no longer the present run: its end has told already.
func (e *entry) lacksMemory(inst driver.Instance, killed bool) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.inst != inst {
		return false
	}
	e.oom.event, e.oom.killed = true, e.oom.killed || killed
	return true
}

// oomKilled puts a kill into the record of a run that goes on.
func (x *exits) oomKilled(e *entry, inst driver.Instance) {
	if x.life.Err() != nil || e.lock(x.life) != nil {
		return
	}
	defer e.unlock()
	if now, err := e.instance(); err != nil || now != inst || e.record().State.OOMKilled {
		return
	}
	ctx, cancel := x.detach(x.life)
	defer cancel()
	x.force(ctx, e, func(c *model.Container) { c.State.OOMKilled = true })
}

// lateOOM publishes the event at the end of a run whose driver tells no
// sooner, or was not asked in time.
func (x *exits) lateOOM(e *entry, exit model.Exit) {
	e.mu.Lock()
	told := e.oom.event
	e.mu.Unlock()
	if c := e.record(); exit.OOMKilled && !told && !c.State.OOMKilled {
		x.event(c, events.ActionOOM, nil)
	}
}

// hadOOM reports whether a kill in the run was told of, on record or not yet.
func (e *entry) hadOOM() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.oom.killed
}
