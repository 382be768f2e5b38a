package network

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"
	"golang.org/x/sys/unix"

	"wharf/internal/model"
)

// portKey is a host port of a protocol; several host addresses may use it.
type portKey struct {
	proto byte
	port  uint16
}

// portHolder is one published port. Its socket is bound for as long, so that
// no process of the host takes the port and ephemeral ports avoid it; the
// packets never reach it, the rules turn them off before.
type portHolder struct {
	id     model.ID
	name   string
	rule   portRule
	socket int // -1: none, for a protocol that this host cannot open
	relay  *relay
}

// translated reports whether the rules can send the port to the container:
// both sides are of one family.
func (h *portHolder) translated() bool {
	return h.rule.host.Addr().Is4() == h.rule.container.Addr().Is4()
}

// relayed reports whether something arrives at the port that no rule can send
// on.
func (h *portHolder) relayed() bool {
	a := h.rule.host.Addr()
	return !h.translated() || a.Is6() && (a.IsUnspecified() || a.IsLoopback())
}

var protocols = map[network.IPProtocol]byte{
	network.TCP: unix.IPPROTO_TCP, network.UDP: unix.IPPROTO_UDP, network.SCTP: unix.IPPROTO_SCTP,
}

// reservePorts picks the host ports for want on e and fills in e.Ports. Call
// with mu held; forget undoes it.
func (r *Room) reservePorts(q model.AttachNetworks, eps []*endpoint) error {
	if len(q.Ports) == 0 || q.Netns == "" && len(eps) == 0 {
		return nil
	}
	i := slices.IndexFunc(eps, func(e *endpoint) bool { return e.HostLink != "" && !e.net.rec.Internal })
	if i < 0 {
		return nil // host, none, or internal only: Docker publishes nothing there either
	}
	e := eps[i]
	ports := make([]network.Port, 0, len(q.Ports))
	for p := range q.Ports {
		ports = append(ports, p)
	}
	slices.SortFunc(ports, func(a, b network.Port) int { return strings.Compare(a.String(), b.String()) })
	e.Ports = network.PortMap{}
	for _, p := range ports {
		bindings := q.Ports[p]
		if len(bindings) == 0 {
			bindings = []network.PortBinding{{}}
		}
		for _, b := range bindings {
			got, err := r.reservePort(q, e, p, b)
			if err != nil {
				return fmt.Errorf("driver failed programming external connectivity on endpoint %s (%s): %w", q.Name, e.Settings.EndpointID, err)
			}
			e.Ports[p] = append(e.Ports[p], got...)
		}
	}
	return nil
}

// reservePort publishes one port: at the address that b names, or at every
// address of each family that the endpoint has, under the same number.
func (r *Room) reservePort(q model.AttachNetworks, e *endpoint, p network.Port, b network.PortBinding) ([]network.PortBinding, error) {
	first, last, err := parseRange(b.HostPort)
	if err != nil {
		return nil, err
	}
	if _, ok := protocols[p.Proto()]; !ok {
		return nil, model.Refuse(errdefs.ErrInvalidArgument, "publish %s: protocol %q is not tcp, udp or sctp", p, p.Proto())
	}
	hosts, err := r.hostAddrs(e, p.Proto(), b.HostIP)
	if err != nil {
		return nil, err
	}
	var held []*portHolder
	drop := func() {
		for _, h := range held {
			r.dropPort(h)
		}
		held = nil
	}
	var lastErr error
	for try, port := 0, first; ; try++ {
		for i, host := range hosts {
			want := port
			if i > 0 && want == 0 {
				want = held[0].rule.host.Port() // both families under one number
			}
			h, err := r.takePort(q, e, p, netip.AddrPortFrom(host, want))
			if lastErr = err; err != nil {
				break
			}
			held = append(held, h)
		}
		if lastErr == nil {
			break
		}
		drop()
		if port == 0 && try < 16 && len(hosts) > 1 {
			continue // the number was free in one family only
		}
		if port == last {
			return nil, lastErr
		}
		port++
	}
	var out []network.PortBinding
	for _, h := range held {
		out = append(out, network.PortBinding{HostIP: h.rule.host.Addr(), HostPort: strconv.Itoa(int(h.rule.host.Port()))})
	}
	return out, nil
}

