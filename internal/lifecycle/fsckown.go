package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/moby/moby/api/types/container"

	"wharf/internal/driver"
	"wharf/internal/model"
)

// What lifecycle itself can find.
const (
	thingDirectory = "directory"
	thingRecord    = "record"
	thingRange     = "id range"
	thingInstance  = "instance"
	thingName      = "name"
)

// ownCheck compares the records with lifecycle's directories, id ranges and
// names, and with each other.
type ownCheck struct {
	*core
	creator creator
	remover *remover
	exits   *exits
}

// Fsck implements Checker.
func (s *ownCheck) Fsck(ctx context.Context, all []model.Container) ([]model.Finding, error) {
	var out []model.Finding
	known := map[model.ID]bool{}
	names := map[string]model.ID{}
	for i := range all {
		c := &all[i]
		known[c.ID] = true
		out = append(out, s.record(c)...)
		if other, twice := names[c.Name]; twice {
			out = append(out, model.Finding{Thing: thingName, Name: c.Name, ID: c.ID,
				Detail: fmt.Sprintf("containers %s and %s have the same name", c.ID.Short(), other.Short())})
		}
		names[c.Name] = c.ID
	}
	out = append(out, s.ranges(all)...)
	trashed, err := s.trashTable(ctx)
	if err != nil {
		return nil, err
	}
	out = append(out, trashed...)
	dirs, err := os.ReadDir(filepath.Join(s.opts.DataRoot, "containers"))
	if err != nil {
		return nil, err
	}
	for _, d := range dirs {
		if id := model.ID(d.Name()); len(id) == 64 && !known[id] && !s.trash.has(id) {
			out = append(out, model.Finding{Thing: thingDirectory, Name: s.dir(id), ID: id,
				Detail: "directory of a container that has no record", Remedy: "remove it"})
		}
	}
	return out, ctx.Err()
}

// record looks at one record alone.
func (s *ownCheck) record(c *model.Container) []model.Finding {
	switch c.State.Phase {
	case "", container.StateRemoving, container.StateDead:
		f := model.Finding{Thing: thingRecord, Name: string(c.ID), ID: c.ID,
			Detail: "half created: the create broke off", Remedy: "remove what there is of the container"}
		if c.State.Phase != "" {
			f.Detail = "half removed: the removal broke off"
			if c.State.Error != "" {
				f.Detail += " (" + c.State.Error + ")"
			}
		}
		return []model.Finding{f}
	}
	if _, err := os.Lstat(s.dir(c.ID)); errors.Is(err, os.ErrNotExist) {
		return []model.Finding{{Thing: thingDirectory, Name: s.dir(c.ID), ID: c.ID,
			Detail: "the container has no directory: hosts, resolv.conf and log are lost", Remedy: "make an empty one"}}
	}
	return nil
}

// ranges finds id ranges that two containers have which share no namespace.
func (s *ownCheck) ranges(all []model.Container) []model.Finding {
	var out []model.Finding
	first := map[uint32]*model.Container{}
	for i := range all {
		c := &all[i]
		if !c.IDs.Mapped() {
			continue
		}
		other := first[c.IDs.Host]
		if other == nil {
			first[c.IDs.Host] = c
			continue
		}
		if s.shares(c) || s.shares(other) {
			continue
		}
		f := model.Finding{Thing: thingRange, Name: fmt.Sprint(c.IDs.Host), ID: c.ID,
			Detail: fmt.Sprintf("user ids from %d on are those of %s too: each could reach the other's processes and files", c.IDs.Host, other.ID.Short())}
		if !active(c.State.Phase) {
			f.Remedy = "give the container a range of its own"
		}
		out = append(out, f)
	}
	return out
}

// shares reports whether c lives in another container's namespaces, and so
// with its ids.
func (s *ownCheck) shares(c *model.Container) bool {
	j := s.plan.Joins(*c)
	return j.Net != "" || j.IPC != "" || j.Pid != ""
}

