package plan

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// fakeCDI has four devices; what is injected is seen in the environment.
type fakeCDI struct{}

func (fakeCDI) Names() []string {
	return []string{"acme.com/disk=fast", "nvidia.com/gpu=0", "nvidia.com/gpu=1", "nvidia.com/gpu=all"}
}

func (fakeCDI) Inject(s *specs.Spec, names ...string) error {
	s.Process.Env = append(s.Process.Env, "CDI="+strings.Join(names, ","))
	return nil
}

func TestDeviceRequests(t *testing.T) {
	gpu := [][]string{{"gpu"}}
	for _, c := range []struct {
		name     string
		requests []container.DeviceRequest
		want     string // of the variable, or of the error after "!"
	}{
		{"by name", []container.DeviceRequest{{Driver: "cdi", DeviceIDs: []string{"acme.com/disk=fast"}}}, "acme.com/disk=fast"},
		{"twice", []container.DeviceRequest{{Driver: "cdi", DeviceIDs: []string{"acme.com/disk=fast"}}, {Driver: "cdi", DeviceIDs: []string{"acme.com/disk=fast"}}}, "acme.com/disk=fast"},
		{"missing", []container.DeviceRequest{{Driver: "cdi", DeviceIDs: []string{"acme.com/disk=slow"}}}, "!CDI device injection failed: unresolvable CDI devices acme.com/disk=slow"},
		{"nothing named", []container.DeviceRequest{{Driver: "cdi"}}, "!without DeviceIDs"},
		{"by name, with a count", []container.DeviceRequest{{Driver: "cdi", Count: 1, DeviceIDs: []string{"acme.com/disk=fast"}}}, "!takes DeviceIDs only"},
		{"all gpus", []container.DeviceRequest{{Count: -1, Capabilities: gpu}}, "nvidia.com/gpu=all"},
		{"two", []container.DeviceRequest{{Count: 2, Capabilities: gpu}}, "nvidia.com/gpu=0,nvidia.com/gpu=1"},
		{"too many", []container.DeviceRequest{{Count: 1 << 40, Capabilities: gpu}}, "!unresolvable CDI devices nvidia.com/gpu=2"},
		{"one by its id", []container.DeviceRequest{{Driver: "nvidia", DeviceIDs: []string{"1"}, Capabilities: gpu}}, "nvidia.com/gpu=1"},
		{"both", []container.DeviceRequest{{DeviceIDs: []string{"1"}, Count: 1, Capabilities: gpu}}, "!cannot set both Count and DeviceIDs"},
		{"options", []container.DeviceRequest{{Count: 1, Capabilities: gpu, Options: map[string]string{"a": "b"}}}, "!options of a device request"},
		{"other vendor", []container.DeviceRequest{{Driver: "amd", Count: 1, Capabilities: gpu}}, `!could not select device driver "amd"`},
		{"other ability", []container.DeviceRequest{{Count: 1, Capabilities: [][]string{{"tpu"}}}}, "!with capabilities: [[tpu]]"},
	} {
		in := input(&container.Config{Cmd: []string{"x"}}, &container.HostConfig{Resources: container.Resources{DeviceRequests: c.requests}})
		got, _, err := Create(in, full(), defaults())
		if err != nil {
			if why, bad := strings.CutPrefix(c.want, "!"); !bad || !strings.Contains(err.Error(), why) || kind(err) != "invalid" {
				t.Errorf("%s: %v, want %s", c.name, err, c.want)
			}
			continue
		}
		b, _, err := Start(got, StartInput{Lookup: in.Lookup}, full(), defaults())
		if err != nil || !slices.Contains(b.Spec.Process.Env, "CDI="+c.want) {
			t.Errorf("%s: %v, want %s", c.name, err, c.want)
		}
	}
}

