package network

import (
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// openNFT opens a connection to nftables. done is to be called when it is no
// longer needed: closing it waits until the kernel has taken apart what was
// removed anywhere on the machine, 10 ms, so that happens behind the caller's
// back.
func openNFT(opts ...nftables.ConnOption) (c *nftables.Conn, done func(), err error) {
	c, err = nftables.New(append(opts, nftables.AsLasting())...)
	if err != nil {
		return nil, nil, err
	}
	return c, func() { go func() { _ = c.CloseLasting() }() }, nil
}

// nft opens a connection to nftables in the namespace.
func (n *netns) nft() (c *nftables.Conn, done func(), err error) {
	return openNFT(nftables.WithNetNSFd(int(n.f.Fd())))
}

// renew begins a table anew. Where there can be none it only adds it: what is
// removed costs.
func renew(c *nftables.Conn, t *nftables.Table, fresh bool) {
	c.AddTable(t) // so that the removal never fails
	if !fresh {
		c.DelTable(t)
		c.AddTable(t)
	}
}

// writeNamesTable writes the table "wharf" in a container's namespace: what
// is asked at 127.0.0.11 goes to the gateway, with the container's address as
// its sender. The interfaces forward loopback addresses for that, so what
// comes in for them from outside is dropped first.
func writeNamesTable(ns *netns, gw netip.Addr, fresh bool) error {
	c, done, err := ns.nft()
	if err != nil {
		return err
	}
	defer done()
	t := &nftables.Table{Name: "wharf", Family: nftables.TableFamilyINet}
	renew(c, t, fresh)
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
