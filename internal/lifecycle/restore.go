package lifecycle

import (
	"context"
	"os"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"wharf/internal/model"
)

// restorer brings things back from the trash.
type restorer struct{ *core }

func removeAll(dir string) error { return os.RemoveAll(dir) }

// RestoreTrash brings a removed container or volume back: by id, name (the newest
// of it) or prefix of an id; kind is "container", "volume" or "" for either.
// name: under another name. A container comes back as it was when it had
// ended, with its id, its log, and those of its volumes that are in the trash.
func (s restorer) RestoreTrash(ctx context.Context, kind, ref, name string) (model.TrashRestored, error) {
	ctx, cancel := s.detach(ctx)
	defer cancel()
	var cerr, verr error = noSuchRemoved(ref), noSuchRemoved(ref)
	var id model.ID
	var v model.TrashedVolume
	if kind != "volume" {
		id, cerr = s.trash.find(ref)
	}
	if kind != "container" {
		v, verr = s.volume(ctx, ref)
	}
	switch {
	case cerr == nil && verr == nil:
		return model.TrashRestored{}, conflict("a removed container (%s) and a removed volume (%s) are called %q: give the id, or --type", id.Short(), v.ID, ref)
	case cerr == nil:
		return s.container(ctx, id, name)
	case verr == nil:
		return s.bringVolume(ctx, v, name)
	case kind == "volume" || !errdefs.IsNotFound(verr):
		return model.TrashRestored{}, verr
	case kind == "container" || !errdefs.IsNotFound(cerr):
		return model.TrashRestored{}, cerr
	}
	return model.TrashRestored{}, model.Refuse(errdefs.ErrNotFound, "nothing in the trash is called %q (wharf trash ls shows what is there)", ref)
}

// volume finds a removed volume by id, name (the newest) or prefix of an id.
func (s restorer) volume(ctx context.Context, ref string) (model.TrashedVolume, error) {
	none := model.TrashedVolume{}
	all, err := s.volumes.Trashed(ctx)
	if err != nil {
		return none, err
	}
	var hits []model.TrashedVolume
	for i := len(all) - 1; i >= 0; i-- { // newest first
		if v := all[i]; v.ID == ref || v.Name == ref {
			return v, nil
		} else if strings.HasPrefix(v.ID, ref) && ref != "" {
			hits = append(hits, v)
		}
	}
	switch len(hits) {
	case 0:
		return none, model.Refuse(errdefs.ErrNotFound, "No such removed volume: %s", ref)
	case 1:
		return hits[0], nil
	}
	var ids []string
	for _, v := range hits {
		ids = append(ids, v.ID+" ("+v.Name+")")
	}
	return none, invalid("several removed volumes have an id that starts with %s: %s", ref, strings.Join(ids, ", "))
}

func (s restorer) bringVolume(ctx context.Context, v model.TrashedVolume, name string) (model.TrashRestored, error) {
	got, err := s.volumes.RestoreTrashed(ctx, v.ID, name)
	if errdefs.IsConflict(err) || errdefs.IsAlreadyExists(err) {
		err = conflict("a volume called %q exists: give the restored one another name with --name, or remove that one first", orName(name, v.Name))
	}
	if err != nil {
		return model.TrashRestored{}, err
	}
	return model.TrashRestored{ID: v.ID, Type: "volume", Name: got.Name}, nil
}

func orName(a, b string) string {
	if a == "" {
		return b
	}
	return a
}

// container brings a container back. The caller has cut ctx off from the client.
func (s restorer) container(ctx context.Context, id model.ID, name string) (model.TrashRestored, error) {
	out := model.TrashRestored{ID: string(id), Type: "container"}
	if err := s.trash.claim(id); err != nil {
		return out, err
	}
	defer s.trash.unclaim(id)
	c, err := s.records.RemovedContainer(ctx, id)
	if err != nil {
		return out, wrap(err, "restore %s", id.Short())
	}
	name = strings.TrimPrefix(orName(name, c.Name), "/")
	if err := s.plan.CheckName(name); err != nil {
		return out, err
	}
	if err := s.joinable(&c); err != nil {
		return out, err
	}
	if err := s.index.reserve(name, id); err != nil {
		return out, conflict("%v; or give the restored one another name: wharf trash restore --name NEW %s", err, id.Short())
	}
	out.Name = name
	if err := s.revive(ctx, &c, name, &out); err != nil {
		s.ids.free(id)
		s.index.release(name, id)
		return out, wrap(err, "restore %s", id.Short())
	}
	e := newEntry(c)
	s.trash.drop(id)
	s.index.add(e)
	s.event(e.record(), events.ActionCreate, map[string]string{"restored": "true"})
	return out, nil
}

