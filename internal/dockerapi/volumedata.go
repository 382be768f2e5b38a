package dockerapi

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/volume"

	"wharf/internal/model"
)

// VolumeData moves volumes' data: the endpoints below /wharf/v1/volumes.
type VolumeData interface {
	Export(ctx context.Context, name, snapshot string) (io.ReadCloser, error)
	// Import and RestoreSnapshot call free just before the volume gets other
	// data: its error ends them.
	Import(ctx context.Context, q model.VolumeImport, tar io.Reader, free func() error) (*volume.Volume, error)
	Clone(ctx context.Context, q model.VolumeClone, p model.Progress) (*volume.Volume, error)
	Snapshot(ctx context.Context, name, snapshot string, paused []string, p model.Progress) (model.VolumeSnapshot, error)
	Snapshots(ctx context.Context, name string) ([]model.VolumeSnapshot, error)
	RestoreSnapshot(ctx context.Context, name, snapshot string, free func() error, p model.Progress) error
	RemoveSnapshot(ctx context.Context, name, snapshot string) error
	Usage(ctx context.Context, name string) (*volume.Volume, error)
	// Pausing notes containers that stand still for a copy, so that a daemon
	// that was killed meanwhile lets them go on when it is back.
	Pausing(ids []string) (done func(), err error)
}

// volumeMux are the routes of VolumeData.
func (s *server) volumeMux() *http.ServeMux {
	mux := http.NewServeMux()
	for pattern, h := range map[string]handler{
		"GET /wharf/v1/volumes/{name}":                           s.volumeUsage,
		"GET /wharf/v1/volumes/{name}/export":                    s.exportVolume,
		"POST /wharf/v1/volumes/{name}/import":                   s.importVolume,
		"POST /wharf/v1/volumes/{name}/clone":                    s.cloneVolume,
		"GET /wharf/v1/volumes/snapshots":                        s.listSnapshots,
		"GET /wharf/v1/volumes/{name}/snapshots":                 s.listSnapshots,
		"POST /wharf/v1/volumes/{name}/snapshots":                s.makeSnapshot,
		"POST /wharf/v1/volumes/{name}/snapshots/{snap}/restore": s.restoreSnapshot,
		"DELETE /wharf/v1/volumes/{name}/snapshots/{snap}":       s.removeSnapshot,
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			rep, ok := w.(*reply)
			if !ok {
				rep = &reply{ResponseWriter: w}
			}
			c := &call{w: rep, r: r, v: newest, name: r.PathValue("name"), q: r.URL.Query(), log: s.Log}
			if err := h(c); err != nil {
				s.fail(rep, r, err)
			}
		})
	}
	return mux
}

// volumeRequest is the body of clone and of a new snapshot.
type volumeRequest struct {
	Name     string            // of what is made
	Snapshot string            // clone: of which
	Labels   map[string]string // clone
	Options  map[string]string // clone
	Pause    bool              // the containers that use the volume
}

func (s *server) volumeUsage(c *call) error {
	v, err := s.VolumeData.Usage(c.ctx(), c.name)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, v)
}

func (s *server) exportVolume(c *call) error {
	_, release, err := s.pauseUsers(c.ctx(), c.name, c.truth("pause"))
	if err != nil {
		return err
	}
	defer release()
	in, err := s.VolumeData.Export(c.ctx(), c.name, c.get("snapshot"))
	if err != nil {
		return err
	}
	defer in.Close()
	c.w.Header().Set("Content-Type", "application/x-tar")
	_, err = io.Copy(c.w, in)
	return err
}

func (s *server) importVolume(c *call) error {
	q := model.VolumeImport{Name: c.name, Devices: c.truth("devices")}
	for key, to := range map[string]*map[string]string{"labels": &q.Labels, "options": &q.Options} {
		if text := c.get(key); text != "" {
			if err := json.Unmarshal([]byte(text), to); err != nil {
				return invalid("%s: %v", key, err)
			}
		}
	}
	v, err := s.VolumeData.Import(c.ctx(), q, c.r.Body, s.nobodyRuns(c.ctx(), c.name))
	if err != nil {
		return err
	}
	return c.json(http.StatusCreated, v)
}

func (s *server) cloneVolume(c *call) error {
	var q volumeRequest
	if err := c.body(&q); err != nil {
		return err
	}
	_, release, err := s.pauseUsers(c.ctx(), c.name, q.Pause)
	if err != nil {
		return err
	}
	defer release()
	return c.progress(func(p model.Progress) (any, error) {
		return s.VolumeData.Clone(c.ctx(), model.VolumeClone{Source: c.name, Snapshot: q.Snapshot, Name: q.Name, Labels: q.Labels, Options: q.Options}, p)
	})
}

