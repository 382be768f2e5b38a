package network

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Conntrack status bit (linux/netfilter/nf_conntrack_common.h): the
// destination was translated, the packet came through a published port.
const ctStatusDNAT = 1 << 5

// Registers of 4 bytes that follow an IPv4 or IPv6 address in register 1.
const (
	regAfter4 = 9 // NFT_REG32_01
	regAfter6 = 2 // NFT_REG_2
)

// tableBuilder turns a ruleset into one transaction.
//
//	forward      who may talk to whom through this host
//	prerouting   published ports, from outside and from containers
//	output       published ports, from this host
//	postrouting  masquerade
//	guard        a container must not reach the host's loopback by its address
type tableBuilder struct {
	conn    *nftables.Conn
	table   *nftables.Table
	shape   *tableShape
	bridges *nftables.Set
	err     error
}

func (rs *ruleset) sort() {
	slices.SortFunc(rs.nets, func(a, b ruleNet) int { return cmp.Compare(a.bridge, b.bridge) })
	slices.SortFunc(rs.ports, func(a, b portRule) int {
		return cmp.Or(a.host.Compare(b.host), cmp.Compare(a.proto, b.proto))
	})
}

func (b *tableBuilder) build(rs ruleset) {
	b.bridges = b.ifnames("bridges", rs.nets, func(ruleNet) bool { return true })
	closed := b.ifnames("internal", rs.nets, func(n ruleNet) bool { return n.internal })
	b.forward(rs.nets, closed)
	b.postrouting(rs.nets)
	b.publish(rs.nets, rs.ports)
	guard := b.chain("guard", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, -310)
	b.rule(guard, daddr(netip.MustParsePrefix("127.0.0.0/8")), iif(), in(b.bridges), verdict(expr.VerdictDrop))
}

