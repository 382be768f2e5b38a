package dockerapi

import (
	"encoding/json"
	"net/http"
	"slices"
	"sort"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"

	"wharf/internal/model"
)

// legacyCreate holds what older versions sent and the API types no longer
// have.
type legacyCreate struct {
	MacAddress network.HardwareAddr
	HostConfig struct {
		Capabilities    []string
		KernelMemory    int64
		KernelMemoryTCP int64
	}
}

func (s *server) createContainer(c *call) error {
	raw, err := c.rawBody()
	if err != nil {
		return err
	}
	var req container.CreateRequest
	if err := decodeJSON(raw, &req); err != nil {
		return err
	}
	var old legacyCreate
	_ = json.Unmarshal(raw, &old) // a wrong type there is nothing newer clients have
	platform, err := c.platform("platform", 41)
	if err != nil {
		return err
	}
	warnings, err := adaptCreate(c.v, &req, &old)
	if err != nil {
		return err
	}
	answer, err := s.Containers.Create(c.ctx(), model.CreateRequest{
		Name: c.get("name"), Config: req.Config, HostConfig: req.HostConfig,
		Networking: req.NetworkingConfig, Platform: platform, APIVersion: c.v.String(),
	})
	if err != nil {
		return err
	}
	answer.Warnings = append(list(answer.Warnings), warnings...)
	return c.json(http.StatusCreated, answer)
}

// adaptCreate brings a request of any version into the newest form: nothing
// in it is nil, and fields that the version did not know are as if not sent.
func adaptCreate(v version, req *container.CreateRequest, old *legacyCreate) (warnings []string, err error) {
	if req.Config == nil {
		return nil, invalid("config cannot be empty in order to create a container")
	}
	fillCreate(req)
	if v < 40 && req.HostConfig.IpcMode == "" {
		req.HostConfig.IpcMode = container.IPCModeShareable
	}
	if v < 42 {
		req.HostConfig.ConsoleSize = [2]uint{}
	}
	if v < 43 {
		req.HostConfig.Annotations = nil
	}
	if v < 44 && req.Config.Healthcheck != nil {
		req.Config.Healthcheck.StartInterval = 0
	}
	if err := adaptMounts(v, req.HostConfig.Mounts); err != nil {
		return nil, err
	}
	if err := adaptEndpoints(v, req.NetworkingConfig.EndpointsConfig); err != nil {
		return nil, err
	}
	for _, adapt := range []func(version, *container.CreateRequest, *legacyCreate) (string, error){
		volumeDriverWarning, refuseLegacy, adaptMAC, adaptSysctls, adaptPorts,
	} {
		w, err := adapt(v, req, old)
		if err != nil {
			return nil, err
		}
		if w != "" {
			warnings = append(warnings, w)
		}
	}
	if p := req.HostConfig.PidsLimit; p != nil && *p <= 0 {
		req.HostConfig.PidsLimit = nil // unlimited
	}
	return warnings, nil
}

// fillCreate replaces what is null by what it means.
func fillCreate(req *container.CreateRequest) {
	if req.Config.Volumes == nil {
		req.Config.Volumes = map[string]struct{}{}
	}
	if req.HostConfig == nil {
		req.HostConfig = &container.HostConfig{}
	}
	if req.HostConfig.PortBindings == nil {
		req.HostConfig.PortBindings = network.PortMap{}
	}
	if req.NetworkingConfig == nil {
		req.NetworkingConfig = &network.NetworkingConfig{}
	}
	if req.NetworkingConfig.EndpointsConfig == nil {
		req.NetworkingConfig.EndpointsConfig = map[string]*network.EndpointSettings{}
	}
	eps := req.NetworkingConfig.EndpointsConfig
	for name, ep := range eps {
		if ep == nil {
			eps[name] = &network.EndpointSettings{}
		}
	}
	if m := req.HostConfig.NetworkMode; m == "" || m.IsDefault() {
		req.HostConfig.NetworkMode = network.NetworkBridge
		if ep, ok := eps[network.NetworkDefault]; ok {
			delete(eps, network.NetworkDefault)
			eps[network.NetworkBridge] = ep
		}
	}
}

