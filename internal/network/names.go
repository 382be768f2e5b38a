package network

import (
	"context"
	"errors"
	"hash/fnv"
	"math/rand/v2"
	stdnet "net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
	"github.com/moby/moby/api/types/network"
	"golang.org/x/sync/semaphore"

	"wharf/internal/model"
)

const (
	nameTTL       = 600 // seconds, Docker's
	upstreamTime  = 2 * time.Second
	upstreamLimit = 512 // questions to other servers at a time and network
)

// nameServer answers the containers of one user-defined network. It listens
// on the network's gateway at a port of its own; rules send port 53 there,
// whatever else listens on the host. Only the network's own subnets get an
// answer.
type nameServer struct {
	room    *Room
	net     *net     // nil: the server is one container's own
	id      model.ID // whose
	servers []*dns.Server
	port    int
	limit   *semaphore.Weighted
}

// hasNames reports whether the network resolves names: the default bridge
// does not, as in Docker.
func (n *net) hasNames() bool {
	return n.isBridge() && n.rec.Name != network.NetworkBridge
}

// nameServerFor is where whoever has addrs asks for names, if the network
// answers: its gateway, of the first family that both have.
func (n *net) nameServerFor(addrs []netip.Addr) netip.Addr {
	if !n.hasNames() {
		return netip.Addr{}
	}
	for _, a := range addrs {
		for _, p := range n.pools {
			if p.subnet.Contains(a) {
				return p.gateway
			}
		}
	}
	return netip.Addr{}
}

// serveNames starts the network's name server. Call with making held. A
// failure costs names, not the network.
func (r *Room) serveNames(n *net) {
	if !n.hasNames() || n.dns != nil {
		return
	}
	s := &nameServer{room: r, net: n, limit: semaphore.NewWeighted(upstreamLimit)}
	for _, gw := range n.gateways() {
		if err := s.listen(gw.Addr()); err != nil {
			r.warn("network %s has no name server at %s: %v", n.rec.Name, gw.Addr(), err)
		}
	}
	n.dns = s
	n.dnsAt.Store(uint32(s.port))
}

// usualPort is where a network's name server listens when nobody else does:
// always the same one at an address, because the kernel keeps sending the
// packets of a UDP socket (nginx and other resolvers have one for long) to
// where the first went. That holds when the daemon is another, and, for half a
// minute, also when the network is: one made anew gets the same subnet, its
// containers the same addresses, and a port that was used before.
func (n *net) usualPort() uint16 {
	h := fnv.New32a()
	_, _ = h.Write(n.gateways()[0].Addr().AsSlice())
	return uint16(20000 + h.Sum32()%10000) // below the ports that the kernel gives out
}

// listen serves UDP and TCP at an address, at the port of the first one.
func (s *nameServer) listen(a netip.Addr) error {
	want := uint16(s.port)
	if want == 0 && s.net != nil {
		want = s.net.usualPort()
	}
	// The address may be as new as this millisecond; IPv6 needs no DAD here.
	l, err := stdnet.ListenTCP("tcp", stdnet.TCPAddrFromAddrPort(netip.AddrPortFrom(a, want)))
	if err != nil && s.port == 0 {
		l, err = stdnet.ListenTCP("tcp", stdnet.TCPAddrFromAddrPort(netip.AddrPortFrom(a, 0)))
	}
	if err != nil {
		return err
	}
	port := l.Addr().(*stdnet.TCPAddr).Port
	u, err := stdnet.ListenUDP("udp", stdnet.UDPAddrFromAddrPort(netip.AddrPortFrom(a, uint16(port))))
	if err != nil {
		return errors.Join(err, l.Close())
	}
	s.port = port
	for _, srv := range []*dns.Server{{Listener: l, Handler: s}, {PacketConn: u, Handler: s}} {
		s.servers = append(s.servers, srv)
		s.serve(srv)
	}
	return nil
}

func (s *nameServer) serve(srv *dns.Server) {
	go func() {
		if err := srv.ActivateAndServe(); err != nil && !errors.Is(err, stdnet.ErrClosed) {
			s.room.log.Error("name server", "of", s.who(), "error", err)
		}
	}()
}

func (s *nameServer) who() string {
	if s.net == nil {
		return s.id.Short()
	}
	return s.net.rec.Name
}

// answers reports whether the server is for askers at an address.
func (s *nameServer) answers(from netip.Addr) bool {
	if s.net == nil {
		return from.IsLoopback()
	}
	return s.net.contains(from)
}

