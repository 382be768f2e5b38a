package main

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/system"
)

// recipe is what has to be said to make a container again: its configuration
// without what image and engine give anyway. It is made from inspect's answer
// alone, so that it works with any engine that speaks Docker's API.
type recipe struct {
	name     string
	image    string
	platform string // "" unless it is not the machine's
	config   container.Config
	host     container.HostConfig
	networks []joined // the first is HostConfig.NetworkMode, unless that is no network
	ports    []string // published, as -p writes them
	expose   []string
	volumes  []string // anonymous, by -v /path

	entrypoint    []string // nil: the image's
	command       []string
	resetEntry    bool     // the image's entrypoint has to be taken away
	notes         []string // what cannot be said, for a person
	detached      bool
	unconfinedSys bool // --security-opt systempaths=unconfined
}

// joined is one network with the container's settings there.
type joined struct {
	name string
	ep   network.EndpointSettings
}

// newRecipe compares a container with its image's configuration (nil: it is
// gone) and the engine's defaults.
func newRecipe(c *container.InspectResponse, image *container.Config, info *system.Info) *recipe {
	r := &recipe{name: strings.TrimPrefix(c.Name, "/"), image: c.Config.Image, config: *c.Config, host: *c.HostConfig}
	if image == nil {
		image = &container.Config{}
		r.note("the image %s is not here: what it brings itself cannot be told from what was asked for", c.Config.Image)
	}
	if p := c.ImageManifestDescriptor; p != nil && p.Platform != nil && info.Architecture != "" && machine(p.Platform.Architecture) != info.Architecture {
		r.platform = p.Platform.OS + "/" + p.Platform.Architecture
		if p.Platform.Variant != "" {
			r.platform += "/" + p.Platform.Variant
		}
	}
	r.detached = !c.Config.AttachStdin && !c.Config.AttachStdout && !c.Config.AttachStderr
	r.lessConfig(c, image, info)
	r.lessHost(info)
	r.process(c.Config, image)
	r.network(c)
	return r
}

func (r *recipe) note(format string, args ...any) {
	r.notes = append(r.notes, fmt.Sprintf(format, args...))
}

// machine is an architecture as uname writes it.
func machine(arch string) string {
	switch arch {
	case "amd64":
		return "x86_64"
	case "arm64":
		return "aarch64"
	}
	return arch
}

// lessConfig takes away what the image has.
func (r *recipe) lessConfig(c *container.InspectResponse, image *container.Config, info *system.Info) {
	cfg := &r.config
	if mode := c.HostConfig.NetworkMode; cfg.Hostname == c.ID[:min(12, len(c.ID))] || mode.IsContainer() || (mode.IsHost() || c.HostConfig.UTSMode.IsHost()) && cfg.Hostname == info.Name {
		cfg.Hostname = ""
	}
	cfg.Env = minus(cfg.Env, image.Env)
	for _, kv := range image.Env {
		name, _, _ := strings.Cut(kv, "=")
		if !slices.ContainsFunc(c.Config.Env, func(s string) bool { return strings.HasPrefix(s, name+"=") }) {
			r.note("the image's variable %s was taken away; `-e %s` does that where the variable is not set for the command line itself", name, name)
			cfg.Env = append(cfg.Env, name)
		}
	}
	cfg.Labels = maps.Clone(cfg.Labels)
	for k, v := range image.Labels {
		if have, ok := cfg.Labels[k]; ok && have == v {
			delete(cfg.Labels, k)
		}
	}
	if cfg.User == image.User {
		cfg.User = ""
	}
	if cfg.WorkingDir == image.WorkingDir {
		cfg.WorkingDir = ""
	}
	if cfg.StopSignal == image.StopSignal {
		cfg.StopSignal = ""
	}
	if cfg.Healthcheck != nil && image.Healthcheck != nil && reflect.DeepEqual(*cfg.Healthcheck, *image.Healthcheck) {
		cfg.Healthcheck = nil
	}
	r.anonymous(c, image)
	for p := range cfg.ExposedPorts {
		_, own := image.ExposedPorts[p]
		if _, published := r.host.PortBindings[p]; !own && !published {
			r.expose = append(r.expose, p.String())
		}
	}
	slices.Sort(r.expose)
	for p, bindings := range r.host.PortBindings {
		for _, b := range bindings {
			r.ports = append(r.ports, portText(p, b))
		}
		if len(bindings) == 0 {
			r.ports = append(r.ports, portText(p, network.PortBinding{}))
		}
	}
	slices.Sort(r.ports)
}

// anonymous finds the volumes without a name that the image does not ask for.
func (r *recipe) anonymous(c *container.InspectResponse, image *container.Config) {
	for path := range r.config.Volumes {
		if _, own := image.Volumes[path]; !own {
			r.volumes = append(r.volumes, path)
		}
	}
	slices.Sort(r.volumes)
}

// portText is "[IP:][PORT]:PORT[/PROTOCOL]".
func portText(p network.Port, b network.PortBinding) string {
	text := fmt.Sprint(p.Num())
	if p.Proto() != network.TCP {
		text += "/" + string(p.Proto())
	}
	switch {
	case b.HostIP.IsValid() && b.HostIP.Is6():
		return "[" + b.HostIP.String() + "]:" + b.HostPort + ":" + text
	case b.HostIP.IsValid():
		return b.HostIP.String() + ":" + b.HostPort + ":" + text
	case b.HostPort != "":
		return b.HostPort + ":" + text
	}
	return text
}

