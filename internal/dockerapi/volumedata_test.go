package dockerapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/volume"

	"wharf/internal/model"
)

// pausingFake is containers and volumes that say in order what was asked.
type pausingFake struct {
	Containers
	steps   []string
	state   container.ContainerState
	refuse  string // pausing this one fails
	copyErr error
	told    bool // tell of progress first
}

func (f *pausingFake) step(format string, a ...any) {
	f.steps = append(f.steps, fmt.Sprintf(format, a...))
}

func (f *pausingFake) List(_ context.Context, r model.ListRequest) ([]container.Summary, error) {
	with := func(id, vol string) container.Summary {
		return container.Summary{ID: id, Names: []string{"/" + id}, State: f.state, Mounts: []container.MountPoint{{Name: vol}}}
	}
	if !r.All || !r.Filters["volume"]["v"] {
		return nil, errors.New("not asked for v")
	}
	return []container.Summary{with("a", "v"), with("b", "v"), with("c", "other")}, nil
}

func (f *pausingFake) Pause(_ context.Context, id string) error {
	f.step("pause %s", id)
	if id == f.refuse {
		return errors.New("frozen solid")
	}
	return nil
}

func (f *pausingFake) Unpause(ctx context.Context, id string) error {
	f.step("unpause %s", id)
	return ctx.Err()
}

// dataFake is the volumes of a pausingFake.
type dataFake struct {
	VolumeData
	*pausingFake
}

func (f dataFake) Pausing(ids []string) (func(), error) {
	f.step("note %v", ids)
	return func() { f.step("forget") }, nil
}

func (f dataFake) Clone(_ context.Context, q model.VolumeClone, p model.Progress) (*volume.Volume, error) {
	f.step("clone %s %s", q.Source, q.Name)
	if f.told {
		p(model.VolumeProgress{Bytes: 7})
	}
	return &volume.Volume{Name: q.Name}, f.copyErr
}

func (f dataFake) RestoreSnapshot(_ context.Context, name, snap string, free func() error, _ model.Progress) error {
	f.step("restore %s %s", name, snap)
	return free()
}

func TestVolumeData(t *testing.T) {
	const clone = "POST /wharf/v1/volumes/v/clone"
	for _, c := range []struct {
		name, request, body string
		fake                pausingFake
		code                int
		answer              string
		steps               []string
	}{
		{"clone", clone, `{"Name":"w"}`, pausingFake{}, 200, `{"result":{`, []string{"clone v w"}},
		{"clone with pause", clone, `{"Name":"w","Pause":true}`, pausingFake{state: "running", told: true}, 200, `{"bytes":7}` + "\n" + `{"result":`,
			[]string{"note [a b]", "pause a", "pause b", "clone v w", "unpause a", "unpause b", "forget"}},
		{"nobody runs", clone, `{"Name":"w","Pause":true}`, pausingFake{state: "exited"}, 200, `{"result":{`, []string{"note []", "clone v w", "forget"}},
		{"one cannot be paused", clone, `{"Name":"w","Pause":true}`, pausingFake{state: "running", refuse: "b"}, 500, "frozen solid",
			[]string{"note [a b]", "pause a", "pause b", "unpause a", "forget"}},
		{"an error at once", clone, `{"Name":"w"}`, pausingFake{copyErr: errdefs.ErrConflict.WithMessage("taken")}, 409, `{"message":"taken"}`, []string{"clone v w"}},
		{"an error later", clone, `{"Name":"w"}`, pausingFake{copyErr: errors.New("disk full"), told: true}, 200, `{"bytes":7}` + "\n" + `{"error":"disk full"}`, []string{"clone v w"}},
		{"bad body", clone, `{"Name":`, pausingFake{}, 400, "invalid JSON", nil},
		{"restore", "POST /wharf/v1/volumes/v/snapshots/s/restore", "", pausingFake{state: "exited"}, 200, `"Snapshot":"s"`, []string{"restore v s"}},
		{"restore in use", "POST /wharf/v1/volumes/v/snapshots/s/restore", "", pausingFake{state: "running"}, 409, "running container a, b: stop it first", []string{"restore v s"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := New(Options{Containers: &c.fake, VolumeData: dataFake{pausingFake: &c.fake}})
			method, path, _ := strings.Cut(c.request, " ")
			r := httptest.NewRequest(method, path, strings.NewReader(c.body))
			if c.body != "" {
				r.Header.Set("Content-Type", "application/json")
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != c.code || !strings.Contains(w.Body.String(), c.answer) {
				t.Errorf("%d %s", w.Code, w.Body)
			}
			if d := cmp.Diff(c.steps, c.fake.steps); d != "" {
				t.Error(d)
			}
		})
	}
	w := httptest.NewRecorder()
	New(Options{VolumeData: dataFake{}}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/wharf/v1/volumes/v/nonesuch", nil))
	if w.Code != http.StatusNotFound {
		t.Errorf("%d", w.Code)
	}
}