// revive does what may fail. The wish is on record before the first volume
// moves, so that a daemon that dies on the way finishes it.
func (s restorer) revive(ctx context.Context, c *model.Container, name string, out *model.TrashRestored) error {
	if _, err := s.images.Rootfs(ctx, c.ID); err != nil {
		return err
	}
	if err := s.rangeOf(c); err != nil {
		return err
	}
	if len(c.Mounts) > 0 && c.Removal.Restore != name {
		r := *c.Removal
		r.Restore = name
		c.Removal = &r
		if err := s.records.PutRemoved(ctx, *c); err != nil {
			return err
		}
	}
	s.bringVolumes(ctx, c, out)
	if err := s.volumes.Restore(ctx, c.ID, c.Mounts); err != nil {
		out.Warnings = append(out.Warnings, err.Error()+"; it is made anew, empty, when the container starts")
	}
	c.Name, c.Removal, c.Attached = name, nil, nil
	c.State.Phase, c.State.Pid = container.StateExited, 0
	if c.State.StartedAt.IsZero() {
		c.State.Phase = container.StateCreated
	}
	c.StoppedByUser = true // "unless-stopped" waits for a start
	if err := s.records.RestoreContainer(ctx, *c); err != nil {
		_ = s.volumes.Unuse(ctx, c.ID, c.Mounts, false) // held by nobody again; they stay
		return err
	}
	return nil
}

// rangeOf gives a container its range of host ids back, or another one: on
// disk its files have its own view of them.
func (s restorer) rangeOf(c *model.Container) error {
	if !c.IDs.Mapped() {
		return nil
	}
	j := s.plan.Joins(*c)
	for _, other := range []model.ID{j.Net, j.IPC, j.Pid} {
		if e := s.index.get(other); e != nil && e.record().IDs.Mapped() {
			c.IDs = e.record().IDs // shared
			s.ids.hold(c.ID, c.IDs)
			return nil
		}
	}
	if s.ids.again(c.ID, c.IDs, func(holder model.ID) bool { return s.shares(holder, c.ID) }) {
		return nil
	}
	ids, err := s.ids.take(c.ID)
	if err == nil {
		c.IDs = ids
	}
	return err
}

// shares reports whether holder lives in a namespace of id.
func (s restorer) shares(holder, id model.ID) bool {
	e := s.index.get(holder)
	if e == nil {
		return false
	}
	j := s.plan.Joins(*e.record())
	return j.Net == id || j.IPC == id || j.Pid == id
}

// joinable refuses a container whose namespaces are those of another one that
// is in the trash itself.
func (s restorer) joinable(c *model.Container) error {
	j := s.plan.Joins(*c)
	for _, other := range []model.ID{j.Net, j.IPC, j.Pid} {
		if other != "" && s.index.get(other) == nil && s.trash.has(other) {
			return conflict("container %s shares a namespace of container %s, which is in the trash too: restore that one first", c.ID.Short(), other.Short())
		}
	}
	return nil
}

// bringVolumes restores those of c's volumes that are in the trash and not
// there under their name: the ones that went with it, and named ones.
func (s restorer) bringVolumes(ctx context.Context, c *model.Container, out *model.TrashRestored) {
	all, err := s.volumes.Trashed(ctx)
	if err != nil {
		out.Warnings = append(out.Warnings, err.Error())
		return
	}
	for _, m := range c.Mounts {
		if m.Type != "volume" {
			continue
		}
		best := -1
		for i, v := range all { // oldest first; the container's own before others of the name
			if v.Name == m.Name && (best < 0 || v.Container == c.ID || all[best].Container != c.ID) {
				best = i
			}
		}
		if best < 0 {
			continue
		}
		_, err := s.volumes.RestoreTrashed(ctx, all[best].ID, "")
		switch {
		case err == nil:
			out.Volumes = append(out.Volumes, m.Name)
		case !errdefs.IsConflict(err) && !errdefs.IsAlreadyExists(err): // else it exists
			out.Warnings = append(out.Warnings, err.Error())
		}
	}
}

// finish ends restorations that a daemon died in.
func (s restorer) finish(ctx context.Context) {
	for _, d := range s.trash.list() {
		if d.removal.Restore == "" {
			continue
		}
		_, err := s.container(ctx, d.id, d.removal.Restore)
		if err != nil {
			s.slog.WarnContext(ctx, "a restoration that was under way could not be finished; the container is in the trash", "id", d.id, "err", err)
			continue
		}
		s.slog.InfoContext(ctx, "restoration finished", "id", d.id)
	}
}
