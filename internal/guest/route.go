package guest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// route is a rtnetlink(7) socket. The little that the agent needs of it; the
// usual library is a megabyte.
type route struct {
	fd  int
	seq uint32
}

func openRoute() (*route, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, os.NewSyscallError("netlink socket", err)
	}
	return &route{fd: fd}, nil
}

func (r *route) close() { _ = unix.Close(r.fd) }

// linkInfo is one interface.
type linkInfo struct {
	index int32
	name  string
	mac   []byte
	perm  []byte // the device's own address
	up    bool
}

// linkChange is what to change of an interface; zero values stay.
type linkChange struct {
	name     string
	mtu      int
	mac      []byte
	netns    int // descriptor of the network namespace to move it to; 0: none
	up, down bool
}

var native = binary.NativeEndian

// attr appends an attribute, padded to four bytes (rtnetlink(7)).
func attr(b []byte, typ uint16, value []byte) []byte {
	b = native.AppendUint16(b, uint16(unix.SizeofRtAttr+len(value)))
	b = native.AppendUint16(b, typ)
	b = append(b, value...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func attr32(b []byte, typ uint16, v uint32) []byte {
	return attr(b, typ, native.AppendUint32(nil, v))
}

// call sends one message and hands every answer to each until the end of the
// dump or the acknowledgement.
func (r *route) call(typ, flags uint16, body []byte, each func(typ uint16, body []byte)) error {
	r.seq++
	msg := native.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(body)))
	msg = native.AppendUint16(msg, typ)
	msg = native.AppendUint16(msg, unix.NLM_F_REQUEST|flags)
	msg = native.AppendUint32(msg, r.seq)
	msg = native.AppendUint32(msg, 0)
	msg = append(msg, body...)
	if err := unix.Sendto(r.fd, msg, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("netlink send", err)
	}
	buf := make([]byte, 64<<10)
	for {
		n, _, err := unix.Recvfrom(r.fd, buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return os.NewSyscallError("netlink receive", err)
		}
		done, err := r.answers(buf[:n], each)
		if done || err != nil {
			return err
		}
	}
}

// answers walks the messages of one datagram.
func (r *route) answers(b []byte, each func(uint16, []byte)) (done bool, err error) {
	for len(b) >= unix.SizeofNlMsghdr {
		n, typ := int(native.Uint32(b)), native.Uint16(b[4:])
		if n < unix.SizeofNlMsghdr || n > len(b) {
			return true, errors.New("netlink: a cut-off answer")
		}
		body := b[unix.SizeofNlMsghdr:n]
		switch {
		case native.Uint32(b[8:]) != r.seq:
		case typ == unix.NLMSG_DONE:
			return true, nil
		case typ == unix.NLMSG_ERROR:
			if len(body) < 4 {
				return true, errors.New("netlink: a cut-off answer")
			}
			if e := int32(native.Uint32(body)); e != 0 {
				return true, unix.Errno(-e)
			}
			return true, nil
		case each != nil:
			each(typ, body)
		}
		b = b[min((n+3)&^3, len(b)):]
	}
	return false, nil
}

// attrs calls f for each attribute.
func attrs(b []byte, f func(typ uint16, value []byte)) {
	for len(b) >= unix.SizeofRtAttr {
		n, typ := int(native.Uint16(b)), native.Uint16(b[2:])
		if n < unix.SizeofRtAttr || n > len(b) {
			return
		}
		f(typ&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), b[unix.SizeofRtAttr:n])
		b = b[min((n+3)&^3, len(b)):]
	}
}

// links lists the interfaces.
func (r *route) links() ([]linkInfo, error) {
	var out []linkInfo
	err := r.call(unix.RTM_GETLINK, unix.NLM_F_DUMP, make([]byte, unix.SizeofIfInfomsg), func(_ uint16, body []byte) {
		if len(body) < unix.SizeofIfInfomsg {
			return
		}
		l := linkInfo{index: int32(native.Uint32(body[4:])), up: native.Uint32(body[8:])&unix.IFF_UP != 0}
		attrs(body[unix.SizeofIfInfomsg:], func(typ uint16, v []byte) {
			switch typ {
			case unix.IFLA_IFNAME:
				l.name = unix.ByteSliceToString(v)
			case unix.IFLA_ADDRESS:
				l.mac = append([]byte{}, v...)
			case unix.IFLA_PERM_ADDRESS:
				l.perm = append([]byte{}, v...)
			}
		})
		out = append(out, l)
	})
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	return out, nil
}

// setLink changes an interface.
func (r *route) setLink(index int32, c linkChange) error {
	b := make([]byte, unix.SizeofIfInfomsg)
	native.PutUint32(b[4:], uint32(index))
	if c.up || c.down {
		native.PutUint32(b[12:], unix.IFF_UP)
	}
	if c.up {
		native.PutUint32(b[8:], unix.IFF_UP)
	}
	if c.name != "" {
		b = attr(b, unix.IFLA_IFNAME, append([]byte(c.name), 0))
	}
	if c.mtu > 0 {
		b = attr32(b, unix.IFLA_MTU, uint32(c.mtu))
	}
	if len(c.mac) > 0 {
		b = attr(b, unix.IFLA_ADDRESS, c.mac)
	}
	if c.netns > 0 {
		b = attr32(b, unix.IFLA_NET_NS_FD, uint32(c.netns))
	}
	return r.call(unix.RTM_NEWLINK, unix.NLM_F_ACK, b, nil)
}