// Repair implements Checker.
func (s *ownCheck) Repair(ctx context.Context, f model.Finding) error {
	if f.Thing == thingRemoved {
		return s.repairTrash(ctx, f.ID)
	}
	e := s.index.get(f.ID)
	if f.Thing == thingDirectory && e == nil {
		return os.RemoveAll(s.dir(f.ID))
	}
	if e == nil {
		return nil // gone by now
	}
	if err := e.lock(ctx); err != nil {
		return err
	}
	defer e.unlock()
	if e.isGone() {
		return nil
	}
	switch f.Thing {
	case thingDirectory:
		return os.MkdirAll(s.dir(f.ID), 0o700)
	case thingRecord:
		half := e.record().State.Phase == ""
		if half {
			s.force(ctx, e, func(c *model.Container) { c.State.Phase = container.StateCreated })
		}
		how := e.record().Removal
		if how == nil {
			how = &model.Removal{At: s.now(), Volumes: half || e.record().HostConfig.AutoRemove}
		}
		return s.remover.remove(ctx, e, how)
	case thingRange:
		return s.newRange(ctx, e)
	}
	return errNoRepair
}

// newRange gives a container that does not run other host ids. Its files carry
// its own ids: nothing on the disk changes.
func (s *ownCheck) newRange(ctx context.Context, e *entry) error {
	if active(e.record().State.Phase) {
		return conflict("container %s runs: stop it first", e.id.Short())
	}
	old := e.record().IDs
	s.ids.free(e.id)
	ids, err := s.ids.take(e.id)
	if err == nil {
		err = s.save(ctx, e, true, func(c *model.Container) { c.IDs = ids })
	}
	if err != nil {
		s.ids.hold(e.id, old)
	}
	return err
}

// driverCheck compares a driver's instances with the records. A driver that
// can look closer is a Checker itself.
type driverCheck struct {
	iso model.Isolation
	d   driver.Driver
	own *ownCheck
}

// Fsck implements Checker.
func (k driverCheck) Fsck(ctx context.Context, all []model.Container) ([]model.Finding, error) {
	ids, err := k.d.List(ctx)
	if err != nil {
		return nil, err
	}
	held := make(map[model.ID]bool, len(ids))
	for _, id := range ids {
		held[id] = true
	}
	var out []model.Finding
	for i := range all {
		c := &all[i]
		if c.Isolation != k.iso && (c.Isolation != "" || k.iso != model.IsolationContainer) {
			delete(held, c.ID) // another driver's; it tells if it is wrong
			continue
		}
		f := model.Finding{Thing: thingInstance, Name: string(c.ID), ID: c.ID}
		switch running := c.State.Running(); {
		case running && !held[c.ID]:
			f.Detail, f.Remedy = "recorded as running, but there is neither process nor monitor", "record its end, with exit code 255"
			out = append(out, f)
		case !running && held[c.ID] && !k.kept(c.ID):
			f.Detail, f.Remedy = "recorded as not running, but its run was not released", "end and release it"
			out = append(out, f)
		}
		delete(held, c.ID)
	}
	for id := range held {
		out = append(out, model.Finding{Thing: thingInstance, Name: string(id), ID: id,
			Detail: "run of a container that has no record", Remedy: "end and release it"})
	}
	if c, ok := k.d.(Checker); ok {
		more, err := c.Fsck(ctx, all)
		return append(out, more...), err
	}
	return out, nil
}

// kept reports whether the driver has to keep a run that has ended.
func (k driverCheck) kept(id model.ID) bool {
	e := k.own.index.get(id)
	return e != nil && e.kept.Load()
}

// Repair implements Checker. The caller holds the verb lock.
func (k driverCheck) Repair(ctx context.Context, f model.Finding) error {
	if f.Thing != thingInstance {
		if c, ok := k.d.(Checker); ok {
			return c.Repair(ctx, f)
		}
		return errNoRepair
	}
	e := k.own.index.get(f.ID)
	if e == nil || !e.record().State.Running() {
		return k.d.Release(ctx, f.ID)
	}
	if held, err := k.d.List(ctx); err != nil {
		return err
	} else if contains(held, f.ID) {
		return nil // it is there again
	}
	e.mu.Lock()
	inst := e.inst
	if inst == nil {
		inst = lost{}
		e.inst = inst
	}
	e.mu.Unlock()
	exit := model.Exit{Code: 255, At: k.own.now(), Error: "the container and its monitor were gone (found by fsck)"}
	k.own.exits.end(ctx, e, inst, exit, false)
	return nil
}

func contains(ids []model.ID, id model.ID) bool {
	for _, x := range ids {
		if x == id {
			return true
		}
	}
	return false
}
