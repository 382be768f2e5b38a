package lifecycle

import (
	"context"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"

	"wharf/internal/model"
)

// removedOnes answers what is asked about removed containers.
type removedOnes struct {
	*core
	lists     lists
	inspector inspector
}

// removedState is what list and inspect show as a removed container's state.
const removedState = container.ContainerState("removed")

// removedFilters are the words that the list of removed ones knows.
var removedFilters = []string{"ancestor", "exited", "id", "label", "name", "network", "publish", "expose", "volume", "reason", "how", "health"}

// removedWords are the values of filters that have only these.
var removedWords = map[string][]string{
	"reason": {string(model.EndExited), string(model.EndSignal), string(model.EndOOM), string(model.EndHealth), string(model.EndUser), string(model.EndEngine)},
	"how":    {model.RemovedByUser, model.RemovedAuto, model.RemovedPrune},
}

// atEnd is a removed container's record with the phase that it had before.
func atEnd(c model.Container) *model.Container {
	c.State.Phase = container.StateExited
	if c.State.StartedAt.IsZero() {
		c.State.Phase = container.StateCreated
	}
	return &c
}

// RemovedList lists removed containers whose trace is still there, the last
// removed first. Beside those of list it has the filters reason (exited,
// signal, oom, health, user, engine) and how (rm, --rm, prune).
func (s removedOnes) RemovedList(ctx context.Context, r model.ListRequest) ([]container.Summary, error) {
	if err := known(r.Filters, removedFilters); err != nil {
		return nil, err
	}
	for k, words := range removedWords {
		for v := range r.Filters[k] {
			if !slices.Contains(words, v) {
				return nil, invalid("invalid filter '%s=%s': want one of %s", k, v, strings.Join(words, ", "))
			}
		}
	}
	plain := model.ListRequest{All: true, Filters: model.Filters{}}
	for k, v := range r.Filters {
		if k != "reason" && k != "how" {
			plain.Filters[k] = v
		}
	}
	f, err := s.lists.filter(ctx, plain)
	if err != nil {
		return nil, err
	}
	out := []container.Summary{}
	names := imageNames{core: s.core, seen: map[string]string{}}
	for _, d := range s.trash.list() {
		rec, err := s.records.RemovedContainer(ctx, d.id)
		if err != nil {
			continue // gone meanwhile
		}
		c := atEnd(rec)
		if f.judge(c) != take || !hasReason(r.Filters["reason"], c.State.End) || len(r.Filters["how"]) > 0 && !r.Filters["how"][d.removal.How] {
			continue
		}
		sum := s.lists.summary(c, names.of(ctx, c))
		sum.State, sum.Ports = removedState, []container.PortSummary{}
		if end := c.State.End; end != nil {
			sum.Status += ", " + strings.SplitN(end.Text, "\n", 2)[0]
		}
		if r.Size {
			sum.SizeRw = max(d.size, 0)
		}
		out = append(out, sum)
		if r.Limit > 0 && len(out) == r.Limit {
			break
		}
	}
	return out, nil
}

func hasReason(want map[string]bool, end *model.End) bool {
	return len(want) == 0 || end != nil && want[string(end.Reason)]
}

// RemovedInspect describes a removed container as Inspect does; End says how it ended.
func (s removedOnes) RemovedInspect(ctx context.Context, ref string) (*container.InspectResponse, *model.End, *model.Removal, error) {
	c, err := s.removed(ctx, ref)
	if err != nil {
		return nil, nil, nil, err
	}
	out, err := s.inspector.describe(ctx, atEnd(c), nil, false)
	if err != nil {
		return nil, nil, nil, err
	}
	out.State.Status = removedState
	return out, c.State.End, c.Removal, nil
}

func (s removedOnes) removed(ctx context.Context, ref string) (model.Container, error) {
	id, err := s.trash.find(ref)
	if err != nil {
		return model.Container{}, err
	}
	return s.records.RemovedContainer(ctx, id)
}

// RemovedLogs reads a removed container's log.
func (s removedOnes) RemovedLogs(ctx context.Context, ref string, r model.LogsRequest) (model.LogReader, bool, error) {
	c, err := s.removed(ctx, ref)
	if err != nil {
		return nil, false, err
	}
	r.Follow = false
	l, err := s.logs.Read(ctx, s.plan.Log(c), r, nil)
	return l, c.Config.Tty, err
}

// End says why a container's last run ended; nil: it has not, or never ran.
func (s removedOnes) End(ref string) (*model.End, error) {
	e, err := s.index.find(ref)
	if err != nil {
		return nil, err
	}
	return e.record().State.End, nil
}

