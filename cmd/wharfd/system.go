package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/api/types/system"

	"wharf/internal/config"
	"wharf/internal/dockerapi"
	"wharf/internal/host"
	"wharf/internal/logs/logopts"
	"wharf/internal/model"
	"wharf/internal/plan"
)

// sysinfo is the daemon as the API shows it.
type sysinfo struct {
	*rooms
	live *atomic.Pointer[config.Config]
	plan plan.Facts
	id   string
}

// open reads the daemon's own name, or makes one.
func (s *sysinfo) open(dataRoot string) error {
	file := filepath.Join(dataRoot, "engine-id")
	b, err := os.ReadFile(file)
	if err == nil && len(b) > 0 {
		s.id = strings.TrimSpace(string(b))
		return nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	id := string(model.NewID())
	s.id = strings.Join([]string{id[:8], id[8:12], id[12:16], id[16:20], id[20:32]}, "-")
	return os.WriteFile(file, []byte(s.id+"\n"), 0o600)
}

// Version says what this is.
func (s *sysinfo) Version(context.Context) (*system.VersionResponse, error) {
	v := &system.VersionResponse{
		Platform: system.PlatformInfo{Name: "wharf"}, Version: release(),
		APIVersion: dockerapi.MaxAPIVersion, MinAPIVersion: dockerapi.MinAPIVersion,
		Os: runtime.GOOS, Arch: runtime.GOARCH, GitCommit: orNone(commit), GoVersion: runtime.Version(), KernelVersion: s.facts.Kernel.Release,
	}
	v.Components = []system.ComponentVersion{{Name: "Engine", Version: v.Version, Details: map[string]string{
		"ApiVersion": v.APIVersion, "MinAPIVersion": v.MinAPIVersion, "Arch": v.Arch, "Os": v.Os,
		"GitCommit": v.GitCommit, "GoVersion": v.GoVersion, "KernelVersion": v.KernelVersion, "Experimental": "false",
	}}}
	return v, nil
}

// Info says how it is set up and what it holds.
func (s *sysinfo) Info(ctx context.Context) (*system.Info, error) {
	c, f := s.live.Load(), s.facts
	i := &system.Info{
		ID: s.id, Name: f.Hostname, ServerVersion: release(), SystemTime: time.Now().Format(time.RFC3339Nano),
		Driver: "overlayfs", DriverStatus: s.storage(), DockerRootDir: c.DataRoot,
		Plugins: system.PluginsInfo{
			Volume: []string{"local"}, Network: []string{"bridge", "host", "ipvlan", "macvlan", "null"}, Log: slices.Clone(logopts.Drivers),
		},
		MemoryLimit: s.plan.Memory, SwapLimit: s.plan.Swap, CPUCfsPeriod: s.plan.CPUQuota, CPUCfsQuota: s.plan.CPUQuota,
		CPUShares: s.plan.CPUShares, CPUSet: s.plan.Cpuset, PidsLimit: s.plan.Pids, OomKillDisable: s.plan.OomKillDisable,
		IPv4Forwarding: s.plan.IPv4Forward, Debug: c.LogLevel == "debug", NGoroutines: runtime.NumGoroutine(), NFd: openFiles(),
		LoggingDriver: c.LogDriver, CgroupDriver: "cgroupfs", CgroupVersion: strconv.Itoa(s.plan.CgroupVersion),
		KernelVersion: f.Kernel.Release, OperatingSystem: f.OS.Name, OSVersion: f.OS.Version, OSType: "linux", Architecture: f.Machine,
		IndexServerAddress: "https://index.docker.io/v1/", RegistryConfig: registryConfig(c),
		NCPU: f.CPUs, MemTotal: int64(f.Memory), GenericResources: []swarm.GenericResource{}, Labels: slices.Clone(c.Labels),
		HTTPProxy: os.Getenv("HTTP_PROXY"), HTTPSProxy: os.Getenv("HTTPS_PROXY"), NoProxy: os.Getenv("NO_PROXY"),
		Runtimes:       runtimes(c),
		DefaultRuntime: c.DefaultRuntime, Swarm: swarm.Info{LocalNodeState: swarm.LocalNodeStateInactive},
		LiveRestoreEnabled: true, InitBinary: "wharf-monitor", SecurityOptions: s.security(c), CDISpecDirs: append([]string{}, s.cdi.dirs...),
		FirewallBackend: &system.FirewallInfo{Driver: "nftables"},
		Warnings:        append(host.Warnings(f), s.networks.Warnings()...),
	}
	i.Warnings = append(append(i.Warnings, s.openDoors(c)...), s.cdi.broken()...)
	for _, name := range s.cdi.Names() {
		i.DiscoveredDevices = append(i.DiscoveredDevices, system.DeviceInfo{Source: "cdi", ID: name})
	}
	for _, p := range c.DefaultAddressPools {
		i.DefaultAddressPools = append(i.DefaultAddressPools, system.NetworkAddressPool{Base: p.Base, Size: p.Size})
	}
	if i.Labels == nil {
		i.Labels = []string{}
	}
	return i, s.count(ctx, i)
}

func (s *sysinfo) count(ctx context.Context, i *system.Info) error {
	list, err := s.engine.List(ctx, model.ListRequest{All: true})
	if err != nil {
		return err
	}
	i.Containers = len(list)
	for _, c := range list {
		switch c.State {
		case container.StateRunning:
			i.ContainersRunning++
		case container.StatePaused:
			i.ContainersPaused++
		default:
			i.ContainersStopped++
		}
	}
	images, err := s.images.List(ctx, false, false, false, nil)
	i.Images = len(images)
	return err
}

func (s *sysinfo) storage() [][2]string {
	yes := func(b bool) string { return strconv.FormatBool(b) }
	return [][2]string{
		{"driver-type", "io.containerd.snapshotter.v1"},
		{"Backing Filesystem", s.facts.DataRoot.FSType},
		{"Idmapped layers", yes(s.facts.DataRoot.OverlayIdmap)},
	}
}

func (s *sysinfo) security(c *config.Config) []string {
	out := []string{}
	if s.plan.AppArmor {
		out = append(out, "name=apparmor")
	}
	if s.plan.Seccomp {
		profile := c.SeccompProfile
		if profile == "" {
			profile = "builtin"
		}
		out = append(out, "name=seccomp,profile="+profile)
	}
	if c.SELinuxEnabled && s.plan.SELinux {
		out = append(out, "name=selinux")
	}
	if s.plan.UserNS && c.UsernsRemap != "host" {
		out = append(out, "name=userns")
	}
	if s.plan.CgroupVersion == 2 || c.DefaultCgroupnsMode == "private" {
		out = append(out, "name=cgroupns")
	}
	if c.NoNewPrivileges {
		out = append(out, "name=no-new-privileges")
	}
	return out
}

// openDoors warns of ways in that need no certificate.
func (s *sysinfo) openDoors(c *config.Config) []string {
	var out []string
	for _, h := range c.Hosts {
		if strings.HasPrefix(h, "tcp://") && !c.TLSVerify {
			out = append(out, "WARNING: API is accessible on "+h+" without client certificates. Whoever reaches it is root on this machine.")
		}
	}
	return out
}

func registryConfig(c *config.Config) *registry.ServiceConfig {
	cfg := &registry.ServiceConfig{
		IndexConfigs: map[string]*registry.IndexInfo{
			"docker.io": {Name: "docker.io", Mirrors: append([]string{}, c.RegistryMirrors...), Secure: true, Official: true},
		},
		Mirrors: slices.Clone(c.RegistryMirrors),
	}
	for _, r := range append([]string{"127.0.0.0/8", "::1/128"}, c.InsecureRegistries...) {
		addRegistry(cfg, r)
	}
	return cfg
}

// runtimes are the names that --runtime takes. All mean ours: clients and
// Compose files that say "runc" want containers as Docker makes them.
func runtimes(c *config.Config) map[string]system.RuntimeWithStatus {
	out := map[string]system.RuntimeWithStatus{c.DefaultRuntime: {}}
	for _, name := range runtimeNames {
		out[name] = system.RuntimeWithStatus{Runtime: system.Runtime{Path: c.DefaultRuntime}}
	}
	if c.VM {
		out[string(model.IsolationVM)] = system.RuntimeWithStatus{Runtime: system.Runtime{Path: c.VMHolder}}
	}
	return out
}

func openFiles() int {
	d, err := os.Open("/proc/self/fd")
	if err != nil {
		return 0
	}
	defer d.Close()
	names, _ := d.Readdirnames(-1)
	return max(len(names)-1, 0)
}