func (s *nameServer) close() {
	if s == nil {
		return
	}
	for _, srv := range s.servers {
		// Not Shutdown: it waits, and fails for a server that has not begun.
		if srv.Listener != nil {
			_ = srv.Listener.Close()
		} else {
			_ = srv.PacketConn.Close()
		}
	}
	if s.net != nil {
		s.net.dnsAt.Store(0)
	}
}

// ServeDNS answers one question.
func (s *nameServer) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	from, err := netip.ParseAddrPort(w.RemoteAddr().String())
	if err != nil || !s.answers(from.Addr().Unmap()) {
		return // not one of ours: no answer at all
	}
	_, tcp := w.RemoteAddr().(*stdnet.TCPAddr)
	a := s.answer(q, from.Addr().Unmap(), tcp)
	if a == nil {
		return
	}
	if !tcp {
		size := dns.MinMsgSize
		if o := q.IsEdns0(); o != nil {
			size = max(size, int(o.UDPSize()))
		}
		a.Truncate(size)
	}
	_ = w.WriteMsg(a) // a client that is gone asks again
}

func (s *nameServer) answer(q *dns.Msg, from netip.Addr, tcp bool) *dns.Msg {
	a := new(dns.Msg).SetReply(q)
	a.RecursionAvailable = true
	if q.Opcode != dns.OpcodeQuery || len(q.Question) != 1 {
		return a.SetRcode(q, dns.RcodeNotImplemented)
	}
	asker := s.room.asker(s, from)
	if rrs, ok := asker.local(q.Question[0]); ok {
		a.Answer, a.Authoritative = rrs, true
		return a
	}
	failed := new(dns.Msg).SetRcode(q, dns.RcodeServerFailure)
	if dns.CountLabel(q.Question[0].Name) == 1 {
		// Only a container or a host next door would be called that: nobody
		// is, as far as anybody knows.
		failed.Rcode = dns.RcodeNameError
	}
	if asker.shut {
		return failed
	}
	return s.forward(q, asker.servers, tcp, failed)
}

// forward asks other servers, in their order, until one answers; failed is
// the answer when none does.
func (s *nameServer) forward(q *dns.Msg, servers []string, tcp bool, failed *dns.Msg) *dns.Msg {
	if !s.limit.TryAcquire(1) {
		return failed
	}
	defer s.limit.Release(1)
	proto := "udp"
	if tcp {
		proto = "tcp"
	}
	var last *dns.Msg
	for _, addr := range servers {
		ctx, cancel := context.WithTimeout(context.Background(), upstreamTime)
		c := &dns.Client{Net: proto, Timeout: upstreamTime, UDPSize: dns.MaxMsgSize - 1}
		a, _, err := c.ExchangeContext(ctx, q.Copy(), addr)
		cancel()
		if err != nil || a == nil {
			continue
		}
		if a.Rcode != dns.RcodeServerFailure && a.Rcode != dns.RcodeRefused {
			return a
		}
		last = a
	}
	if last != nil {
		return last
	}
	return failed
}

// asking is what an asker may see.
type asking struct {
	hosts   []nameHost
	servers []string
	shut    bool // on internal networks only: nothing is asked outside
}

type nameHost struct {
	names   []string
	network string
	addrs   []netip.Addr
}

// asker finds who has the address and what is on the networks it shares. An
// address that nobody has (a microVM, an exec in between) sees this network.
func (r *Room) asker(s *nameServer, from netip.Addr) asking {
	r.mu.Lock()
	defer r.mu.Unlock()
	id := s.id
	if s.net != nil {
		for other, eps := range r.held {
			if e := eps[s.net.rec.ID]; e != nil && slices.Contains(e.addrs, from) {
				id = other
				break
			}
		}
	}
	mine := map[*net]bool{}
	var own []netip.Addr
	for _, e := range r.held[id] {
		mine[e.net] = true
		if len(e.DNS) > 0 {
			own = e.DNS
		}
	}
	if len(mine) == 0 && s.net != nil {
		mine[s.net] = true
	}
	out := asking{shut: true, hosts: r.linked(id)}
	out.servers = r.upstreams(own)
	for m := range mine {
		out.shut = out.shut && m.rec.Internal
	}
	for _, eps := range r.held {
		for _, e := range eps {
			if mine[e.net] && e.net.named() {
				out.hosts = append(out.hosts, nameHost{e.Settings.DNSNames, e.Network, slices.Clone(e.addrs)})
			}
		}
	}
	return out
}

