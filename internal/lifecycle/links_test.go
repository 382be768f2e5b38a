package lifecycle

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"

	"wharf/internal/model"
)

func TestLinkNamesAndRemoval(t *testing.T) {
	w := newWorld(t)
	e := w.engine()
	db := started(t, e, "db", nil)
	web := started(t, e, "web", &container.HostConfig{Links: []string{db + ":sql", db + ":store"}})
	check := func(when string, wantLinks, wantNames []string) {
		t.Helper()
		got, err := e.Inspect(bg, web, false)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(wantLinks, got.HostConfig.Links); d != "" {
			t.Errorf("%s: links (-want +got):\n%s", when, d)
		}
		all, err := e.List(bg, model.ListRequest{Filters: model.Filters{"id": {db: true}}})
		if err != nil || len(all) != 1 || cmp.Diff(wantNames, all[0].Names) != "" {
			t.Errorf("%s: %v, %v; want %v", when, all, err, wantNames)
		}
	}
	check("at first", []string{"/db:/web/sql", "/db:/web/store"}, []string{"/db", "/web/sql", "/web/store"})
	for ref, want := range map[string]string{"db": "base", "web": "shop"} {
		if err := e.Rename(bg, ref, want); err != nil {
			t.Fatal(err)
		}
	}
	check("renamed", []string{"/base:/shop/sql", "/base:/shop/store"}, []string{"/base", "/shop/sql", "/shop/store"})
	if got, err := e.Inspect(bg, "shop/sql", false); err != nil || got.ID != db {
		t.Errorf("shop/sql: %v, %v", got, err)
	}
	if err := e.Remove(bg, "/shop/sql", model.RemoveRequest{Link: true}); err != nil {
		t.Fatal(err)
	}
	check("unlinked", []string{"/base:/shop/store"}, []string{"/base", "/shop/store"})
	for ref, is := range map[string]func(error) bool{"shop/sql": errdefs.IsNotFound, "shop": errdefs.IsInvalidArgument, "nobody/x": errdefs.IsNotFound} {
		if err := e.Remove(bg, ref, model.RemoveRequest{Link: true}); !is(err) {
			t.Errorf("%s: %v", ref, err)
		}
	}
}

func TestLinkNeedsARunningContainer(t *testing.T) {
	w := newWorld(t)
	e := w.engine()
	db := create(t, e, "db", nil)
	web := create(t, e, "web", &container.HostConfig{Links: []string{db + ":sql"}})
	if err := e.Start(bg, web); !errdefs.IsConflict(err) {
		t.Errorf("start: %v", err)
	}
}

// What a container lends to others is asked when the other one starts.
func TestJoinAtStart(t *testing.T) {
	w := newWorld(t)
	e := w.engine()
	private := started(t, e, "private", &container.HostConfig{IpcMode: container.IPCModePrivate})
	stopped := create(t, e, "stopped", nil)
	if _, err := e.starter.joined(model.ID(private), "IPC"); !errdefs.IsConflict(err) || !strings.Contains(err.Error(), "non-shareable IPC") {
		t.Errorf("ipc: %v", err)
	}
	want := "failed to join PID namespace: container " + stopped + " is not running"
	if _, err := e.starter.joined(model.ID(stopped), "PID"); err == nil || err.Error() != want {
		t.Errorf("pid: %v", err)
	}
}

// A wait ends with every end of a run, also when a policy starts the container
// again.
func TestWaitEndsAtARestart(t *testing.T) {
	w := newWorld(t)
	e := w.engine()
	id := started(t, e, "c", &container.HostConfig{RestartPolicy: container.RestartPolicy{Name: container.RestartPolicyAlways}})
	ctx, cancel := context.WithTimeout(bg, time.Minute)
	defer cancel()
	ch, err := e.Wait(ctx, id, container.WaitConditionNotRunning)
	if err != nil {
		t.Fatal(err)
	}
	w.instance(id).end(3)
	select {
	case r := <-ch:
		if r.Code != 3 {
			t.Errorf("code %d", r.Code)
		}
	case <-ctx.Done():
		t.Error("no end")
	}
}