// lessHost takes away what the engine fills in.
func (r *recipe) lessHost(info *system.Info) {
	h := &r.host
	if h.Runtime == info.DefaultRuntime {
		h.Runtime = ""
	}
	if h.LogConfig.Type == info.LoggingDriver && len(h.LogConfig.Config) == 0 {
		h.LogConfig.Type = ""
	}
	if h.ShmSize == 64<<20 {
		h.ShmSize = 0
	}
	if h.IpcMode.IsPrivate() {
		h.IpcMode = ""
	}
	if h.Isolation == "default" || h.Isolation == "container" {
		h.Isolation = ""
	}
	if s := string(h.CgroupnsMode); s == "private" && info.CgroupVersion != "1" || s == "host" && info.CgroupVersion == "1" {
		h.CgroupnsMode = ""
	}
	if h.RestartPolicy.IsNone() {
		h.RestartPolicy = container.RestartPolicy{}
	}
	if h.MemorySwap == 2*h.Memory {
		h.MemorySwap = 0
	}
	if h.MemorySwappiness != nil && *h.MemorySwappiness == -1 {
		h.MemorySwappiness = nil
	}
	if h.OomKillDisable != nil && !*h.OomKillDisable {
		h.OomKillDisable = nil
	}
	if h.PidsLimit != nil && *h.PidsLimit == 0 {
		h.PidsLimit = nil
	}
	r.unconfinedSys = !h.Privileged && h.MaskedPaths != nil && len(h.MaskedPaths) == 0 && len(h.ReadonlyPaths) == 0
	h.SecurityOpt = slices.DeleteFunc(slices.Clone(h.SecurityOpt), func(s string) bool {
		return h.Privileged && s == "label=disable" // comes with it
	})
	for i, s := range h.SecurityOpt {
		if v, ok := strings.CutPrefix(s, "seccomp="); ok && strings.HasPrefix(strings.TrimSpace(v), "{") {
			h.SecurityOpt[i] = "seccomp=" + r.name + "-seccomp.json"
			r.note("put the seccomp profile into that file first: wharf inspect -f '{{index .HostConfig.SecurityOpt %d}}' %s | sed 's/^seccomp=//' > %s-seccomp.json", i, r.name, r.name)
		}
	}
}

// process finds what to say about entrypoint and command. --entrypoint takes
// one word and clears the image's command; further words stand before the
// command.
func (r *recipe) process(c, image *container.Config) {
	same := slices.Equal(c.Entrypoint, image.Entrypoint)
	switch {
	case same && slices.Equal(c.Cmd, image.Cmd):
	case same && len(c.Cmd) > 0:
		r.command = c.Cmd
	case len(c.Entrypoint) == 0 || len(c.Entrypoint) == 1 && c.Entrypoint[0] == "":
		r.resetEntry, r.command = true, c.Cmd
	default:
		r.entrypoint, r.command = c.Entrypoint, c.Cmd
	}
}

// network finds the networks and what is particular there.
func (r *recipe) network(c *container.InspectResponse) {
	mode := c.HostConfig.NetworkMode
	if mode.IsHost() || mode.IsNone() || mode.IsContainer() || c.NetworkSettings == nil {
		return
	}
	main := string(mode)
	if mode.IsDefault() || main == "" {
		main = "bridge"
	}
	for _, name := range slices.Sorted(maps.Keys(c.NetworkSettings.Networks)) {
		ep := c.NetworkSettings.Networks[name]
		if ep == nil {
			ep = &network.EndpointSettings{}
		}
		j := joined{name: name, ep: *ep}
		j.ep.Aliases = slices.DeleteFunc(slices.Clone(ep.Aliases), func(a string) bool { return a == c.ID[:min(12, len(c.ID))] })
		if generated(ep) {
			j.ep.MacAddress = nil
		}
		if name == main {
			r.networks = slices.Insert(r.networks, 0, j)
		} else {
			r.networks = append(r.networks, j)
		}
	}
	if len(r.networks) == 1 && r.networks[0].name == "bridge" && plain(r.networks[0].ep) {
		r.networks = nil // what a container has anyway
	}
}

// generated reports whether the engine made the address: from the IPv4
// address, or at random (its first byte is then even and has bit 1).
func generated(ep *network.EndpointSettings) bool {
	m := ep.MacAddress
	if len(m) != 6 {
		return true
	}
	if m[0] == 0x02 && m[1] == 0x42 && ep.IPAddress.Is4() {
		ip := ep.IPAddress.As4()
		return m[2] == ip[0] && m[3] == ip[1] && m[4] == ip[2] && m[5] == ip[3]
	}
	return false
}

func plain(ep network.EndpointSettings) bool {
	return (ep.IPAMConfig == nil || !ep.IPAMConfig.IPv4Address.IsValid() && !ep.IPAMConfig.IPv6Address.IsValid() && len(ep.IPAMConfig.LinkLocalIPs) == 0) &&
		len(ep.Aliases) == 0 && len(ep.DriverOpts) == 0 && ep.GwPriority == 0 && len(ep.MacAddress) == 0
}

// minus is a without what is in b.
func minus(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return slices.Contains(b, s) })
}