// linked are the containers that id calls by names of its own (--link on a
// user-defined network: NAME:ALIAS), as far as they run. Call with mu held.
func (r *Room) linked(id model.ID) []nameHost {
	var out []nameHost
	for nid, e := range r.held[id] {
		for _, l := range e.Settings.Links {
			ref, alias, ok := strings.Cut(strings.TrimPrefix(l, "/"), ":")
			if !ok {
				alias = ref
			}
			for other, eps := range r.held {
				o := eps[nid]
				if o != nil && ref != "" && (o.Container == ref || strings.HasPrefix(string(other), ref)) {
					out = append(out, nameHost{[]string{alias}, e.Network, slices.Clone(o.addrs)})
				}
			}
		}
	}
	return out
}

// upstreams are the servers to ask: the container's, the daemon's, the host's.
func (r *Room) upstreams(own []netip.Addr) []string {
	if len(own) == 0 {
		own = r.opts.DNS
	}
	var out []string
	for _, a := range own {
		out = append(out, netip.AddrPortFrom(a, 53).String())
	}
	if len(out) > 0 {
		return out
	}
	c, err := dns.ClientConfigFromFile(r.opts.ResolvConf)
	if err != nil {
		return nil
	}
	for _, s := range c.Servers {
		out = append(out, stdnet.JoinHostPort(s, c.Port))
	}
	return out
}

// local answers from the containers. ok is false when the name is none of
// theirs.
func (a asking) local(q dns.Question) (rrs []dns.RR, ok bool) {
	if q.Qclass != dns.ClassINET {
		return nil, false
	}
	head := dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: nameTTL}
	name := strings.ToLower(strings.TrimSuffix(q.Name, "."))
	if q.Qtype == dns.TypePTR {
		return a.reverse(head, name)
	}
	for _, h := range a.hosts {
		if !h.called(name) {
			continue
		}
		ok = true // a name that exists has no other records than its addresses
		for _, addr := range h.addrs {
			switch {
			case q.Qtype == dns.TypeA && addr.Is4():
				rrs = append(rrs, &dns.A{Hdr: head, A: addr.AsSlice()})
			case q.Qtype == dns.TypeAAAA && addr.Is6():
				rrs = append(rrs, &dns.AAAA{Hdr: head, AAAA: addr.AsSlice()})
			}
		}
	}
	rand.Shuffle(len(rrs), func(i, j int) { rrs[i], rrs[j] = rrs[j], rrs[i] })
	return rrs, ok
}

func (h nameHost) called(name string) bool {
	short, onNetwork := strings.CutSuffix(name, "."+strings.ToLower(h.network))
	for _, n := range h.names {
		if n = strings.ToLower(n); n == name || onNetwork && n == short {
			return true
		}
	}
	return false
}

// reverse names the container that has an address.
func (a asking) reverse(head dns.RR_Header, name string) ([]dns.RR, bool) {
	for _, h := range slices.Backward(a.hosts) { // aliases of links come first, and are not its name
		for _, addr := range h.addrs {
			if arpa, err := dns.ReverseAddr(addr.String()); err == nil && arpa == name+"." && len(h.names) > 0 {
				return []dns.RR{&dns.PTR{Hdr: head, Ptr: dns.Fqdn(h.names[0] + "." + h.network)}}, true
			}
		}
	}
	return nil, false
}

// asksNames reports whether 127.0.0.11 in the container leads by e.
func (e *endpoint) asksNames() bool {
	return e.HostLink != "" && e.net.hasNames() && e.Settings.IPAddress.IsValid()
}

// namesInside makes 127.0.0.11 in the container lead to the name server of
// the first network that has one. No socket and no process is needed inside,
// and nothing to do after a restart of the daemon.
func (r *Room) namesInside(ns *netns, eps []*endpoint, fresh bool) error {
	i := slices.IndexFunc(eps, (*endpoint).asksNames)
	if i < 0 {
		return nil
	}
	gw := eps[i].net.pools[0].gateway
	for _, p := range eps[i].net.pools {
		if p.subnet.Contains(eps[i].Settings.IPAddress) {
			gw = p.gateway
		}
	}
	if err := writeNamesTable(ns, gw, fresh); err != nil {
		r.warn("names of other containers are only found at the gateway's address, not at %s: %v", embeddedDNS, err)
	}
	return nil
}

var embeddedDNS = netip.AddrFrom4([4]byte{127, 0, 0, 11})
