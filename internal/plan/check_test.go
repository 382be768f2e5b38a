package plan

import (
	"encoding/json"
	"math"
	"net/netip"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/blkiodev"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"

	"wharf/internal/model"
)

// TestRefused: what a request may not say. The texts are what clients and
// people see.
func TestRefused(t *testing.T) {
	n := func(v int64) *int64 { return &v }
	yes := true
	bind := func(m mount.Mount) container.HostConfig { return container.HostConfig{Mounts: []mount.Mount{m}} }
	res := func(r container.Resources) container.HostConfig { return container.HostConfig{Resources: r} }
	for _, c := range []struct {
		hc   container.HostConfig
		kind string
		text string
	}{
		{container.HostConfig{Isolation: "vm"}, "notimplemented", `isolation vm is switched off`},
		{container.HostConfig{Isolation: "hyperv"}, "invalid", "invalid isolation 'hyperv' on linux"},
		{container.HostConfig{Runtime: "vm"}, "notimplemented", "isolation vm is switched off"},
		{container.HostConfig{Runtime: "kata"}, "invalid", "unknown or invalid runtime name: kata"},
		{container.HostConfig{AutoRemove: true, RestartPolicy: container.RestartPolicy{Name: "always"}}, "invalid", "can't create 'AutoRemove' container with restart policy"},
		{container.HostConfig{RestartPolicy: container.RestartPolicy{Name: "sometimes"}}, "invalid", "unknown policy 'sometimes'"},
		{container.HostConfig{ExtraHosts: []string{"x"}}, "invalid", `bad format for add-host: "x"`},
		{container.HostConfig{ExtraHosts: []string{"x:y"}}, "invalid", `invalid IP address in add-host: "y"`},
		{container.HostConfig{PortBindings: network.PortMap{network.MustParsePort("0/tcp"): nil}}, "invalid", "invalid port specification"},
		{container.HostConfig{PortBindings: network.PortMap{network.MustParsePort("80/icmp"): nil}}, "invalid", "protocol must be"},
		{container.HostConfig{PortBindings: network.PortMap{network.MustParsePort("80/tcp"): {{HostPort: "x"}}}}, "invalid", `invalid port specification: "x"`},
		{container.HostConfig{Annotations: map[string]string{"": "x"}}, "invalid", "empty string is not permitted"},
		{container.HostConfig{Cgroup: "container:x"}, "notimplemented", "cgroup-parent"},
		{container.HostConfig{StorageOpt: map[string]string{"size": "1g"}}, "invalid", "storage-opt size=1g"},
		{container.HostConfig{IpcMode: "some"}, "invalid", "invalid IPC mode: some"},
		{container.HostConfig{PidMode: "container:"}, "invalid", "invalid PID mode: container:"},
		{container.HostConfig{UTSMode: "x"}, "invalid", "invalid UTS mode: x"},
		{container.HostConfig{UsernsMode: "x"}, "invalid", "invalid user namespace mode: x"},
		{container.HostConfig{CgroupnsMode: "x"}, "invalid", "invalid cgroup namespace mode: x"},
		{container.HostConfig{ShmSize: -1}, "invalid", "SHM size can not be less than 0"},
		{container.HostConfig{OomScoreAdj: 1001}, "invalid", "range for oom score adj is [-1000, 1000]"},
		{container.HostConfig{NetworkMode: "container:nobody"}, "notfound", "No such container: nobody"},
		{container.HostConfig{NetworkMode: "container:plain", DNS: []netip.Addr{netip.MustParseAddr("1.1.1.1")}}, "invalid", "conflicting options: dns and the network mode"},
		{container.HostConfig{NetworkMode: "container:plain", PublishAllPorts: true}, "invalid", "conflicting options: port publishing"},
		{container.HostConfig{SecurityOpt: []string{"x"}}, "invalid", `invalid --security-opt 1: "x"`},
		{container.HostConfig{SecurityOpt: []string{"x=y"}}, "invalid", `invalid --security-opt 2: "x=y"`},
		{container.HostConfig{SecurityOpt: []string{"seccomp={"}}, "invalid", "Decoding seccomp profile failed"},
		{container.HostConfig{SecurityOpt: []string{`seccomp={"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"x"}`}}, "invalid", "not an absolute path"},
		{container.HostConfig{SecurityOpt: []string{`seccomp={"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_NOTIFY"}]}`}}, "invalid", "needs a listenerPath"},
		{container.HostConfig{SecurityOpt: []string{`seccomp={"defaultAction":"SCMP_ACT_NOTIFY","listenerPath":"/x"}`}}, "invalid", "cannot be the default action"},
		{container.HostConfig{SecurityOpt: []string{"apparmor=strict"}}, "invalid", "AppArmor is not enabled"},
		{container.HostConfig{SecurityOpt: []string{"writable-cgroups=true"}}, "invalid", "--userns=host"},
		{container.HostConfig{CapAdd: []string{"nope"}}, "invalid", `invalid CapAdd: unknown capability: "CAP_NOPE"`},
		{container.HostConfig{CapDrop: []string{"nope"}}, "invalid", `invalid CapDrop: unknown capability`},
		{container.HostConfig{Sysctls: map[string]string{"kernel.panic": "1"}}, "invalid", `sysctl "kernel.panic" is not in a separate kernel namespace`},
		{container.HostConfig{NetworkMode: "host", Sysctls: map[string]string{"net.core.somaxconn": "1"}}, "invalid", "network namespace"},
		{container.HostConfig{Sysctls: map[string]string{"kernel.hostname": "x"}}, "invalid", "--hostname"},
		{container.HostConfig{Sysctls: map[string]string{"net.ipv4.conf.eth0.forwarding": "1"}}, "invalid", "driver option"},
		{container.HostConfig{LogConfig: container.LogConfig{Type: "nope"}}, "invalid", "nope"},
		{container.HostConfig{LogConfig: container.LogConfig{Config: map[string]string{"colour": "red"}}}, "invalid", "colour"},
		{container.HostConfig{LogConfig: container.LogConfig{Config: map[string]string{"tag": "{{.Nope}}"}}}, "invalid", "tag"},
		{container.HostConfig{Binds: []string{"/a:/b", "/c:/b"}}, "invalid", "Duplicate mount point: /b"},
		{container.HostConfig{Binds: []string{"/a:/b"}, Tmpfs: map[string]string{"/b/": ""}}, "invalid", "Duplicate mount point: /b"},
		{container.HostConfig{Binds: []string{"/a:/b:bad"}}, "invalid", "invalid mode: bad"},
		{container.HostConfig{Tmpfs: map[string]string{"/x": "nope"}}, "invalid", `Invalid tmpfs option "nope"`},
		{container.HostConfig{Tmpfs: map[string]string{"x": ""}}, "invalid", "mount path must be absolute"},
		{container.HostConfig{VolumesFrom: []string{"nobody"}}, "invalid", "No such container: nobody"},
		{container.HostConfig{VolumesFrom: []string{"mapped:rshared"}}, "invalid", "invalid mode: rshared"},
		{bind(mount.Mount{Type: "bind", Source: "/missing", Target: "/x"}), "invalid", `invalid mount config for type "bind": bind source path does not exist: /missing`},
		{bind(mount.Mount{Type: "bind", Target: "/x"}), "invalid", "field Source must not be empty"},
		{bind(mount.Mount{Type: "bind", Source: "rel", Target: "/x"}), "invalid", "mount path must be absolute"},
		{bind(mount.Mount{Type: "bind", Source: "/a", Target: "/"}), "invalid", "destination can't be '/'"},
		{bind(mount.Mount{Type: "bind", Source: "/a", Target: "/x", BindOptions: &mount.BindOptions{Propagation: "x"}}), "invalid", "invalid propagation mode: x"},
		{bind(mount.Mount{Type: "bind", Source: "/a", Target: "/x", BindOptions: &mount.BindOptions{ReadOnlyForceRecursive: true}}), "invalid", "!ReadOnly"},
		{bind(mount.Mount{Type: "bind", Source: "/a", Target: "/x", VolumeOptions: &mount.VolumeOptions{}}), "invalid", "field VolumeOptions must not be specified"},
		{bind(mount.Mount{Type: "volume", Target: "/x", VolumeOptions: &mount.VolumeOptions{Subpath: "a"}}), "invalid", "Subpath"},
		{bind(mount.Mount{Type: "volume", Source: "v", Target: "/x", VolumeOptions: &mount.VolumeOptions{Subpath: "../a"}}), "invalid", "subpath must be a relative path"},
		{bind(mount.Mount{Type: "tmpfs", Source: "x", Target: "/x"}), "invalid", "field Source must not be specified"},
		{bind(mount.Mount{Type: "image", Source: "nobody", Target: "/x"}), "notfound", "No such image: nobody"},
		{bind(mount.Mount{Type: "image", Target: "/x"}), "invalid", `invalid mount config for type "image": field Source must not be empty`},
		{bind(mount.Mount{Type: "image", Source: "tools", Target: "/x", ImageOptions: &mount.ImageOptions{Subpath: "../x"}}), "invalid", "subpath must be a relative path within the volume"},
		{bind(mount.Mount{Type: "image", Source: "tools", Target: "/x", VolumeOptions: &mount.VolumeOptions{}}), "invalid", "field VolumeOptions must not be specified"},
		{bind(mount.Mount{Type: "odd", Target: "/x"}), "invalid", "mount type unknown"},
		{res(container.Resources{Memory: 1 << 20}), "invalid", "Minimum memory limit allowed is 6MB"},
		{res(container.Resources{Memory: 64 << 20, MemorySwap: 32 << 20}), "invalid", "Minimum memoryswap limit should be larger"},
		{res(container.Resources{MemorySwap: 32 << 20}), "invalid", "You should always set the Memory limit"},
		{res(container.Resources{MemorySwappiness: n(101)}), "invalid", "valid memory swappiness range is 0-100"},
		{res(container.Resources{Memory: 64 << 20, MemoryReservation: 128 << 20}), "invalid", "less than memory reservation"},
		{res(container.Resources{NanoCPUs: 1e9, CPUPeriod: 1000}), "invalid", "Nano CPUs and CPU Period cannot both be set"},
		{res(container.Resources{NanoCPUs: 1e9, CPUQuota: 1000}), "invalid", "Nano CPUs and CPU Quota"},
		{res(container.Resources{NanoCPUs: math.MaxInt64}), "invalid", "range of CPUs is from 0.01 to 4.00"},
		{res(container.Resources{CPUShares: -1}), "invalid", "invalid CPU shares (-1)"},
		{res(container.Resources{CPUPeriod: 10}), "invalid", "CPU cfs period"},
		{res(container.Resources{CPUQuota: 10}), "invalid", "CPU cfs quota"},
		{res(container.Resources{CpusetCpus: "7"}), "invalid", "Requested CPUs are not available - requested 7, available: 0-3"},
		{res(container.Resources{CpusetMems: "x"}), "invalid", "Invalid value x for cpuset mems"},
		{res(container.Resources{BlkioWeight: 5}), "invalid", "Range of blkio weight is from 10 to 1000"},
		{res(container.Resources{BlkioDeviceReadBps: []*blkiodev.ThrottleDevice{nil}}), "invalid", "no path"},
		{res(container.Resources{IOMaximumIOps: 1}), "invalid", "Invalid QoS settings"},
		{res(container.Resources{Ulimits: []*container.Ulimit{{Name: "nope"}}}), "invalid", "nope"},
		{res(container.Resources{Ulimits: []*container.Ulimit{{Name: "nofile", Soft: 2, Hard: 1}}}), "invalid", "ulimit"},
		{res(container.Resources{DeviceCgroupRules: []string{"x"}}), "invalid", "invalid device cgroup rule format: 'x'"},
		{res(container.Resources{Devices: []container.DeviceMapping{{PathOnHost: "/dev/x", CgroupPermissions: "z"}}}), "invalid", "bad mode specified: z"},
		{res(container.Resources{DeviceRequests: []container.DeviceRequest{{Capabilities: [][]string{{"tpu"}}}}}), "invalid", `could not select device driver "" with capabilities: [[tpu]]`},
		{container.HostConfig{Links: []string{"nobody:x"}}, "invalid", "could not get container for nobody: No such container: nobody"},
		{container.HostConfig{Links: []string{":"}}, "invalid", "bad format for links"},
		{container.HostConfig{Init: &yes, Umask: func() *uint32 { v := uint32(0o1000); return &v }()}, "invalid", "umask"},
	} {
		_, _, err := Create(input(nil, &c.hc), full(), defaults())
		if kind(err) != c.kind || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%+v:\n got %s: %v\nwant %s: %s", c.hc, kind(err), err, c.kind, c.text)
		}
	}
}