// Trash lists what can come back, newest first, with the filters type
// (container, volume), name, until and label.
func (s removedOnes) Trash(ctx context.Context, f model.Filters) (model.TrashReport, error) {
	out := model.TrashReport{Items: []model.TrashItem{}}
	b := s.trash.limits()
	if b.On() {
		out.Limit = b.MaxSize
	}
	keep, err := s.filter(f)
	if err != nil {
		return out, err
	}
	volumes, err := s.volumes.Trashed(ctx)
	if err != nil {
		return out, err
	}
	with := map[model.ID][]string{}
	for _, v := range volumes {
		out.Size += max(v.Size, 0)
		if v.Container != "" {
			with[v.Container] = append(with[v.Container], v.Name)
		}
		it := model.TrashItem{ID: v.ID, Type: "volume", Name: v.Name, Removed: v.Removed, Expires: v.Removed.Add(b.MaxAge), Size: v.Size, Container: string(v.Container)}
		if keep(it, v.Labels) {
			out.Items = append(out.Items, it)
		}
	}
	for _, d := range s.trash.list() {
		out.Size += max(d.size, 0) + d.image
		c, err := s.records.RemovedContainer(ctx, d.id)
		if err != nil {
			continue
		}
		it := model.TrashItem{
			ID: string(d.id), Type: "container", Name: d.name, Removed: d.removal.At, Expires: d.removal.At.Add(b.MaxAge), How: d.removal.How,
			Size: d.size, Image: c.Config.Image, ExitCode: c.State.ExitCode, End: c.State.End, Volumes: with[d.id],
		}
		if it.Size >= 0 {
			it.Size += d.image
		}
		if keep(it, c.Config.Labels) {
			out.Items = append(out.Items, it)
		}
	}
	slices.SortStableFunc(out.Items, func(a, b model.TrashItem) int { return b.Removed.Compare(a.Removed) })
	return out, nil
}

// filter reads the filters of the trash.
func (s removedOnes) filter(f model.Filters) (func(model.TrashItem, map[string]string) bool, error) {
	if err := known(f, []string{"type", "name", "until", "label", "label!"}); err != nil {
		return nil, err
	}
	for t := range f["type"] {
		if t != "container" && t != "volume" {
			return nil, invalid("invalid filter 'type=%s': it takes container or volume", t)
		}
	}
	until, err := untilFilter(f["until"], s.now())
	if err != nil {
		return nil, err
	}
	return func(it model.TrashItem, labels map[string]string) bool {
		return (len(f["type"]) == 0 || f["type"][it.Type]) && (len(f["name"]) == 0 || f["name"][it.Name]) &&
			(until.IsZero() || it.Removed.Before(until)) && labelled(f["label"], labels) && !anyLabel(f["label!"], labels)
	}, nil
}

// EmptyTrash deletes for good: what the filters select, or just refs (ids,
// names, prefixes of ids) when there are any.
func (s removedOnes) EmptyTrash(ctx context.Context, f model.Filters, refs []string) (model.TrashEmptied, error) {
	ctx, cancel := s.detach(ctx)
	defer cancel()
	s.trash.measure(ctx, s.trash.list()) // so that what is told is right
	rep, err := s.Trash(ctx, f)
	if err != nil {
		return model.TrashEmptied{}, err
	}
	if len(refs) > 0 {
		if rep.Items, err = s.pick(rep.Items, refs); err != nil {
			return model.TrashEmptied{}, err
		}
	}
	var doomed []old
	for _, it := range rep.Items {
		o := old{at: it.Removed, size: it.Size}
		if it.Type == "volume" {
			o.vol = it.ID
		} else {
			o.id = model.ID(it.ID)
		}
		doomed = append(doomed, o)
	}
	return s.trash.delete(ctx, doomed), nil
}

// pick selects items by what a person calls them: all of a name, the volumes
// that went with a container too. An error names what is not there, and then
// nothing is deleted.
func (s removedOnes) pick(all []model.TrashItem, refs []string) ([]model.TrashItem, error) {
	chosen := map[string]bool{}
	for _, ref := range refs {
		var hits []string
		for _, it := range all {
			if it.ID == ref || it.Name == ref || len(ref) >= 4 && strings.HasPrefix(it.ID, ref) {
				hits = append(hits, it.ID)
			}
		}
		if len(hits) == 0 {
			return nil, notFound("nothing in the trash is called %q (wharf trash ls shows what is there)", ref)
		}
		for _, id := range hits {
			chosen[id] = true
		}
	}
	return slices.DeleteFunc(all, func(it model.TrashItem) bool { return !chosen[it.ID] && (it.Container == "" || !chosen[it.Container]) }), nil
}
