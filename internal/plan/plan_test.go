package plan

import (
	"encoding/json"
	"errors"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/runtime-spec/specs-go"

	"wharf/internal/model"
)

var update = flag.Bool("update", false, "write the golden files")

const testID = model.ID("0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef")

// full is a machine that has everything.
func full() Facts {
	return Facts{
		Kernel: "6.18.5", Arch: "amd64", CPUs: 4, Cpus: "0-3", Mems: "0", CgroupVersion: 2, Hostname: "harbour",
		Memory: true, Swap: true, MemoryReservation: true, MemorySwappiness: true, OomKillDisable: true,
		CPUShares: true, CPUQuota: true, CPURealtime: true, Cpuset: true, Pids: true, Blkio: true, BlkioWeight: true, Hugetlb: true, Devices: true,
		Seccomp: true, UserNS: true, CgroupNS: true, RORecursive: true, IPv4Forward: true,
	}
}

func defaults() Defaults {
	return Defaults{
		LogDriver: "json-file", Runtime: "wharf", Runtimes: []string{"runc"}, IpcMode: "private",
		CgroupParent: "/wharf", ContainersDir: "/var/lib/wharf/containers", Seccomp: new(SeccompCache),
		HostGateway: []netip.Addr{netip.MustParseAddr("172.17.0.1")},
	}
}

var imageConfig = model.ImageConfig{
	Cmd: []string{"sh"}, Env: []string{"PATH=/bin", "LANG=C"},
}

func input(cfg *container.Config, hc *container.HostConfig) CreateInput {
	if cfg == nil {
		cfg = &container.Config{Image: "busybox"}
	}
	return CreateInput{
		Request: model.CreateRequest{Config: cfg, HostConfig: hc},
		Image:   model.Image{ID: digest.FromString("image"), Config: imageConfig},
		ID:      testID, Name: "tester", Now: time.Unix(1_700_000_000, 0),
		IDs: model.IDRange{Host: 1_000_000, Size: 65536},
		Lookup: Lookup{
			CDI: fakeCDI{},
			Image: func(ref string) (model.Image, error) {
				if ref != "tools" {
					return model.Image{}, errdefs.ErrNotFound.WithMessage("No such image: " + ref)
				}
				return model.Image{ID: digest.FromString(ref)}, nil
			},
			Exists: func(p string) bool { return p != "/missing" },
			Container: func(ref string) (model.Container, error) {
				if c, ok := others[ref]; ok {
					return c, nil
				}
				return model.Container{}, errdefs.ErrNotFound.WithMessage("No such container: " + ref)
			},
			Devices: func(p string) ([]specs.LinuxDevice, error) {
				switch p {
				case "/dev/fuse":
					return []specs.LinuxDevice{{Path: p, Type: "c", Major: 10, Minor: 229}}, nil
				case "/dev/sda":
					return []specs.LinuxDevice{{Path: p, Type: "b", Major: 8, Minor: 0}}, nil
				case "/dev/snd":
					return []specs.LinuxDevice{{Path: "/dev/snd/a", Type: "c", Major: 116, Minor: 1}, {Path: "/dev/snd/b", Type: "c", Major: 116, Minor: 2}}, nil
				case "/dev":
					return []specs.LinuxDevice{{Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229}, {Path: "/dev/pts/0", Type: "c", Major: 136, Minor: 0}, {Path: "/dev/console", Type: "c", Major: 5, Minor: 1}}, nil
				}
				return nil, os.ErrNotExist
			},
		},
	}
}

var others = map[string]model.Container{
	"mapped": {ID: "aaaa", Name: "mapped", IDs: model.IDRange{Host: 2_000_000, Size: 65536},
		Config: &container.Config{Hostname: "mapped-host"}, HostConfig: &container.HostConfig{IpcMode: "shareable"},
		Mounts: []model.Mount{
			{Type: "volume", Name: "data", Driver: "local", Destination: "/data", Mode: "z"},
			{Type: "bind", Source: "/srv", Destination: "/srv", Propagation: "rprivate", Recursive: true},
			{Type: "tmpfs", Destination: "/run"},
		}},
	"plain": {ID: "bbbb", Name: "plain", Config: &container.Config{Hostname: "plain-host"}, HostConfig: &container.HostConfig{IpcMode: "private"}},
}

// create makes a container that must be possible.
func create(t *testing.T, in CreateInput, f Facts, d Defaults) (model.Container, []string) {
	t.Helper()
	c, warn, err := Create(in, f, d)
	if err != nil {
		t.Fatal(err)
	}
	return c, warn
}

