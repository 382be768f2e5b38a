package lifecycle

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"wharf/internal/driver"
	"wharf/internal/model"
	"wharf/internal/plan"
)

// fakePlan decides as little as the tests need.
type fakePlan struct{}

func (fakePlan) CheckName(n string) error {
	if strings.ContainsAny(n, " !/") {
		return invalid("Invalid container name (%s)", n)
	}
	return nil
}

func (fakePlan) Create(in plan.CreateInput) (model.Container, []string, error) {
	hc := in.Request.HostConfig
	if hc == nil {
		hc = &container.HostConfig{}
	}
	cfg := *in.Request.Config
	if cfg.Cmd == nil {
		cfg.Cmd = in.Image.Config.Cmd
	}
	c := model.Container{ID: in.ID, Name: in.Name, Created: in.Now, Isolation: model.IsolationContainer, Config: &cfg, HostConfig: hc, Image: in.Image, IDs: in.IDs}
	if hc.Isolation == container.Isolation(model.IsolationVM) {
		c.Isolation = model.IsolationVM
	}
	if hc.Privileged {
		c.IDs = model.IDRange{}
	}
	if hc.NetworkMode.IsContainer() {
		other, err := in.Lookup.Container(hc.NetworkMode.ConnectedContainer())
		if err != nil {
			return c, nil, err
		}
		hc.NetworkMode, c.IDs = container.NetworkMode("container:"+string(other.ID)), other.IDs
	} else {
		c.Endpoints = map[string]*network.EndpointSettings{"bridge": {}}
	}
	for v := range cfg.Volumes {
		c.Mounts = append(c.Mounts, model.Mount{Type: "volume", Name: "anon-" + string(in.ID) + v, Destination: v, Anonymous: true})
	}
	for _, b := range hc.Binds {
		name, dst, _ := strings.Cut(b, ":")
		c.Mounts = append(c.Mounts, model.Mount{Type: "volume", Name: name, Destination: dst})
	}
	return c, nil, nil
}

func (fakePlan) Start(c model.Container, in plan.StartInput) (*model.Bundle, []string, error) {
	return &model.Bundle{ID: c.ID, Spec: &specs.Spec{}, Rootfs: in.Rootfs, IDs: c.IDs}, nil, nil
}
func (fakePlan) Exec(_ model.Container, id model.ID, r model.ExecRequest) (*model.ExecSpec, error) {
	return &model.ExecSpec{ID: id, Process: &specs.Process{Args: r.Cmd}}, nil
}
func (fakePlan) Update(c model.Container, u container.UpdateConfig) (model.Container, []string, error) {
	hc := *c.HostConfig
	hc.Resources = u.Resources
	if u.RestartPolicy.Name != "" {
		hc.RestartPolicy = u.RestartPolicy
	}
	c.HostConfig = &hc
	return c, nil, nil
}
func (fakePlan) Files(plan.FilesInput) plan.EtcFiles { return plan.EtcFiles{Hosts: []byte("hosts")} }
func (fakePlan) Joins(c model.Container) plan.Joined {
	return plan.Joined{Net: model.ID(c.HostConfig.NetworkMode.ConnectedContainer())}
}
func (fakePlan) Log(c model.Container) model.LogPlan {
	return model.LogPlan{Driver: "json-file", Path: "/log"}
}
func (fakePlan) Changes(base *container.Config, _ []string) (*container.Config, error) {
	next := *base
	return &next, nil
}

type fakeDriver struct{ w *reign }

func (fakeDriver) Isolation() model.Isolation { return model.IsolationContainer }

func (f fakeDriver) Sandbox(_ context.Context, b *model.Bundle) (driver.Sandbox, error) {
	return fakeSandbox(f), f.w.step("sandbox")
}

type fakeSandbox struct{ w *reign }

func (fakeSandbox) Netns() string  { return "/proc/self/fd/9" }
func (f fakeSandbox) Close() error { return f.w.step("sandbox-close") }

func (f fakeDriver) Start(_ context.Context, b *model.Bundle, _ driver.Sandbox) (driver.Instance, error) {
	if err := f.w.step("instance"); err != nil {
		return nil, err
	}
	i := &fakeInstance{w: f.w.world, id: b.ID, pid: 4242, bundle: b, over: make(chan struct{})}
	f.w.mu.Lock()
	f.w.insts[b.ID] = i
	run := f.w.onRun
	f.w.mu.Unlock()
	if run != nil {
		run(i)
	}
	return i, nil
}

func (f fakeDriver) Recover(_ context.Context, id model.ID) (driver.Instance, error) {
	if err := f.w.step("recover"); err != nil {
		return nil, err
	}
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	if i := f.w.insts[id]; i != nil {
		return i, nil
	}
	return nil, errdefs.ErrNotFound
}

func (f fakeDriver) Release(_ context.Context, id model.ID) error {
	if err := f.w.step("release"); err != nil {
		return err
	}
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	delete(f.w.insts, id)
	return nil
}

func (f fakeDriver) List(context.Context) ([]model.ID, error) {
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	return slices.Collect(maps.Keys(f.w.insts)), nil
}

// wait polls until cond holds.
func wait(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if cond() {
			return
		}
	}
	t.Fatal("timed out waiting until " + what)
}
