package lifecycle

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"wharf/internal/model"
)

// Checker is a room that can compare what it holds, and what it finds on the
// machine, with the records. Both must be cheap: no content is read.
type Checker interface {
	// Fsck changes nothing. What is on its way out behind somebody's back
	// (a link that the kernel still removes, a directory in the trash) is
	// none of its findings. A finding that is about a container carries its
	// ID, so that it can be told from work under way.
	Fsck(ctx context.Context, records []model.Container) ([]model.Finding, error)
	// Repair does what the finding's remedy says.
	Repair(ctx context.Context, f model.Finding) error
}

// The rounds of an examination. A finding counts when it is there twice,
// settleTime apart, while nobody worked on its container.
const (
	fsckRounds = 8
	settleTime = 250 * time.Millisecond
)

// fsck examines all rooms together.
type fsck struct {
	*core
	own   *ownCheck
	rooms map[string]Checker
	one   *sync.Mutex // one examination at a time
}

// Fsck looks for records without things and things without records; repair
// also does what the findings' remedies say. It may run at any time, also
// while containers are made and removed. With ids only what is about those
// containers counts; they may be gone.
func (s fsck) Fsck(ctx context.Context, repair bool, ids ...model.ID) (model.Fsck, error) {
	s.one.Lock()
	defer s.one.Unlock()
	out, err := s.examine(ctx, ids)
	if err != nil || !repair {
		return out, err
	}
	ctx, cancel := s.detach(ctx)
	defer cancel()
	rooms := s.checkers()
	for i := range out.Findings {
		f := &out.Findings[i]
		if f.Remedy == "" {
			continue
		}
		if err := s.repair(ctx, rooms[f.Room], *f); err != nil {
			f.Error = err.Error()
			continue
		}
		f.Repaired = true
		s.slog.WarnContext(ctx, "repaired", "room", f.Room, "thing", f.Thing, "name", f.Name, "id", f.ID, "what", f.Detail)
	}
	return out, nil
}

// repair keeps verbs off the container meanwhile.
func (s fsck) repair(ctx context.Context, room Checker, f model.Finding) error {
	e := s.index.get(f.ID)
	if e == nil || room == Checker(s.own) { // our own repairs lock themselves
		return room.Repair(ctx, f)
	}
	if err := e.lock(ctx); err != nil {
		return err
	}
	defer e.unlock()
	return room.Repair(ctx, f)
}

func (s fsck) checkers() map[string]Checker {
	all := maps.Clone(s.rooms)
	if all == nil {
		all = map[string]Checker{}
	}
	all["lifecycle"] = s.own
	for iso, d := range s.drivers {
		all[string(iso)] = driverCheck{iso: iso, d: d, own: s.own}
	}
	return all
}

// examine goes round until every finding is there twice in a row or gone.
func (s fsck) examine(ctx context.Context, ids []model.ID) (model.Fsck, error) {
	out := model.Fsck{Checked: map[string]int{}}
	before := map[findingKey]bool{} // findings of the round before: settled or not
	for round := range fsckRounds {
		if round > 0 {
			select {
			case <-ctx.Done():
				return out, ctx.Err()
			case <-time.After(settleTime):
			}
		}
		found, settled, err := s.round(ctx, ids, &out)
		if err != nil {
			return out, err
		}
		out.Findings, out.Unsettled = []model.Finding{}, 0
		fresh := 0
		for _, f := range found {
			k := keyOf(f)
			was, twice := before[k]
			switch {
			case was && settled[k]:
				out.Findings = append(out.Findings, f)
			case twice:
				out.Unsettled++
			default:
				fresh++
			}
		}
		if fresh+out.Unsettled == 0 {
			break
		}
		before = settled
	}
	return out, nil
}

type findingKey struct{ room, thing, name string }

func keyOf(f model.Finding) findingKey { return findingKey{f.Room, f.Thing, f.Name} }

// keeps are the rooms that keep what is in the trash where it was.
var keeps = map[string]bool{"lifecycle": true, "image": true, "volume": true}

// round looks once. settled are the findings whose container nobody worked on
// from before the first look until after the last.
func (s fsck) round(ctx context.Context, ids []model.ID, out *model.Fsck) (found []model.Finding, settled map[findingKey]bool, err error) {
	before := s.index.turns()
	records := lists{s.core}.Records()
	out.Containers = len(records)
	removed, err := s.records.Removed(ctx)
	if err != nil {
		return nil, nil, err
	}
	rooms := s.checkers()
	for _, name := range slices.Sorted(maps.Keys(rooms)) {
		began := time.Now()
		known := records
		if k, ok := rooms[name].(interface{ KeepsRemoved() bool }); ok && k.KeepsRemoved() {
			known = slices.Concat(records, removed)
		}
		fs, err := rooms[name].Fsck(ctx, known)
		if err != nil {
			return nil, nil, wrap(err, "check %s", name)
		}
		for _, f := range fs {
			if f.Room = name; keeps[name] && f.Thing != thingRemoved && s.trash.has(f.ID) {
				continue // what is in the trash stays where it was
			}
			if len(ids) == 0 || concerns(f.ID, ids) {
				found = append(found, f)
			}
		}
		out.Checked[name] = int(time.Since(began).Milliseconds())
	}
	after := s.index.turns()
	settled = map[findingKey]bool{}
	for _, f := range found {
		settled[keyOf(f)] = f.ID == "" || before.same(after, f.ID)
	}
	return found, settled, nil
}

// concerns reports whether id, perhaps only its first digits, is one of ids.
func concerns(id model.ID, ids []model.ID) bool {
	return slices.ContainsFunc(ids, func(x model.ID) bool { return id == x || id == model.ID(x.Short()) })
}

// turns says of each container how often its verb lock was taken and given
// back: even when nobody has it. What is being created counts as odd.
type turns map[model.ID]uint64

func (x *index) turns() turns {
	x.mu.RLock()
	defer x.mu.RUnlock()
	out := make(turns, len(x.names))
	for _, id := range x.names {
		out[id] = 1
	}
	for id, e := range x.byID {
		out[id] = e.turns.Load()
	}
	return out
}

// same reports whether nobody worked on id between t and u. Rooms may know a
// container by the first digits of its id only.
func (t turns) same(u turns, id model.ID) bool {
	for _, m := range []turns{t, u} {
		for full := range m {
			if len(id) < 64 && full.Short() == string(id) {
				id = full
			}
		}
	}
	a, known := t[id]
	b, still := u[id]
	return known == still && a == b && a%2 == 0
}

// errNoRepair answers a repair that was never offered.
var errNoRepair = errors.New("there is no repair for this")