// parseRange reads "", "8080" or "8000-8010". No port is 0: any.
func parseRange(s string) (first, last uint16, err error) {
	if s == "" {
		return 0, 0, nil
	}
	a, b, two := strings.Cut(s, "-")
	if !two {
		b = a
	}
	x, err1 := strconv.ParseUint(a, 10, 16)
	y, err2 := strconv.ParseUint(b, 10, 16)
	if err1 != nil || err2 != nil || x > y || two && x == 0 {
		return 0, 0, model.Refuse(errdefs.ErrInvalidArgument, "invalid host port %q: give a number up to 65535 or a range such as 8000-8010", s)
	}
	return uint16(x), uint16(y), nil
}

// hostAddrs are the host addresses to publish at.
func (r *Room) hostAddrs(e *endpoint, proto network.IPProtocol, want netip.Addr) ([]netip.Addr, error) {
	has4 := e.Settings.IPAddress.IsValid()
	has6 := e.Settings.GlobalIPv6Address.IsValid()
	relays := proto != network.SCTP && !r.opts.NoRelay
	if !want.IsValid() {
		if a, err := netip.ParseAddr(e.net.rec.Options[optBinding]); err == nil && !a.IsUnspecified() {
			want = a
		}
	}
	if want.IsValid() {
		want = want.Unmap()
		if !relays && (want.Is4() && !has4 || want.Is6() && !has6) {
			return nil, model.Refuse(errdefs.ErrInvalidArgument, "publish at %s: the container has no address of that family on network %s", want, e.Network)
		}
		return []netip.Addr{want}, nil
	}
	var all []netip.Addr
	if has4 {
		all = append(all, netip.IPv4Unspecified())
	}
	if has6 || relays && hostHasIPv6() {
		all = append(all, netip.IPv6Unspecified())
	}
	return all, nil
}

// hostHasIPv6 reports whether anything could reach this host by IPv6.
func hostHasIPv6() bool {
	b, err := os.ReadFile("/proc/sys/net/ipv6/conf/all/disable_ipv6")
	return err == nil && strings.TrimSpace(string(b)) == "0"
}

// takePort holds one host port; port 0 lets the kernel pick. Call with mu held.
func (r *Room) takePort(q model.AttachNetworks, e *endpoint, p network.Port, host netip.AddrPort) (*portHolder, error) {
	proto := protocols[p.Proto()]
	if h := r.portOwner(proto, host); h != nil {
		return nil, model.Refuse(errdefs.ErrConflict, "Bind for %s failed: port is already allocated (container %s, %s, has it)", //nolint:staticcheck // Docker's text
			host, h.name, h.id.Short())
	}
	fd, bound, err := bindPort(proto, host)
	if err != nil {
		if errors.Is(err, unix.EADDRINUSE) {
			return nil, model.Refuse(errdefs.ErrConflict, "failed to bind host port %s/%s: address already in use (%s)", host, p.Proto(), socketOwner(p.Proto(), host))
		}
		return nil, fmt.Errorf("failed to bind host port %s/%s: %w", host, p.Proto(), err)
	}
	inside := e.Settings.IPAddress
	if six := e.Settings.GlobalIPv6Address; six.IsValid() && (host.Addr().Is6() || !inside.IsValid()) {
		inside = six
	}
	h := &portHolder{id: q.ID, name: q.Name, socket: fd, rule: portRule{
		proto: proto, host: bound, container: netip.AddrPortFrom(inside, p.Num()),
	}}
	if h.relayed() && fd >= 0 && !r.opts.NoRelay {
		if h.relay, err = startRelay(fd, proto, h.rule.container, r.log); err != nil {
			h.close()
			if errors.Is(err, unix.EADDRINUSE) { // TCP: somebody listens at one of the addresses
				return nil, model.Refuse(errdefs.ErrConflict, "failed to bind host port %s/%s: address already in use (%s)", host, p.Proto(), socketOwner(p.Proto(), host))
			}
			return nil, fmt.Errorf("listen at host port %s/%s: %w", host, p.Proto(), err)
		}
	}
	k := portKey{proto, bound.Port()}
	r.ports[k] = append(r.ports[k], h)
	return h, nil
}

