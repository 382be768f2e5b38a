package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"wharf/internal/model"
)

// A virtual machine's limits stand on this side of its tap, where it cannot
// reach them: one nftables table of family bridge for each limited tap. Not
// every kernel can track connections on a bridge, so the table remembers by
// itself who began to speak with whom: a set for what the machine began and
// was allowed to, one for what others began. An answer is what is in the other
// side's set. Every packet of the side that began is looked at, so a rule that
// comes later ends what it is against; what is refused is dropped.

const (
	flowSize    = 1 << 16 // flows remembered for a tap and direction: more are not let in or out
	flowTCP     = time.Hour
	flowOther   = 3 * time.Minute
	regKey      = 8 // NFT_REG32_00
	etherIPv4   = 0x0800
	etherIPv6   = 0x86dd
	etherARP    = 0x0806
	dynsetRenew = 1 // NFT_DYNSET_OP_UPDATE
)

// tapLimit is what stands for one tap.
type tapLimit struct {
	p        policy
	gateways []netip.Addr // where its network answers names
}

// limitTaps brings the taps of a machine to a policy; nil: no limits.
func (r *Room) limitTaps(_ model.ID, eps []*endpoint, p *policy) error {
	for _, e := range eps {
		if !e.Tap {
			continue
		}
		if err := r.limitTap(e, p); err != nil {
			return err
		}
	}
	return nil
}

func (r *Room) limitTap(e *endpoint, p *policy) error {
	i, err := r.rt.index(e.HostLink)
	if err != nil {
		return err
	}
	if p == nil || p.in == 0 {
		err = unshape(r.rt, i)
	} else if err = shaped(r.rt.do(addTBF(i, p.in))); err != nil {
		err = fmt.Errorf("%s: %w", labelBandwidthIn, err)
	}
	if err != nil {
		return err
	}
	if p == nil || p.egress.empty() && p.ingress.empty() && p.out == 0 {
		return r.unlimitTap(e.HostLink)
	}
	l := tapLimit{p: *p}
	for _, c := range e.net.gateways() {
		l.gateways = append(l.gateways, c.Addr())
	}
	if err := writeTapTable(e.HostLink, l); err != nil {
		return err
	}
	r.mu.Lock()
	r.tapLimits[e.HostLink] = l
	r.mu.Unlock()
	return nil
}

func tapTable(link string) *nftables.Table {
	return &nftables.Table{Name: limitsTable + "-" + link, Family: nftables.TableFamilyBridge}
}

// unlimitTap takes a tap's table away; none is no error.
func (r *Room) unlimitTap(link string) error {
	r.mu.Lock()
	delete(r.tapLimits, link)
	r.mu.Unlock()
	return removeTapTable(link)
}

func removeTapTable(link string) error {
	c, done, err := openNFT()
	if err != nil {
		return err
	}
	defer done()
	c.DelTable(tapTable(link))
	if err := c.Flush(); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("remove nftables table %s: %w", tapTable(link).Name, err)
	}
	return nil
}

// tapTablesAgain writes the tables that somebody flushed, and removes those
// whose tap is gone.
func (r *Room) tapTablesAgain() {
	c, done, err := openNFT()
	if err != nil {
		return
	}
	defer done()
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyBridge)
	if err != nil {
		return
	}
	there := map[string]bool{}
	for _, t := range tables {
		link, ours := strings.CutPrefix(t.Name, limitsTable+"-")
		there[link] = true
		if _, ok := attachedID(link); ours && ok && !r.linkExists(link) {
			if err := r.unlimitTap(link); err != nil {
				r.log.Warn("remove the limits of a tap that is gone", "link", link, "error", err)
			}
		}
	}
	r.mu.Lock()
	missing := map[string]tapLimit{}
	for link, l := range r.tapLimits {
		if !there[link] {
			missing[link] = l
		}
	}
	r.mu.Unlock()
	for link, l := range missing {
		if err := writeTapTable(link, l); err != nil {
			r.log.Error("restore the limits of a tap", "link", link, "error", err)
		}
	}
}