func (s *server) listSnapshots(c *call) error {
	all, err := s.VolumeData.Snapshots(c.ctx(), c.name)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, list(all))
}

func (s *server) makeSnapshot(c *call) error {
	var q volumeRequest
	if err := c.body(&q); err != nil {
		return err
	}
	paused, release, err := s.pauseUsers(c.ctx(), c.name, q.Pause)
	if err != nil {
		return err
	}
	defer release()
	return c.progress(func(p model.Progress) (any, error) {
		return s.VolumeData.Snapshot(c.ctx(), c.name, q.Name, paused, p)
	})
}

func (s *server) restoreSnapshot(c *call) error {
	return c.progress(func(p model.Progress) (any, error) {
		snap := c.r.PathValue("snap")
		return map[string]string{"Name": c.name, "Snapshot": snap},
			s.VolumeData.RestoreSnapshot(c.ctx(), c.name, snap, s.nobodyRuns(c.ctx(), c.name), p)
	})
}

func (s *server) removeSnapshot(c *call) error {
	if err := s.VolumeData.RemoveSnapshot(c.ctx(), c.name, c.r.PathValue("snap")); err != nil {
		return err
	}
	return c.done(http.StatusNoContent)
}

// progress answers with JSON objects, one a line: how far do is, and then
// {"result":..} or {"error":..}. An error before the first has its status.
func (c *call) progress(do func(model.Progress) (any, error)) error {
	enc := json.NewEncoder(c.w)
	send := func(v any) {
		if !c.w.begun {
			c.w.Header().Set("Content-Type", "application/x-ndjson")
			c.w.WriteHeader(http.StatusOK)
		}
		_ = enc.Encode(v)
		c.flush()
	}
	v, err := do(func(m any) { send(m) })
	switch {
	case err == nil:
		send(map[string]any{"result": v})
	case c.w.begun:
		send(map[string]string{"error": err.Error()})
	default:
		return err
	}
	return nil
}

// users lists the containers that have the volume, in one of the states.
func (s *server) users(ctx context.Context, name string, states ...container.ContainerState) ([]container.Summary, error) {
	all, err := s.Containers.List(ctx, model.ListRequest{All: true, Filters: model.Filters{"volume": {name: true}}})
	if err != nil {
		return nil, err
	}
	var out []container.Summary
	for _, c := range all {
		for _, st := range states {
			if c.State == st && mounts(c, name) {
				out = append(out, c)
			}
		}
	}
	return out, nil
}

// mounts sorts out what the filter took for the name of a path.
func mounts(c container.Summary, name string) bool {
	for _, m := range c.Mounts {
		if m.Name == name {
			return true
		}
	}
	return false
}

func called(c container.Summary) string {
	if len(c.Names) > 0 {
		return strings.TrimPrefix(c.Names[0], "/")
	}
	return c.ID
}

// nobodyRuns refuses while a container that has the volume runs: it would go
// on with the old data.
func (s *server) nobodyRuns(ctx context.Context, name string) func() error {
	return func() error {
		busy, err := s.users(ctx, name, container.StateRunning, container.StatePaused, container.StateRestarting)
		if err != nil || len(busy) == 0 {
			return err
		}
		names := make([]string, 0, len(busy))
		for _, c := range busy {
			names = append(names, called(c))
		}
		return model.Refuse(errdefs.ErrConflict, "volume %s is in use by the running container %s: stop it first", name, strings.Join(names, ", "))
	}
}

// pauseUsers pauses the running containers that have the volume. release lets
// them go on; paused are their names.
func (s *server) pauseUsers(ctx context.Context, name string, want bool) (paused []string, release func(), err error) {
	if !want {
		return nil, func() {}, nil
	}
	running, err := s.users(ctx, name, container.StateRunning)
	if err != nil {
		return nil, nil, err
	}
	ids := make([]string, 0, len(running))
	for _, c := range running {
		ids = append(ids, c.ID)
	}
	done, err := s.VolumeData.Pausing(ids)
	if err != nil {
		return nil, nil, err
	}
	var stopped []string
	release = func() {
		for _, id := range stopped {
			err := s.Containers.Unpause(context.WithoutCancel(ctx), id)
			if err != nil && !errdefs.IsConflict(err) && !errdefs.IsNotFound(err) {
				s.Log.ErrorContext(ctx, "a container stays paused after a copy of its volume", "id", id, "err", err)
			}
		}
		done()
	}
	for _, c := range running {
		if err := s.Containers.Pause(ctx, c.ID); err != nil && !errdefs.IsConflict(err) {
			release()
			return nil, nil, errors.Join(err, ctx.Err())
		} else if err == nil {
			stopped, paused = append(stopped, c.ID), append(paused, called(c))
		}
	}
	return paused, release, nil
}