func adaptMounts(v version, mounts []mount.Mount) error {
	for i := range mounts {
		m := &mounts[i]
		if b := m.BindOptions; b != nil {
			if v < 40 {
				b.NonRecursive = false
			}
			if v < 42 {
				b.CreateMountpoint = false
			}
			if v < 44 && b.ReadOnlyForceRecursive {
				return invalid("BindOptions.ReadOnlyForceRecursive needs API v1.44 or newer")
			}
		}
		if v < 44 && m.Type == mount.TypeBind && m.ReadOnly {
			if m.BindOptions == nil {
				m.BindOptions = &mount.BindOptions{}
			}
			m.BindOptions.ReadOnlyNonRecursive = true // there was no other way then
		}
		if v < 45 && m.VolumeOptions != nil && m.VolumeOptions.Subpath != "" {
			return invalid("VolumeOptions.Subpath needs API v1.45 or newer")
		}
		if v < 48 && m.Type == mount.TypeImage {
			return invalid(`Mount type "Image" needs API v1.48 or newer`)
		}
		if err := adaptMountOptions(v, m); err != nil {
			return err
		}
	}
	return nil
}

// adaptMountOptions deals with options that belong to another type of mount:
// older versions did not look at them.
func adaptMountOptions(v version, m *mount.Mount) error {
	if v < 42 {
		if m.Type != mount.TypeVolume {
			m.VolumeOptions = nil
		}
		if m.Type != mount.TypeTmpfs {
			m.TmpfsOptions = nil
		}
		return nil
	}
	for _, o := range []struct {
		name string
		set  bool
		of   mount.Type
	}{
		{"VolumeOptions", m.VolumeOptions != nil, mount.TypeVolume},
		{"BindOptions", m.BindOptions != nil, mount.TypeBind},
		{"TmpfsOptions", m.TmpfsOptions != nil, mount.TypeTmpfs},
	} {
		if o.set && m.Type != o.of {
			return invalid("%s must not be specified on mount type %q", o.name, m.Type)
		}
	}
	return nil
}

func adaptEndpoints(v version, eps map[string]*network.EndpointSettings) error {
	if v < 44 && len(eps) > 1 {
		names := make([]string, 0, len(eps))
		for n := range eps {
			names = append(names, n)
		}
		sort.Strings(names)
		return invalid("Container cannot be created with multiple network endpoints: %s", strings.Join(names, ", "))
	}
	if v < 48 {
		for _, ep := range eps {
			ep.GwPriority = 0
		}
	}
	return nil
}

func volumeDriverWarning(v version, req *container.CreateRequest, _ *legacyCreate) (string, error) {
	if v < 48 || req.HostConfig.VolumeDriver == "" {
		return "", nil
	}
	for _, m := range req.HostConfig.Mounts {
		named := m.VolumeOptions != nil && m.VolumeOptions.DriverConfig != nil && m.VolumeOptions.DriverConfig.Name != ""
		if m.Type == mount.TypeVolume && !named {
			return "--volume-driver has no effect on volumes given by --mount; name it there: --mount type=volume,volume-driver=...", nil
		}
	}
	return "", nil
}

// refuseLegacy refuses or warns of what newer versions no longer have.
func refuseLegacy(v version, _ *container.CreateRequest, old *legacyCreate) (string, error) {
	if v == 40 && len(old.HostConfig.Capabilities) > 0 {
		return "", invalid("HostConfig.Capabilities is not supported; use CapAdd and CapDrop")
	}
	if v < 52 && (old.HostConfig.KernelMemory > 0 || old.HostConfig.KernelMemoryTCP > 0) {
		return "KernelMemory and KernelMemoryTCP have no effect: the kernel no longer limits this memory apart", nil
	}
	return "", nil
}