// forward has the default "drop" only for packets from or to our bridges;
// the others are none of our business.
func (b *tableBuilder) forward(nets []ruleNet, closed *nftables.Set) {
	c := b.chain("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, 0)
	accept, drop := verdict(expr.VerdictAccept), verdict(expr.VerdictDrop)
	b.rule(c, oif(), in(b.bridges), ctState(expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), accept)
	b.rule(c, iif(), in(b.bridges), ctState(expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), accept)
	b.rule(c, oif(), in(b.bridges), ctDNAT(), accept)
	for _, n := range nets {
		v := accept
		if !n.icc {
			v = drop
		}
		b.rule(c, iif(), name(n.bridge), oif(), name(n.bridge), v)
		for _, link := range n.trusted {
			b.rule(c, iif(), name(link), oif(), name(n.bridge), accept)
		}
	}
	b.rule(c, iif(), in(b.bridges), oif(), in(b.bridges), drop)
	b.rule(c, iif(), in(closed), drop)
	b.rule(c, iif(), in(b.bridges), accept)
	b.rule(c, oif(), in(b.bridges), drop)
}

func (b *tableBuilder) postrouting(nets []ruleNet) {
	c := b.chain("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, 100)
	masq := part{&expr.Masq{}}
	for _, n := range nets {
		// Its own or a neighbour's published port, and this host's loopback:
		// the answer has to come back through here.
		b.rule(c, oif(), name(n.bridge), saddr(netip.MustParsePrefix("127.0.0.0/8")), ctDNAT(), masq)
		for _, s := range n.subnets {
			b.rule(c, oif(), name(n.bridge), saddr(s), ctDNAT(), masq)
			if n.masquerade && !n.internal {
				b.rule(c, saddr(s), oif(), notName(n.bridge), n.leaveBy(s))
			}
		}
	}
}

// leaveBy gives packets of a subnet the address that they leave with.
func (n ruleNet) leaveBy(s netip.Prefix) part {
	for _, a := range n.from {
		if a.Is4() != s.Addr().Is4() {
			continue
		}
		family := uint32(unix.NFPROTO_IPV6)
		if a.Is4() {
			family = unix.NFPROTO_IPV4
		}
		return part{
			&expr.Immediate{Register: 1, Data: a.AsSlice()},
			&expr.NAT{Type: expr.NATTypeSourceNAT, Family: family, RegAddrMin: 1},
		}
	}
	return part{&expr.Masq{}}
}

// The maps of published ports, by family and by whether the host address
// matters.
var portMaps = []struct {
	name     string
	v4, addr bool
}{{"ports4", true, true}, {"ports4any", true, false}, {"ports6", false, true}, {"ports6any", false, false}}

// portMap is the map that p belongs to.
func portMap(t *nftables.Table, p portRule) *nftables.Set {
	i := 0
	if !p.host.Addr().Is4() {
		i = 2
	}
	if p.host.Addr().IsUnspecified() {
		i++
	}
	return portSet(t, i)
}

func portSet(t *nftables.Table, i int) *nftables.Set {
	addr := nftables.TypeIPAddr
	if !portMaps[i].v4 {
		addr = nftables.TypeIP6Addr
	}
	key := []nftables.SetDatatype{nftables.TypeInetProto, nftables.TypeInetService}
	if portMaps[i].addr {
		key = append([]nftables.SetDatatype{addr}, key...)
	}
	return &nftables.Set{
		Table: t, Name: portMaps[i].name, IsMap: true, Concatenation: true,
		KeyType:  nftables.MustConcatSetType(key...),
		DataType: nftables.MustConcatSetType(addr, nftables.TypeInetService),
	}
}

// element is p in its map: key (address,) protocol and port, each padded to
// four bytes.
func (p portRule) element() nftables.SetElement {
	var key []byte
	if !p.host.Addr().IsUnspecified() {
		key = p.host.Addr().AsSlice()
	}
	key = append(key, p.proto, 0, 0, 0)
	key = append(binary.BigEndian.AppendUint16(key, p.host.Port()), 0, 0)
	val := binary.BigEndian.AppendUint16(p.container.Addr().AsSlice(), p.container.Port())
	return nftables.SetElement{Key: key, Val: append(val, 0, 0)}
}

func (b *tableBuilder) publish(nets []ruleNet, ports []portRule) {
	elements := map[string][]nftables.SetElement{}
	for _, p := range ports {
		s := portMap(b.table, p)
		elements[s.Name] = append(elements[s.Name], p.element())
	}
	pre := b.chain("prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, -100)
	out := b.chain("output", nftables.ChainTypeNAT, nftables.ChainHookOutput, -100)
	for _, n := range nets {
		if n.dns == 0 {
			continue
		}
		for _, proto := range []byte{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
			b.rule(pre, iif(), name(n.bridge), localDaddr(), l4proto(proto), dport(53), redirect(n.dns))
		}
	}
	// A packet from ::1 cannot leave the loopback: a relay takes it.
	b.rule(out, daddr(netip.MustParsePrefix("::1/128")), verdict(expr.VerdictReturn))
	for i, m := range portMaps {
		s := portSet(b.table, i)
		if err := b.conn.AddSet(s, elements[m.name]); err != nil && b.err == nil {
			b.err = err
		}
		for _, c := range []*nftables.Chain{pre, out} {
			b.rule(c, nfproto(m.v4), localDaddr(), portKeyExpr(m.v4, m.addr), dnat(s, m.v4))
		}
	}
}

// Building blocks. Each part is a list of expressions.
type part []expr.Any

func (b *tableBuilder) chain(n string, typ nftables.ChainType, hook *nftables.ChainHook, prio int32) *nftables.Chain {
	b.shape.rules[n] = 0
	return b.conn.AddChain(&nftables.Chain{Name: n, Table: b.table, Type: typ, Hooknum: hook, Priority: nftables.ChainPriorityRef(nftables.ChainPriority(prio))})
}

func (b *tableBuilder) rule(c *nftables.Chain, parts ...part) {
	b.shape.rules[c.Name]++
	b.conn.AddRule(&nftables.Rule{Table: b.table, Chain: c, Exprs: slices.Concat(parts...)})
}

func (b *tableBuilder) ifnames(n string, nets []ruleNet, want func(ruleNet) bool) *nftables.Set {
	s := &nftables.Set{Table: b.table, Name: n, KeyType: nftables.TypeIFName, KeyByteOrder: binaryutil.NativeEndian}
	var es []nftables.SetElement
	for _, rn := range nets {
		if want(rn) {
			es = append(es, nftables.SetElement{Key: ifname(rn.bridge)})
		}
	}
	if err := b.conn.AddSet(s, es); err != nil && b.err == nil {
		b.err = err
	}
	return s
}

func ifname(s string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, s)
	return b
}

func iif() part { return part{&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}} }
func oif() part { return part{&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1}} }

