package plan

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"wharf/internal/model"
)

func TestFiles(t *testing.T) {
	ip := func(s string) netip.Addr { return netip.MustParseAddr(s) }
	bridge := []model.Endpoint{{Network: "bridge", Settings: &network.EndpointSettings{IPAddress: ip("172.17.0.2"), GlobalIPv6Address: ip("fd00::2")}}}
	for _, c := range []struct {
		name   string
		cfg    container.Config
		hc     container.HostConfig
		in     FilesInput
		d      Defaults
		hosts  string
		resolv string
	}{
		{
			name: "bridge", cfg: container.Config{Hostname: "web", Domainname: "lan"},
			hc:     container.HostConfig{NetworkMode: "bridge", ExtraHosts: []string{"db:10.0.0.1", "v6=[::9]", "host.docker.internal:host-gateway"}},
			in:     FilesInput{Endpoints: bridge, HostResolv: []byte("# x\nnameserver 127.0.0.53\nnameserver 192.168.1.1\nsearch old\nsearch home lan\noptions edns0\n"), Links: []Link{{ip("172.17.0.9"), []string{"alias", "name"}}}},
			d:      Defaults{HostGateway: []netip.Addr{ip("172.17.0.1")}},
			hosts:  "10.0.0.1\tdb\n::9\tv6\n172.17.0.1\thost.docker.internal\n172.17.0.9\talias name\n172.17.0.2\tweb.lan web\nfd00::2\tweb.lan web\n",
			resolv: "nameserver 192.168.1.1\nsearch home lan\noptions edns0\n",
		},
		{
			name: "loopback resolvers only", cfg: container.Config{Hostname: "web"}, hc: container.HostConfig{NetworkMode: "bridge"},
			in: FilesInput{HostResolv: []byte("nameserver ::1\n")}, resolv: "nameserver 8.8.8.8\nnameserver 8.8.4.4\n",
		},
		{
			name: "own dns", cfg: container.Config{Hostname: "web"}, hc: container.HostConfig{NetworkMode: "bridge", DNS: []netip.Addr{ip("127.0.0.1")}, DNSSearch: []string{"."}, DNSOptions: []string{"ndots:3"}},
			in: FilesInput{HostResolv: []byte("nameserver 1.1.1.1\nsearch x\n")}, d: Defaults{DNS: []netip.Addr{ip("9.9.9.9")}},
			resolv: "nameserver 127.0.0.1\noptions ndots:3\n",
		},
		{
			name: "user-defined", cfg: container.Config{Hostname: "web"}, hc: container.HostConfig{NetworkMode: "mine"},
			in: FilesInput{HostResolv: []byte("nameserver 127.0.0.53\nsearch home\n")}, resolv: "nameserver 127.0.0.11\nsearch home\noptions ndots:0\n",
		},
		{
			name: "none", cfg: container.Config{Hostname: "a.b"}, hc: container.HostConfig{NetworkMode: "none"}, in: FilesInput{HostResolv: []byte("nameserver 1.1.1.1")},
			resolv: "nameserver 1.1.1.1\n",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.in.Container = model.Container{Config: &c.cfg, HostConfig: &c.hc}
			got := Files(c.in, c.d)
			if d := cmp.Diff(hostsHead+c.hosts, string(got.Hosts)); d != "" {
				t.Error("hosts", d)
			}
			if d := cmp.Diff(c.resolv, string(got.Resolv)); d != "" {
				t.Error("resolv.conf", d)
			}
			if string(got.Hostname) != c.cfg.Hostname+"\n" {
				t.Errorf("hostname %q", got.Hostname)
			}
		})
	}
	host := FilesInput{Container: model.Container{Config: &container.Config{Hostname: "h"}, HostConfig: &container.HostConfig{NetworkMode: "host"}},
		HostHosts: []byte("1.2.3.4 own"), HostResolv: []byte("nameserver 127.0.0.53\n")}
	got := Files(host, Defaults{})
	if string(got.Hosts) != "1.2.3.4 own\n" || string(got.Resolv) != "nameserver 127.0.0.53\n" {
		t.Errorf("host network: %q, %q", got.Hosts, got.Resolv)
	}
}

