package lifecycle

import (
	"context"
	"errors"
	"os"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"wharf/internal/model"
	"wharf/internal/plan"
)

// createTime is the deadline of a create; most of it is for filling volumes
// from a large image.
const createTime = 30 * time.Minute

// creator makes containers, and unmakes them: removal walks its list back.
type creator struct{ *core }

// making is one create, or one removal, under way.
type making struct {
	c         model.Container
	anonymous bool // removal: anonymous volumes go too
	keep      bool // removal: into the trash
}

// steps is the list of what a container holds from create to removal. The
// record is first written early when the create would leave something behind
// that no sweep may remove: a new anonymous volume.
func (s creator) steps() []step[*making] {
	return []step[*making]{
		{"intent", s.intend, s.forget},
		{"layer", s.layer, s.unlayer},
		{"directory", s.mkdir, s.rmdir},
		{"volumes", s.use, s.unuse},
		{"record", s.record, nil},
	}
}

// Create makes a container. On failure nothing is left.
func (s creator) Create(ctx context.Context, r model.CreateRequest) (container.CreateResponse, error) {
	none := container.CreateResponse{}
	if r.Config == nil {
		return none, invalid("config cannot be empty in order to create a container")
	}
	img, err := s.images.Resolve(ctx, r.Config.Image, r.Platform)
	if err != nil {
		return none, err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), createTime)
	defer cancel()

	id := model.NewID()
	name, err := s.name(id, r.Name)
	if err != nil {
		return none, err
	}
	c, warnings, err := s.decide(ctx, plan.CreateInput{Request: r, Image: img, ID: id, Name: name, Now: s.now(), Lookup: s.lookup()})
	if err != nil {
		s.unname(id, name)
		return none, err
	}
	m := &making{c: c, anonymous: true}
	var times []StepTime
	if err := walk(ctx, s.steps(), m, &times, s.report(id)); err != nil {
		s.unname(id, name)
		return none, err
	}
	s.slog.DebugContext(ctx, "created", "id", id, "steps", times)
	e := newEntry(m.c)
	e.noteCreate(times)
	s.index.add(e)
	if m.c.Isolation == model.IsolationVM {
		s.images.DiskSoon(img)
	}
	s.event(e.record(), events.ActionCreate, nil)
	if warnings == nil {
		warnings = []string{} // clients want a list
	}
	return container.CreateResponse{ID: string(id), Warnings: warnings}, nil
}

// decide plans the container and checks its networks; nothing but an id range
// is taken.
func (s creator) decide(ctx context.Context, in plan.CreateInput) (model.Container, []string, error) {
	ids, err := s.ids.take(in.ID)
	if err != nil {
		return model.Container{}, nil, err
	}
	in.IDs = ids
	c, warnings, err := s.plan.Create(in)
	if err != nil {
		return c, nil, err
	}
	if c.IDs != ids {
		s.ids.hold(in.ID, c.IDs) // none, or another container's
	}
	var missing []string
	if c.Endpoints, missing, err = s.present(ctx, c.HostConfig.NetworkMode, c.Endpoints); err == nil {
		for _, name := range missing {
			warnings = append(warnings, "network "+name+" is not there: the container cannot start before it is")
		}
		err = s.networks.CheckLimits(c.Config.Labels, c.HostConfig.NetworkMode, mayChangeNetwork(&c) && c.Isolation != model.IsolationVM)
	}
	return c, warnings, mistaken(err)
}

// name takes the wanted name, or picks one.
func (s creator) name(id model.ID, want string) (string, error) {
	if want != "" {
		name := strings.TrimPrefix(want, "/")
		if err := s.plan.CheckName(name); err != nil {
			return "", err
		}
		return name, s.index.reserve(name, id)
	}
	for try := range 6 {
		name := randomName(try)
		if s.index.reserve(name, id) == nil {
			return name, nil
		}
	}
	return id.Short(), s.index.reserve(id.Short(), id)
}

func (s creator) unname(id model.ID, name string) {
	s.ids.free(id)
	s.index.release(name, id)
}