// writeTapTable writes a tap's table, or its rules anew; what it remembers
// stays.
func writeTapTable(link string, l tapLimit) error {
	c, done, err := openNFT()
	if err != nil {
		return err
	}
	defer done()
	b := &tapBuilder{link: link, limit: l, t: &tableBuilder{conn: c, table: tapTable(link), shape: &tableShape{rules: map[string]int{}}}}
	c.AddTable(b.t.table)
	b.sets()
	b.direction("out", nftables.ChainHookPrerouting, l.p.egress, true)
	b.direction("in", nftables.ChainHookPostrouting, l.p.ingress, false)
	if b.t.err == nil {
		b.t.err = c.Flush()
	}
	if b.t.err != nil {
		return fmt.Errorf("nftables table %s (this kernel may lack nft_meta_bridge or nf_tables for bridges): %w", b.t.table.Name, b.t.err)
	}
	return nil
}

// tapBuilder turns a tapLimit into one transaction.
type tapBuilder struct {
	link  string
	limit tapLimit
	t     *tableBuilder
}

func (b *tapBuilder) set(v4, out bool) *nftables.Set {
	name, addr := "began-", nftables.TypeIPAddr
	if name += map[bool]string{true: "out", false: "in"}[out]; !v4 {
		name, addr = name+"6", nftables.TypeIP6Addr
	}
	return &nftables.Set{
		Table: b.t.table, Name: name, Dynamic: true, HasTimeout: true, Timeout: flowOther, Size: flowSize, Concatenation: true,
		KeyType: nftables.MustConcatSetType(nftables.TypeInetProto, addr, addr, nftables.TypeInetService, nftables.TypeInetService),
	}
}

func (b *tapBuilder) sets() {
	for _, v4 := range []bool{true, false} {
		for _, out := range []bool{true, false} {
			if err := b.t.conn.AddSet(b.set(v4, out), nil); err != nil && b.t.err == nil {
				b.t.err = err
			}
		}
	}
}

// direction writes what the machine sends (out) or is sent.
func (b *tapBuilder) direction(title string, hook *nftables.ChainHook, d direction, out bool) {
	remember := b.t.conn.AddChain(&nftables.Chain{Name: "remember-" + title, Table: b.t.table})
	c := b.t.chain(title, nftables.ChainTypeFilter, hook, 0)
	b.t.conn.FlushChain(remember)
	b.t.conn.FlushChain(c)
	accept, drop := verdict(expr.VerdictAccept), verdict(expr.VerdictDrop)
	face, rate := oif(), uint64(0)
	if out {
		face, rate = iif(), b.limit.p.out
	}
	b.t.rule(c, face, notName(b.link), accept)
	if rate > 0 {
		b.t.rule(c, part{&expr.Limit{Type: expr.LimitTypePktBytes, Rate: rate, Over: true, Unit: expr.LimitTimeSecond, Burst: uint32(min(max(rate/10, 64<<10), math.MaxUint32))}}, drop)
	}
	b.t.rule(c, ether(etherARP), accept)
	for _, v4 := range []bool{true, false} {
		b.flows(v4, out, func(key part, _ time.Duration) {
			s := b.set(v4, !out)
			b.t.rule(c, key, part{&expr.Lookup{SourceRegister: regKey, SetName: s.Name}}, accept)
		})
	}
	b.always(c, out, accept)
	for _, t := range d.deny {
		b.target(c, t, out, drop)
	}
	jump := part{&expr.Verdict{Kind: expr.VerdictJump, Chain: remember.Name}}
	if d.closed {
		for _, t := range d.allow {
			b.target(c, t, out, jump)
		}
		b.t.rule(c, drop)
	} else {
		for _, p := range []uint16{etherIPv4, etherIPv6} {
			b.t.rule(c, ether(p), jump)
		}
		b.t.rule(c, drop) // frames that no rule can read, such as those of a VLAN
	}
	for _, v4 := range []bool{true, false} {
		b.flows(v4, out, func(key part, keep time.Duration) {
			s := b.set(v4, out)
			b.t.rule(remember, key, part{&expr.Dynset{SrcRegKey: regKey, SetName: s.Name, Operation: dynsetRenew, Timeout: keep}}, accept)
		})
	}
	b.t.rule(remember, drop) // the set is full
}