// The daemon's own directory is seen by containers as the host's slave.
func TestBindOfDataRoot(t *testing.T) {
	d := defaults()
	d.DataRoot = "/var/lib/wharf"
	for _, c := range []struct{ source, asked, want string }{
		{"/var/lib/wharf", "", "rslave"}, {"/var/lib/wharf/x", "", "rslave"}, {"/var", "", "rslave"}, {"/", "", "rslave"},
		{"/var/lib/wharf2", "", "rprivate"}, {"/srv", "", "rprivate"}, {"/srv", "private", "private"},
		{"/", "rshared", "rshared"}, {"/", "rslave", "rslave"}, {"/", "rprivate", "!"}, {"/var/lib", "shared", "!"}, {"/", "slave", "!"},
	} {
		bind := c.source + ":/x"
		if c.asked != "" {
			bind += ":" + c.asked
		}
		for _, hc := range []*container.HostConfig{
			{Binds: []string{bind}},
			{Mounts: []mount.Mount{{Type: "bind", Source: c.source, Target: "/x", BindOptions: &mount.BindOptions{Propagation: mount.Propagation(c.asked)}}}},
		} {
			got, _, err := Create(input(&container.Config{Cmd: []string{"x"}}, hc), full(), d)
			switch {
			case err != nil && (c.want != "!" || !strings.Contains(err.Error(), "must use either propagation mode")):
				t.Errorf("%+v: %v", c, err)
			case err == nil && got.Mounts[0].Propagation != c.want:
				t.Errorf("%+v: %s", c, got.Mounts[0].Propagation)
			}
		}
	}
}

// An image is mounted by its layers, always read-only.
func TestImageMount(t *testing.T) {
	in := input(&container.Config{Cmd: []string{"x"}}, &container.HostConfig{Mounts: []mount.Mount{
		{Type: "image", Source: "tools", Target: "/tools", ImageOptions: &mount.ImageOptions{Subpath: "bin/./x"}},
	}})
	c, _, err := Create(in, full(), defaults())
	if err != nil {
		t.Fatal(err)
	}
	if m := c.Mounts[0]; m.Image == nil || m.Name != "tools" || !m.ReadOnly || m.Subpath != "bin/x" {
		t.Fatalf("%+v", m)
	}
	mounts := slices.Clone(c.Mounts)
	mounts[0].Lower = []string{"/b", "/a"}
	b, _, err := Start(c, StartInput{Mounts: mounts, Lookup: in.Lookup}, full(), defaults())
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(b.Spec.Mounts, func(m specs.Mount) bool { return m.Destination == "/tools" })
	want := specs.Mount{Destination: "/tools", Type: "overlay", Source: "overlay", Options: []string{"ro", "nodev", "lowerdir+=/b", "lowerdir+=/a", "subpath=bin/x"}}
	if d := cmp.Diff(want, b.Spec.Mounts[i]); d != "" {
		t.Error(d)
	}
	in.Request.APIVersion = "1.47"
	if _, _, err := Create(in, full(), defaults()); err == nil || !strings.Contains(err.Error(), "needs API v1.48") {
		t.Errorf("old version: %v", err)
	}
}

// A request that names networks gets those, whatever the mode says.
func TestNamedNetworks(t *testing.T) {
	for _, c := range []struct {
		mode  container.NetworkMode
		named []string
		want  []string
	}{
		{"bridge", nil, []string{"bridge"}}, {"bridge", []string{"own"}, []string{"own"}}, {"bridge", []string{"bridge", "own"}, []string{"bridge", "own"}},
		{"own", nil, []string{"own"}}, {"own", []string{"own", "more"}, []string{"more", "own"}},
	} {
		in := input(&container.Config{Cmd: []string{"x"}}, &container.HostConfig{NetworkMode: c.mode})
		in.Request.Networking = &network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{}}
		for _, n := range c.named {
			in.Request.Networking.EndpointsConfig[n] = &network.EndpointSettings{}
		}
		got, _, err := Create(in, full(), defaults())
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(c.want, slices.Sorted(maps.Keys(got.Endpoints))); d != "" {
			t.Errorf("%s %v: %s", c.mode, c.named, d)
		}
	}
}