func TestRefusedConfig(t *testing.T) {
	for _, c := range []struct {
		cfg  container.Config
		hc   container.HostConfig
		text string
	}{
		{container.Config{WorkingDir: "rel"}, container.HostConfig{}, "needs to be an absolute path"},
		{container.Config{StopSignal: "SIGNOPE"}, container.HostConfig{}, "invalid signal: SIGNOPE"},
		{container.Config{StopSignal: "99"}, container.HostConfig{}, "invalid signal: 99"},
		{container.Config{Env: []string{"=x"}}, container.HostConfig{}, "invalid environment variable: =x"},
		{container.Config{Env: []string{"a=\x00"}}, container.HostConfig{}, "NUL"},
		{container.Config{Cmd: []string{"\x00"}}, container.HostConfig{}, "NUL"},
		{container.Config{Healthcheck: &container.HealthConfig{Interval: 1}}, container.HostConfig{}, "Interval in Healthcheck cannot be less than 1ms"},
		{container.Config{Healthcheck: &container.HealthConfig{Retries: -1}}, container.HostConfig{}, "Retries in Healthcheck cannot be negative"},
		{container.Config{Healthcheck: &container.HealthConfig{Test: []string{"X"}}}, container.HostConfig{}, "Unknown healthcheck type 'X'"},
		{container.Config{Hostname: strings.Repeat("x", 65)}, container.HostConfig{}, "is too long (maximum 64 bytes)"},
		{container.Config{Hostname: "x"}, container.HostConfig{UTSMode: "host"}, "conflicting options: hostname and the UTS mode"},
		{container.Config{Hostname: "x"}, container.HostConfig{NetworkMode: "container:plain"}, "conflicting options: hostname and the network mode"},
		{container.Config{Volumes: map[string]struct{}{"rel": {}}}, container.HostConfig{}, "must be absolute"},
	} {
		_, _, err := Create(input(&c.cfg, &c.hc), full(), defaults())
		if kind(err) != "invalid" || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%+v: got %v, want %q", c.cfg, err, c.text)
		}
	}
	for name, ok := range map[string]bool{"ab": true, "a": false, "a_b.c-1": true, "-ab": false, "a b": false, "ä1": false, "": false, strings.Repeat("x", 256): false} {
		if err := CheckName(name); (err == nil) != ok {
			t.Errorf("name %q: %v", name, err)
		}
	}
}