// adaptMAC moves a container-wide MAC address to the main network.
func adaptMAC(v version, req *container.CreateRequest, old *legacyCreate) (string, error) {
	mode, eps := req.HostConfig.NetworkMode, req.NetworkingConfig.EndpointsConfig
	if len(old.MacAddress) == 0 {
		if v < 44 {
			for _, ep := range eps {
				ep.MacAddress = nil
			}
		}
		return "", nil
	}
	if v >= 52 {
		return "", invalid("container-wide MAC address no longer supported; use endpoint-specific MAC address instead")
	}
	if !mode.IsBridge() && !mode.IsUserDefined() {
		if v < 44 {
			return "", invalid("conflicting options: mac-address and the network mode")
		}
		return "", nil
	}
	ep, err := mainEndpoint(v, mode, eps)
	if err != nil {
		return "", err
	}
	if v >= 44 && len(ep.MacAddress) != 0 && !slices.Equal(ep.MacAddress, old.MacAddress) {
		return "", invalid("the container-wide MAC address must match the endpoint-specific MAC address for the main network, or be left empty")
	}
	ep.MacAddress = old.MacAddress
	if v < 44 {
		return "", nil
	}
	return "The container-wide MacAddress field is deprecated; give it in EndpointsConfig instead.", nil
}

// mainEndpoint finds or makes the endpoint that NetworkMode names.
func mainEndpoint(v version, mode container.NetworkMode, eps map[string]*network.EndpointSettings) (*network.EndpointSettings, error) {
	name := mode.NetworkName()
	if len(eps) == 0 {
		eps[name] = &network.EndpointSettings{}
	} else if v < 44 {
		for _, ep := range eps {
			return ep, nil // there is only one
		}
	}
	if ep := eps[name]; ep != nil {
		return ep, nil
	}
	return nil, invalid("HostConfig.NetworkMode %q must match the identity of a network in NetworkSettings.Networks", mode)
}

// endpointSysctls is the driver option that holds an interface's sysctls.
const endpointSysctls = "com.docker.network.endpoint.sysctls"

// adaptSysctls moves net.*.*.eth0.* to the main endpoint: which interface is
// eth0 is only known when it is made.
func adaptSysctls(v version, req *container.CreateRequest, _ *legacyCreate) (string, error) {
	if !req.HostConfig.NetworkMode.IsPrivate() {
		return "", nil
	}
	var moved, values []string
	for k, val := range req.HostConfig.Sysctls {
		part := strings.SplitN(k, ".", 5)
		if len(part) < 5 || part[0] != "net" || !strings.HasPrefix(part[3], "eth") {
			continue
		}
		if v >= 48 {
			return "", invalid("interface specific sysctl setting %q must be supplied using driver option '%s'", k, endpointSysctls)
		}
		if part[3] != "eth0" {
			return "", invalid("unable to determine network endpoint for sysctl %s, use driver option '%s' to set per-interface sysctls", k, endpointSysctls)
		}
		moved = append(moved, k)
		values = append(values, "net."+part[1]+"."+part[2]+".IFNAME."+part[4]+"="+val)
	}
	if len(moved) == 0 {
		return "", nil
	}
	ep, err := mainEndpoint(v, req.HostConfig.NetworkMode, req.NetworkingConfig.EndpointsConfig)
	if err != nil {
		return "", err
	}
	sort.Strings(moved)
	sort.Strings(values)
	if ep.DriverOpts == nil {
		ep.DriverOpts = map[string]string{}
	}
	if own := ep.DriverOpts[endpointSysctls]; own != "" {
		values = append(values, own) // the endpoint's own come last and win
	}
	ep.DriverOpts[endpointSysctls] = strings.Join(values, ",")
	for _, k := range moved {
		delete(req.HostConfig.Sysctls, k)
	}
	return "sysctl " + strings.Join(moved, ",") + " was moved to the endpoint's driver option " + endpointSysctls + ".", nil
}

// adaptPorts gives a port with an empty list of bindings one on any host
// port, as Docker always did.
func adaptPorts(v version, req *container.CreateRequest, _ *legacyCreate) (string, error) {
	var empty []string
	for port, bindings := range req.HostConfig.PortBindings {
		if len(bindings) == 0 {
			req.HostConfig.PortBindings[port] = []network.PortBinding{{}}
			empty = append(empty, port.String())
		}
	}
	if v < 52 || len(empty) == 0 {
		return "", nil
	}
	sort.Strings(empty)
	return "Following container port(s) have an empty list of port-bindings: " + strings.Join(empty, ", ") + ". Such bindings will be discarded in a future version.", nil
}
