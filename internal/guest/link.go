package guest

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"wharf/api/guestapi"
)

// deviceTime is how long a device may take to appear after its driver was
// loaded.
const deviceTime = 10 * time.Second

func (a *Agent) link(c *call) error {
	if c.req.Interface == nil {
		return invalid("there is no interface to configure")
	}
	if err := configure(c.req.Interface); err != nil {
		return err
	}
	return c.reply(guestapi.Reply{})
}

// configure makes an interface what the host says: everything that it had
// before is taken off.
func configure(i *guestapi.Interface) error {
	r, err := openRoute()
	if err != nil {
		return err
	}
	defer r.close()
	l, err := findLink(r, i.MAC)
	if err != nil {
		return err
	}
	if i.Name == "" {
		i.Name = l.name
	}
	if err := configureLink(r, l, i); err != nil {
		return fmt.Errorf("interface %s (%s): %w", i.Name, i.MAC, err)
	}
	return nil
}

func findLink(r *route, mac string) (*linkInfo, error) {
	want, err := net.ParseMAC(mac)
	if err != nil {
		return nil, invalid("hardware address %q: %v", mac, err)
	}
	for end := time.Now().Add(deviceTime); ; time.Sleep(2 * time.Millisecond) {
		links, err := r.links()
		if err != nil {
			return nil, err
		}
		for i := range links {
			if string(links[i].mac) == string(want) {
				return &links[i], nil
			}
		}
		if time.Now().After(end) {
			return nil, failed(guestapi.KindNotFound, "the machine has no network interface with the hardware address %s", mac)
		}
	}
}

func configureLink(r *route, l *linkInfo, i *guestapi.Interface) error {
	if l.up {
		if err := r.setLink(l.index, linkChange{down: true}); err != nil { // also takes routes off
			return err
		}
	}
	if err := r.flush(l.index); err != nil {
		return err
	}
	if err := r.setLink(l.index, linkChange{name: i.Name, mtu: i.MTU}); err != nil {
		return err
	}
	for name, value := range i.Sysctls {
		if err := sysctl(strings.ReplaceAll(strings.ReplaceAll(name, ".", "/"), "IFNAME", i.Name), value); err != nil {
			return err
		}
	}
	if err := r.setLink(l.index, linkChange{up: true}); err != nil {
		return err
	}
	for _, s := range i.Addresses {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return invalid("address %q: %v", s, err)
		}
		if err := r.addAddress(l.index, p); err != nil {
			return fmt.Errorf("address %s: %w", s, err)
		}
	}
	for _, rt := range i.Routes {
		if err := addRoute(r, l.index, rt); err != nil {
			return err
		}
	}
	return nil
}

func addRoute(r *route, index int32, rt guestapi.Route) error {
	var dst netip.Prefix
	var gw netip.Addr
	var err error
	if rt.Destination != "" {
		if dst, err = netip.ParsePrefix(rt.Destination); err != nil {
			return invalid("route to %q: %v", rt.Destination, err)
		}
	}
	if rt.Gateway != "" {
		if gw, err = netip.ParseAddr(rt.Gateway); err != nil {
			return invalid("gateway %q: %v", rt.Gateway, err)
		}
	}
	if !dst.IsValid() && !gw.IsValid() {
		return invalid("a route has neither destination nor gateway")
	}
	if err := r.addRoute(index, dst, gw, rt.Metric); err != nil {
		return fmt.Errorf("route to %s by %s: %w", rt.Destination, rt.Gateway, err)
	}
	return nil
}

// unlink takes an interface down and everything off it. The device stays, for
// another network later.
func (a *Agent) unlink(c *call) error {
	if c.req.Interface == nil {
		return invalid("there is no interface to take down")
	}
	r, err := openRoute()
	if err != nil {
		return err
	}
	defer r.close()
	l, err := findLink(r, c.req.Interface.MAC)
	if err != nil {
		return err
	}
	if err := r.setLink(l.index, linkChange{down: true}); err != nil {
		return err
	}
	if err := r.flush(l.index); err != nil {
		return err
	}
	// The name is free for the next interface.
	if err := r.setLink(l.index, linkChange{name: fmt.Sprintf("spare%d", l.index)}); err != nil {
		return err
	}
	return c.reply(guestapi.Reply{})
}
