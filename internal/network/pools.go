package network

import (
	"bufio"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"wharf/internal/model"
)

// defaultPools are Docker's, in Docker's order.
func defaultPools() []AddressPool {
	var ps []AddressPool
	for i := 17; i < 32; i++ {
		ps = append(ps, AddressPool{netip.PrefixFrom(netip.AddrFrom4([4]byte{172, byte(i)}), 16), 16})
	}
	return append(ps, AddressPool{netip.MustParsePrefix("192.168.0.0/16"), 20})
}

// freeSubnet picks the first subnet of the pools that overlaps neither a
// network of ours, nor what the host routes, nor one of its name servers.
// Routes through bridge do not count.
func (r *Room) freeSubnet(bridge string) (netip.Prefix, error) {
	taken, err := r.routed(bridge)
	if err != nil {
		return netip.Prefix{}, err
	}
	taken = append(taken, nameServers("/etc/resolv.conf")...)
	taken = append(taken, r.ownSubnets()...)
	for _, p := range r.opts.Pools {
		if s, ok := cut(p, taken); ok {
			return s, nil
		}
	}
	return netip.Prefix{}, model.Refuse(errdefs.ErrResourceExhausted, "all predefined address pools have been fully subnetted: give a subnet, remove networks that are not used, or add default-address-pools")
}

// cut finds the pool's first subnet that overlaps none of taken.
func cut(p AddressPool, taken []netip.Prefix) (netip.Prefix, bool) {
	if !p.Base.IsValid() || p.Size < p.Base.Bits() || p.Size > p.Base.Addr().BitLen() {
		return netip.Prefix{}, false
	}
	for a := p.Base.Masked().Addr(); p.Base.Contains(a); {
		s := netip.PrefixFrom(a, p.Size)
		next := lastAddr(s).Next()
		hit := false
		for _, t := range taken {
			if t.Overlaps(s) {
				hit = true
				if l := lastAddr(t); t.Bits() < s.Bits() && l.Next().IsValid() {
					next = l.Next() // jump over a wide one
				}
			}
		}
		if !hit {
			return s, true
		}
		if !next.IsValid() || next.Compare(a) <= 0 {
			break
		}
		a = next
	}
	return netip.Prefix{}, false
}

// ownSubnets lists the subnets of the networks. It is called while the room
// is opened or with mu held.
func (r *Room) ownSubnets() []netip.Prefix {
	var all []netip.Prefix
	for _, n := range r.nets {
		if n.rec.ConfigOnly {
			continue
		}
		for _, c := range n.rec.IPAM.Config {
			all = append(all, c.Subnet)
		}
	}
	return all
}

// routed lists what the host routes, without default routes and without those
// through the link named except.
func (r *Room) routed(except string) ([]netip.Prefix, error) {
	skip := -1
	if i, err := r.rt.index(except); err == nil {
		skip = i
	}
	routes, err := r.slow.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, fmt.Errorf("list the host's routes: %w", err)
	}
	var all []netip.Prefix
	for _, rt := range routes {
		if rt.Dst == nil || rt.LinkIndex == skip || rt.Type != unix.RTN_UNICAST && rt.Type != unix.RTN_LOCAL {
			continue
		}
		a, ok := netip.AddrFromSlice(rt.Dst.IP)
		bits, _ := rt.Dst.Mask.Size()
		if ok && bits > 0 {
			all = append(all, netip.PrefixFrom(a.Unmap(), bits))
		}
	}
	return all, nil
}

// routedElsewhere reports whether the host routes a part of s by another link.
func (r *Room) routedElsewhere(s netip.Prefix, bridge string) bool {
	taken, err := r.routed(bridge)
	if err != nil {
		return false
	}
	for _, t := range taken {
		if t.Overlaps(s) {
			return true
		}
	}
	return false
}

// nameServers are a resolv.conf's servers as host prefixes.
func nameServers(path string) []netip.Prefix {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	var all []netip.Prefix
	for s := bufio.NewScanner(f); s.Scan(); {
		w := strings.Fields(s.Text())
		if len(w) < 2 || w[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(w[1]); err == nil {
			a = a.WithZone("").Unmap()
			all = append(all, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	return all
}
