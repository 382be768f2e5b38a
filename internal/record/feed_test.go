package record

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/events"

	"wharf/internal/model"
)

// past returns what a subscriber with since and until now sees.
func past(t *testing.T, s *Store, f model.Filters) []string {
	t.Helper()
	var got []string
	err := s.Events(context.Background(), 1, time.Now().Add(time.Millisecond).UnixNano(), f, func(m events.Message) bool {
		got = append(got, fmt.Sprintf("%s %s", m.Action, m.Actor.ID))
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestFeedFilters(t *testing.T) {
	s := open(t, t.TempDir())
	s.Publish("container", "create", "c1", map[string]string{"name": "web", "image": "nginx:1.27", "tier": "front"})
	s.Publish("container", "exec_create: sh -c x", "c1", map[string]string{"name": "web", "image": "nginx:1.27"})
	s.Publish("container", "health_status: healthy", "c2", map[string]string{"name": "db", "image": "postgres"})
	s.Publish("image", "pull", "nginx:1.27", map[string]string{"name": "nginx"})
	s.Publish("network", "connect", "n1", map[string]string{"name": "bridge", "container": "c1"})
	s.Publish("volume", "mount", "v1", nil)
	all := []string{"create c1", "exec_create: sh -c x c1", "health_status: healthy c2", "pull nginx:1.27", "connect n1", "mount v1"}
	set := func(v ...string) map[string]bool {
		m := map[string]bool{}
		for _, s := range v {
			m[s] = true
		}
		return m
	}
	for _, c := range []struct {
		name string
		f    model.Filters
		want []string
	}{
		{"none", nil, all},
		{"type", model.Filters{"type": set("volume", "network")}, all[4:]},
		{"container by name", model.Filters{"container": set("web")}, all[:2]},
		{"container by id prefix", model.Filters{"container": set("c")}, all[:3]},
		{"event", model.Filters{"event": set("create")}, all[:1]},
		{"event with text behind", model.Filters{"event": set("exec_create", "health_status")}, all[1:3]},
		{"event with text given", model.Filters{"event": set("health_status: healthy")}, all[2:3]},
		{"image without tag", model.Filters{"image": set("nginx")}, []string{all[0], all[1], all[3]}},
		{"image with tag", model.Filters{"image": set("nginx:1.27")}, []string{all[0], all[1], all[3]}},
		{"label", model.Filters{"label": set("tier=front")}, all[:1]},
		{"label key", model.Filters{"label": set("tier")}, all[:1]},
		{"labels all", model.Filters{"label": set("tier", "other")}, nil},
		{"network", model.Filters{"network": set("bridge")}, all[4:5]},
		{"volume", model.Filters{"volume": set("v1")}, all[5:]},
		{"scope", model.Filters{"scope": set("swarm")}, nil},
		{"two keys", model.Filters{"container": set("web"), "event": set("create")}, all[:1]},
	} {
		if d := cmp.Diff(c.want, past(t, s, c.f)); d != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, d)
		}
	}
	err := s.Events(context.Background(), 1, 2, model.Filters{"colour": set("red")}, nil)
	if !errdefs.IsInvalidArgument(err) {
		t.Errorf("unknown filter: %v", err)
	}
}

func TestFeedSurvives(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	for i := range 3 * feedSize {
		s.Publish("container", "start", fmt.Sprint(i), nil)
	}
	before := past(t, s, nil)
	s.Close()
	s = open(t, dir)
	after := past(t, s, nil)
	if len(before) != feedSize || len(after) != feedSize {
		t.Fatalf("%d events before, %d after the restart; want %d", len(before), len(after), feedSize)
	}
	if after[len(after)-1] != fmt.Sprintf("start %d", 3*feedSize-1) {
		t.Errorf("last is %q", after[len(after)-1])
	}
	s.Publish("container", "die", "x", nil)
	if got := past(t, s, nil); got[len(got)-1] != "die x" {
		t.Errorf("after a restart: %q", got[len(got)-1])
	}
}

func TestFeedFollows(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		s.Publish("container", "create", "old", nil)
		ctx, cancel := context.WithCancel(t.Context())
		var got []string
		done := make(chan error)
		go func() {
			done <- s.Events(ctx, 0, 0, nil, func(m events.Message) bool {
				got = append(got, m.Actor.ID)
				return m.Actor.ID != "stop"
			})
		}()
		synctest.Wait()
		for _, id := range []string{"a", "b", "stop", "after"} {
			s.Publish("container", "start", id, nil)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff([]string{"a", "b", "stop"}, got); d != "" {
			t.Error(d)
		}
		go func() {
			done <- s.Events(ctx, 0, time.Now().Add(time.Hour).UnixNano(), nil, func(events.Message) bool { return true })
		}()
		synctest.Wait()
		start := time.Now()
		if err := <-done; err != nil || time.Since(start) < 59*time.Minute {
			t.Errorf("until in an hour ended after %s: %v", time.Since(start), err)
		}
		go func() { done <- s.Events(ctx, 0, 0, nil, nil) }()
		synctest.Wait()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("cancelled: %v", err)
		}
	})
}

// A subscriber that does not read is told so, and publishing never waits.
func TestFeedSlow(t *testing.T) {
	s := open(t, t.TempDir())
	s.Publish("container", "start", "first", nil)
	err := s.Events(context.Background(), 1, 0, nil, func(events.Message) bool {
		for range feedSize + 100 {
			s.Publish("container", "start", "x", nil)
		}
		return true
	})
	if !errdefs.IsUnavailable(err) {
		t.Errorf("slow reader: %v", err)
	}
}

func TestFeedTimesGrow(t *testing.T) {
	s := open(t, t.TempDir())
	for range 100 {
		s.Publish("container", "start", "x", nil)
	}
	var last int64
	_ = s.Events(context.Background(), 1, time.Now().Add(time.Millisecond).UnixNano(), nil, func(m events.Message) bool {
		if m.TimeNano <= last || m.Time != m.TimeNano/1e9 || m.Scope != "local" {
			t.Errorf("%+v after %d", m, last)
		}
		last = m.TimeNano
		return true
	})
}
