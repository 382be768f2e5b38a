package network

import (
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// writeNamesTable writes the table "wharf" in a container's namespace: what
// is asked at 127.0.0.11 goes to the gateway, with the container's address as
// its sender. The interfaces forward loopback addresses for that, so what
// comes in for them from outside is dropped first.
func writeNamesTable(ns *netns, gw netip.Addr) error {
	c, err := nftables.New(nftables.WithNetNSFd(int(ns.f.Fd())))
	if err != nil {
		return err
	}
	t := &nftables.Table{Name: "wharf", Family: nftables.TableFamilyINet}
	c.AddTable(t)
	c.DelTable(t)
	c.AddTable(t)
	b := &tableBuilder{conn: c, table: t, shape: &tableShape{rules: map[string]int{}}}
	loop := netip.MustParsePrefix("127.0.0.0/8")
	guard := b.chain("guard", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, -310)
	b.rule(guard, iif(), notName("lo"), daddr(loop), verdict(expr.VerdictDrop))
	out := b.chain("output", nftables.ChainTypeNAT, nftables.ChainHookOutput, -100)
	for _, proto := range []byte{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
		b.rule(out, daddr(netip.PrefixFrom(embeddedDNS, 32)), l4proto(proto), dport(53), part{
			&expr.Immediate{Register: 1, Data: gw.AsSlice()},
			&expr.Immediate{Register: 2, Data: binaryutil.BigEndian.PutUint16(53)},
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1, RegProtoMin: 2, Specified: true},
		})
	}
	post := b.chain("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, 100)
	b.rule(post, oif(), notName("lo"), saddr(loop), daddr(netip.PrefixFrom(gw, 32)), part{&expr.Masq{}})
	return c.Flush()
}
