package network

import (
	"errors"
	"fmt"
	"math"

	"github.com/containerd/errdefs"
	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"wharf/internal/model"
)

// limitsTable is in the container's namespace, where also its neighbours on
// the same bridge, IPv6 and every later network pass by. A container without
// CAP_NET_ADMIN there cannot touch it; policyOf refuses the others.
const limitsTable = "wharf-limits"

// limit makes the policy's rules in a namespace, instead of those that are
// there. A nil policy has none.
func (p *policy) limit(ns *netns, fresh bool) error {
	c, done, err := ns.nft()
	if err != nil {
		return err
	}
	defer done()
	t := &nftables.Table{Name: limitsTable, Family: nftables.TableFamilyINet}
	renew(c, t, fresh)
	if p == nil || p.egress.empty() && p.ingress.empty() {
		c.DelTable(t)
		return c.Flush()
	}
	b := &tableBuilder{conn: c, table: t, shape: &tableShape{rules: map[string]int{}}}
	// After the translation of 127.0.0.11, so that ports and addresses are
	// those that leave.
	b.limitDirection("output", nftables.ChainHookOutput, p.egress, true)
	b.limitDirection("input", nftables.ChainHookInput, p.ingress, false)
	if err := c.Flush(); err != nil {
		return fmt.Errorf("nftables table %s: %w", limitsTable, err)
	}
	return nil
}

// limitDirection looks at every packet that the side begins or goes on with,
// so that a rule that comes later ends what it is against.
func (b *tableBuilder) limitDirection(title string, hook *nftables.ChainHook, d direction, out bool) {
	if d.empty() {
		return
	}
	c := b.chain(title, nftables.ChainTypeFilter, hook, 10)
	accept, no := verdict(expr.VerdictAccept), verdict(expr.VerdictDrop)
	iface := iif()
	if out {
		iface = oif()
		no = part{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED}} // the program hears of it at once
	}
	b.rule(c, iface, name("lo"), accept)
	b.rule(c, ctState(expr.CtStateBitRELATED), accept)
	b.rule(c, ctReply(), accept) // what goes on was begun by the other side, which the other chain let
	if out {
		b.rule(c, ctDNAT(), accept) // the network's own name server
	}
	b.rule(c, l4proto(unix.IPPROTO_ICMPV6), part{ // neighbour discovery: 133 to 137
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1},
		&expr.Range{Op: expr.CmpOpEq, Register: 1, FromData: []byte{133}, ToData: []byte{137}},
	}, accept)
	for _, t := range d.deny {
		b.targetRule(c, t, out, no)
	}
	if !d.closed {
		return
	}
	for _, t := range d.allow {
		b.targetRule(c, t, out, accept)
	}
	b.rule(c, no)
}

func (b *tableBuilder) targetRule(c *nftables.Chain, t target, out bool, v part) {
	var parts []part
	if t.net.IsValid() {
		parts = append(parts, addrIn(t.net, out))
	}
	switch {
	case t.proto == unix.IPPROTO_ICMP && (!t.net.IsValid() || t.net.Addr().Is6()):
		if !t.net.IsValid() {
			b.rule(c, l4proto(unix.IPPROTO_ICMP), v)
		}
		parts = append(parts, l4proto(unix.IPPROTO_ICMPV6))
	case t.proto != 0:
		parts = append(parts, l4proto(t.proto))
	}
	if t.first != 0 {
		parts = append(parts, part{
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
			&expr.Range{Op: expr.CmpOpEq, Register: 1, FromData: binaryutil.BigEndian.PutUint16(t.first), ToData: binaryutil.BigEndian.PutUint16(t.last)},
		})
	}
	b.rule(c, append(parts, v)...)
}

// shape limits the bandwidth of e: out where the container sends, in where
// the host sends to it.
func (r *Room) shape(p *policy, inside *rtnl, e *endpoint, index int) error {
	if p.out > 0 {
		if err := shaped(inside.do(addTBF(index, p.out))); err != nil {
			return fmt.Errorf("%s: %w", labelBandwidthOut, err)
		}
	}
	if p.in == 0 {
		return nil
	}
	i, err := r.rt.index(e.HostLink)
	if err == nil {
		err = r.rt.do(addTBF(i, p.in))
	}
	if err := shaped(err); err != nil {
		return fmt.Errorf("%s: %w", labelBandwidthIn, err)
	}
	return nil
}

func shaped(err error) error {
	if errors.Is(err, unix.ENOENT) {
		return model.Refuse(errdefs.ErrNotImplemented, "this kernel has no token bucket filter: its module sch_tbf is missing or may not be loaded (try modprobe sch_tbf)")
	}
	return err
}

// addTBF makes a token bucket filter the link's queue: rate bytes a second,
// 20 ms of that at once, 100 ms of it waiting.
func addTBF(index int, rate uint64) request {
	const least = 16 << 10 // whatever the rate, some full packets
	burst := uint32(min(max(rate/50, least), math.MaxUint32))
	limit := uint32(min(max(rate/10, 4*least), math.MaxUint32))
	r := newRequest("limit bandwidth", unix.RTM_NEWQDISC, unix.NLM_F_CREATE|unix.NLM_F_REPLACE)
	r.AddData(&nl.TcMsg{Family: unix.AF_UNSPEC, Ifindex: int32(index), Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT})
	r.AddData(nl.NewRtAttr(nl.TCA_KIND, nl.ZeroTerminated("tbf")))
	opts := nl.NewRtAttr(nl.TCA_OPTIONS, nil)
	q := nl.TcTbfQopt{Limit: limit, Rate: nl.TcRateSpec{Rate: uint32(min(rate, math.MaxUint32))}}
	opts.AddRtAttr(nl.TCA_TBF_PARMS, q.Serialize())
	opts.AddRtAttr(nl.TCA_TBF_BURST, nl.Uint32Attr(burst))
	if rate >= math.MaxUint32 {
		opts.AddRtAttr(nl.TCA_TBF_RATE64, nl.Uint64Attr(rate))
	}
	r.AddData(opts)
	return r
}

// applyLimits carries out the policy of q for eps, which have just come to
// be; fresh: the namespace too.
func (r *Room) applyLimits(ns *netns, c *rtnl, q model.AttachNetworks, eps []*endpoint, index []int, fresh bool) error {
	p, err := policyOf(q)
	if err != nil || p == nil {
		return err
	}
	if fresh && !(p.egress.empty() && p.ingress.empty()) {
		if err := p.limit(ns, true); err != nil {
			return err
		}
	}
	for i, e := range eps {
		if e.Interface == "" || p.in == 0 && p.out == 0 {
			continue
		}
		if p.in > 0 && e.HostLink == "" {
			return noBandwidthIn(e)
		}
		if err := r.shape(p, c, e, index[i]); err != nil {
			return err
		}
	}
	return nil
}