// intend writes the half-made record, with the empty phase, if the create is
// going to make anonymous volumes: only with it can a later daemon know that
// these may go.
func (s creator) intend(ctx context.Context, m *making) error {
	for _, v := range m.c.Mounts {
		if v.Type == "volume" && v.Anonymous {
			half := m.c
			half.State = model.State{}
			return s.records.PutContainer(ctx, half, false)
		}
	}
	return nil
}

// forget ends a removal. Into the trash means that the record is moved and all
// else stays where it is; where that cannot be written (a full disk) the
// container goes for good, for a removal is the remedy.
func (s creator) forget(ctx context.Context, m *making) error {
	if m.keep {
		err := s.records.RemoveContainer(ctx, m.c)
		if err == nil {
			return nil
		}
		s.slog.WarnContext(ctx, "the removed container cannot be kept in the trash", "id", m.c.ID, "err", err)
		m.keep = false
		s.trash.Nudge()
		if err := errors.Join(s.rmdir(ctx, m), s.unlayer(ctx, m)); err != nil {
			return err
		}
	}
	return s.records.DeleteContainer(ctx, m.c.ID)
}

func (s creator) layer(ctx context.Context, m *making) error {
	if err := s.images.Prepare(ctx, m.c.ID, m.c.Image); err != nil {
		return wrap(err, "prepare layer of %s", m.c.ID.Short())
	}
	for _, v := range m.c.Mounts {
		if v.Image != nil {
			if err := s.images.Pin(ctx, m.c.ID, *v.Image); err != nil {
				return wrap(err, "image %s for the mount at %s", v.Name, v.Destination)
			}
		}
	}
	return nil
}

func (s creator) unlayer(ctx context.Context, m *making) error {
	if m.keep {
		return nil
	}
	return s.images.Discard(ctx, m.c.ID)
}

func (s creator) mkdir(_ context.Context, m *making) error {
	return os.MkdirAll(s.dir(m.c.ID), 0o700)
}

func (s creator) rmdir(_ context.Context, m *making) error {
	if m.keep {
		return nil
	}
	if err := s.logs.Remove(s.plan.Log(m.c)); err != nil {
		return err
	}
	return os.RemoveAll(s.dir(m.c.ID))
}

// use takes the volumes and fills new ones with what the image has there.
func (s creator) use(ctx context.Context, m *making) error {
	mounts := append([]model.Mount(nil), m.c.Mounts...)
	copies := false
	for i, v := range mounts {
		if v.Type != "volume" {
			continue
		}
		whole := v
		whole.Subpath = "" // it need not exist before the start
		dir, err := s.volumes.Use(ctx, m.c.ID, whole)
		if err != nil {
			return mistaken(err)
		}
		mounts[i].Source = dir
		if s.volumes.IsDisk(v.Name) {
			if m.c.Isolation != model.IsolationVM {
				return needsMachine(v.Name)
			}
			continue // its machine fills it
		}
		copies = copies || copied(v)
	}
	m.c.Mounts = mounts
	if !copies {
		return nil
	}
	root, release, err := s.images.Mount(ctx, m.c.ID, true)
	if err != nil {
		return wrap(err, "mount image to fill volumes")
	}
	for _, v := range mounts {
		if err == nil && copied(v) {
			err = s.volumes.CopyUp(ctx, v, root)
		}
	}
	if e := release(); err == nil && e != nil {
		err = wrap(e, "unmount image")
	}
	return err
}

// copied reports whether v is filled from the image.
func copied(v model.Mount) bool { return v.Type == "volume" && !v.NoCopy }

func (s creator) unuse(ctx context.Context, m *making) error {
	return s.volumes.Unuse(ctx, m.c.ID, m.c.Mounts, m.anonymous)
}

// record writes the finished record. It is on disk before the client hears of
// it, unless the container goes with its process anyway.
func (s creator) record(ctx context.Context, m *making) error {
	st, err := model.State{}.To(container.StateCreated)
	if err != nil {
		return err
	}
	m.c.State = st
	return s.records.PutContainer(ctx, m.c, !m.c.HostConfig.AutoRemove)
}
