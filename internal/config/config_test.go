package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
)

// parse reads a file's text and flags.
func parse(t *testing.T, file string, args ...string) (*Config, error) {
	t.Helper()
	p := filepath.Join(t.TempDir(), "daemon.json")
	if err := os.WriteFile(p, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	return Parse(append([]string{"--config-file", p}, args...))
}

func TestParse(t *testing.T) {
	_, err := parse(t, `{
		"data-root": "/d", "hosts": ["unix:///s"], "debug": true, "labels": ["a=b"],
		"log-driver": "local", "log-opts": {"max-size": "5m"}, "bip": "10.9.0.1/24", "mtu": 1400, "icc": false,
		"default-address-pools": [{"base": "10.0.0.0/8", "size": 24}], "dns": ["1.1.1.1"],
		"default-ulimits": {"nofile": {"Name": "nofile", "Soft": 10, "Hard": 20}}, "default-shm-size": "32m",
		"insecure-registries": ["reg:5000"], "features": {"containerd-snapshotter": true}, "exec-opts": ["native.cgroupdriver=cgroupfs"],
		"userns-remap": "default", "live-restore": true, "storage-driver": "overlay2"
	}`, "--exec-root", "/x", "--default-ulimit", "core=0:0", "--max-concurrent-uploads=9")
	if err == nil || !strings.Contains(err.Error(), "default-ulimits: (from flag: core=0:0, from file:") {
		t.Fatalf("flag and file: %v", err)
	}
	c, err := parse(t, `{"labels": ["a=b"], "default-shm-size": 1024, "debug": true, "log-driver": "local", "log-opts": {"max-size": "5m"},
		"default-address-pools": [{"base": "10.0.0.0/8", "size": 24}], "bip": "10.9.0.1/24", "dns": ["1.1.1.1"], "icc": false}`,
		"-H", "/s", "-H", "fd://", "--exec-root", "/x", "--default-ulimit", "core=0:0", "--max-concurrent-uploads=9", "-G", "adm", "--feature", "buildkit=true")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"unix:///s", "fd://"}, c.Hosts); d != "" {
		t.Error(d)
	}
	if c.LogLevel != "debug" || c.Group != "adm" || c.DefaultShmSize != 1024 || c.DefaultUlimits["core"] == nil || c.MaxConcurrentUploads != 9 ||
		c.LogOpts["max-size"] != "5m" || c.DefaultAddressPools[0].Size != 24 || c.BIP.String() != "10.9.0.1/24" || c.DNS[0].String() != "1.1.1.1" || c.ICC || !c.IPMasq ||
		c.ExecRoot != "/x" || c.DataRoot != "/var/lib/wharf" {
		t.Errorf("%+v", c)
	}
}

