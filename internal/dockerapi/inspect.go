package dockerapi

import (
	"net/http"
	"net/netip"
	"slices"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/storage"
)

// legacyInspect is inspect's answer before 1.52.
type legacyInspect struct {
	*container.InspectResponse
	Config          *legacyConfig
	NetworkSettings *legacyNetwork
}

type legacyConfig struct {
	*container.Config
	OnBuild []string
}

// legacyNetwork repeats the default bridge's endpoint at the top.
type legacyNetwork struct {
	Bridge                 string
	HairpinMode            bool
	LinkLocalIPv6Address   string
	LinkLocalIPv6PrefixLen int
	SecondaryIPAddresses   []struct{}
	SecondaryIPv6Addresses []struct{}
	EndpointID             string
	Gateway                netip.Addr
	GlobalIPv6Address      netip.Addr
	GlobalIPv6PrefixLen    int
	IPAddress              netip.Addr
	IPPrefixLen            int
	IPv6Gateway            netip.Addr
	MacAddress             network.HardwareAddr
	*container.NetworkSettings
}

func (s *server) inspectContainer(c *call) error {
	got, err := s.Containers.Inspect(c.ctx(), c.name, c.truth("size"))
	if err != nil {
		return err
	}
	out := inspectFor(c.v, got)
	if s.Removed != nil {
		if end, err := s.Removed.End(got.ID); err == nil {
			out = withEnd(out, end)
		}
	}
	return c.json(http.StatusOK, out)
}

// inspectFor shows a container as version v did. It leaves got as it is.
func inspectFor(v version, got *container.InspectResponse) any {
	r := *got
	if r.Config == nil {
		r.Config = &container.Config{}
	}
	if r.NetworkSettings == nil {
		r.NetworkSettings = &container.NetworkSettings{}
	}
	r.Mounts = list(r.Mounts)
	if r.NetworkSettings.Ports == nil {
		n := *r.NetworkSettings
		n.Ports = network.PortMap{}
		r.NetworkSettings = &n
	}
	if v < 48 {
		r.ImageManifestDescriptor = nil
	}
	if v >= 52 {
		return &r
	}
	if v < 45 {
		r.NetworkSettings = withAliases(&r)
	}
	if r.GraphDriver == nil && r.Storage != nil && r.Storage.RootFS != nil && r.Storage.RootFS.Snapshot != nil {
		r.GraphDriver = &storage.DriverData{Name: r.Storage.RootFS.Snapshot.Name}
		r.Storage = nil
	}
	old := &legacyInspect{InspectResponse: &r, Config: &legacyConfig{Config: r.Config, OnBuild: r.Config.OnBuild}}
	old.NetworkSettings = &legacyNetwork{NetworkSettings: r.NetworkSettings}
	if ep := r.NetworkSettings.Networks[network.NetworkBridge]; ep != nil {
		n := old.NetworkSettings
		n.EndpointID, n.MacAddress = ep.EndpointID, ep.MacAddress
		n.Gateway, n.IPAddress, n.IPPrefixLen = ep.Gateway, ep.IPAddress, ep.IPPrefixLen
		n.IPv6Gateway, n.GlobalIPv6Address, n.GlobalIPv6PrefixLen = ep.IPv6Gateway, ep.GlobalIPv6Address, ep.GlobalIPv6PrefixLen
	}
	return old
}

// withAliases adds the short id and the host name to the aliases on
// user-defined networks, where older clients look for them.
func withAliases(r *container.InspectResponse) *container.NetworkSettings {
	n := *r.NetworkSettings
	n.Networks = make(map[string]*network.EndpointSettings, len(n.Networks))
	for name, ep := range r.NetworkSettings.Networks {
		if ep != nil && container.NetworkMode(name).IsUserDefined() {
			e := *ep
			e.Aliases = slices.Clone(ep.Aliases)
			for _, a := range []string{r.ID[:min(12, len(r.ID))], r.Config.Hostname} {
				if a != "" && !slices.Contains(e.Aliases, a) {
					e.Aliases = append(e.Aliases, a)
				}
			}
			ep = &e
		}
		n.Networks[name] = ep
	}
	return &n
}
