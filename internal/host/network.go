package host

import (
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// probeNetwork makes one link of each kind and an nftables chain in a network
// namespace that ends with the probe.
func probeNetwork() (links map[string]bool, nft bool) {
	links = map[string]bool{"bridge": false, "veth": false, "vxlan": false, "macvlan": false, "ipvlan": false, "dummy": false}
	onOwnThread(func() {
		if unix.Unshare(unix.CLONE_NEWNET) != nil {
			return
		}
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return
		}
		defer h.Close()
		for _, l := range probeLinks() {
			links[l.Type()] = h.LinkAdd(l) == nil
		}
		for _, l := range probeChildren(h) {
			links[l.Type()] = h.LinkAdd(l) == nil
		}
		nft = probeNftables()
	})
	return links, nft
}

// probeLinks are the links that stand alone.
func probeLinks() []netlink.Link {
	return []netlink.Link{
		&netlink.Dummy{LinkAttrs: named("wharf-d")},
		&netlink.Bridge{LinkAttrs: named("wharf-b")},
		&netlink.Vxlan{LinkAttrs: named("wharf-x"), VxlanId: 1, Port: 4789},
		&netlink.Veth{LinkAttrs: named("wharf-v0"), PeerName: "wharf-v1"},
	}
}

// probeChildren are those that need a parent. They cannot share one: the two
// ends of the veth pair serve.
func probeChildren(h *netlink.Handle) []netlink.Link {
	mac := &netlink.Macvlan{LinkAttrs: named("wharf-m"), Mode: netlink.MACVLAN_MODE_BRIDGE}
	ip := &netlink.IPVlan{LinkAttrs: named("wharf-i"), Mode: netlink.IPVLAN_MODE_L2}
	for parent, attrs := range map[string]*netlink.LinkAttrs{"wharf-v0": &mac.LinkAttrs, "wharf-v1": &ip.LinkAttrs} {
		l, err := h.LinkByName(parent)
		if err != nil {
			return nil
		}
		attrs.ParentIndex = l.Attrs().Index
	}
	return []netlink.Link{mac, ip}
}

func named(name string) netlink.LinkAttrs {
	a := netlink.NewLinkAttrs()
	a.Name = name
	return a
}

// probeNftables makes a table with a NAT chain.
func probeNftables() bool {
	c, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return false
	}
	defer func() { _ = c.CloseLasting() }()
	t := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "wharf-probe"})
	c.AddChain(&nftables.Chain{
		Name: "nat", Table: t, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	})
	return c.Flush() == nil
}
