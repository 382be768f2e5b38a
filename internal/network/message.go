package network

import (
	stdnet "net"
	"net/netip"

	"github.com/moby/moby/api/types/network"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// The route netlink messages that the hot path needs, in the kernel's form
// (linux/if_link.h, linux/rtnetlink.h).

const (
	vethInfoPeer     = 1 // VETH_INFO_PEER
	ifaceFlagNoDAD   = unix.IFA_F_NODAD
	iflaBrportMode   = 4  // IFLA_BRPORT_MODE, hairpin
	iflaBrportIsol   = 33 // IFLA_BRPORT_ISOLATED
	loopbackIndex    = 1  // the first link of every namespace
	ifaceNameMax     = unix.IFNAMSIZ - 1
	extSkipStats     = 8 // RTEXT_FILTER_SKIP_STATS
	defaultGateway4  = "0.0.0.0/0"
	defaultGateway6  = "::/0"
	containerLinkMax = 36 // one base-36 digit of the host link's name
)

// veth describes a pair: one end on a bridge here, the other inside.
type veth struct {
	host, inside string
	mac          stdnet.HardwareAddr
	mtu          int
	bridge       int // index
	netns        int // descriptor
}

func ifinfo(index int, up bool) *nl.IfInfomsg {
	m := nl.NewIfInfomsg(unix.AF_UNSPEC)
	m.Index = int32(index)
	if up {
		m.Flags, m.Change = unix.IFF_UP, unix.IFF_UP
	}
	return m
}

// addVeth makes the pair in one batch: the host end up and on the bridge, the
// peer born in the other namespace under its final name and address, still
// down so that its sysctls can be set first.
//
// The host end gets no IPv6 address of its own, of which a bridge port has no
// use: that would be routes and announcements for each port of the machine.
// It can only be said of a link that is there, and has to be said before it
// comes up.
func addVeth(v veth) []request {
	r := newRequest("add link "+v.host, unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	r.AddData(ifinfo(0, false))
	r.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(v.host)))
	r.AddData(nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(v.mtu))))
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("veth"))
	data := info.AddRtAttr(nl.IFLA_INFO_DATA, nil)
	peer := data.AddRtAttr(vethInfoPeer, nil)
	nl.NewIfInfomsgChild(peer, unix.AF_UNSPEC)
	peer.AddRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(v.inside))
	peer.AddRtAttr(unix.IFLA_ADDRESS, []byte(v.mac))
	peer.AddRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(v.mtu)))
	peer.AddRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(v.netns)))
	r.AddData(info)

	up := newRequest("put "+v.host+" on its bridge", unix.RTM_SETLINK, 0)
	up.AddData(ifinfo(0, true))
	up.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(v.host)))
	up.AddData(nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(uint32(v.bridge))))
	return []request{r, noLinkLocal(v.host), up}
}

// noLinkLocal keeps the kernel from giving a link an IPv6 address.
func noLinkLocal(name string) request {
	const addrGenMode, none = 8, 1 // IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE
	r := newRequest("leave "+name+" without IPv6 address", unix.RTM_SETLINK, 0)
	r.optional = true // a kernel without IPv6
	r.AddData(ifinfo(0, false))
	r.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	spec := nl.NewRtAttr(unix.IFLA_AF_SPEC, nil)
	spec.AddRtAttr(unix.AF_INET6, nil).AddRtAttr(addrGenMode, []byte{none})
	r.AddData(spec)
	return r
}

// setPort sets a bridge port's switches. isolated keeps it from talking to
// other isolated ports. hairpin lets frames go back where they came from: with
// br_netfilter loaded a container that calls its own published port is
// translated while its frame is still in the bridge.
func setPort(index int, isolated, hairpin bool) request {
	r := newRequest("set bridge port", unix.RTM_SETLINK, 0)
	m := nl.NewIfInfomsg(unix.AF_BRIDGE)
	m.Index = int32(index)
	r.AddData(m)
	a := nl.NewRtAttr(unix.IFLA_PROTINFO|unix.NLA_F_NESTED, nil)
	a.AddRtAttr(iflaBrportIsol, bit(isolated))
	a.AddRtAttr(iflaBrportMode, bit(hairpin))
	r.AddData(a)
	return r
}

func bit(b bool) []byte {
	if b {
		return []byte{1}
	}
	return []byte{0}
}

func addBridge(name string, mtu int, mac stdnet.HardwareAddr) request {
	r := newRequest("add bridge "+name, unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	r.AddData(ifinfo(0, false))
	r.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	r.AddData(nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(mtu))))
	r.AddData(nl.NewRtAttr(unix.IFLA_ADDRESS, []byte(mac)))
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("bridge"))
	// Without a querier, which our bridges have not got, the kernel floods
	// multicast whether it listens to who joins or not; while it listens, each
	// port that comes sets the timers of all the others again.
	info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(nl.IFLA_BR_MCAST_SNOOPING, []byte{0})
	r.AddData(info)
	return r
}

