package network

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"cmp"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"

	"wharf/internal/model"
	"wharf/internal/undo"
)

// Attach gives a container its interfaces in the namespace at q.Netns: one
// per wanted network, loopback up, addresses, the default route through the
// network with the highest priority. On error nothing is left behind.
func (r *Room) Attach(ctx context.Context, q model.AttachNetworks) (_ []model.Endpoint, err error) {
	var u undo.Stack
	defer u.OnError(&err)
	eps, err := r.reserve(q)
	if err != nil {
		return nil, fmt.Errorf("attach %s: %w", q.ID.Short(), err)
	}
	u.Push(func() error { return r.Detach(context.WithoutCancel(ctx), q.ID) })
	if q.Netns != "" || q.Tap {
		if err := r.wire(q.Netns, q, eps, true); err != nil {
			return nil, fmt.Errorf("attach %s: %w", q.ID.Short(), err)
		}
	}
	r.mu.Lock()
	rules := r.portRules(q.ID)
	r.mu.Unlock()
	if err := r.fw.change(rules, true); err != nil {
		return nil, fmt.Errorf("attach %s: publish ports: %w", q.ID.Short(), err)
	}
	out := make([]model.Endpoint, len(eps))
	for i, e := range eps {
		out[i] = e.Endpoint
		r.event(events.ActionConnect, e.net, q.ID)
	}
	return out, nil
}

func (r *Room) event(a events.Action, n *net, id model.ID) {
	r.opts.Publish(events.NetworkEventType, a, n.rec.ID, map[string]string{
		"container": string(id), "name": n.rec.Name, "type": n.rec.Driver,
	})
}

// reserve takes names, addresses and identities for every wanted network; the
// one with the default gateway comes first and is eth0.
func (r *Room) reserve(q model.AttachNetworks) (_ []*endpoint, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var u undo.Stack
	defer u.OnError(&err)
	if len(r.held[q.ID]) > 0 {
		return nil, model.Refuse(errdefs.ErrAlreadyExists, "it is attached already")
	}
	r.held[q.ID] = map[string]*endpoint{}
	u.Push(func() error { r.forget(q.ID); return nil })
	names := slices.SortedFunc(maps.Keys(q.Want), func(a, b string) int {
		return cmp.Or(cmp.Compare(priority(q.Want[b]), priority(q.Want[a])), cmp.Compare(a, b))
	})
	var eps []*endpoint
	for _, name := range names {
		e, err := r.reserveOne(q, name, q.Want[name])
		if err != nil {
			return nil, err
		}
		eps = append(eps, e)
	}
	return eps, r.reservePorts(q, eps)
}

func priority(s *network.EndpointSettings) int {
	if s == nil {
		return 0
	}
	return s.GwPriority
}

// reserveOne is reserve for one network. Call with mu held.
func (r *Room) reserveOne(q model.AttachNetworks, name string, want *network.EndpointSettings) (*endpoint, error) {
	n, err := r.lookup(name)
	if err != nil {
		return nil, err
	}
	if r.held[q.ID][n.rec.ID] != nil {
		return nil, model.Refuse(errdefs.ErrConflict, "endpoint with name %s already exists in network %s", q.Name, n.rec.Name)
	}
	if err := checkEndpoint(n, want); err != nil {
		return nil, err
	}
	s := want.Copy()
	if s == nil {
		s = &network.EndpointSettings{}
	}
	e := &endpoint{net: n, Endpoint: model.Endpoint{
		Network: n.rec.Name, NetworkID: model.ID(n.rec.ID), Settings: s, Container: q.Name,
	}}
	s.NetworkID, s.EndpointID = n.rec.ID, string(model.NewID())
	if q.Tap && n.isSub() {
		return nil, model.Refuse(errdefs.ErrNotImplemented, "network %s has driver %s, which a virtual machine cannot be on: use a bridge network", n.rec.Name, n.rec.Driver)
	}
	e.Tap = q.Tap && n.isBridge()
	if n.wired() {
		if err := r.reserveLink(q.ID, e); err != nil {
			return nil, err
		}
		s.DNSNames = dnsNames(n, q, s)
		e.DNS = q.DNS
	}
	r.held[q.ID][n.rec.ID] = e
	return e, nil
}

