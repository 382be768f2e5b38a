package plan

import (
	"bufio"
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"

	"wharf/internal/model"
)

const (
	hostsHead = `127.0.0.1	localhost
::1	localhost ip6-localhost ip6-loopback
fe00::	ip6-localnet
ff00::	ip6-mcastprefix
ff02::1	ip6-allnodes
ff02::2	ip6-allrouters
`
	// embeddedDNS is where a user-defined network answers names, in the
	// container's own loopback.
	embeddedDNS = "127.0.0.11"
)

// fallbackDNS is asked when the host has no resolver that a container could
// reach; Docker's choice.
var fallbackDNS = []string{"8.8.8.8", "8.8.4.4", "2001:4860:4860::8888", "2001:4860:4860::8844"}

// Files writes hosts, hostname and resolv.conf.
func Files(in FilesInput, d Defaults) EtcFiles {
	return EtcFiles{
		Hosts:    hostsFile(in, d),
		Hostname: []byte(in.Container.Config.Hostname + "\n"),
		Resolv:   resolvFile(in, d),
	}
}

func hostsFile(in FilesInput, d Defaults) []byte {
	c := in.Container
	var b bytes.Buffer
	if c.HostConfig.NetworkMode.IsHost() && len(in.HostHosts) > 0 {
		b.Write(bytes.TrimRight(in.HostHosts, "\n"))
		b.WriteByte('\n')
	} else {
		b.WriteString(hostsHead)
	}
	for _, h := range c.HostConfig.ExtraHosts {
		name, ip, _ := cutExtraHost(h)
		if ip != "host-gateway" {
			fmt.Fprintf(&b, "%s\t%s\n", strings.Trim(ip, "[]"), name)
			continue
		}
		for _, gw := range d.HostGateway {
			fmt.Fprintf(&b, "%s\t%s\n", gw, name)
		}
	}
	for _, l := range in.Links {
		fmt.Fprintf(&b, "%s\t%s\n", l.IP, strings.Join(l.Names, " "))
	}
	names := c.Config.Hostname
	if c.Config.Domainname != "" {
		names = c.Config.Hostname + "." + c.Config.Domainname + " " + c.Config.Hostname
	} else if short, _, dotted := strings.Cut(c.Config.Hostname, "."); dotted {
		names += " " + short
	}
	for _, ep := range in.Endpoints {
		if ep.Settings == nil {
			continue
		}
		for _, ip := range []netip.Addr{ep.Settings.IPAddress, ep.Settings.GlobalIPv6Address} {
			if ip.IsValid() {
				fmt.Fprintf(&b, "%s\t%s\n", ip, names)
			}
		}
	}
	return b.Bytes()
}

// resolv is a resolv.conf(5), read.
type resolv struct{ servers, search, options []string }

func parseResolv(text []byte) resolv {
	var r resolv
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		f := strings.Fields(lines.Text())
		if len(f) < 2 {
			continue
		}
		switch f[0] {
		case "nameserver":
			r.servers = append(r.servers, f[1])
		case "search", "domain": // the last one counts
			r.search = f[1:]
		case "options":
			r.options = append(r.options, f[1:]...)
		}
	}
	return r
}

// resolvFile: the host's settings, overridden by the daemon's and then by the
// container's. On a user-defined network the network's own server answers and
// asks the others.
func resolvFile(in FilesInput, d Defaults) []byte {
	hc := in.Container.HostConfig
	r := parseResolv(in.HostResolv)
	ownDNS := len(hc.DNS) > 0 || len(d.DNS) > 0
	switch {
	case len(hc.DNS) > 0:
		r.servers = texts(hc.DNS)
	case len(d.DNS) > 0:
		r.servers = texts(d.DNS)
	}
	r.search = choose(hc.DNSSearch, d.DNSSearch, r.search)
	r.options = choose(hc.DNSOptions, d.DNSOptions, r.options)
	if slices.Equal(r.search, []string{"."}) {
		r.search = nil
	}
	shared := hc.NetworkMode.IsHost()
	if !ownDNS && !shared {
		r.servers = slices.DeleteFunc(r.servers, isLoopback)
		if len(r.servers) == 0 {
			r.servers = fallbackFor(in.Endpoints)
		}
	}
	if answersNames(in) {
		r.servers = []string{embeddedDNS}
		if in.Container.Isolation == model.IsolationVM {
			r.servers = nameServers(in.Endpoints)
		}
		if !slices.ContainsFunc(r.options, func(o string) bool { return strings.HasPrefix(o, "ndots:") }) {
			r.options = append(r.options, "ndots:0")
		}
	}
	var b bytes.Buffer
	for _, s := range r.servers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if len(r.search) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(r.search, " "))
	}
	if len(r.options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(r.options, " "))
	}
	return b.Bytes()
}

// nameServers are the networks' own: a virtual machine has nothing at
// 127.0.0.11 and asks the gateway.
func nameServers(eps []model.Endpoint) []string {
	var all []string
	for _, ep := range eps {
		if ep.NameServer.IsValid() {
			all = append(all, ep.NameServer.String())
		}
	}
	return all
}

// answersNames reports whether a network of the container has a name server:
// any but the default bridge, whichever it was created on.
func answersNames(in FilesInput) bool {
	if len(in.Endpoints) == 0 {
		return in.Container.HostConfig.NetworkMode.IsUserDefined()
	}
	return slices.ContainsFunc(in.Endpoints, func(ep model.Endpoint) bool {
		return ep.Interface != "" && container.NetworkMode(ep.Network).IsUserDefined()
	})
}

// Upstreams returns the servers that a user-defined network's own DNS server
// asks for this container, in order: as resolv.conf would have had them, and
// with the host's loopback ones, which that server can reach.
func Upstreams(in FilesInput, d Defaults) []netip.Addr {
	hc := in.Container.HostConfig
	switch {
	case len(hc.DNS) > 0:
		return hc.DNS
	case len(d.DNS) > 0:
		return d.DNS
	}
	var out []netip.Addr
	for _, s := range parseResolv(in.HostResolv).servers {
		if a, err := netip.ParseAddr(s); err == nil {
			out = append(out, a)
		}
	}
	return out
}

func choose(lists ...[]string) []string {
	for _, l := range lists {
		if len(l) > 0 {
			return slices.Clone(l)
		}
	}
	return nil
}

func texts(addrs []netip.Addr) []string {
	out := make([]string, len(addrs))
	for i, a := range addrs {
		out[i] = a.String()
	}
	return out
}

func isLoopback(s string) bool {
	a, err := netip.ParseAddr(s)
	return err == nil && a.IsLoopback()
}

// fallbackFor leaves out IPv6 servers for containers without IPv6.
func fallbackFor(eps []model.Endpoint) []string {
	for _, ep := range eps {
		if ep.Settings != nil && ep.Settings.GlobalIPv6Address.IsValid() {
			return slices.Clone(fallbackDNS)
		}
	}
	return slices.Clone(fallbackDNS[:2])
}