func TestUpdate(t *testing.T) {
	n := func(v int64) *int64 { return &v }
	base := container.HostConfig{AutoRemove: true, Resources: container.Resources{Memory: 64 << 20, MemorySwap: 128 << 20, NanoCPUs: 1e9}}
	for _, c := range []struct {
		u    container.UpdateConfig
		text string
	}{
		{container.UpdateConfig{Resources: container.Resources{Memory: 256 << 20}}, "update the memoryswap at the same time"},
		{container.UpdateConfig{Resources: container.Resources{CPUQuota: 5000}}, "CPU Quota cannot be updated as NanoCPUs has already been set"},
		{container.UpdateConfig{RestartPolicy: container.RestartPolicy{Name: "always"}}, "AutoRemove is enabled"},
		{container.UpdateConfig{Resources: container.Resources{Memory: 1}}, "6MB"},
		{container.UpdateConfig{Resources: container.Resources{Ulimits: []*container.Ulimit{{Name: "nofile"}}}}, "ulimits cannot be changed"},
	} {
		hc := base
		_, _, err := Update(model.Container{ID: "x", HostConfig: &hc}, c.u, full())
		if err == nil || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%+v: %v", c.u, err)
		}
	}
	hc := base
	got, _, err := Update(model.Container{ID: "x", HostConfig: &hc}, container.UpdateConfig{
		Resources: container.Resources{Memory: 32 << 20, CPUShares: 7, PidsLimit: n(-1)}, RestartPolicy: container.RestartPolicy{Name: "no"}}, full())
	if err != nil {
		t.Fatal(err)
	}
	r := got.HostConfig.Resources
	if r.Memory != 32<<20 || r.MemorySwap != 128<<20 || r.CPUShares != 7 || *r.PidsLimit != -1 || r.NanoCPUs != 1e9 || got.HostConfig.RestartPolicy.Name != "no" {
		t.Errorf("%+v", got.HostConfig)
	}
	if hc.Memory != base.Memory {
		t.Error("the record given was changed")
	}
}

func TestExec(t *testing.T) {
	c, _ := create(t, input(&container.Config{Image: "x", Env: []string{"A=1"}, User: "app", WorkingDir: "/w"}, &container.HostConfig{GroupAdd: []string{"g"}}), full(), defaults())
	size := [2]uint{10, 20}
	e, err := Exec(c, "e1", model.ExecRequest{Cmd: []string{"ls"}, Env: []string{"A=2", "B=3"}, Tty: true, ConsoleSize: &size, AttachStdin: true, DetachKeys: "ctrl-a,x"}, full(), defaults())
	if err != nil {
		t.Fatal(err)
	}
	if e.User != "app" || e.Process.Cwd != "/w" || !e.OpenStdin || e.Process.ConsoleSize.Width != 20 || len(e.Process.Capabilities.Bounding) != 14 {
		t.Errorf("%+v", e)
	}
	if d := cmp.Diff([]string{"PATH=/bin", "HOSTNAME=0123456789ab", "TERM=xterm", "A=2", "LANG=C", "B=3"}, e.Process.Env); d != "" {
		t.Error(d)
	}
	p, err := Exec(c, "e2", model.ExecRequest{Cmd: []string{"ls"}, Privileged: true, User: "0", WorkingDir: "/x"}, full(), defaults())
	if err != nil || len(p.Process.Capabilities.Bounding) != len(allCapabilities) || p.User != "0" || p.Process.Cwd != "/x" {
		t.Errorf("%+v, %v", p, err)
	}
	for _, r := range []model.ExecRequest{{}, {Cmd: []string{"x"}, Env: []string{""}}, {Cmd: []string{"x"}, WorkingDir: "rel"}, {Cmd: []string{"x"}, DetachKeys: "ctrl-1"}} {
		if _, err := Exec(c, "e", r, full(), defaults()); kind(err) != "invalid" {
			t.Errorf("%+v: %v", r, err)
		}
	}
}

func TestLog(t *testing.T) {
	hc := &container.HostConfig{LogConfig: container.LogConfig{Config: map[string]string{"labels": "a,b", "env-regex": "^L", "tag": "{{.Name}}/{{.ID}}"}}}
	c, _ := create(t, input(&container.Config{Image: "busybox", Labels: map[string]string{"a": "1", "c": "3"}}, hc), full(), defaults())
	p := Log(c, defaults())
	if d := cmp.Diff(map[string]string{"a": "1", "LANG": "C", "tag": "tester/0123456789ab"}, p.Attrs); d != "" {
		t.Error(d)
	}
	if p.Driver != "json-file" || p.Path != "/var/lib/wharf/containers/"+string(testID)+"/"+string(testID)+"-json.log" {
		t.Errorf("%+v", p)
	}
	c.HostConfig.LogConfig = container.LogConfig{Type: "syslog"}
	if p := Log(c, defaults()); p.Tag != "0123456789ab" || p.Path != "/var/lib/wharf/containers/"+string(testID)+"/container-cached.log" {
		t.Errorf("%+v", p)
	}
	c.HostConfig.LogConfig.Config = map[string]string{"cache-disabled": "true"}
	if p := Log(c, defaults()); p.Path != "" {
		t.Errorf("%+v", p)
	}
}