func family(a netip.Addr) byte {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// keepAddresses takes every address of an interface off but those of keep and
// link-local ones that the kernel gives itself.
func (r *route) keepAddresses(index int32, keep []netip.Prefix) error {
	var gone [][]byte
	err := r.call(unix.RTM_GETADDR, unix.NLM_F_DUMP, make([]byte, unix.SizeofIfAddrmsg), func(_ uint16, body []byte) {
		if len(body) < unix.SizeofIfAddrmsg || native.Uint32(body[4:]) != uint32(index) || body[3] == unix.RT_SCOPE_LINK {
			return
		}
		var p netip.Prefix
		attrs(body[unix.SizeofIfAddrmsg:], func(typ uint16, v []byte) {
			if a, ok := netip.AddrFromSlice(v); ok && (typ == unix.IFA_LOCAL || typ == unix.IFA_ADDRESS && !p.IsValid()) {
				p = netip.PrefixFrom(a, int(body[1]))
			}
		})
		if !slices.Contains(keep, p) {
			gone = append(gone, append([]byte{}, body...))
		}
	})
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	for _, body := range gone {
		if err := r.call(unix.RTM_DELADDR, unix.NLM_F_ACK, body, nil); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("remove an address: %w", err)
		}
	}
	return nil
}

// routeInfo is a route of ours by some interface.
type routeInfo struct {
	dst    netip.Prefix
	gw     netip.Addr // invalid: on the link
	metric int
}

// keepRoutes takes every route by an interface off that we gave it (the
// kernel's own go with the addresses) but those of keep.
func (r *route) keepRoutes(index int32, keep []routeInfo) error {
	var gone [][]byte
	err := r.call(unix.RTM_GETROUTE, unix.NLM_F_DUMP, make([]byte, unix.SizeofRtMsg), func(_ uint16, body []byte) {
		if len(body) < unix.SizeofRtMsg || body[5] != unix.RTPROT_STATIC {
			return
		}
		w, by := routeInfo{dst: netip.PrefixFrom(netip.IPv4Unspecified(), 0)}, uint32(0)
		if body[0] == unix.AF_INET6 {
			w.dst = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		attrs(body[unix.SizeofRtMsg:], func(typ uint16, v []byte) {
			a, ok := netip.AddrFromSlice(v)
			switch {
			case typ == unix.RTA_DST && ok:
				w.dst = netip.PrefixFrom(a, int(body[1]))
			case typ == unix.RTA_GATEWAY && ok:
				w.gw = a
			case typ == unix.RTA_OIF && len(v) == 4:
				by = native.Uint32(v)
			case typ == unix.RTA_PRIORITY && len(v) == 4:
				w.metric = int(native.Uint32(v))
			}
		})
		for _, k := range keep { // IPv6 routes have a metric also when nobody asked
			if k.dst == w.dst && k.gw == w.gw && (k.metric == w.metric || k.metric == 0) {
				return
			}
		}
		if by == uint32(index) {
			gone = append(gone, append([]byte{}, body...))
		}
	})
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	for _, body := range gone {
		if err := r.call(unix.RTM_DELROUTE, unix.NLM_F_ACK, body, nil); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("remove a route: %w", err)
		}
	}
	return nil
}

// addAddress gives an interface an address. Duplicates are the host's affair.
func (r *route) addAddress(index int32, p netip.Prefix) error {
	b := make([]byte, unix.SizeofIfAddrmsg)
	b[0], b[1] = family(p.Addr()), byte(p.Bits())
	native.PutUint32(b[4:], uint32(index))
	addr := p.Addr().AsSlice()
	b = attr(b, unix.IFA_LOCAL, addr)
	b = attr(b, unix.IFA_ADDRESS, addr)
	if p.Addr().Is4() {
		if p.Bits() < 31 {
			b = attr(b, unix.IFA_BROADCAST, broadcast(p))
		}
	} else {
		b = attr32(b, unix.IFA_FLAGS, unix.IFA_F_NODAD)
	}
	return r.call(unix.RTM_NEWADDR, unix.NLM_F_ACK|unix.NLM_F_CREATE|unix.NLM_F_REPLACE, b, nil)
}

func broadcast(p netip.Prefix) []byte {
	a := p.Addr().As4()
	n := binary.BigEndian.Uint32(a[:]) | (1<<(32-p.Bits()) - 1)
	return binary.BigEndian.AppendUint32(nil, n)
}

// addRoute adds a route by an interface, or replaces it.
func (r *route) addRoute(index int32, w routeInfo) error {
	b := make([]byte, unix.SizeofRtMsg)
	b[0], b[1] = family(w.dst.Addr()), byte(w.dst.Bits())
	b[4], b[5], b[6], b[7] = unix.RT_TABLE_MAIN, unix.RTPROT_STATIC, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST
	b = attr32(b, unix.RTA_OIF, uint32(index))
	if w.dst.Bits() > 0 {
		b = attr(b, unix.RTA_DST, w.dst.Addr().AsSlice())
	}
	if w.gw.IsValid() {
		b = attr(b, unix.RTA_GATEWAY, w.gw.AsSlice())
	} else {
		b[6] = unix.RT_SCOPE_LINK
	}
	if w.metric > 0 {
		b = attr32(b, unix.RTA_PRIORITY, uint32(w.metric))
	}
	return r.call(unix.RTM_NEWROUTE, unix.NLM_F_ACK|unix.NLM_F_CREATE|unix.NLM_F_REPLACE, b, nil)
}

// loopbackUp brings lo up.
func loopbackUp() error {
	r, err := openRoute()
	if err != nil {
		return err
	}
	defer r.close()
	return r.setLink(1, linkChange{up: true}) // always the first
}