// TestPoorMachine: what a machine cannot do is left out and said.
func TestPoorMachine(t *testing.T) {
	n, yes := int64(10), true
	hc := &container.HostConfig{Resources: container.Resources{
		Memory: 64 << 20, MemorySwappiness: &n, MemoryReservation: 32 << 20, OomKillDisable: &yes, PidsLimit: &n,
		CPUShares: 10, CPUQuota: 5000, CpusetCpus: "0", BlkioWeight: 100, BlkioDeviceReadBps: []*blkiodev.ThrottleDevice{{Path: "/dev/sda", Rate: 1}},
	}, CgroupnsMode: "private"}
	c, warn := create(t, input(nil, hc), Facts{CPUs: 1}, defaults())
	r := c.HostConfig.Resources
	if r.Memory != 0 || r.MemorySwappiness != nil || r.PidsLimit != nil || r.CPUShares != 0 || r.CPUQuota != 0 || r.CpusetCpus != "" || r.BlkioWeight != 0 || r.BlkioDeviceReadBps != nil || r.OomKillDisable != nil {
		t.Errorf("%+v", r)
	}
	if len(warn) < 11 {
		t.Errorf("%d warnings: %q", len(warn), warn)
	}
	if hc.Memory == 0 || len(hc.BlkioDeviceReadBps) == 0 {
		t.Error("the request was changed")
	}
}