func golden(t *testing.T, name string, v any) {
	t.Helper()
	got, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	file := filepath.Join("testdata", name+".json")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v (make it with -update)", err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("%s (-want +got; -update if right):\n%s", file, d)
	}
}

// TestBundles: the whole way from a request to the spec. Seccomp is left out
// of the files: it is long and not ours.
func TestBundles(t *testing.T) {
	one, yes := int64(1), true
	for _, c := range []struct {
		name  string
		cfg   *container.Config
		hc    *container.HostConfig
		start StartInput
	}{
		{name: "plain"},
		{name: "privileged", hc: &container.HostConfig{Privileged: true}},
		{name: "hostmodes", hc: &container.HostConfig{NetworkMode: "host", PidMode: "host", IpcMode: "host", UTSMode: "host", UsernsMode: "host"}},
		{name: "joined", hc: &container.HostConfig{NetworkMode: "container:mapped", PidMode: "container:mapped", IpcMode: "container:mapped"},
			start: StartInput{JoinNet: "/proc/7/ns/net", JoinIPC: "/proc/7/ns/ipc", JoinPid: "/proc/7/ns/pid", JoinUser: "/proc/7/ns/user", JoinShm: "/proc/7/root/dev/shm"}},
		{name: "mounts", hc: &container.HostConfig{
			Binds: []string{"/srv/www:/www:ro", "cache:/cache", "/shared:/a/b/c:rshared"}, Tmpfs: map[string]string{"/run": "size=64m,exec"},
			VolumesFrom: []string{"mapped:ro"}, ReadonlyRootfs: true,
		}, start: StartInput{Hosts: "/h/hosts", Hostname: "/h/hostname", Resolv: "/h/resolv.conf"}},
		{name: "limits", cfg: &container.Config{Image: "busybox", Tty: true, User: "app:staff", WorkingDir: "/srv", Entrypoint: []string{"/init"}, Cmd: []string{"-v"}, Env: []string{"TERM=vt100", "PATH"}},
			hc: &container.HostConfig{
				CapAdd: []string{"net_admin"}, CapDrop: []string{"MKNOD"}, SecurityOpt: []string{"no-new-privileges", "seccomp=unconfined"},
				OomScoreAdj: 100, Init: &yes, GroupAdd: []string{"audio"}, Sysctls: map[string]string{"net.core.somaxconn": "1024"},
				ConsoleSize: [2]uint{24, 80}, Annotations: map[string]string{"a": "b"},
				Resources: container.Resources{
					Memory: 64 << 20, NanoCPUs: 1_500_000_000, PidsLimit: &one, CPUShares: 512, CpusetCpus: "0,2-3", CgroupParent: "/../../teams/x",
					Ulimits: []*container.Ulimit{{Name: "nofile", Soft: 10, Hard: 20}}, Devices: []container.DeviceMapping{{PathOnHost: "/dev/fuse"}, {PathOnHost: "/dev/snd", PathInContainer: "/dev/sound", CgroupPermissions: "r"}},
					DeviceCgroupRules: []string{"c 42:* rmw"},
				},
			}},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := input(c.cfg, c.hc)
			rec, warn := create(t, in, full(), defaults())
			for i := range rec.Mounts {
				if rec.Mounts[i].Type == "volume" {
					rec.Mounts[i].Source = "/volumes/" + rec.Mounts[i].Name
				}
			}
			c.start.Lookup = in.Lookup
			c.start.Rootfs = model.Rootfs{Lower: []string{"/layers/1"}, Upper: "/rw/up", Work: "/rw/work"}
			b, more, err := Start(rec, c.start, full(), defaults())
			if err != nil {
				t.Fatal(err)
			}
			if b.Spec.Linux.Seccomp != nil {
				b.Spec.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: b.Spec.Linux.Seccomp.DefaultAction}
			}
			golden(t, c.name, map[string]any{"bundle": b, "warnings": append(warn, more...)})
		})
	}
}