// dnsNames are the names that others on a user-defined network find the
// container by: its name, its aliases, its short id, its host name.
func dnsNames(n *net, q model.AttachNetworks, s *network.EndpointSettings) []string {
	if n.rec.Name == network.NetworkBridge {
		return nil
	}
	var names []string
	for _, x := range append(append([]string{q.Name}, s.Aliases...), q.ID.Short(), q.Hostname) {
		if x != "" && !slices.Contains(names, x) {
			names = append(names, x)
		}
	}
	return names
}

// reserveLink picks addresses, MAC and link names on a bridge. Call with mu
// held.
func (r *Room) reserveLink(id model.ID, e *endpoint) (err error) {
	n, s := e.net, e.Settings
	if err := r.linkNames(id, e); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			n.release(e)
		}
	}()
	for _, p := range n.pools {
		v4 := p.subnet.Addr().Is4()
		if slices.ContainsFunc(e.addrs, func(a netip.Addr) bool { return a.Is4() == v4 }) {
			continue // one address per family, from the first subnet that has one
		}
		a, err := n.address(p, s.IPAMConfig)
		if err != nil {
			return err
		}
		if !a.IsValid() {
			continue
		}
		e.addrs = append(e.addrs, a)
		gw := p.gateway
		if n.rec.Internal {
			gw = netip.Addr{}
		}
		if v4 {
			s.IPAddress, s.IPPrefixLen, s.Gateway = a, p.subnet.Bits(), gw
		} else {
			s.GlobalIPv6Address, s.GlobalIPv6PrefixLen, s.IPv6Gateway = a, p.subnet.Bits(), gw
		}
	}
	e.NameServer = n.nameServerFor(e.addrs)
	if n.isBridge() {
		e.MTU = n.mtu()
	}
	if n.routed3() {
		s.Gateway, s.IPv6Gateway = netip.Addr{}, netip.Addr{}
	}
	if len(s.MacAddress) == 0 && len(e.addrs) > 0 && n.rec.Driver != driverIpvlan {
		s.MacAddress = network.HardwareAddr(macFor(e.addrs[0]))
	}
	return nil
}

// linkNames picks the names of both ends. The host end gets one that no link
// has: that of the container's last run may still be on its way out, and
// waiting for it costs 30 ms. Call with mu held.
func (r *Room) linkNames(id model.ID, e *endpoint) error {
	prefix := "eth"
	if p := e.net.rec.Options[optPrefix]; p != "" {
		prefix = p
	}
	inside, hosts := map[string]bool{}, map[string]bool{}
	for _, o := range r.held[id] {
		inside[o.Interface], hosts[o.HostLink] = true, true
	}
	for i := range containerLinkMax {
		if name := prefix + strconv.Itoa(i); e.Interface == "" && !inside[name] {
			e.Interface = name
		}
		if name := hostLink(id, i); e.HostLink == "" && e.net.isBridge() && !hosts[name] && !r.linkExists(name) {
			e.HostLink = name
		}
	}
	if e.Interface == "" || e.HostLink == "" && e.net.isBridge() {
		return model.Refuse(errdefs.ErrResourceExhausted, "more than %d networks for one container", containerLinkMax)
	}
	if name := e.Settings.DriverOpts[optIfname]; name != "" {
		if inside[name] {
			return model.Refuse(errdefs.ErrConflict, "interface name %s is used twice", name)
		}
		e.Interface = name
	}
	return nil
}

// address takes the wanted address of p's family, or the next free one.
func (n *net) address(p *pool, c *network.EndpointIPAMConfig) (netip.Addr, error) {
	var want netip.Addr
	if c != nil && p.subnet.Addr().Is4() {
		want = c.IPv4Address
	} else if c != nil {
		want = c.IPv6Address
	}
	if !want.IsValid() {
		return p.pick()
	}
	if !p.subnet.Contains(want) {
		return netip.Addr{}, nil // another subnet of the network has it: checkEndpoint made sure
	}
	return want, p.take(want)
}