func TestOldClients(t *testing.T) {
	ro := &container.HostConfig{Binds: []string{"/a:/b:ro"}}
	for api, want := range map[string]string{"1.43": "off", "1.44": "", "": ""} {
		in := input(nil, ro)
		in.Request.APIVersion = api
		c, _ := create(t, in, full(), defaults())
		if c.Mounts[0].RORecursive != want {
			t.Errorf("API %s: %q", api, c.Mounts[0].RORecursive)
		}
	}
	in := input(nil, nil)
	in.Request.APIVersion = "1.39"
	c, _ := create(t, in, full(), defaults())
	if c.HostConfig.IpcMode != "shareable" {
		t.Errorf("ipc of 1.39: %s", c.HostConfig.IpcMode)
	}
	in = input(nil, &container.HostConfig{Sysctls: map[string]string{"net.ipv4.conf.eth0.forwarding": "1"}})
	in.Request.APIVersion = "1.46"
	c, warn := create(t, in, full(), defaults())
	if got := c.Endpoints["bridge"].DriverOpts[sysctlOption]; got != "net.ipv4.conf.IFNAME.forwarding=1" || len(c.HostConfig.Sysctls) != 0 || len(warn) != 1 {
		t.Errorf("interface sysctl: %q, %v, %q", got, c.HostConfig.Sysctls, warn)
	}
	in = input(nil, nil)
	in.Request.APIVersion = "1.43"
	in.Request.Networking = &network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{"a": {}, "b": {}}}
	if _, _, err := Create(in, full(), defaults()); err == nil || !strings.Contains(err.Error(), "multiple network endpoints: a, b") {
		t.Errorf("two networks: %v", err)
	}
}