func in(s *nftables.Set) part {
	return part{&expr.Lookup{SourceRegister: 1, SetName: s.Name, SetID: s.ID}}
}

func name(s string) part { return part{&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: ifname(s)}} }

func notName(s string) part {
	return part{&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: ifname(s)}}
}

func verdict(k expr.VerdictKind) part { return part{&expr.Verdict{Kind: k}} }

func ctState(bits uint32) part { return ctBits(expr.CtKeySTATE, bits) }

// ctReply matches packets of the side that did not begin.
func ctReply() part {
	return part{
		&expr.Ct{Key: expr.CtKeyDIRECTION, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{1}}, // IP_CT_DIR_REPLY
	}
}

func ctDNAT() part { return ctBits(expr.CtKeySTATUS, ctStatusDNAT) }

func ctBits(key expr.CtKey, bits uint32) part {
	return part{
		&expr.Ct{Key: key, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

func nfproto(v4 bool) part {
	p := byte(unix.NFPROTO_IPV6)
	if v4 {
		p = unix.NFPROTO_IPV4
	}
	return part{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{p}},
	}
}

// Offsets and sizes of addresses in the IP headers.
func addrField(v4, dst bool) (off, size uint32) {
	switch {
	case v4 && dst:
		return 16, 4
	case v4:
		return 12, 4
	case dst:
		return 24, 16
	}
	return 8, 16
}

func saddr(p netip.Prefix) part { return addrIn(p, false) }
func daddr(p netip.Prefix) part { return addrIn(p, true) }

func addrIn(p netip.Prefix, dst bool) part {
	off, size := addrField(p.Addr().Is4(), dst)
	mask := make([]byte, size)
	for i := range p.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return append(nfproto(p.Addr().Is4()),
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: off, Len: size},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: size, Mask: mask, Xor: make([]byte, size)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: p.Masked().Addr().AsSlice()},
	)
}

// localDaddr matches packets whose destination is an address of this host.
func localDaddr() part {
	return part{
		&expr.Fib{Register: 1, ResultADDRTYPE: true, FlagDADDR: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	}
}

func l4proto(p byte) part {
	return part{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{p}},
	}
}

func dport(n uint16) part {
	return part{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(n)},
	}
}

// redirect sends a packet to a port of the interface that it came in by.
func redirect(port uint16) part {
	return part{
		&expr.Immediate{Register: 1, Data: binaryutil.BigEndian.PutUint16(port)},
		&expr.Redir{RegisterProtoMin: 1},
	}
}

// portKeyExpr puts (address,) protocol and destination port side by side,
// from register 1 on.
func portKeyExpr(v4, withAddr bool) part {
	var ps part
	reg := uint32(8) // NFT_REG32_00
	if withAddr {
		off, size := addrField(v4, true)
		ps = append(ps, &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: off, Len: size})
		reg += size / 4
	}
	return append(ps,
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg},
		&expr.Payload{DestRegister: reg + 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
	)
}

func dnat(s *nftables.Set, v4 bool) part {
	family, port := uint32(unix.NFPROTO_IPV6), uint32(regAfter6)
	if v4 {
		family, port = unix.NFPROTO_IPV4, regAfter4
	}
	return part{
		&expr.Lookup{SourceRegister: 1, DestRegister: 1, IsDestRegSet: true, SetName: s.Name, SetID: s.ID},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: family, RegAddrMin: 1, RegProtoMin: port, Specified: true},
	}
}
