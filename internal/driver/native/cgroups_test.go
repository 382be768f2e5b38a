package native

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"wharf/internal/model"
	"wharf/internal/runtime/cgroup"
)

// What others keep below our parent is not taken for a stray of ours, since
// strays are ended: cgroup parents of users, containers of another daemon.
func TestStrayCgroups(t *testing.T) {
	g, m := target(t)
	ctx := context.Background()
	l := cgroup.Detect()
	base := l.V1["pids"]
	if l.Unified() {
		base = l.V2
	}
	if base == "" {
		t.Skip("no pids controller and no cgroup v2 on this machine")
	}
	b := m.New(t, "/bin/sleep", "100")
	b.Spec.Linux.CgroupsPath = "/" + parent + "/users/" + string(b.ID)
	sb, err := g.Driver.Sandbox(ctx, b)
	if err != nil {
		t.Fatal(err)
	}
	i, err := g.Driver.Start(ctx, b, sb)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Driver.Release(ctx, b.ID); err != nil {
			t.Error(err)
		}
		_ = cgroup.Open(parent + "/users").Remove()
	})

	empty, busy := strings.Repeat("e", 64), strings.Repeat("b", 64)
	for _, name := range []string{empty, busy} {
		if err := os.MkdirAll(filepath.Join(base, parent, name), 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cgroup.Open(parent + "/" + name).Remove() })
	}
	other := exec.Command("sleep", "100")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = other.Process.Kill(); _ = other.Wait() })
	if err := os.WriteFile(filepath.Join(base, parent, busy, "cgroup.procs"), []byte(strconv.Itoa(other.Process.Pid)), 0); err != nil {
		t.Fatal(err)
	}

	ids, err := g.Again(t).List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(ids)
	want := []model.ID{b.ID, model.ID(empty)}
	slices.Sort(want)
	if !slices.Equal(ids, want) {
		t.Errorf("list %v, want %v", ids, want)
	}
	if i.Pid() == 0 {
		t.Error("the container has ended")
	}
}

// A limit of processes below what a start needs is named, with an init before
// anything is done.
func TestTightLimit(t *testing.T) {
	g, m := target(t)
	for want, c := range map[string]struct {
		limit int64
		init  bool
	}{
		"limit of 1 processes":                           {limit: 1},
		"limit of 11 processes is too small with --init": {limit: 11, init: true},
		"": {limit: 12, init: true},
	} {
		b := m.New(t, "/bin/true")
		b.Init = c.init
		b.Spec.Linux.Resources = &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &c.limit}}
		sb, err := g.Driver.Sandbox(context.Background(), b)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := g.Driver.Release(context.Background(), b.ID); err != nil {
				t.Error(err)
			}
		})
		i, err := g.Driver.Start(context.Background(), b, sb)
		if want != "" {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("limit %d: error %v", c.limit, err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if exit, err := i.Wait(context.Background()); err != nil || exit.Code != 0 {
			t.Errorf("limit %d: %+v %v", c.limit, exit, err)
		}
	}
}
