package plan

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
)

const sysctlOption = "com.docker.network.endpoint.sysctls"

// endpoints decides the networks that the container will be attached to, by
// name; none for the modes none, host and container:.
func (cr *creation) endpoints() error {
	hc := cr.hc
	if cr.cfg.NetworkDisabled {
		hc.NetworkMode = network.NetworkNone
	}
	want := map[string]*network.EndpointSettings{}
	if n := cr.in.Request.Networking; n != nil {
		for _, name := range slices.Sorted(maps.Keys(n.EndpointsConfig)) {
			ep := n.EndpointsConfig[name]
			if ep == nil {
				return invalid("invalid config for network %s: EndpointsConfig is nil", name)
			}
			if name == network.NetworkDefault {
				name = network.NetworkBridge
			}
			ep = ep.Copy()
			if cr.api < 48 {
				ep.GwPriority = 0
			}
			if err := checkEndpoint(name, ep); err != nil {
				return invalid("invalid config for network %s: invalid endpoint settings:\n%s", name, err)
			}
			want[name] = ep
		}
	}
	mode := hc.NetworkMode
	cr.c.Endpoints = map[string]*network.EndpointSettings{}
	if mode.IsNone() || mode.IsHost() || mode.IsContainer() {
		for name := range want {
			if name != mode.NetworkName() {
				return invalid("conflicting options: cannot attach to network %s with network mode %s", name, mode)
			}
		}
		return cr.links()
	}
	// As with Docker the mode's own network is joined only when no network is
	// named: testcontainers leaves the mode at default and names another.
	if len(want) == 0 {
		want[mode.NetworkName()] = &network.EndpointSettings{}
	}
	cr.c.Endpoints = want
	main := want[mode.NetworkName()]
	if main == nil {
		main = want[slices.Sorted(maps.Keys(want))[0]] // eth0
	}
	if err := cr.interfaceSysctls(main); err != nil {
		return err
	}
	return cr.links()
}

func checkEndpoint(name string, ep *network.EndpointSettings) error {
	var errs []string
	add := func(format string, args ...any) { errs = append(errs, fmt.Sprintf(format, args...)) }
	if ip := ep.IPAMConfig; ip != nil {
		ip.IPv4Address, ip.IPv6Address = ip.IPv4Address.Unmap(), ip.IPv6Address.Unmap()
		if !container.NetworkMode(name).IsUserDefined() && (ip.IPv4Address.IsValid() || ip.IPv6Address.IsValid()) {
			add("user-specified IP address is supported on user-defined networks only")
		}
		if a := ip.IPv4Address; a.IsValid() && (!a.Is4() || a.IsUnspecified()) {
			add("invalid IPv4 address: %s", a)
		}
		if a := ip.IPv6Address; a.IsValid() && (!a.Is6() || a.IsUnspecified() || a.Zone() != "") {
			add("invalid IPv6 address: %s", a)
		}
		for i, a := range ip.LinkLocalIPs {
			if !a.IsValid() || a.IsUnspecified() {
				add("invalid link-local IP address: %s", a)
			}
			ip.LinkLocalIPs[i] = a.Unmap()
		}
	}
	if !container.NetworkMode(name).IsUserDefined() && len(ep.Aliases) > 0 {
		add("network-scoped aliases are only supported for user-defined networks")
	}
	if s, ok := ep.DriverOpts[sysctlOption]; ok {
		for one := range strings.SplitSeq(s, ",") {
			if !isInterfaceSysctl(one) {
				add("unrecognised network interface sysctl '%s'; represent 'net.X.Y.ethN.Z=V' as 'net.X.Y.IFNAME.Z=V', 'X' must be 'ipv4', 'ipv6' or 'mpls'", one)
			}
		}
	}
	if len(errs) > 0 {
		return invalid("%s", strings.Join(errs, "\n"))
	}
	return nil
}

func isInterfaceSysctl(s string) bool {
	p := strings.SplitN(s, ".", 5)
	return len(p) == 5 && p[0] == "net" && slices.Contains([]string{"ipv4", "ipv6", "mpls"}, p[1]) && strings.EqualFold(p[3], "IFNAME")
}

