package network

import (
	"errors"
	"fmt"
	stdnet "net"
	"net/netip"

	"golang.org/x/sys/unix"

	"wharf/internal/model"
)

// wire makes the kernel's side of eps.
func (r *Room) wire(path string, q model.AttachNetworks, eps []*endpoint, fresh bool) error {
	if q.Tap {
		return r.wireTaps(q, eps)
	}
	ns, err := openNetns(path)
	if err != nil {
		return err
	}
	defer func() { _ = ns.close() }()
	sysctls := q.Sysctls
	if !fresh {
		sysctls = nil // they are set; the program may have changed them since
	}
	in := newInside(&r.proc, eps, sysctls)
	c, err := ns.enter(in.before)
	defer func() { _ = in.restore() }()
	if err != nil {
		return err
	}
	defer func() { _ = c.close() }()
	index, err := r.addLinks(ns, c, eps)
	if err != nil {
		return err
	}
	if err := in.restore(); err != nil {
		return err
	}
	if in.again() {
		if err := ns.do(in.after); err != nil {
			return err
		}
	}
	if err := r.applyLimits(ns, c, q, eps, index, fresh); err != nil {
		return err
	}
	if err := c.do(insideRequests(eps, index, fresh)...); err != nil {
		return err
	}
	if err := r.rt.do(settleRequests(eps)...); err != nil {
		return err
	}
	if !fresh {
		return nil // redirect does the rest
	}
	if err := r.namesInside(ns, eps, true); err != nil {
		return err
	}
	if asksInside(eps) {
		return r.serveInside(ns, q.ID)
	}
	return nil
}

// addLinks makes the links of eps and returns their indices inside.
func (r *Room) addLinks(ns *netns, c *rtnl, eps []*endpoint) ([]int, error) {
	index := make([]int, len(eps))
	for i, e := range eps {
		if e.Interface == "" {
			continue
		}
		add := r.addLink
		if e.net.isSub() {
			add = r.addSubLink
		}
		err := add(ns, e)
		if err != nil {
			return nil, err
		}
		if index[i], err = c.index(e.Interface); err != nil {
			return nil, fmt.Errorf("find %s: %w", e.Interface, err)
		}
	}
	return index, nil
}

// addLink makes the veth pair of e.
func (r *Room) addLink(ns *netns, e *endpoint) error {
	bridge, err := r.ensure(e.net)
	if err != nil {
		return err
	}
	reqs := addVeth(veth{
		host: e.HostLink, inside: e.Interface, mac: stdnet.HardwareAddr(e.Settings.MacAddress),
		mtu: e.net.mtu(), bridge: bridge, netns: int(ns.f.Fd()),
	})
	err = r.rt.do(reqs...)
	if errors.Is(err, unix.EEXIST) { // the name inside is taken by what a failed attach left
		if err = r.removeStale(e.HostLink); err == nil {
			err = r.rt.do(reqs...)
		}
	}
	if err != nil { // it may stand without its bridge
		return errors.Join(fmt.Errorf("network %s: %w", e.net.rec.Name, explain(err)), r.removeLink(e.HostLink))
	}
	if err := r.portSwitches(e); err != nil {
		return fmt.Errorf("network %s: %w", e.net.rec.Name, err)
	}
	return nil
}

// portSwitches sets what e's bridge port needs other than the kernel's
// defaults.
func (r *Room) portSwitches(e *endpoint) error {
	apart := e.net.portsApart()
	if !apart && len(e.Ports) == 0 {
		return nil
	}
	i, err := r.rt.index(e.HostLink)
	if err != nil {
		return err
	}
	return r.rt.do(setPort(i, apart, len(e.Ports) > 0))
}

// insideRequests is the one batch that configures the namespace.
func insideRequests(eps []*endpoint, index []int, fresh bool) []request {
	var reqs []request
	if fresh {
		reqs = append(reqs, linkUp(1, "lo"))
	}
	gw4, gw6 := !fresh, !fresh
	for i, e := range eps {
		if e.Interface == "" {
			continue
		}
		s := e.Settings
		for _, a := range e.addrs {
			bits := s.IPPrefixLen
			if a.Is6() {
				bits = s.GlobalIPv6PrefixLen
			}
			reqs = append(reqs, addAddress(index[i], netip.PrefixFrom(a, bits)))
		}
		reqs = append(reqs, linkLocals(index[i], s)...)
		if e.asksNames() { // for 127.0.0.11
			reqs = append(reqs, routeLocalnet(index[i], e.Interface))
		}
		reqs = append(reqs, linkUp(index[i], e.Interface), settle(index[i], e.Interface))
		if q, ok := e.defaultRoute(index[i], true); ok && !gw4 {
			gw4 = true
			reqs = append(reqs, q)
		}
		if q, ok := e.defaultRoute(index[i], false); ok && !gw6 {
			gw6 = true
			reqs = append(reqs, q)
		}
	}
	return reqs
}

// settleRequests brings the host ends, and the bridges behind them, into use.
func settleRequests(eps []*endpoint) []request {
	var reqs []request
	for _, e := range eps {
		if e.HostLink != "" {
			reqs = append(reqs, settle(0, e.HostLink), settle(0, e.net.link()))
		}
	}
	return reqs
}