// release gives e's addresses back. Call with Room.mu held.
func (n *net) release(e *endpoint) {
	for _, a := range e.addrs {
		for _, p := range n.pools {
			p.free(a)
		}
	}
	e.addrs = nil
}

// Detach frees what is held for id. The links go with the namespace; those
// that stay are removed behind the caller's back.
func (r *Room) Detach(ctx context.Context, id model.ID) error {
	r.mu.Lock()
	eps := r.held[id]
	rules := r.forget(id)
	r.mu.Unlock()
	err := r.fw.change(rules, false)
	for _, e := range eps {
		if e.HostLink != "" {
			r.sweep.later(e.HostLink)
		}
		r.event(events.ActionDisconnect, e.net, id)
	}
	if len(eps) == 0 && len(id) >= 12 { // a sweep's find, or a second call
		for _, l := range r.linksOf(id) {
			r.sweep.later(l)
		}
	}
	if err != nil {
		return fmt.Errorf("detach %s: %w", id.Short(), err)
	}
	return ctx.Err()
}

// forget drops what is known of id and returns its port rules. Call with mu
// held.
func (r *Room) forget(id model.ID) []portRule {
	var rules []portRule
	for _, e := range r.held[id] {
		e.net.release(e)
		rules = append(rules, r.freePorts(id, e)...)
	}
	delete(r.held, id)
	delete(r.leaving, id)
	r.closeInsideLocked(id)
	return rules
}

// Attached lists the containers that hold something. A link that no known
// container owns is listed by the twelve digits in its name, which Detach
// understands; call Restore for the running containers first.
func (r *Room) Attached(ctx context.Context) ([]model.ID, error) {
	r.tapTablesAgain()
	links, err := r.strayLinks()
	if err != nil {
		return nil, fmt.Errorf("network: list links: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var ids []model.ID
	known := map[string]bool{}
	for id := range r.held {
		ids = append(ids, id)
		known[id.Short()] = true
	}
	for _, l := range links {
		if p, ok := attachedID(l); ok && !known[p] {
			known[p] = true
			ids = append(ids, model.ID(p))
		}
	}
	slices.Sort(ids)
	return ids, ctx.Err()
}

// Restore takes back what a running container holds, from its record, after a
// restart of the daemon.
func (r *Room) Restore(ctx context.Context, id model.ID, eps []model.Endpoint) error {
	var errs []error
	for _, ep := range eps {
		if err := r.restoreOne(id, ep); err != nil {
			errs = append(errs, fmt.Errorf("restore %s on network %s: %w", id.Short(), ep.Network, err))
		}
	}
	return errors.Join(append(errs, ctx.Err())...)
}

func (r *Room) restoreOne(id model.ID, ep model.Endpoint) error {
	r.mu.Lock()
	n, err := r.lookup(string(ep.NetworkID))
	if err != nil {
		r.mu.Unlock()
		return err
	}
	e := &endpoint{Endpoint: ep, net: n}
	if r.held[id] == nil {
		r.held[id] = map[string]*endpoint{}
	}
	r.held[id][n.rec.ID] = e
	if s := ep.Settings; s != nil {
		for _, a := range []netip.Addr{s.IPAddress, s.GlobalIPv6Address} {
			if a.IsValid() && n.takeBack(a) == nil {
				e.addrs = append(e.addrs, a)
			}
		}
	}
	perr := r.restorePorts(id, e)
	r.mu.Unlock()
	if e.HostLink == "" {
		return perr
	}
	n.live.Store(true)
	_, err = r.ensure(n)
	return errors.Join(perr, err)
}

func (n *net) takeBack(a netip.Addr) error {
	for _, p := range n.pools {
		if p.subnet.Contains(a) {
			return p.take(a)
		}
	}
	return errdefs.ErrNotFound
}

// janitorDelay is how long a dead namespace may take to remove its links
// itself, which is cheaper for everybody than removing them one by one.
const janitorDelay = 3 * time.Second
