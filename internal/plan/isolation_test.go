package plan

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"wharf/internal/model"
)

func TestIsolation(t *testing.T) {
	rules := []IsolationRule{
		{Label: "tenant=acme", Isolation: model.IsolationVM}, {Network: "dmz", Isolation: model.IsolationVM},
		{Label: "trusted", Isolation: model.IsolationContainer},
	}
	for _, c := range []struct {
		name   string
		hc     container.HostConfig
		labels map[string]string
		d      Defaults
		want   model.Isolation
		shown  string // HostConfig.Isolation
		warn   string
	}{
		{name: "nothing said", want: "container"},
		{name: "default", hc: container.HostConfig{Isolation: "default"}, want: "container", shown: "default"},
		{name: "asked", hc: container.HostConfig{Isolation: "vm"}, want: "vm", shown: "vm"},
		{name: "in capitals", hc: container.HostConfig{Isolation: "VM"}, want: "vm", shown: "vm"},
		{name: "by runtime", hc: container.HostConfig{Runtime: "vm"}, want: "vm", shown: "vm"},
		{name: "daemon's default", d: Defaults{Isolation: "vm"}, want: "vm", shown: "vm"},
		{name: "against the default", hc: container.HostConfig{Isolation: "container"}, d: Defaults{Isolation: "vm"}, want: "container", shown: "container"},
		{name: "label", labels: map[string]string{"tenant": "acme"}, d: Defaults{IsolationRules: rules}, want: "vm", shown: "vm"},
		{name: "other tenant", labels: map[string]string{"tenant": "other"}, d: Defaults{IsolationRules: rules}, want: "container"},
		{name: "network", hc: container.HostConfig{NetworkMode: "dmz"}, d: Defaults{IsolationRules: rules}, want: "vm", shown: "vm"},
		{name: "forced", hc: container.HostConfig{Isolation: "container"}, labels: map[string]string{"tenant": "acme"}, d: Defaults{IsolationRules: rules},
			want: "vm", shown: "vm", warn: "isolation-policy"},
		{name: "first rule counts", hc: container.HostConfig{Isolation: "vm"}, labels: map[string]string{"trusted": ""}, d: Defaults{IsolationRules: rules},
			want: "container", shown: "container", warn: "isolation-policy"},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := input(nil, &c.hc)

			in.Request.Config.Labels = c.labels
			in.Request.Networking = &network.NetworkingConfig{}
			c.d.VM, c.d.Runtime = true, "wharf"
			got, warnings, err := Create(in, full(), c.d)
			if err != nil {
				t.Fatal(err)
			}
			if got.Isolation != c.want || string(got.HostConfig.Isolation) != c.shown {
				t.Errorf("isolation %q, shown as %q", got.Isolation, got.HostConfig.Isolation)
			}
			if all := strings.Join(warnings, "\n"); (c.warn != "") != strings.Contains(all, "isolation") || !strings.Contains(all, c.warn) {
				t.Errorf("warnings %q", all)
			}
		})
	}
}

// Rules look at the request's labels, not at those that the image's author
// wrote: these would let it out of a machine.
func TestIsolationLabelOfTheImage(t *testing.T) {
	for label, want := range map[string]model.Isolation{"trusted": model.IsolationVM, "tenant": model.IsolationContainer} {
		in := input(nil, &container.HostConfig{})
		in.Image.Config.Labels = map[string]string{label: ""}
		d := Defaults{VM: true, Runtime: "wharf", Isolation: model.IsolationContainer, IsolationRules: []IsolationRule{
			{Label: "trusted", Isolation: model.IsolationContainer}, {Label: "tenant", Isolation: model.IsolationVM}}}
		if label == "trusted" {
			d.Isolation = model.IsolationVM
		}
		got, _, err := Create(in, full(), d)
		if err != nil || got.Isolation != want {
			t.Errorf("label %s of the image: %q %v", label, got.Isolation, err)
		}
	}
}

