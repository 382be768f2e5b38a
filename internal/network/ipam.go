package network

import (
	"math/big"
	"net/netip"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"

	"wharf/internal/model"
)

// pool hands out the addresses of one subnet. It is a bitmap in memory, kept
// in words that exist only where a bit is set, so that an IPv6 /64 costs no
// more than what is used of it. Its user locks.
type pool struct {
	subnet  netip.Prefix
	ranged  netip.Prefix // addresses are picked from here; any of subnet may be asked for
	gateway netip.Addr
	first   uint64 // offsets in subnet that may be picked, inclusive
	last    uint64
	next    uint64 // where the search goes on: a freed address rests for a round
	words   map[uint64]uint64
	used    uint64
}

// newPool reserves what is never handed out: the network and broadcast
// addresses, the gateway and the auxiliary addresses.
func newPool(c network.IPAMConfig) (*pool, error) {
	if !c.Subnet.IsValid() {
		return nil, model.Refuse(errdefs.ErrInvalidArgument, "a subnet is needed")
	}
	p := &pool{subnet: c.Subnet.Masked(), ranged: c.Subnet.Masked(), words: map[uint64]uint64{}}
	if c.IPRange.IsValid() {
		p.ranged = c.IPRange.Masked()
		if c.IPRange.Bits() < p.subnet.Bits() || !p.subnet.Contains(c.IPRange.Addr()) {
			return nil, model.Refuse(errdefs.ErrInvalidArgument, "invalid ip-range %s: it is not within subnet %s", c.IPRange, p.subnet)
		}
	}
	p.first, _ = p.offset(p.ranged.Addr())
	p.last, _ = p.offset(lastAddr(p.ranged))
	p.next = p.first
	p.reserveEdges()
	p.gateway = c.Gateway
	if !p.gateway.IsValid() {
		gw, err := p.pick()
		if err != nil {
			return nil, err
		}
		p.gateway = gw
	} else if err := p.fixed(c.Gateway, "gateway"); err != nil {
		return nil, err
	}
	for name, a := range c.AuxAddress {
		if err := p.fixed(a, "auxiliary address "+name); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func (p *pool) reserveEdges() {
	size := p.subnet.Addr().BitLen() - p.subnet.Bits()
	if size < 2 { // /31, /32, /127, /128 have no such addresses
		return
	}
	p.set(0)
	if p.subnet.Addr().Is4() {
		p.set(uint64(1)<<size - 1)
	}
}

func (p *pool) fixed(a netip.Addr, what string) error {
	if !p.subnet.Contains(a) {
		return model.Refuse(errdefs.ErrInvalidArgument, "invalid %s %s: it is not in subnet %s", what, a, p.subnet)
	}
	off, ok := p.offset(a)
	if !ok || p.has(off) {
		return model.Refuse(errdefs.ErrInvalidArgument, "invalid %s %s: the address is reserved or already used", what, a)
	}
	p.set(off)
	return nil
}

// pick takes the next free address of the range.
func (p *pool) pick() (netip.Addr, error) {
	for pass := range 2 {
		from, to := p.next, p.last
		if pass == 1 {
			from, to = p.first, p.next
		}
		for off := from; off <= to && off >= from; off++ {
			if off%64 == 0 && p.words[off/64] == ^uint64(0) {
				off += 63
				continue
			}
			if !p.has(off) {
				p.set(off)
				if p.next = off + 1; p.next > p.last {
					p.next = p.first
				}
				return p.addr(off), nil
			}
		}
	}
	return netip.Addr{}, model.Refuse(errdefs.ErrResourceExhausted, "no available IPv%d addresses on this network's address pools: %s is full",
		map[bool]int{true: 4, false: 6}[p.subnet.Addr().Is4()], p.ranged)
}

// take takes one address that was asked for.
func (p *pool) take(a netip.Addr) error {
	off, ok := p.offset(a)
	if !ok {
		return model.Refuse(errdefs.ErrInvalidArgument, "address %s is not in subnet %s", a, p.subnet)
	}
	if p.has(off) {
		return model.Refuse(errdefs.ErrConflict, "Address already in use: %s", a) //nolint:staticcheck // Docker's text
	}
	p.set(off)
	return nil
}

// free gives an address back; a free one is no error.
func (p *pool) free(a netip.Addr) {
	off, ok := p.offset(a)
	if !ok || !p.has(off) || a == p.gateway {
		return
	}
	w := p.words[off/64] &^ (1 << (off % 64))
	if w == 0 {
		delete(p.words, off/64)
	} else {
		p.words[off/64] = w
	}
	p.used--
}

func (p *pool) has(off uint64) bool { return p.words[off/64]&(1<<(off%64)) != 0 }

func (p *pool) set(off uint64) {
	if !p.has(off) {
		p.words[off/64] |= 1 << (off % 64)
		p.used++
	}
}

// offset is an address's distance from the subnet's first. Offsets beyond 64
// bits (an IPv6 subnet wider than /64) are outside of what is managed.
func (p *pool) offset(a netip.Addr) (uint64, bool) {
	a = a.Unmap()
	if !p.subnet.Contains(a) {
		return 0, false
	}
	d := new(big.Int).Sub(new(big.Int).SetBytes(a.AsSlice()), new(big.Int).SetBytes(p.subnet.Addr().AsSlice()))
	if !d.IsUint64() {
		return ^uint64(0), false
	}
	return d.Uint64(), true
}

func (p *pool) addr(off uint64) netip.Addr {
	b := p.subnet.Addr().AsSlice()
	for i := len(b) - 1; i >= 0 && off > 0; i-- {
		sum := uint64(b[i]) + off&0xff
		b[i] = byte(sum)
		off = off>>8 + sum>>8
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// status counts for inspect, in Docker's way.
func (p *pool) status() network.SubnetStatus {
	inRange := uint64(0)
	for w, bits := range p.words {
		for i := uint64(0); bits != 0; i, bits = i+1, bits>>1 {
			if off := w*64 + i; bits&1 != 0 && off >= p.first && off <= p.last {
				inRange++
			}
		}
	}
	return network.SubnetStatus{IPsInUse: p.used, DynamicIPsAvailable: p.last - p.first + 1 - inRange}
}