// always passes what the network itself needs.
func (b *tapBuilder) always(c *nftables.Chain, out bool, accept part) {
	icmp := func(v4 bool, from, to byte) {
		proto := byte(unix.IPPROTO_ICMPV6)
		if v4 {
			proto = unix.IPPROTO_ICMP
		}
		b.t.rule(c, ether(etherOf(v4)), l4proto(proto), part{
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1},
			&expr.Range{Op: expr.CmpOpEq, Register: 1, FromData: []byte{from}, ToData: []byte{to}},
		}, accept)
	}
	icmp(false, 133, 137) // neighbour discovery
	if !out {             // what became of its packets
		icmp(false, 1, 4)
		icmp(true, 3, 3)
		icmp(true, 11, 12)
		return
	}
	for _, gw := range b.limit.gateways { // the network's own name server
		for _, proto := range []byte{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
			b.t.rule(c, bridged(netip.PrefixFrom(gw, gw.BitLen()), true), l4proto(proto), dport(53),
				part{&expr.Verdict{Kind: expr.VerdictJump, Chain: "remember-out"}})
		}
	}
}

// target is targetRule for frames.
func (b *tapBuilder) target(c *nftables.Chain, t target, out bool, v part) {
	var parts []part
	if t.net.IsValid() {
		parts = append(parts, bridged(t.net, out))
	}
	if t.first != 0 {
		parts = append(parts, l4proto(t.proto), part{
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
			&expr.Range{Op: expr.CmpOpEq, Register: 1, FromData: binaryutil.BigEndian.PutUint16(t.first), ToData: binaryutil.BigEndian.PutUint16(t.last)},
		})
	} else if t.proto != 0 {
		if t.proto == unix.IPPROTO_ICMP && !t.net.IsValid() {
			b.t.rule(c, ether(etherIPv6), l4proto(unix.IPPROTO_ICMPV6), v)
		}
		proto := t.proto
		if proto == unix.IPPROTO_ICMP && t.net.IsValid() && t.net.Addr().Is6() {
			proto = unix.IPPROTO_ICMPV6
		}
		parts = append(parts, l4proto(proto))
	}
	b.t.rule(c, append(parts, v)...)
}

// flows yields, for each kind of protocol, the key of a packet's flow as the
// machine sees it: protocol, its address, the peer's, its port, the peer's.
func (b *tapBuilder) flows(v4, out bool, yield func(key part, keep time.Duration)) {
	dst, size := addrField(v4, true)
	src, _ := addrField(v4, false)
	own, peer, ownPort, peerPort := dst, src, uint32(2), uint32(0)
	if out {
		own, peer, ownPort, peerPort = src, dst, 0, 2
	}
	words := size / 4
	head := append(ether(etherOf(v4)), &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: regKey},
		&expr.Payload{DestRegister: regKey + 1, Base: expr.PayloadBaseNetworkHeader, Offset: own, Len: size},
		&expr.Payload{DestRegister: regKey + 1 + words, Base: expr.PayloadBaseNetworkHeader, Offset: peer, Len: size})
	ports := regKey + 1 + 2*words
	for proto, keep := range map[byte]time.Duration{unix.IPPROTO_TCP: flowTCP, unix.IPPROTO_UDP: flowOther, unix.IPPROTO_SCTP: flowTCP} {
		yield(append(append(l4proto(proto), head...),
			&expr.Payload{DestRegister: ports, Base: expr.PayloadBaseTransportHeader, Offset: ownPort, Len: 2},
			&expr.Payload{DestRegister: ports + 1, Base: expr.PayloadBaseTransportHeader, Offset: peerPort, Len: 2}), keep)
	}
	yield(append(append(part{}, head...), // the others have no ports
		&expr.Immediate{Register: ports, Data: make([]byte, 4)},
		&expr.Immediate{Register: ports + 1, Data: make([]byte, 4)}), flowOther)
}

func etherOf(v4 bool) uint16 {
	if v4 {
		return etherIPv4
	}
	return etherIPv6
}

// ether matches a frame's protocol.
func ether(p uint16) part {
	return part{
		&expr.Meta{Key: expr.MetaKeyPROTOCOL, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.BigEndian.AppendUint16(nil, p)},
	}
}

// bridged is addrIn for frames.
func bridged(p netip.Prefix, dst bool) part {
	v4 := p.Addr().Is4()
	return append(ether(etherOf(v4)), addrIn(p, dst)[len(nfproto(v4)):]...)
}
