package lifecycle

import (
	"io"
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"wharf/internal/driver"
	"wharf/internal/model"
	"wharf/internal/plan"
)

// real is an engine with the real planner over fake rooms.
func real(t *testing.T, w *world, change ...func(*plan.Defaults)) *Engine {
	t.Helper()
	d := plan.Defaults{LogDriver: "json-file", CgroupParent: "/wharf", Runtime: "wharf"}
	for _, f := range change {
		f(&d)
	}
	r := w.begin()
	e, err := New(Options{
		Images: fakeImages{r}, Networks: fakeNetworks{r}, Volumes: fakeVolumes{r}, Logs: fakeLogs{r}, Records: fakeRecords{r}, Archives: fakeArchives{r},
		Drivers:  map[model.Isolation]driver.Driver{model.IsolationContainer: fakeDriver{r}},
		Facts:    plan.Facts{Kernel: "6.18.0", Arch: "amd64", CPUs: 2, CgroupVersion: 1, Memory: true, Pids: true, CPUQuota: true, UserNS: true},
		Defaults: d,
		DataRoot: w.dir, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return e
}

// TestRealPlan goes the way of docker run with the planner that is used.
func TestRealPlan(t *testing.T) {
	w := newWorld(t)
	e := real(t, w)
	req := func(name string, change func(*model.CreateRequest)) model.CreateRequest {
		r := model.CreateRequest{
			Name: name, Config: &container.Config{Image: "busybox"}, HostConfig: &container.HostConfig{NetworkMode: "bridge"},
			Networking: &network.NetworkingConfig{}, APIVersion: "1.51",
		}
		if change != nil {
			change(&r)
		}
		return r
	}
	r, err := e.Create(bg, req("aa", func(r *model.CreateRequest) { r.Config.Volumes = map[string]struct{}{"/data": {}} }))
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Start(bg, "aa"); err != nil {
		t.Fatal(err)
	}
	c, err := e.Inspect(bg, "aa", true)
	if err != nil {
		t.Fatal(err)
	}
	if c.Path != "sh" || c.Config.Hostname != r.ID[:12] || c.NetworkSettings.Networks["bridge"] == nil || len(c.Mounts) != 1 ||
		c.Mounts[0].Name == "" || c.LogPath == "" || *c.SizeRw != 10 || c.GraphDriver.Data["UpperDir"] == "" || c.State.Pid != 4242 {
		t.Errorf("inspect %+v", c)
	}
	if text, err := os.ReadFile(c.HostsPath); err != nil || !strings.Contains(string(text), "localhost") {
		t.Errorf("hosts: %q, %v", text, err)
	}
	b := w.instance(r.ID).bundle
	if b.IDs.Host != 1000000 || b.Spec == nil || b.Spec.Process == nil || b.Spec.Process.Args[0] != "sh" {
		t.Errorf("bundle %+v", b)
	}
	if _, err := e.Create(bg, req("bb", func(r *model.CreateRequest) { r.HostConfig.NetworkMode = "container:aa" })); err != nil {
		t.Fatal(err)
	}
	if err := e.Start(bg, "bb"); err != nil {
		t.Fatal(err)
	}
	if o, _ := e.Inspect(bg, "bb", false); o.HostsPath != c.HostsPath || len(o.NetworkSettings.Networks) != 0 {
		t.Errorf("shared network: %s, %v", o.HostsPath, o.NetworkSettings.Networks)
	}
	if _, err := e.Create(bg, req("hh", func(r *model.CreateRequest) { r.HostConfig.NetworkMode = "host" })); err != nil {
		t.Fatal(err)
	}
	if err := e.Start(bg, "hh"); err != nil {
		t.Fatal(err)
	}
	if o, _ := e.Inspect(bg, "hh", false); o.NetworkSettings.Networks["host"] == nil {
		t.Errorf("host network: %v", o.NetworkSettings.Networks)
	}
	if _, err := e.Create(bg, req("bad name", nil)); !errdefs.IsInvalidArgument(err) {
		t.Errorf("bad name: %v", err)
	}
	ex, err := e.ExecCreate(bg, "aa", model.ExecRequest{Cmd: []string{"true"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.ExecStart(bg, ex, true, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Update(bg, "aa", container.UpdateConfig{Resources: container.Resources{Memory: 64 << 20, MemorySwap: -1}}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"bb", "aa", "hh"} {
		if err := e.Remove(bg, name, model.RemoveRequest{Force: true, Volumes: true}); err != nil {
			t.Error(err)
		}
	}
	w.clean()
	if len(w.volumes) != 0 {
		t.Errorf("volumes left: %v", w.volumes)
	}
}

// TestBuildStepsAreContainers: neither default-isolation makes a machine of a
// build's step, nor does a step get around a policy of the operator's.
func TestBuildStepsAreContainers(t *testing.T) {
	w := newWorld(t)
	e := real(t, w, func(d *plan.Defaults) {
		d.Isolation, d.VM = model.IsolationVM, true
		d.IsolationRules = []plan.IsolationRule{{Network: "dmz", Isolation: model.IsolationVM}}
	})
	step := func(network container.NetworkMode) model.Step {
		return model.Step{Config: &container.Config{Cmd: []string{"true"}}, HostConfig: &container.HostConfig{NetworkMode: network}, Rootfs: model.Rootfs{Lower: []string{"/x"}}}
	}
	s, err := e.RunStep(bg, step("none"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := e.RunStep(bg, step("dmz")); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "isolation-policy") {
		t.Errorf("a step on a network of machines: %v", err)
	}
	w.clean()
}