func TestEndpoints(t *testing.T) {
	for _, c := range []struct {
		mode string
		want string
	}{{"", "bridge"}, {"default", "bridge"}, {"none", ""}, {"host", ""}, {"container:plain", ""}, {"mine", "mine"}} {
		got, _ := create(t, input(nil, &container.HostConfig{NetworkMode: container.NetworkMode(c.mode)}), full(), defaults())
		var names []string
		for n := range got.Endpoints {
			names = append(names, n)
		}
		if strings.Join(names, ",") != c.want {
			t.Errorf("%q: %q", c.mode, names)
		}
	}
	in := input(nil, &container.HostConfig{NetworkMode: "mine"})
	in.Request.Networking = &network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{"mine": {Aliases: []string{"x"}}, "other": {}}}
	got, _ := create(t, in, full(), defaults())
	if len(got.Endpoints) != 2 || got.Endpoints["mine"].Aliases[0] != "x" {
		t.Errorf("%+v", got.Endpoints)
	}
	in.Request.Networking.EndpointsConfig = map[string]*network.EndpointSettings{"bridge": {Aliases: []string{"x"}}}
	if _, _, err := Create(in, full(), defaults()); err == nil || !strings.Contains(err.Error(), "network-scoped aliases are only supported for user-defined networks") {
		t.Errorf("alias on bridge: %v", err)
	}
}

func TestParseBind(t *testing.T) {
	for raw, want := range map[string]string{
		"/a":                "volume  -> /a",
		"/a:/b":             "bind /a -> /b",
		"/a/../c:/b/":       "bind /c -> /b",
		"v:/b":              "volume v -> /b",
		"v:/b:nocopy":       "volume v -> /b nocopy",
		"/a:/b:ro,z":        "bind /a -> /b ro",
		"/a:/b:rshared":     "bind /a -> /b rshared",
		"/a:/b:rw,cached":   "bind /a -> /b",
		"":                  "!",
		":/a":               "!",
		"/a:ro":             "!",
		"/a:/b:ro:rw":       "!",
		"/a:/b:ro,rw":       "!",
		"/a:b":              "!",
		"/a:/":              "!",
		"v:/b:rshared":      "!",
		"/a:/b:nocopy":      "!",
		"/a:/b\x00":         "!",
		"/a:/b:":            "bind /a -> /b",
		"name with sp:/dir": "volume name with sp -> /dir",
	} {
		m, err := ParseBind(raw)
		got := "!"
		if err == nil {
			src := m.Source + m.Name
			got = m.Type + " " + src + " -> " + m.Destination
			if m.Propagation != "" {
				got += " " + m.Propagation
			}
			if m.ReadOnly {
				got += " ro"
			}
			if m.NoCopy {
				got += " nocopy"
			}
		}
		if got != want {
			t.Errorf("%q: %q (%v), want %q", raw, got, err, want)
		}
	}
}