// interfaceSysctls moves a --sysctl that names eth0 to the endpoint that will
// be eth0, for clients older than endpoint sysctls.
func (cr *creation) interfaceSysctls(ep *network.EndpointSettings) error {
	var moved, names []string
	for _, key := range slices.Sorted(maps.Keys(cr.hc.Sysctls)) {
		p := strings.SplitN(key, ".", 5)
		if len(p) != 5 || p[0] != "net" || !strings.HasPrefix(p[3], "eth") {
			continue
		}
		if cr.api > 47 {
			return invalid("interface specific sysctl setting %q must be supplied using driver option '%s'", key, sysctlOption)
		}
		if p[3] != "eth0" {
			return invalid(`unable to determine network endpoint for sysctl %s, use driver option '%s' to set per-interface sysctls`, key, sysctlOption)
		}
		names = append(names, key)
		moved = append(moved, fmt.Sprintf("net.%s.%s.IFNAME.%s=%s", p[1], p[2], p[4], cr.hc.Sysctls[key]))
		delete(cr.hc.Sysctls, key)
	}
	if len(moved) == 0 {
		return nil
	}
	option := strings.Join(moved, ",")
	cr.warnf(fmt.Sprintf("Migrated sysctl %q to DriverOpts{%q:%q}.", strings.Join(names, ","), sysctlOption, option))
	if ep.DriverOpts == nil {
		ep.DriverOpts = map[string]string{}
	}
	if old := ep.DriverOpts[sysctlOption]; old != "" {
		option += "," + old
	}
	ep.DriverOpts[sysctlOption] = option
	return nil
}

// links checks --link: on the default bridge they become lines of the hosts
// file; a user-defined network has DNS for that, and its room handles aliases.
func (cr *creation) links() error {
	for _, l := range cr.hc.Links {
		if _, _, err := ParseLink(l); err != nil {
			return err
		}
	}
	if len(cr.hc.Links) == 0 || cr.hc.NetworkMode.IsUserDefined() {
		return nil
	}
	cr.warnf("Links on the default bridge network are deprecated and will be removed in a future release. Use a custom network instead.")
	for i, l := range cr.hc.Links {
		ref, alias, _ := ParseLink(l)
		o, err := cr.lookup(ref)
		if err != nil {
			return invalid("could not get container for %s: %v", ref, err)
		}
		cr.hc.Links[i] = string(o.ID) + ":" + alias // whatever it will be called
		if o.HostConfig != nil && o.HostConfig.NetworkMode.IsHost() {
			return conflict("conflicting options: host type networking can't be used with links. This would result in undefined behavior")
		}
	}
	return nil
}

// ParseLink reads "name:alias" or "name", also in the form "/name:/x/alias"
// that inspect shows.
func ParseLink(l string) (ref, alias string, err error) {
	ref, alias, ok := strings.Cut(l, ":")
	ref = strings.TrimPrefix(ref, "/")
	if !ok {
		alias = ref
	}
	if i := strings.LastIndexByte(alias, '/'); i >= 0 {
		alias = alias[i+1:]
	}
	if ref == "" || alias == "" || strings.ContainsAny(alias, ": \t\n") {
		return "", "", invalid("bad format for links: %s", l)
	}
	return ref, alias, nil
}

// checkExtraHost checks "name:ip", "name=ip" and "name:host-gateway".
func checkExtraHost(h string) error {
	name, ip, ok := cutExtraHost(h)
	if !ok || name == "" || strings.ContainsAny(h, "\n\t \x00") {
		return invalid("bad format for add-host: %q", h)
	}
	if ip == "host-gateway" {
		return nil
	}
	if _, err := netip.ParseAddr(strings.Trim(ip, "[]")); err != nil {
		return invalid("invalid IP address in add-host: %q", ip)
	}
	return nil
}

// cutExtraHost splits at the first "=" or else at the first ":" (the name has
// none, an IPv6 address does).
func cutExtraHost(h string) (name, ip string, ok bool) {
	if name, ip, ok = strings.Cut(h, "="); ok {
		return name, ip, true
	}
	return strings.Cut(h, ":")
}
