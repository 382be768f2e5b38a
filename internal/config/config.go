package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"strings"

	"github.com/docker/go-units"

	"wharf/internal/trust"
)

// DefaultFile is read if it is there; another one must be.
const DefaultFile = "/etc/wharf/daemon.json"

// Config is the whole configuration. JSON names are those of the file; a flag
// has the same name unless its tag says another.
type Config struct {
	DataRoot string `json:"data-root" flag:"data-root" help:"directory of everything that must last"`
	ExecRoot string `json:"exec-root" flag:"exec-root" help:"directory of what lasts until the machine restarts"`
	Pidfile  string `json:"pidfile" flag:"pidfile,p" help:"file for the daemon's process id"`
	Monitor  string `json:"monitor" flag:"monitor" help:"path of wharf-monitor"`

	BaseImage string `json:"base-image" flag:"base-image" help:"archive of the small image that a new store starts with"`

	Hosts       []string `json:"hosts" flag:"host,H" help:"where to listen: unix://PATH, tcp://HOST:PORT, fd://"`
	Group       string   `json:"group" flag:"group,G" help:"group that may use the unix socket"`
	TLS         bool     `json:"tls" flag:"tls" help:"serve TCP with TLS"`
	TLSVerify   bool     `json:"tlsverify" flag:"tlsverify" help:"serve TCP with TLS and want client certificates"`
	TLSCACert   string   `json:"tlscacert" flag:"tlscacert" help:"trust only client certificates signed by this authority"`
	TLSCert     string   `json:"tlscert" flag:"tlscert" help:"the server's certificate"`
	TLSKey      string   `json:"tlskey" flag:"tlskey" help:"the server's key"`
	InsecureTCP bool     `json:"insecure-tcp" flag:"insecure-tcp" help:"allow TCP without TLS, on loopback addresses only"`

	Debug     bool     `json:"debug" flag:"debug,D" help:"log more" reload:"yes"`
	LogLevel  string   `json:"log-level" flag:"log-level,l" help:"debug, info, warn, error" reload:"yes"`
	LogFormat string   `json:"log-format" flag:"log-format" help:"text or json"`
	RawLogs   bool     `json:"raw-logs" flag:"raw-logs" help:"no colours in the log (there never are)"`
	Labels    []string `json:"labels" flag:"label" help:"key=value labels of the daemon" reload:"yes"`

	LogDriver string            `json:"log-driver" flag:"log-driver" help:"log driver of containers that name none"`
	LogOpts   map[string]string `json:"log-opts" flag:"log-opt" help:"options for that driver"`

	Bridge              string       `json:"bridge" flag:"bridge,b" help:"name of the default bridge, or none"`
	BIP                 netip.Prefix `json:"bip" flag:"bip" help:"address and subnet of the default bridge"`
	FixedCIDR           netip.Prefix `json:"fixed-cidr" flag:"fixed-cidr" help:"part of the subnet that containers get addresses from"`
	IPv6                bool         `json:"ipv6" flag:"ipv6" help:"the default bridge has IPv6 too"`
	FixedCIDRv6         netip.Prefix `json:"fixed-cidr-v6" flag:"fixed-cidr-v6" help:"its IPv6 subnet, if not one that wharf chooses"`
	DefaultGateway      netip.Addr   `json:"default-gateway" flag:"default-gateway" help:"gateway of the default bridge's containers"`
	IP                  netip.Addr   `json:"ip" flag:"ip" help:"address that ports are published on"`
	DefaultAddressPools []Pool       `json:"default-address-pools" flag:"default-address-pool" help:"base=CIDR,size=BITS: where networks get subnets from"`
	MTU                 int          `json:"mtu" flag:"mtu" help:"MTU of the default bridge"`
	ICC                 bool         `json:"icc" flag:"icc" help:"containers on the default bridge may talk to each other"`
	IPMasq              bool         `json:"ip-masq" flag:"ip-masq" help:"masquerade what leaves the default bridge"`
	IPForward           bool         `json:"ip-forward" flag:"ip-forward" help:"turn on net.ipv4.ip_forward"`
	IPTables            bool         `json:"iptables" flag:"iptables" help:"write firewall rules (nftables, in a table of our own)"`
	FirewallBackend     string       `json:"firewall-backend" flag:"firewall-backend" help:"nftables is the only one"`
	FirewallMode        string       `json:"firewall-mode" flag:"firewall-mode" help:"host: the host's own firewall decides about containers too; docker: they pass it"`

	DNS            []netip.Addr `json:"dns" flag:"dns" help:"name servers of containers"`
	DNSOpts        []string     `json:"dns-opts" flag:"dns-opt" help:"resolver options of containers"`
	DNSSearch      []string     `json:"dns-search" flag:"dns-search" help:"search domains of containers"`
	HostGatewayIPs []netip.Addr `json:"host-gateway-ips" flag:"host-gateway-ip" help:"what host-gateway stands for in --add-host"`

	DefaultUlimits      Ulimits  `json:"default-ulimits" flag:"default-ulimit" help:"ulimits of containers"`
	DefaultShmSize      Size     `json:"default-shm-size" flag:"default-shm-size" help:"size of /dev/shm in containers"`
	DefaultIpcMode      string   `json:"default-ipc-mode" flag:"default-ipc-mode" help:"private or shareable"`
	DefaultCgroupnsMode string   `json:"default-cgroupns-mode" flag:"default-cgroupns-mode" help:"private or host"`
	DefaultRuntime      string   `json:"default-runtime" flag:"default-runtime" help:"wharf is the only one"`
	SeccompProfile      string   `json:"seccomp-profile" flag:"seccomp-profile" help:"builtin, unconfined, or a profile's path"`
	CDISpecDirs         []string `json:"cdi-spec-dirs" flag:"cdi-spec-dir" help:"directories of CDI device specifications"`

	CgroupParent    string `json:"cgroup-parent" flag:"cgroup-parent" help:"cgroup that containers live below"`
	Init            bool   `json:"init" flag:"init" help:"run an init in containers"`
	NoNewPrivileges bool   `json:"no-new-privileges" flag:"no-new-privileges" help:"containers cannot gain privileges"`
	SELinuxEnabled  bool   `json:"selinux-enabled" flag:"selinux-enabled" help:"label containers for SELinux"`
	UsernsRemap     string `json:"userns-remap" flag:"userns-remap" help:"default: each container its own ids; host: the host's"`
	IDBase          uint32 `json:"id-base" flag:"id-base" help:"first host id of containers' user namespaces"`

	InsecureRegistries     []string `json:"insecure-registries" flag:"insecure-registry" help:"registries without TLS" reload:"yes"`
	RegistryMirrors        []string `json:"registry-mirrors" flag:"registry-mirror" help:"asked first for docker.io" reload:"yes"`
	MaxConcurrentDownloads int      `json:"max-concurrent-downloads" flag:"max-concurrent-downloads" help:"layers that a pull fetches at once" reload:"yes"`
	MaxConcurrentUploads   int      `json:"max-concurrent-uploads" flag:"max-concurrent-uploads" help:"layers that a push sends at once" reload:"yes"`
	CertsDir               string   `json:"certs-dir" flag:"certs-dir" help:"directory of registries' certificates"`
	ImageGCAge             string   `json:"image-gc-age" flag:"image-gc-age" help:"images that no container used for so long (720h) go when the disk is past the mark; 0, the default, keeps them" reload:"yes"`
	ImageGCMark            string   `json:"image-gc-mark" flag:"image-gc-mark" help:"how full the file system may be before they go: a part of it (85%), or bytes in use" reload:"yes"`
	TrustPolicy            string   `json:"trust-policy" flag:"trust-policy" help:"file that says whose signatures images must have: docs/shipping.md" reload:"yes"`
	HTTPProxy              string   `json:"http-proxy" flag:"http-proxy" help:"proxy for registries"`
	HTTPSProxy             string   `json:"https-proxy" flag:"https-proxy" help:"proxy for registries"`
	NoProxy                string   `json:"no-proxy" flag:"no-proxy" help:"hosts that need none"`

	DefaultIsolation string   `json:"default-isolation" flag:"default-isolation" help:"container or vm: what containers run in that name none"`
	IsolationPolicy  []string `json:"isolation-policy" flag:"isolation-policy" help:"vm:label=KEY[=VALUE] or vm:network=NAME: what such containers run in, whatever they ask for"`
	VM               bool     `json:"vm" flag:"vm" help:"containers may run in virtual machines"`
	VMAccelerator    string   `json:"vm-accelerator" flag:"vm-accelerator" help:"auto, kvm (never emulate) or tcg (always emulate)"`
	VMMemory         Size     `json:"vm-memory" flag:"vm-memory" help:"memory of a virtual machine without --memory"`
	VMBalloon        string   `json:"vm-balloon" flag:"vm-balloon" help:"how little of the host's memory may be available before virtual machines are asked for what they do not need: a part of it (10%), a size, or off"`
	VMBootTime       string   `json:"vm-boot-time" flag:"vm-boot-time" help:"how long a virtual machine may take to come up; auto: 30s with KVM, 110s emulated. More than 30s gives the test of KVM more time, too"`
	VMKernel         string   `json:"vm-kernel" flag:"vm-kernel" help:"kernel of virtual machines: a bzImage or vmlinux"`
	VMModules        string   `json:"vm-modules" flag:"vm-modules" help:"directory of that kernel's modules"`
	VMQemu           string   `json:"vm-qemu" flag:"vm-qemu" help:"path of qemu-system-x86_64"`
	VMVirtiofsd      string   `json:"vm-virtiofsd" flag:"vm-virtiofsd" help:"path of virtiofsd"`
	VMHolder         string   `json:"vm-holder" flag:"vm-holder" help:"path of wharf-vmm"`
	VMGuest          string   `json:"vm-guest" flag:"vm-guest" help:"path of wharf-guest"`
	VMTemplates      bool     `json:"vm-templates" flag:"vm-templates" help:"keep booted machines in memory that others are cloned from"`
	VMReady          int      `json:"vm-ready" flag:"vm-ready" help:"how many virtual machines are kept ready for the next start, behind the templates that were used last (1); 0 is none"`
	VMDebug          bool     `json:"vm-debug" flag:"vm-debug" help:"virtual machines' kernels say more on their consoles"`

	Builder Builder `json:"builder" flag:"-" help:"gc of the build cache (enabled, defaultReservedSpace, defaultMaxUsedSpace, defaultMinFreeSpace, policy), entitlements (network-host, security-insecure): docs/build.md"`

	TrashMaxAge   string `json:"trash-max-age" flag:"trash-max-age" help:"how long removed containers and volumes can come back (24h); 0 turns the trash off" reload:"yes"`
	TrashMaxSize  string `json:"trash-max-size" flag:"trash-max-size" help:"how much the trash may hold, as a part of the file system (10%) or bytes (20g); 0 turns it off" reload:"yes"`
	TrashMaxCount int    `json:"trash-max-count" flag:"trash-max-count" help:"how many removed containers the trash may hold, beside a fifth of it for those with --rm, and how many volumes; 0 turns it off" reload:"yes"`
	TrashMinFree  string `json:"trash-min-free" flag:"trash-min-free" help:"the trash goes early when less of the file system is free (2%, or bytes)" reload:"yes"`

	ShutdownTimeout int             `json:"shutdown-timeout" flag:"shutdown-timeout" help:"seconds that requests get to end at shutdown"`
	LiveRestore     bool            `json:"live-restore" flag:"live-restore" help:"containers outlive the daemon (always so)"`
	StorageDriver   string          `json:"storage-driver" flag:"storage-driver,s" help:"overlay2 is the only one"`
	ExecOpts        []string        `json:"exec-opts" flag:"exec-opt" help:"native.cgroupdriver=cgroupfs is the only one"`
	Features        map[string]bool `json:"features" flag:"feature" help:"optional features"`
	UserlandProxy   bool            `json:"userland-proxy" flag:"userland-proxy" help:"relay in the daemon: the host's IPv6 addresses lead to containers that have IPv4 only"`
	Experimental    bool            `json:"experimental" flag:"experimental" help:"no effect"`

	// File is the configuration file, Validate asks only to check it.
	File     string `json:"-"`
	Validate bool   `json:"-"`
	Version  bool   `json:"-"`
	// Notes are for the log: what was taken without an effect of its own.
	Notes []string `json:"-"`
	// Seccomp is the profile named by SeccompProfile: "", "unconfined", or
	// its text.
	Seccomp string `json:"-"`
	// Trust is the policy in the file TrustPolicy; nil without one.
	Trust *trust.Policy `json:"-"`
}

