package lifecycle

import (
	"slices"
	"strings"
	"sync"

	"wharf/internal/model"
	"wharf/internal/plan"
)

// index finds containers by id, name and id prefix. Names are held from the
// moment that a create begins.
type index struct {
	mu    sync.RWMutex
	byID  map[model.ID]*entry
	names map[string]model.ID // without slash
}

func newIndex() *index {
	return &index{byID: map[model.ID]*entry{}, names: map[string]model.ID{}}
}

// reserve takes name for id; a conflict when another has it.
func (x *index) reserve(name string, id model.ID) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if has, ok := x.names[name]; ok && has != id {
		return nameInUse(name, has)
	}
	x.names[name] = id
	return nil
}

// release gives name back if id has it.
func (x *index) release(name string, id model.ID) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.names[name] == id {
		delete(x.names, name)
	}
}

func (x *index) add(e *entry) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.byID[e.id] = e
	x.names[e.record().Name] = e.id
}

// remove forgets e and every name it has.
func (x *index) remove(e *entry) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.byID, e.id)
	for n, id := range x.names {
		if id == e.id {
			delete(x.names, n)
		}
	}
}

// find resolves a full id, a name with or without slash, or an unambiguous
// id prefix, in that order as Docker does.
func (x *index) find(ref string) (*entry, error) {
	if ref == "" {
		return nil, invalid("invalid name or ID supplied: %q", ref)
	}
	x.mu.RLock()
	defer x.mu.RUnlock()
	if e := x.byID[model.ID(ref)]; e != nil {
		return e, nil
	}
	if id, ok := x.names[strings.TrimPrefix(ref, "/")]; ok {
		if e := x.byID[id]; e != nil { // nil: still being created
			return e, nil
		}
	}
	if e := x.linked(ref); e != nil {
		return e, nil
	}
	return x.prefix(ref)
}

// linked finds what "container/alias" means: the container that a link of
// another leads to. The caller holds mu.
func (x *index) linked(ref string) *entry {
	parent, alias, ok := strings.Cut(strings.TrimPrefix(ref, "/"), "/")
	e := x.byID[x.names[parent]]
	if !ok || e == nil {
		return nil
	}
	for _, l := range e.record().HostConfig.Links {
		if other, a, err := plan.ParseLink(l); err == nil && a == alias {
			if o := x.byID[model.ID(other)]; o != nil {
				return o
			}
			return x.byID[x.names[other]]
		}
	}
	return nil
}

// prefix finds the one container whose id starts with ref. The caller holds mu.
func (x *index) prefix(ref string) (*entry, error) {
	var hit *entry
	if len(ref) <= 64 {
		for id, e := range x.byID {
			if !strings.HasPrefix(string(id), ref) {
				continue
			}
			if hit != nil {
				return nil, invalid("multiple IDs found with provided prefix: %s", ref)
			}
			hit = e
		}
	}
	if hit == nil {
		return nil, noSuchContainer(ref)
	}
	return hit, nil
}

func (x *index) get(id model.ID) *entry {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.byID[id]
}

// all returns every container, newest first.
func (x *index) all() []*entry {
	x.mu.RLock()
	out := make([]*entry, 0, len(x.byID))
	for _, e := range x.byID {
		out = append(out, e)
	}
	x.mu.RUnlock()
	slices.SortFunc(out, func(a, b *entry) int {
		ra, rb := a.record(), b.record()
		if n := rb.Created.Compare(ra.Created); n != 0 {
			return n
		}
		return strings.Compare(string(ra.ID), string(rb.ID))
	})
	return out
}