func FuzzParseBind(f *testing.F) {
	for _, s := range []string{"/a:/b:ro", "v:/b:nocopy", "/a", "a:b:c:d", "::"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		m, err := ParseBind(s)
		if err != nil {
			if kind(err) != "invalid" {
				t.Errorf("%q: %v", s, err)
			}
			return
		}
		if m.Destination == "/" || m.Destination[0] != '/' || strings.Contains(m.Destination, "/../") || m.Type == "bind" && m.Source[0] != '/' {
			t.Errorf("%q: %+v", s, m)
		}
	})
}

func FuzzTmpfs(f *testing.F) {
	f.Add("/x", "size=1m,exec,ro")
	f.Fuzz(func(t *testing.T, dest, opts string) {
		if _, err := tmpfsMount(dest, opts); err != nil && kind(err) != "invalid" {
			t.Errorf("%q %q: %v", dest, opts, err)
		}
	})
}

func FuzzFiles(f *testing.F) {
	f.Add([]byte("nameserver 127.0.0.1\nsearch a b\noptions x"), "h:1.2.3.4")
	f.Fuzz(func(t *testing.T, resolv []byte, host string) {
		if checkExtraHost(host) != nil {
			return
		}
		c := model.Container{Config: &container.Config{Hostname: "h"}, HostConfig: &container.HostConfig{NetworkMode: "bridge", ExtraHosts: []string{host}}}
		Files(FilesInput{Container: c, HostResolv: resolv}, Defaults{})
	})
}

// FuzzCreate: whatever a client or an image says, the answer is a container
// that can be started, or an error of a kind.
func FuzzCreate(f *testing.F) {
	f.Add([]byte(`{"Cmd":["x"],"HostConfig":{"Binds":["/a:/b"]}}`), []byte(`{"Env":["A"],"Volumes":{"/x":{}}}`))
	f.Add([]byte(`{"Healthcheck":{"Test":["NONE"]},"HostConfig":{"Mounts":[{"Type":"tmpfs","Target":"/x"}],"Ulimits":[null],"Devices":[{}],"LogConfig":{"Config":{"tag":"{{.ID}}"}}}}`), []byte(`{"Cmd":["y"],"ExposedPorts":{"80/tcp":{}}}`))
	f.Add([]byte(`{"HostConfig":{"NetworkMode":"container:mapped","Sysctls":{"net.x":"1"},"BlkioWeightDevice":[{"Path":"/dev/sda"}],"CapAdd":["ALL"],"SecurityOpt":["seccomp={}"]},"NetworkingConfig":{"EndpointsConfig":{"bridge":null}}}`), []byte(`{}`))
	f.Fuzz(func(t *testing.T, request, image []byte) {
		var r container.CreateRequest
		var img model.ImageConfig
		if json.Unmarshal(request, &r) != nil || json.Unmarshal(image, &img) != nil || r.Config == nil {
			return
		}
		in := input(r.Config, r.HostConfig)
		in.Request.Networking = r.NetworkingConfig
		in.Image.Config = img
		c, _, err := Create(in, full(), defaults())
		if err != nil {
			if kind(err) == "other" {
				t.Errorf("no kind: %v", err)
			}
			return
		}
		s := StartInput{JoinNet: "/n", JoinIPC: "/i", JoinPid: "/p", JoinUser: "/u", JoinShm: "/s", Lookup: in.Lookup}
		for i := range c.Mounts {
			if c.Mounts[i].Source == "" {
				c.Mounts[i].Source = "/source"
			}
		}
		b, _, err := Start(c, s, full(), defaults())
		if err != nil && kind(err) == "other" {
			t.Errorf("start, no kind: %v", err)
		}
		if err == nil && (len(b.Spec.Process.Args) == 0 || !strings.HasPrefix(b.Spec.Linux.CgroupsPath, "/") || strings.Contains(b.Spec.Linux.CgroupsPath, "..")) {
			t.Errorf("%+v", b.Spec)
		}
		Files(FilesInput{Container: c}, defaults())
	})
}