func linkUp(index int, what string) request {
	r := newRequest("bring up "+what, unix.RTM_SETLINK, 0)
	r.AddData(ifinfo(index, true))
	return r
}

// setMaster puts a link on a bridge, with an MTU, and brings it up.
func setMaster(index, bridge, mtu int, name string) request {
	r := newRequest("put "+name+" on its bridge", unix.RTM_NEWLINK, 0)
	r.AddData(ifinfo(index, true))
	r.AddData(nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(uint32(bridge))))
	r.AddData(nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(mtu))))
	return r
}

// routeLocalnet lets loopback addresses come and go by a link, which is
// sysctl net.ipv4.conf.NAME.route_localnet.
func routeLocalnet(index int, name string) request {
	const devconf = 26 // IPV4_DEVCONF_ROUTE_LOCALNET
	r := newRequest("let "+name+" route loopback addresses", unix.RTM_SETLINK, 0)
	r.AddData(ifinfo(index, false))
	spec := nl.NewRtAttr(unix.IFLA_AF_SPEC, nil)
	conf := spec.AddRtAttr(unix.AF_INET, nil).AddRtAttr(unix.IFLA_INET_CONF, nil)
	conf.AddRtAttr(devconf, nl.Uint32Attr(1))
	r.AddData(spec)
	return r
}

// settle asks for a link, which makes the kernel (6.8 and later) act on a
// change of its carrier now rather than when a worker comes to it: until then
// a link drops what is sent and a bridge port does not forward, and the first
// packet of a container, mostly a question to a name server, would be lost.
func settle(index int, name string) request {
	r := newRequest("look at link "+name, unix.RTM_GETLINK, 0)
	r.AddData(ifinfo(index, false))
	if index == 0 {
		r.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	}
	r.AddData(nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(extSkipStats)))
	return r
}

func deleteLink(index int, name string) request {
	r := newRequest("remove link "+name, unix.RTM_DELLINK, 0)
	r.AddData(ifinfo(index, false))
	return r
}

func family(a netip.Addr) uint8 {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func addAddress(index int, p netip.Prefix) request {
	r := newRequest("add address "+p.String(), unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE)
	m := nl.NewIfAddrmsg(int(family(p.Addr())))
	m.Index = uint32(index)
	m.Prefixlen = uint8(p.Bits())
	if p.Addr().Is6() {
		m.Flags = ifaceFlagNoDAD // ours alone by allocation; waiting a second for that is no use
	}
	r.AddData(m)
	raw := p.Addr().AsSlice()
	r.AddData(nl.NewRtAttr(unix.IFA_LOCAL, raw))
	r.AddData(nl.NewRtAttr(unix.IFA_ADDRESS, raw))
	if p.Addr().Is4() && p.Bits() < 31 {
		r.AddData(nl.NewRtAttr(unix.IFA_BROADCAST, lastAddr(p).AsSlice()))
	}
	return r
}

// addDefaultRoute routes everything of a family through gw; without gw, out
// by the link itself.
func addDefaultRoute(index int, gw netip.Addr, v4 bool) request {
	dst, fam := defaultGateway4, uint8(unix.AF_INET)
	if !v4 {
		dst, fam = defaultGateway6, unix.AF_INET6
	}
	r := newRequest("add route "+dst+" via "+gw.String(), unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE)
	m := nl.NewRtMsg()
	m.Family = fam
	m.Protocol = unix.RTPROT_BOOT
	m.Scope = unix.RT_SCOPE_UNIVERSE
	m.Table = unix.RT_TABLE_MAIN
	m.Type = unix.RTN_UNICAST
	if !gw.IsValid() && v4 {
		m.Scope = unix.RT_SCOPE_LINK
	}
	r.AddData(m)
	if gw.IsValid() {
		r.AddData(nl.NewRtAttr(unix.RTA_GATEWAY, gw.AsSlice()))
	}
	r.AddData(nl.NewRtAttr(unix.RTA_OIF, nl.Uint32Attr(uint32(index))))
	return r
}

// linkLocals are the link-local addresses that were asked for.
func linkLocals(index int, s *network.EndpointSettings) []request {
	var reqs []request
	if s.IPAMConfig == nil {
		return nil
	}
	for _, a := range s.IPAMConfig.LinkLocalIPs {
		bits := 64
		if a.Is4() {
			bits = 16
		}
		reqs = append(reqs, addAddress(index, netip.PrefixFrom(a, bits)))
	}
	return reqs
}

// macFor is Docker's scheme: 02:42 and the address.
func macFor(a netip.Addr) stdnet.HardwareAddr {
	b := a.AsSlice()
	return append(stdnet.HardwareAddr{0x02, 0x42}, b[len(b)-4:]...)
}

// lastAddr is a prefix's highest address.
func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}
