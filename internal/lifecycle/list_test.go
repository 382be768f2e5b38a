package lifecycle

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/opencontainers/go-digest"

	"wharf/internal/model"
)

func TestList(t *testing.T) {
	w := newWorld(t)
	e := w.engine()
	old := started(t, e, "old", &container.HostConfig{Binds: []string{"data:/data"}})
	time.Sleep(time.Millisecond)
	web, err := e.Create(bg, model.CreateRequest{Name: "web", Config: &container.Config{
		Image: "busybox", Cmd: []string{"sh", "-c", "echo hi"}, ExposedPorts: network.PortSet{network.MustParsePort("80/tcp"): {}},
	}, HostConfig: &container.HostConfig{PortBindings: network.PortMap{network.MustParsePort("80/tcp"): {{HostPort: "8080"}}}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Start(bg, web.ID); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Millisecond)
	gone := started(t, e, "gone", nil)
	if err := e.Stop(bg, gone, model.StopRequest{}); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		all     bool
		limit   int
		filters string
		want    string
	}{
		{want: "web old"},
		{all: true, want: "gone web old"},
		{limit: 2, want: "gone web"},
		{filters: "status=exited", want: "gone"},
		{filters: "exited=143", all: true, want: "gone"},
		{filters: "name=^/w", want: "web"},
		{filters: "name=old", want: "old"},
		{filters: "id=" + old[:10], want: "old"},
		{filters: "label=l=v", want: "old"},
		{filters: "label=l=w", want: ""},
		{filters: "volume=data", want: "old"},
		{filters: "volume=/data", want: "old"},
		{filters: "network=bridge", want: "web old"},
		{filters: "network=net-brid", want: "web old"},
		{filters: "publish=80", want: "web"},
		{filters: "publish=8080", want: ""},
		{filters: "expose=79-81/tcp", want: "web"},
		{filters: "ancestor=busybox", want: "web old"},
		{filters: "ancestor=other", want: ""},
		{filters: "before=web", all: true, want: "old"},
		{filters: "since=old", all: true, want: "gone web"},
		{filters: "is-task=true", want: ""},
		{filters: "isolation=default", want: "web old"},
		{filters: "health=none", want: "web old"},
	} {
		f := model.Filters{}
		if k, v, ok := strings.Cut(x.filters, "="); ok {
			f[k] = map[string]bool{v: true}
		}
		l, err := e.List(bg, model.ListRequest{All: x.all, Limit: x.limit, Filters: f})
		if err != nil {
			t.Errorf("%+v: %v", x, err)
		}
		var got []string
		for _, c := range l {
			got = append(got, c.Names[0][1:])
		}
		if s := strings.Join(got, " "); s != x.want {
			t.Errorf("%+v: got %q", x, s)
		}
	}
	for _, bad := range []string{"colour=red", "status=odd", "exited=x", "health=so-so", "is-task=perhaps", "publish=a:b", "before=nobody"} {
		k, v, _ := strings.Cut(bad, "=")
		if _, err := e.List(bg, model.ListRequest{Filters: model.Filters{k: {v: true}}}); err == nil {
			t.Errorf("%s was accepted", bad)
		}
	}
	l, _ := e.List(bg, model.ListRequest{Size: true, Filters: model.Filters{"name": {"web": true}}})
	if c := l[0]; c.Command != "sh -c 'echo hi'" || c.SizeRw != 10 || c.SizeRootFs != 100 || len(c.Ports) != 1 || c.Ports[0].PublicPort != 8080 || c.Image != "busybox" {
		t.Errorf("summary %+v", c)
	}
	rep, err := e.Prune(bg, model.Filters{"label": {"l": true}})
	if err != nil || !slices.Equal(rep.ContainersDeleted, []string{gone}) || rep.SpaceReclaimed != 10 {
		t.Errorf("prune %+v, %v", rep, err)
	}
	if _, err := e.Prune(bg, model.Filters{"until": {"soon": true}}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("until: %v", err)
	}
	du, err := e.DiskUsage(bg, false)
	if err != nil || du.TotalCount != 2 || du.ActiveCount != 2 || du.TotalSize != 20 || du.Reclaimable != 0 {
		t.Errorf("disk usage %+v, %v", du, err)
	}
}

func TestStatusText(t *testing.T) {
	now := time.Unix(1000000, 0)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	healthy := &container.Health{Status: container.Healthy}
	starting := &container.Health{Status: container.Starting}
	for want, s := range map[string]model.State{
		"Created":                             {Phase: "created"},
		"Up 5 seconds":                        {Phase: "running", StartedAt: ago(5 * time.Second)},
		"Up 5 seconds (healthy)":              {Phase: "running", StartedAt: ago(5 * time.Second), Health: healthy},
		"Up 3 minutes (health: starting)":     {Phase: "running", StartedAt: ago(3 * time.Minute), Health: starting},
		"Up 2 minutes (Paused)":               {Phase: "paused", StartedAt: ago(2 * time.Minute)},
		"Restarting (1) 4 seconds ago":        {Phase: "restarting", ExitCode: 1, FinishedAt: ago(4 * time.Second)},
		"Exited (0) 3 minutes ago":            {Phase: "exited", FinishedAt: ago(3 * time.Minute)},
		"Exited (137) Less than a second ago": {Phase: "exited", ExitCode: 137, FinishedAt: ago(0)},
		"Removal In Progress":                 {Phase: "removing"},
		"Dead":                                {Phase: "dead"},
	} {
		if got := statusText(s, now); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// TestAncestor: a container is found by what its image was built on, not by
// another image with the same layers.
func TestAncestor(t *testing.T) {
	w := newWorld(t)
	for name, chain := range map[string]digest.Digest{"child": "top", "parent": "base", "twin": "top", "empty": ""} {
		w.images[name] = model.Image{ID: digest.FromString(name), ChainID: chain}
	}
	e := w.engine()
	r, err := e.Create(bg, model.CreateRequest{Name: "web", Config: &container.Config{Image: "child"}})
	if err != nil {
		t.Fatal(err)
	}
	for ref, want := range map[string]int{"child": 1, "parent": 1, "twin": 0, "empty": 0, "nonesuch": 0} {
		l, err := e.List(bg, model.ListRequest{All: true, Filters: model.Filters{"ancestor": {ref: true}}})
		if err != nil || len(l) != want {
			t.Errorf("%s: %d of %s, want %d; %v", ref, len(l), r.ID, want, err)
		}
	}
}
