package config

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/moby/profiles/seccomp"

	"wharf/internal/logs/logopts"
)

// DefaultHost is where wharfd listens when nothing is said.
const DefaultHost = "unix:///run/wharf.sock"

// check fills in what follows from other options and refuses what cannot be.
func (c *Config) check() error {
	for _, step := range []func() error{c.checkPaths, c.checkHosts, c.checkLogs, c.checkNetwork, c.checkContainers, c.checkRegistries, c.checkImageGC, c.checkTrash, c.checkVM, c.checkBuilder, c.checkRest} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func (c *Config) note(format string, args ...any) {
	c.Notes = append(c.Notes, fmt.Sprintf(format, args...))
}

// oneOf refuses a value that is none of those.
func oneOf(key, value string, allowed ...string) error {
	if slices.Contains(allowed, value) {
		return nil
	}
	return fmt.Errorf("invalid %s %q: use %s", key, value, strings.Join(slices.DeleteFunc(allowed, func(s string) bool { return s == "" }), ", "))
}

func (c *Config) checkPaths() error {
	for _, p := range []struct{ key, value string }{{"data-root", c.DataRoot}, {"exec-root", c.ExecRoot}} {
		if !filepath.IsAbs(p.value) || filepath.Clean(p.value) == "/" {
			return fmt.Errorf("invalid %s %q: must be an absolute path, and not /", p.key, p.value)
		}
	}
	c.DataRoot, c.ExecRoot = filepath.Clean(c.DataRoot), filepath.Clean(c.ExecRoot)
	if c.DataRoot == c.ExecRoot {
		return fmt.Errorf("data-root and exec-root are both %s: they must differ", c.DataRoot)
	}
	if c.Monitor == "" {
		c.Monitor = besides("wharf-monitor", "/usr/libexec/wharf/wharf-monitor")
	}
	return nil
}

func (c *Config) checkHosts() error {
	if len(c.Hosts) == 0 {
		c.Hosts = []string{DefaultHost}
	}
	c.TLS = c.TLS || c.TLSVerify
	if c.TLS && (c.TLSCert == "" || c.TLSKey == "") {
		return fmt.Errorf("TLS needs --tlscert and --tlskey")
	}
	if c.TLSVerify && c.TLSCACert == "" {
		return fmt.Errorf("--tlsverify needs --tlscacert: whose client certificates to trust")
	}
	for i, h := range c.Hosts {
		scheme, addr, ok := strings.Cut(h, "://")
		if !ok && strings.HasPrefix(h, "/") {
			scheme, addr = "unix", h
			c.Hosts[i] = "unix://" + h
		} else if !ok {
			return fmt.Errorf("invalid host %q: use unix:///path, tcp://address:port or fd://", h)
		}
		switch scheme {
		case "unix":
			if !filepath.IsAbs(addr) || len(addr) > 107 {
				return fmt.Errorf("invalid host %q: a socket's path is absolute and at most 107 bytes long", h)
			}
		case "fd":
		case "tcp":
			if err := c.checkTCP(h, addr); err != nil {
				return err
			}
		default:
			return fmt.Errorf("invalid host %q: use unix:///path, tcp://address:port or fd://", h)
		}
	}
	return nil
}

func (c *Config) checkTCP(host, addr string) error {
	name, port, err := net.SplitHostPort(addr)
	if err != nil || port == "" {
		return fmt.Errorf("invalid host %q: want tcp://address:port", host)
	}
	if c.TLSVerify {
		return nil
	}
	ip, err := netip.ParseAddr(name)
	loopback := name == "localhost" || err == nil && ip.IsLoopback()
	switch {
	case c.TLS && !loopback:
		return fmt.Errorf("host %q: whoever reaches it would be root of this machine; add --tlsverify and --tlscacert, or listen on 127.0.0.1", host)
	case c.TLS || loopback && c.InsecureTCP:
		return nil
	case loopback:
		return fmt.Errorf("host %q: TCP without TLS lets every user and web page of this machine be root; add --tlsverify, or --insecure-tcp if that is wanted", host)
	default:
		return fmt.Errorf("host %q: TCP without TLS is for loopback addresses only; add --tlsverify with --tlscacert, --tlscert, --tlskey", host)
	}
}

func (c *Config) checkLogs() error {
	if c.Debug {
		c.LogLevel = "debug"
	}
	if c.LogLevel == "warning" {
		c.LogLevel = "warn"
	}
	if c.LogLevel == "fatal" {
		c.LogLevel = "error"
	}
	if err := oneOf("log-level", c.LogLevel, "debug", "info", "warn", "error"); err != nil {
		return err
	}
	if err := oneOf("log-format", c.LogFormat, "text", "json"); err != nil {
		return err
	}
	for _, l := range c.Labels {
		if k, _, ok := strings.Cut(l, "="); !ok || k == "" {
			return fmt.Errorf("bad attribute format: %s: labels are key=value", l)
		}
	}
	if err := logopts.Check(c.LogDriver, c.LogOpts); err != nil {
		return fmt.Errorf("log-driver: %w", err)
	}
	return nil
}

func (c *Config) checkNetwork() error {
	if c.Bridge != "" && c.BIP.IsValid() {
		return fmt.Errorf("You specified -b & --bip, mutually exclusive options. Please specify only one")
	}
	if !c.IPTables {
		return fmt.Errorf("iptables=false: networks without firewall rules are not there yet; use --network host or none")
	}
	if err := oneOf("firewall-backend", c.FirewallBackend, "", "nftables"); err != nil {
		return err
	}
	if err := oneOf("firewall-mode", c.FirewallMode, "", "host", "docker"); err != nil {
		return err
	}
	if c.MTU != 0 && (c.MTU < 68 || c.MTU > 65535) {
		return fmt.Errorf("invalid mtu %d: must be 68 to 65535", c.MTU)
	}
	if c.FixedCIDR.IsValid() && c.BIP.IsValid() && !c.BIP.Masked().Contains(c.FixedCIDR.Addr()) {
		return fmt.Errorf("fixed-cidr %s is not within bip %s", c.FixedCIDR, c.BIP)
	}
	if v6 := c.FixedCIDRv6; v6.IsValid() {
		if !c.IPv6 {
			return fmt.Errorf("fixed-cidr-v6 %s means nothing without ipv6", v6)
		}
		if !v6.Addr().Is6() || v6.Addr().Is4In6() || v6 != v6.Masked() || v6.Bits() > 120 {
			return fmt.Errorf("fixed-cidr-v6 %s: it must be an IPv6 subnet such as fd00:1::/64", v6)
		}
	}
	for _, p := range c.DefaultAddressPools {
		if !p.Base.IsValid() || p.Size < p.Base.Bits() || p.Size > p.Base.Addr().BitLen() {
			return fmt.Errorf("default-address-pools: base %s cannot be cut into subnets of %d bits", p.Base, p.Size)
		}
	}
	return nil
}

func (c *Config) checkContainers() error {
	for _, o := range []struct {
		key, value string
		allowed    []string
	}{
		{"default-ipc-mode", c.DefaultIpcMode, []string{"private", "shareable"}},
		{"default-cgroupns-mode", c.DefaultCgroupnsMode, []string{"", "private", "host"}},
		{"default-runtime", c.DefaultRuntime, []string{"wharf", "runc", "io.containerd.runc.v2"}},
		{"storage-driver", c.StorageDriver, []string{"", "overlay2", "overlayfs"}},
		{"userns-remap", c.UsernsRemap, []string{"", "default", "host"}},
	} {
		if err := oneOf(o.key, o.value, o.allowed...); err != nil {
			return err
		}
	}
	c.DefaultRuntime = "wharf"
	for name, u := range c.DefaultUlimits {
		if u == nil {
			return fmt.Errorf("default-ulimits: %s is empty", name)
		}
		u.Name = name
		if _, err := u.GetRlimit(); err != nil {
			return fmt.Errorf("default-ulimits: %w", err)
		}
		if u.Hard != -1 && (u.Soft == -1 || u.Soft > u.Hard) {
			return fmt.Errorf("default-ulimits: %s: soft limit %d is above the hard limit %d", name, u.Soft, u.Hard)
		}
	}
	if c.IDBase < 65536 || c.IDBase > 4_000_000_000 {
		return fmt.Errorf("invalid id-base %d: must be 65536 to 4000000000, so that containers' ids are nobody's on the host", c.IDBase)
	}
	switch c.SeccompProfile {
	case "", "builtin", "unconfined":
		c.Seccomp = strings.TrimPrefix(c.SeccompProfile, "builtin")
		return nil
	}
	text, err := os.ReadFile(c.SeccompProfile)
	if err != nil {
		return fmt.Errorf("opening seccomp profile (%s) failed: %w", c.SeccompProfile, err)
	}
	var p seccomp.Seccomp
	if err := json.Unmarshal(text, &p); err != nil {
		return fmt.Errorf("seccomp-profile %s: %w", c.SeccompProfile, err)
	}
	c.Seccomp = string(text)
	return nil
}

func (c *Config) checkRest() error {
	for _, n := range []struct {
		key   string
		value int
	}{{"max-concurrent-downloads", c.MaxConcurrentDownloads}, {"max-concurrent-uploads", c.MaxConcurrentUploads}} {
		if n.value < 0 {
			return fmt.Errorf("invalid %s: %d", n.key, n.value)
		}
	}
	for _, o := range c.ExecOpts {
		if o != "native.cgroupdriver=cgroupfs" {
			return fmt.Errorf("exec-opt %q: wharf manages cgroups itself; only native.cgroupdriver=cgroupfs is known", o)
		}
	}
	if !c.LiveRestore {
		return fmt.Errorf("live-restore=false: containers always outlive the daemon; stop them before it with `wharf stop $(wharf ps -q)`")
	}
	for name, on := range c.Features {
		switch {
		case name == "containerd-snapshotter" && on, name == "buildkit":
		case name == "containerd-snapshotter":
			return fmt.Errorf("features: %s cannot be off: images are kept in containerd's form", name)
		default:
			return fmt.Errorf("features: %q is not known", name)
		}
	}
	if c.SELinuxEnabled {
		return fmt.Errorf("selinux-enabled: labels for containers are not there yet; the daemon runs without, as dockerd does by default")
	}
	if c.Experimental {
		c.note("experimental has no effect: there is nothing experimental to turn on")
	}
	return nil
}

// Diff names the keys in which a and b differ, those that a running daemon can
// take over apart from those that need a restart.
func Diff(a, b *Config) (reload, restart []string) {
	fa, fb := fields(a), fields(b)
	for i := range fa {
		if reflect.DeepEqual(fa[i].value.Interface(), fb[i].value.Interface()) {
			continue
		}
		if fa[i].reload {
			reload = append(reload, fa[i].key)
		} else {
			restart = append(restart, fa[i].key)
		}
	}
	return reload, restart
}

// Take returns old with the options of next that a running daemon can take
// over.
func Take(old, next *Config) *Config {
	c := *old
	fc, fn := fields(&c), fields(next)
	for i := range fc {
		if fc[i].reload {
			fc[i].value.Set(fn[i].value)
		}
	}
	c.Trust = next.Trust
	return &c
}

// Text shows every option as JSON, by key, for the reload event.
func (c *Config) Text() map[string]string {
	out := make(map[string]string)
	for _, f := range fields(c) {
		b, err := json.Marshal(f.value.Interface())
		if err == nil {
			out[f.key] = string(b)
		}
	}
	return out
}