func TestIsolationRefused(t *testing.T) {
	for option, hc := range map[string]container.HostConfig{
		"--pid host":     {PidMode: "host"},
		"--ipc host":     {IpcMode: "host"},
		"--network host": {NetworkMode: "host"},
		"--uts host":     {UTSMode: "host"},
		"--userns host":  {UsernsMode: "host"},
		"--device":       {Resources: container.Resources{Devices: []container.DeviceMapping{{PathOnHost: "/dev/null"}}}},
		"--cgroupns":     {CgroupnsMode: "host"},
		"--runtime vm":   {Runtime: "vm", Isolation: "container"},
	} {
		if hc.Isolation == "" {
			hc.Isolation = "vm"
		}
		in := input(nil, &hc)

		_, _, err := Create(in, full(), Defaults{VM: true, Runtime: "wharf"})
		if err == nil || !strings.Contains(err.Error(), option) {
			t.Errorf("%s: %v", option, err)
		}
	}
}

// The guest's control groups are of version 2 and it has no swap: what it
// cannot do is not promised.
func TestIsolationLimits(t *testing.T) {
	yes, sixty := true, int64(60)
	for name, c := range map[string]struct {
		r    container.Resources
		warn string
	}{
		"memory alone":  {container.Resources{Memory: 100 << 20}, ""},
		"no swap asked": {container.Resources{Memory: 100 << 20, MemorySwap: 100 << 20}, ""},
		"swap":          {container.Resources{Memory: 100 << 20, MemorySwap: 200 << 20}, "has no swap"},
		"swappiness":    {container.Resources{MemorySwappiness: &sixty}, "swappiness discarded"},
		"no killer":     {container.Resources{Memory: 100 << 20, OomKillDisable: &yes}, "OomKillDisable discarded"},
	} {
		got, warnings, err := Create(input(nil, &container.HostConfig{Isolation: "vm", Resources: c.r}), full(), Defaults{VM: true, Runtime: "wharf"})
		all := strings.Join(warnings, "\n")
		if err != nil || (c.warn == "") != (all == "") || !strings.Contains(all, c.warn) {
			t.Errorf("%s: %v, warnings %q", name, err, all)
		}
		if r := got.HostConfig; r.MemorySwappiness != nil || r.OomKillDisable != nil {
			t.Errorf("%s: swappiness %v, OomKillDisable %v", name, r.MemorySwappiness, r.OomKillDisable)
		}
	}
	profile := `seccomp={"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/agent","syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_NOTIFY"}]}`
	_, _, err := Create(input(nil, &container.HostConfig{Isolation: "vm", SecurityOpt: []string{profile}}), full(), Defaults{VM: true, Runtime: "wharf"})
	if err == nil || !strings.Contains(err.Error(), "isolation vm") {
		t.Errorf("an agent of the host's for a guest's calls: %v", err)
	}
}

// A host that cannot have machines says why.
func TestIsolationWhyNot(t *testing.T) {
	_, _, err := Create(input(nil, &container.HostConfig{Isolation: "vm"}), full(), Defaults{Runtime: "wharf", NoVM: "this one is arm64"})
	if err == nil || err.Error() != "isolation vm cannot be had here: this one is arm64" {
		t.Error(err)
	}
}

// What is a disk of the instance's own is mounted as one.
func TestDiskMount(t *testing.T) {
	for _, c := range []struct {
		m    model.Mount
		want specs.Mount
	}{
		{model.Mount{Type: "volume", Destination: "/d", Disk: "/disk"}, specs.Mount{Destination: "/d", Type: "ext4", Source: "/disk", Options: []string{"copyup"}}},
		{model.Mount{Type: "volume", Destination: "/d", Disk: "/disk", ReadOnly: true, NoCopy: true}, specs.Mount{Destination: "/d", Type: "ext4", Source: "/disk", Options: []string{"ro"}}},
		{model.Mount{Type: "volume", Destination: "/d", Disk: "/disk", Subpath: "a/b"}, specs.Mount{Destination: "/d", Type: "ext4", Source: "/disk", Options: []string{"subpath=a/b"}}},
		{model.Mount{Type: "image", Destination: "/d", Disk: "/i", Subpath: "a"}, specs.Mount{Destination: "/d", Type: "erofs", Source: "/i", Options: []string{"ro", "nodev", "subpath=a"}}},
	} {
		if d := cmp.Diff(c.want, diskMount(c.m)); d != "" {
			t.Error(d)
		}
	}
}