// Default is the configuration when nobody says anything.
func Default() *Config {
	return &Config{
		DataRoot: "/var/lib/wharf", ExecRoot: "/run/wharf", Pidfile: "/run/wharf.pid",
		LogLevel: "info", LogFormat: "text", LogDriver: "json-file",
		ICC: true, IPMasq: true, IPForward: true, IPTables: true, UserlandProxy: true,
		DefaultShmSize: 64 << 20, DefaultIpcMode: "private", DefaultRuntime: "wharf", CgroupParent: "/wharf",
		CDISpecDirs: []string{"/etc/cdi", "/var/run/cdi"},
		IDBase:      1_000_000, MaxConcurrentDownloads: 3, MaxConcurrentUploads: 5, ImageGCAge: "0", ImageGCMark: "85%",
		DefaultIsolation: "container", VM: true, VMTemplates: true, VMReady: 1, VMAccelerator: "auto", VMMemory: 512 << 20, VMBalloon: "10%", VMBootTime: "auto",
		TrashMaxAge: "24h", TrashMaxSize: "10%", TrashMaxCount: 1000, TrashMinFree: "2%",
		ShutdownTimeout: 15, LiveRestore: true,
	}
}

// Size is a number of bytes, written as such or as "64m".
type Size int64

// UnmarshalJSON takes a number or a text.
func (s *Size) UnmarshalJSON(b []byte) error {
	var n int64
	if json.Unmarshal(b, &n) == nil {
		*s = Size(n)
		return nil
	}
	var text string
	if err := json.Unmarshal(b, &text); err != nil {
		return err
	}
	return s.Set(text)
}

