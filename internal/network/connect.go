package network

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"
	"github.com/vishvananda/netlink"

	"wharf/internal/model"
	"wharf/internal/undo"
)

// Connect gives a running container one more network, under q.Want[name].
func (r *Room) Connect(ctx context.Context, q model.AttachNetworks, name string) (_ model.Endpoint, err error) {
	path, err := namespaceOf(q)
	if err != nil && !q.Tap {
		return model.Endpoint{}, fmt.Errorf("connect to %s: %w", name, err)
	}
	var u undo.Stack
	defer u.OnError(&err)
	r.mu.Lock()
	if r.held[q.ID] == nil {
		r.held[q.ID] = map[string]*endpoint{}
	}
	e, err := r.reserveOne(q, name, q.Want[name])
	var rules []portRule
	if err == nil && len(r.portRules(q.ID)) == 0 { // its networks so far published nothing
		if err = r.reservePorts(q, []*endpoint{e}); err == nil {
			rules = r.portRules(q.ID)
		} else {
			r.forgetOne(q.ID, e)
		}
	}
	r.mu.Unlock()
	if err != nil {
		return model.Endpoint{}, fmt.Errorf("connect %s: %w", q.ID.Short(), err)
	}
	u.Push(func() error { _, err := r.let(q.ID, e); return err })
	if e.Interface == "" {
		return model.Endpoint{}, model.Refuse(errdefs.ErrInvalidArgument, "container cannot be connected to %s network %s while it runs", e.net.rec.Driver, e.Network)
	}
	if err := r.wire(path, q, []*endpoint{e}, false); err != nil {
		return model.Endpoint{}, fmt.Errorf("connect %s: %w", q.ID.Short(), err)
	}
	if !q.Tap { // a machine's own kernel routes
		if err := r.redirect(path, q.ID); err != nil {
			return model.Endpoint{}, fmt.Errorf("connect %s: %w", q.ID.Short(), err)
		}
	}
	if err := r.fw.change(rules, true); err != nil {
		return model.Endpoint{}, fmt.Errorf("connect %s: publish ports: %w", q.ID.Short(), err)
	}
	r.event(events.ActionConnect, e.net, q.ID)
	return e.Endpoint, nil
}

// forgetOne drops what is known of one endpoint and returns its port rules.
// Call with mu held.
func (r *Room) forgetOne(id model.ID, e *endpoint) []portRule {
	e.net.release(e)
	rules := r.freePorts(id, e)
	delete(r.held[id], e.net.rec.ID)
	if e.net.isSub() {
		r.leaving[id] = append(r.leaving[id], e.Interface)
	}
	if len(r.held[id]) == 0 {
		delete(r.held, id)
		r.closeInsideLocked(id)
	}
	return rules
}

// let frees one endpoint and removes its link now. It reports false when
// somebody else has done so: what is held now is another endpoint's.
func (r *Room) let(id model.ID, e *endpoint) (bool, error) {
	r.mu.Lock()
	if r.held[id][e.net.rec.ID] != e {
		r.mu.Unlock()
		return false, nil
	}
	rules := r.forgetOne(id, e)
	r.mu.Unlock()
	if err := r.fw.change(rules, false); err != nil {
		return true, err
	}
	if e.HostLink == "" {
		return true, nil
	}
	return true, r.removeLink(e.HostLink)
}

// Disconnect takes a running container off a network. Refresh afterwards
// moves its default route and its questions for names to another network.
// force also forgets a container that is not known.
func (r *Room) Disconnect(ctx context.Context, id model.ID, name string, force bool) error {
	r.mu.Lock()
	n, err := r.lookup(name)
	if err != nil {
		r.mu.Unlock()
		return err
	}
	e := r.held[id][n.rec.ID]
	r.mu.Unlock()
	notOn := func() error {
		if force {
			return nil
		}
		return model.Refuse(errdefs.ErrInvalidArgument, "container %s is not connected to network %s", id, n.rec.Name)
	}
	if e == nil {
		return notOn()
	}
	if n.rec.Name == network.NetworkHost {
		return model.Refuse(errdefs.ErrInvalidArgument, "container cannot be disconnected from host network or connected to host network")
	}
	if was, err := r.let(id, e); err != nil {
		return fmt.Errorf("disconnect %s from %s: %w", id.Short(), n.rec.Name, err)
	} else if !was {
		return notOn()
	}
	r.event(events.ActionDisconnect, n, id)
	return ctx.Err()
}