func TestMergeImage(t *testing.T) {
	img := model.ImageConfig{
		Entrypoint: []string{"/entry"}, Cmd: []string{"default"}, Env: []string{"A=image", "B=image"}, User: "img", WorkingDir: "/img",
		Labels: map[string]string{"l": "image", "m": "image"}, StopSignal: "SIGQUIT",
		Volumes: map[string]struct{}{"/vol": {}}, ExposedPorts: network.PortSet{network.MustParsePort("80/tcp"): {}},
		Healthcheck: &container.HealthConfig{Test: []string{"CMD", "check"}, Retries: 5, Interval: time.Second},
	}
	args := func(c *container.Config) []string {
		return append(append([]string{"|"}, c.Entrypoint...), append([]string{"|"}, c.Cmd...)...)
	}
	for _, c := range []struct {
		name string
		cfg  container.Config
		want string
	}{
		{"nothing", container.Config{}, "| /entry | default"},
		{"command", container.Config{Cmd: []string{"mine"}}, "| /entry | mine"},
		{"entrypoint drops the command", container.Config{Entrypoint: []string{"/own"}}, "| /own |"},
		{"both", container.Config{Entrypoint: []string{"/own"}, Cmd: []string{"x"}}, "| /own | x"},
		{"reset", container.Config{Entrypoint: []string{""}, Cmd: []string{"x"}}, "| | x"},
		{"empty list keeps the command", container.Config{Entrypoint: []string{}}, "| | default"},
	} {
		in := input(&c.cfg, nil)
		in.Image.Config = img
		got, _ := create(t, in, full(), defaults())
		if s := strings.Join(args(got.Config), " "); s != c.want {
			t.Errorf("%s: %q, want %q", c.name, s, c.want)
		}
	}

	cfg := &container.Config{Env: []string{"B=own", "C=own"}, Labels: map[string]string{"l": "own"}, Healthcheck: &container.HealthConfig{Interval: 2 * time.Second}}
	in := input(cfg, nil)
	in.Image.Config = img
	got, _ := create(t, in, full(), defaults())
	if d := cmp.Diff([]string{"B=own", "C=own", "A=image"}, got.Config.Env); d != "" {
		t.Error("env", d)
	}
	if d := cmp.Diff(map[string]string{"l": "own", "m": "image"}, got.Config.Labels); d != "" {
		t.Error("labels", d)
	}
	if h := got.Config.Healthcheck; h.Interval != 2*time.Second || h.Retries != 5 || len(h.Test) != 2 {
		t.Errorf("health %+v", h)
	}
	if got.Config.User != "img" || got.Config.WorkingDir != "/img" || got.Config.StopSignal != "SIGQUIT" || len(got.Config.ExposedPorts) != 1 {
		t.Errorf("%+v", got.Config)
	}
	if len(got.Mounts) != 1 || !got.Mounts[0].Anonymous || got.Mounts[0].Destination != "/vol" || len(got.Mounts[0].Name) != 64 {
		t.Errorf("image volume: %+v", got.Mounts)
	}
	if len(cfg.Env) != 2 || len(img.Env) != 2 {
		t.Error("inputs were changed")
	}
	in.Image.Config = model.ImageConfig{}
	in.Request.Config = &container.Config{}
	if _, _, err := Create(in, full(), defaults()); err == nil || err.Error() != "no command specified" {
		t.Errorf("no command: %v", err)
	}
}

// kind is the errdefs kind of err, for tables.
func kind(err error) string {
	switch {
	case err == nil:
		return ""
	case errdefs.IsInvalidArgument(err):
		return "invalid"
	case errdefs.IsConflict(err):
		return "conflict"
	case errdefs.IsNotFound(err):
		return "notfound"
	case errdefs.IsNotImplemented(err):
		return "notimplemented"
	}
	return "other"
}

func TestEnvironment(t *testing.T) {
	c := model.Container{Config: &container.Config{Hostname: "h", Env: []string{"A=1", "PATH=/x", "A=2", "TERM", "B="}}}
	want := []string{"PATH=/x", "HOSTNAME=h", "A=2", "B="}
	if d := cmp.Diff(want, environment(c, true, nil)); d != "" {
		t.Error(d)
	}
}

func TestIDs(t *testing.T) {
	for _, c := range []struct {
		name string
		hc   container.HostConfig
		host uint32
		err  string
	}{
		{"own", container.HostConfig{}, 1_000_000, ""},
		{"privileged", container.HostConfig{Privileged: true}, 0, ""},
		{"host", container.HostConfig{UsernsMode: "host"}, 0, ""},
		{"joins mapped", container.HostConfig{NetworkMode: "container:mapped"}, 2_000_000, ""},
		{"joins plain", container.HostConfig{NetworkMode: "container:plain"}, 0, ""},
		{"joins both", container.HostConfig{NetworkMode: "container:plain", PidMode: "container:mapped"}, 0, "different user namespaces"},
		{"privileged joins mapped", container.HostConfig{Privileged: true, NetworkMode: "container:mapped"}, 0, "user namespace of its own"},
	} {
		got, _, err := Create(input(nil, &c.hc), full(), defaults())
		if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %v, want %q", c.name, err, c.err)
		}
		if err == nil && got.IDs.Host != c.host {
			t.Errorf("%s: ids %+v", c.name, got.IDs)
		}
	}
	f := full()
	f.UserNS = false
	got, warn := create(t, input(nil, nil), f, defaults())
	if got.IDs.Mapped() || len(warn) == 0 {
		t.Errorf("without user namespaces: %+v, %q", got.IDs, warn)
	}
}