// portOwner finds who holds a port at an address that overlaps host's.
func (r *Room) portOwner(proto byte, host netip.AddrPort) *portHolder {
	if host.Port() == 0 {
		return nil
	}
	for _, h := range r.ports[portKey{proto, host.Port()}] {
		a, b := h.rule.host.Addr(), host.Addr()
		if a.Is4() == b.Is4() && (a == b || a.IsUnspecified() || b.IsUnspecified()) {
			return h
		}
	}
	return nil
}

// bindPort binds a socket to host without listening.
func bindPort(proto byte, host netip.AddrPort) (int, netip.AddrPort, error) {
	typ := unix.SOCK_STREAM
	if proto == unix.IPPROTO_UDP {
		typ = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(int(family(host.Addr())), typ|unix.SOCK_CLOEXEC, int(proto))
	if err != nil {
		if proto == unix.IPPROTO_SCTP && host.Port() != 0 {
			return -1, host, nil // no SCTP sockets here; forwarding needs none
		}
		if proto == unix.IPPROTO_SCTP {
			err = model.Refuse(errdefs.ErrInvalidArgument, "this kernel has no SCTP sockets to find a free port with (module sctp): name the host port, as in -p 8080:80/sctp")
		}
		return -1, host, err
	}
	if host.Addr().Is6() {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
	}
	if proto == unix.IPPROTO_TCP {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) // TIME_WAIT of earlier connections is no obstacle
	}
	if err := unix.Bind(fd, sockaddr(host)); err != nil {
		return -1, host, errors.Join(err, unix.Close(fd))
	}
	if host.Port() == 0 {
		sa, err := unix.Getsockname(fd)
		if err != nil {
			return -1, host, errors.Join(err, unix.Close(fd))
		}
		switch sa := sa.(type) {
		case *unix.SockaddrInet4:
			host = netip.AddrPortFrom(host.Addr(), uint16(sa.Port))
		case *unix.SockaddrInet6:
			host = netip.AddrPortFrom(host.Addr(), uint16(sa.Port))
		}
	}
	return fd, host, nil
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// dropPort lets one port go. Call with mu held.
func (r *Room) dropPort(h *portHolder) {
	k := portKey{h.rule.proto, h.rule.host.Port()}
	r.ports[k] = slices.DeleteFunc(r.ports[k], func(o *portHolder) bool { return o == h })
	if len(r.ports[k]) == 0 {
		delete(r.ports, k)
	}
	h.close()
}

func (h *portHolder) close() {
	h.relay.close()
	if h.socket >= 0 {
		_ = unix.Close(h.socket)
		h.socket = -1
	}
}

// portRules are the rules of what id holds. Call with mu held.
func (r *Room) portRules(id model.ID) []portRule {
	var rules []portRule
	for _, hs := range r.ports {
		for _, h := range hs {
			if h.id == id && h.translated() {
				rules = append(rules, h.rule)
			}
		}
	}
	return rules
}

// freePorts lets every port of e's go and returns their rules. Call with mu held.
func (r *Room) freePorts(id model.ID, e *endpoint) []portRule {
	var rules []portRule
	for p, bs := range e.Ports {
		for _, b := range bs {
			n, _ := strconv.ParseUint(b.HostPort, 10, 16)
			for _, h := range slices.Clone(r.ports[portKey{protocols[p.Proto()], uint16(n)}]) {
				if h.id == id && h.rule.host.Addr() == b.HostIP {
					if h.translated() {
						rules = append(rules, h.rule)
					}
					r.dropPort(h)
				}
			}
		}
	}
	return rules
}

// restorePorts takes back what a running container has published. Call with
// mu held.
func (r *Room) restorePorts(id model.ID, e *endpoint) error {
	var errs []error
	for p, bs := range e.Ports {
		for _, b := range bs {
			n, err := strconv.ParseUint(b.HostPort, 10, 16)
			if err != nil {
				continue
			}
			q := model.AttachNetworks{ID: id, Name: e.Container}
			if _, err := r.takePort(q, e, p, netip.AddrPortFrom(b.HostIP, uint16(n))); err != nil {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}