// Set reads "64m". With String and Type it makes Size a flag.
func (s *Size) Set(text string) error {
	n, err := units.RAMInBytes(text)
	*s = Size(n)
	return err
}

func (s *Size) String() string { return units.BytesSize(float64(*s)) }

// Type names the flag's kind in help.
func (s *Size) Type() string { return "bytes" }

// Pool is a block that is cut into subnets of Size bits.
type Pool struct {
	Base netip.Prefix `json:"base"`
	Size int          `json:"size"`
}

// Ulimits are by name: {"nofile": {"Name": "nofile", "Soft": 1, "Hard": 2}}.
type Ulimits map[string]*units.Ulimit

// field is one option.
type field struct {
	key, flag, short, help string // flag is "-" for what stands in the file only
	reload                 bool
	value                  reflect.Value
}

// fields lists the options of c; their values are its fields.
func fields(c *Config) []field {
	v := reflect.ValueOf(c).Elem()
	var out []field
	for i := range v.NumField() {
		t := v.Type().Field(i)
		key := t.Tag.Get("json")
		if key == "-" {
			continue
		}
		name, short, _ := strings.Cut(t.Tag.Get("flag"), ",")
		out = append(out, field{key, name, short, t.Tag.Get("help"), t.Tag.Get("reload") != "", v.Field(i)})
	}
	return out
}

// Parse reads the command line (without the program's name) and the file that
// it names. The error is for a person and names the option.
func Parse(args []string) (*Config, error) {
	c := Default()
	fs, err := parseFlags(c, args)
	if err != nil {
		return nil, err
	}
	given := make(map[string]string) // keys that flags gave, and what
	for _, f := range fields(c) {
		if fl := fs.Lookup(f.flag); fl != nil && fl.Changed {
			given[f.key] = fl.Value.String()
		}
	}
	text, err := os.ReadFile(c.File)
	switch {
	case errors.Is(err, os.ErrNotExist) && !fs.Changed("config-file"):
	case err != nil:
		return nil, fmt.Errorf("unable to configure the wharf daemon with file %s: %w", c.File, err)
	default:
		if err := c.readFile(text, given); err != nil {
			return nil, fmt.Errorf("unable to configure the wharf daemon with file %s: %w", c.File, err)
		}
	}
	return c, c.check()
}