// Stats reads the container's interfaces from their host ends, where received
// and sent are the other way round.
func (r *Room) Stats(ctx context.Context, id model.ID) (map[string]container.NetworkStats, error) {
	r.mu.Lock()
	links := map[string]string{}
	for _, e := range r.held[id] {
		if e.HostLink != "" {
			links[e.Interface] = e.HostLink
		}
	}
	r.mu.Unlock()
	out := map[string]container.NetworkStats{}
	for inside, host := range links {
		l, err := r.slow.LinkByName(host)
		if err != nil {
			if _, gone := err.(netlink.LinkNotFoundError); gone {
				continue
			}
			return nil, fmt.Errorf("network statistics of %s: %w", id.Short(), err)
		}
		if s := l.Attrs().Statistics; s != nil {
			out[inside] = container.NetworkStats{
				RxBytes: s.TxBytes, RxPackets: s.TxPackets, RxErrors: s.TxErrors, RxDropped: s.TxDropped,
				TxBytes: s.RxBytes, TxPackets: s.RxPackets, TxErrors: s.RxErrors, TxDropped: s.RxDropped,
			}
		}
	}
	return out, ctx.Err()
}

// Check says whether the wanted endpoints can exist, and fills in their
// networks' ids. It takes nothing.
func (r *Room) Check(ctx context.Context, mode container.NetworkMode, want map[string]*network.EndpointSettings) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if m := mode.NetworkName(); m != "" && !mode.IsContainer() {
		n, err := r.lookup(m)
		if err == nil {
			err = checkEndpoint(n, nil)
		}
		if err != nil {
			return err
		}
	}
	for name, s := range want {
		n, err := r.lookup(name)
		if err != nil {
			return err
		}
		if err := checkEndpoint(n, s); err != nil {
			return err
		}
		if s != nil {
			s.NetworkID = n.rec.ID
		}
	}
	return ctx.Err()
}

// autoSubnet6 reports whether the network's IPv6 subnet is one that nobody
// asked for.
func (n *net) autoSubnet6() bool {
	for _, c := range n.rec.IPAM.Config {
		if c.Subnet == uniqueLocal(n.rec.ID) {
			return true
		}
	}
	return false
}

func (n *net) contains(a netip.Addr) bool {
	for _, c := range n.rec.IPAM.Config {
		if c.Subnet.Contains(a) {
			return true
		}
	}
	return false
}

// checkEndpoint refuses what the network cannot give.
func checkEndpoint(n *net, s *network.EndpointSettings) error {
	if n.rec.ConfigOnly {
		return model.Refuse(errdefs.ErrPermissionDenied, "cannot create endpoint on configuration-only network %s: create a network with --config-from %[1]s", n.rec.Name)
	}
	if s == nil {
		return nil
	}
	bad := func(format string, args ...any) error {
		return model.Refuse(errdefs.ErrInvalidArgument, format, args...)
	}
	if l := len(s.MacAddress); l != 0 && (l != 6 || s.MacAddress[0]&1 != 0) {
		return bad("invalid MAC address %s: it must be a unicast address of six bytes", s.MacAddress)
	}
	if len(s.MacAddress) > 0 && n.rec.Driver == driverIpvlan {
		return bad("MAC address %s: interfaces of an ipvlan network have their parent's", s.MacAddress)
	}
	if ifn := s.DriverOpts[optIfname]; len(ifn) > ifaceNameMax {
		return bad("interface name %q is longer than %d characters", ifn, ifaceNameMax)
	}
	if _, err := interfaceSysctls(s.DriverOpts[optSysctls], "eth0"); err != nil {
		return err
	}
	for k := range s.DriverOpts {
		// Others are kept and shown and mean nothing here, as in Docker.
		if k != optIfname && k != optSysctls && strings.HasPrefix(k, "com.docker.network.") {
			return model.Refuse(errdefs.ErrNotImplemented, "endpoint option %s is not supported", k)
		}
	}
	if n.rec.Name == network.NetworkBridge && len(s.Aliases) > 0 {
		return bad("network-scoped aliases are only supported for user-defined networks")
	}
	c := s.IPAMConfig
	if c == nil || !c.IPv4Address.IsValid() && !c.IPv6Address.IsValid() && len(c.LinkLocalIPs) == 0 {
		return nil
	}
	for _, a := range c.LinkLocalIPs {
		if !a.IsLinkLocalUnicast() || !n.wired() {
			return bad("invalid link-local address %s: it must be one of 169.254.0.0/16 or fe80::/10, on a network with interfaces", a)
		}
	}
	if !c.IPv4Address.IsValid() && !c.IPv6Address.IsValid() {
		return nil
	}
	if predefined(n.rec.Name) {
		return bad("user specified IP address is supported on user defined networks only")
	}
	if c.IPv4Address.IsValid() && n.rec.AutoSubnet || c.IPv6Address.IsValid() && n.autoSubnet6() {
		return bad("user specified IP address is supported only when connecting to networks with user configured subnets")
	}
	if c.IPv4Address.IsValid() && !n.contains(c.IPv4Address) {
		return bad("no configured subnet contains IP address %s", c.IPv4Address)
	}
	if c.IPv6Address.IsValid() && !n.contains(c.IPv6Address) {
		return bad("no configured subnet contains IP address %s", c.IPv6Address)
	}
	return nil
}