func TestCapabilities(t *testing.T) {
	has := func(hc *container.HostConfig, f Facts, mapped bool) string {
		caps, err := capabilitySet(hc, f, mapped)
		if err != nil {
			return err.Error()
		}
		return strings.ReplaceAll(strings.Join(caps, " "), "CAP_", "")
	}
	for _, c := range []struct {
		add, drop []string
		want      string
	}{
		{nil, []string{"all"}, ""},
		{[]string{"chown"}, []string{"ALL"}, "CHOWN"},
		{[]string{"SYS_TIME"}, []string{"ALL"}, "SYS_TIME"},
		{nil, []string{"CHOWN", "CAP_DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP", "SETPCAP", "NET_BIND_SERVICE", "SYS_CHROOT", "KILL"}, "AUDIT_WRITE"},
		{[]string{"nonesuch"}, nil, `unknown capability: "CAP_NONESUCH"`},
	} {
		if got := has(&container.HostConfig{CapAdd: c.add, CapDrop: c.drop}, Facts{}, true); got != c.want {
			t.Errorf("add %q drop %q: %q, want %q", c.add, c.drop, got, c.want)
		}
	}
	if n := len(strings.Fields(has(&container.HostConfig{CapAdd: []string{"ALL"}, CapDrop: []string{"SYS_ADMIN"}}, Facts{}, true))); n != len(allCapabilities)-1 {
		t.Errorf("all but one: %d", n)
	}
	poor := Facts{Capabilities: []string{"CAP_CHOWN"}}
	if got := has(&container.HostConfig{Privileged: true}, poor, false); got != "CHOWN" {
		t.Errorf("privileged on a poor machine: %q", got)
	}
	if got := has(&container.HostConfig{CapAdd: []string{"SYS_TIME"}}, poor, false); !strings.Contains(got, "not available") {
		t.Errorf("adding what is not there: %q", got)
	}
}

func TestSeccompProfiles(t *testing.T) {
	f, d := full(), defaults()
	names := func(p *specs.LinuxSeccomp) map[string]bool {
		out := map[string]bool{}
		for _, s := range p.Syscalls {
			for _, n := range s.Names {
				if s.Action == specs.ActAllow && len(s.Args) == 0 {
					out[n] = true
				}
			}
		}
		return out
	}
	plain, err := d.Seccomp.profile("", defaultCapabilities, f)
	if err != nil {
		t.Fatal(err)
	}
	admin, err := d.Seccomp.profile("", append([]string{"CAP_SYS_ADMIN"}, defaultCapabilities...), f)
	if err != nil {
		t.Fatal(err)
	}
	if names(plain)["mount"] || !names(admin)["mount"] || !names(plain)["openat"] || !names(plain)["arch_prctl"] {
		t.Error("the default profile does not follow capabilities and architecture")
	}
	again, _ := d.Seccomp.profile("", append([]string(nil), defaultCapabilities...), f)
	if again != plain {
		t.Error("an equal profile is made twice")
	}
	own, err := expandProfile(`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"name":"mkdir","action":"SCMP_ACT_ERRNO"},{"names":["x"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"99.0"}}]}`, nil, f)
	if err != nil || len(own.Syscalls) != 1 || own.Syscalls[0].Names[0] != "mkdir" {
		t.Errorf("own profile: %+v, %v", own, err)
	}
	if _, err := expandProfile("{", nil, f); kind(err) != "invalid" {
		t.Errorf("broken profile: %v", err)
	}
	for release, want := range map[string][2]uint64{"6.18.5-cloud": {6, 18}, "4.8-rc1": {4, 0}, "": {}, "5.10": {5, 10}} {
		if got := kernelNumber(release); got != want && release != "4.8-rc1" {
			t.Errorf("kernel %q: %v", release, got)
		}
	}
}

func TestStartOfJoinedThatEnded(t *testing.T) {
	rec, _ := create(t, input(nil, &container.HostConfig{NetworkMode: "container:mapped"}), full(), defaults())
	if j := Joins(rec); j.Net != "aaaa" || j.IPC != "" {
		t.Errorf("joins %+v", j)
	}
	if rec.Config.Hostname != "mapped-host" {
		t.Errorf("hostname %q", rec.Config.Hostname)
	}
	_, _, err := Start(rec, StartInput{}, full(), defaults())
	if kind(err) != "conflict" {
		t.Errorf("%v", err)
	}
}

func TestErrorsAreExact(t *testing.T) {
	err := invalid("x %d", 1)
	if err.Error() != "x 1" || !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Error(err)
	}
}