func TestRefused(t *testing.T) {
	profile := filepath.Join(t.TempDir(), "p.json")
	if err := os.WriteFile(profile, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		file string
		args []string
		want string
	}{
		{`{"nonesuch": 1, "other": 2}`, nil, "the following directives don't match any configuration option: nonesuch, other"},
		{`{"debug": true}`, []string{"-D"}, "the following directives are specified both as a flag and in the configuration file: debug: (from flag: true, from file: true)"},
		{`{"metrics-addr": "x"}`, nil, `"metrics-addr" is not supported by wharf: metrics are not there yet`},
		{`{`, nil, "unable to configure the wharf daemon with file"},
		{`{"mtu": "x"}`, nil, `"mtu"`},
		{`{"default-address-pools": [{"bas": "x"}]}`, nil, "unknown field"},
		{``, []string{"--metrics-addr", "x"}, "metrics are not there yet"},
		{``, []string{"--fixed-cidr-v6", "fd00::/64"}, "without ipv6"},
		{``, []string{"--ipv6", "--fixed-cidr-v6", "10.0.0.0/8"}, "IPv6 subnet"},
		{``, []string{"--nonesuch"}, "nonesuch"},
		{``, []string{"word"}, `not "word"`},
		{``, []string{"--data-root", "rel"}, "invalid data-root"},
		{``, []string{"--data-root", "/a", "--exec-root", "/a/"}, "must differ"},
		{``, []string{"-H", "nonesuch://x"}, "invalid host"},
		{``, []string{"-H", "unix://rel"}, "absolute"},
		{``, []string{"-H", "tcp://127.0.0.1:1"}, "--insecure-tcp"},
		{``, []string{"-H", "tcp://0.0.0.0:1", "--insecure-tcp"}, "for loopback addresses only"},
		{``, []string{"-H", "tcp://0.0.0.0:1", "--tls", "--tlscert", "c", "--tlskey", "k"}, "root of this machine"},
		{``, []string{"--tlsverify"}, "--tlscert"},
		{``, []string{"--tlsverify", "--tlscert", "c", "--tlskey", "k"}, "--tlscacert"},
		{``, []string{"--log-level", "loud"}, `invalid log-level "loud"`},
		{``, []string{"--log-driver", "nope"}, "nope"},
		{``, []string{"--log-opt", "colour=red"}, "colour"},
		{``, []string{"--label", "x"}, "key=value"},
		{``, []string{"--bip", "10.0.0.1/24", "-b", "br0"}, "mutually exclusive"},
		{``, []string{"--bip", "x"}, "bip"},
		{``, []string{"--iptables=false"}, "iptables"},
		{``, []string{"--live-restore=false"}, "outlive"},
		{``, []string{"--storage-driver", "btrfs"}, "overlay2"},
		{``, []string{"--userns-remap", "me:you"}, "userns-remap"},
		{``, []string{"--exec-opt", "native.cgroupdriver=systemd"}, "cgroupfs"},
		{``, []string{"--feature", "x=true"}, `"x" is not known`},
		{``, []string{"--default-runtime", "kata"}, "default-runtime"},
		{``, []string{"--seccomp-profile", profile}, profile},
		{``, []string{"--seccomp-profile", "/nonesuch"}, "opening seccomp profile (/nonesuch) failed"},
		{``, []string{"--id-base", "5"}, "id-base"},
		{``, []string{"--default-address-pool", "base=10.0.0.0/24,size=16"}, "cannot be cut"},
		{`{"default-ulimits": {"nofile": {"Name": "nofile", "Soft": 20, "Hard": 10}}}`, nil, "above the hard limit 10"},
		{`{"default-ulimits": {"nofile": {"Name": "nofile", "Soft": -1, "Hard": 10}}}`, nil, "above the hard limit 10"},
		{``, []string{"--registry-mirror", "ftp://x"}, "invalid mirror"},
		{``, []string{"--registry-mirror", "mirror.example"}, "invalid mirror"},
		{``, []string{"--registry-mirror", "https://u:p@m"}, "wharf login"},
		{``, []string{"--registry-mirror", "https://m?x=1"}, "query"},
		{``, []string{"--insecure-registry", "reg:5000/path"}, "host:port or CIDR"},
		{``, []string{"--insecure-registry", ""}, "host:port or CIDR"},
		{``, []string{"--max-concurrent-downloads=-1"}, "max-concurrent-downloads"},
	} {
		if _, err := parse(t, c.file, c.args...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %q: %v, want %q", c.file, c.args, err, c.want)
		}
	}
	if _, err := Parse([]string{"--config-file", "/nonesuch.json"}); err == nil || !strings.Contains(err.Error(), "/nonesuch.json") {
		t.Errorf("missing file: %v", err)
	}
	if _, err := Parse([]string{"--help"}); !errors.Is(err, pflag.ErrHelp) {
		t.Errorf("help: %v", err)
	}
}

func TestRegistries(t *testing.T) {
	c, err := parse(t, `{"insecure-registries": ["http://reg:5000", "10.0.0.0/8", "[::1]:5000"], "registry-mirrors": ["https://m.example/path"]}`)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"reg:5000", "10.0.0.0/8", "[::1]:5000"}, c.InsecureRegistries); d != "" {
		t.Error(d)
	}
	if len(c.Notes) != 1 {
		t.Errorf("%q", c.Notes)
	}
}

func TestDiff(t *testing.T) {
	a, err := parse(t, `{}`)
	if err != nil {
		t.Fatal(err)
	}
	b, err := parse(t, `{"labels": ["x=y"], "mtu": 1400, "debug": true}`)
	if err != nil {
		t.Fatal(err)
	}
	reload, restart := Diff(a, b)
	if d := cmp.Diff([]string{"debug", "log-level", "labels"}, reload); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"mtu"}, restart); d != "" {
		t.Error(d)
	}
	got := Take(a, b)
	if got.MTU != 0 || got.LogLevel != "debug" || len(got.Labels) != 1 || len(a.Labels) != 0 {
		t.Errorf("%+v", got)
	}
	if got.Text()["labels"] != `["x=y"]` {
		t.Errorf("%v", got.Text())
	}
}

func FuzzFile(f *testing.F) {
	f.Add(`{"debug": true}`)
	f.Add(`{"default-ulimits": {"nofile": null}}`)
	f.Fuzz(func(t *testing.T, text string) {
		c := Default()
		if c.readFile([]byte(text), nil) == nil {
			_ = c.check()
		}
	})
}
