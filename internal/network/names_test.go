package network

import (
	stdnet "net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/moby/moby/api/types/network"

	"wharf/internal/model"
)

// resolve asks a name server from inside the box: the answers' data, or the
// code when there are none.
func (b *box) resolve(proto, server, name string, typ uint16) string {
	b.t.Helper()
	return b.lookUp(patience, "", proto, server, name, typ)
}

// resolveWithin asks for an IPv4 address that may stay unknown.
func (b *box) resolveWithin(d time.Duration, proto, server, name string) string {
	b.t.Helper()
	return b.lookUp(d, "", proto, server, name, dns.TypeA)
}

// lookUp asks from a UDP address, "" for any.
func (b *box) lookUp(limit time.Duration, from, proto, server, name string, typ uint16) string {
	b.t.Helper()
	ns, err := openNetns(b.netns())
	if err != nil {
		b.t.Fatal(err)
	}
	defer ns.close()
	d := stdnet.Dialer{Timeout: limit}
	if from != "" {
		d.LocalAddr = stdnet.UDPAddrFromAddrPort(netip.MustParseAddrPort(from))
	}
	var c stdnet.Conn
	if err := ns.do(func() (err error) { c, err = d.Dial(proto, server); return err }); err != nil {
		return err.Error()
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(limit))
	co := &dns.Conn{Conn: c}
	if err := co.WriteMsg(new(dns.Msg).SetQuestion(dns.Fqdn(name), typ)); err != nil {
		return err.Error()
	}
	a, err := co.ReadMsg()
	if err != nil {
		return err.Error()
	}
	var all []string
	for _, rr := range a.Answer {
		w := strings.Fields(rr.String())
		all = append(all, w[len(w)-1])
	}
	slices.Sort(all)
	if len(all) == 0 {
		return dns.RcodeToString[a.Rcode]
	}
	return strings.Join(all, ",")
}

// A network that is made anew, as by compose down and up, has names at once,
// also for who asks from a port that another asked from before: the kernel
// remembers where that one's questions went.
func TestNamesOfANetworkMadeAnew(t *testing.T) {
	r := open(t, Options{})
	for _, id := range []string{"first", "second"} {
		create(t, r, network.CreateRequest{Name: "app"})
		b := newBox(t)
		q := b.request("app")
		q.Name = id
		ip := attach(t, r, q)[0].Settings.IPAddress.String()
		if got := b.lookUp(patience, "127.0.0.1:5353", "udp", "127.0.0.11:53", id, dns.TypeA); got != ip {
			t.Errorf("%s is %s, want %s", id, got, ip)
		}
		if err := r.Detach(bg, b.id); err != nil {
			t.Fatal(err)
		}
		b.kill()
		if err := r.Remove(bg, "app"); err != nil {
			t.Fatal(err)
		}
	}
}

// A container with IPv6 only asks at 127.0.0.11 too.
func TestNamesWithIPv6Only(t *testing.T) {
	r := open(t, Options{})
	yes, no := true, false
	create(t, r, network.CreateRequest{Name: "six", EnableIPv4: &no, EnableIPv6: &yes})
	create(t, r, network.CreateRequest{Name: "four"})
	a, b := newBox(t), newBox(t)
	for n, x := range map[string]*box{"anna": a, "bert": b} {
		q := x.request("six")
		q.Name = n
		attach(t, r, q)
	}
	six := r.held[b.id]
	var ip string
	for _, e := range six {
		ip = e.Settings.GlobalIPv6Address.String()
		if e.Settings.IPAddress.IsValid() || e.NameServer != e.Settings.IPv6Gateway {
			t.Errorf("%+v", e.Endpoint)
		}
	}
	ask := func(step string, servers ...string) {
		t.Helper()
		for _, s := range servers {
			for _, proto := range []string{"udp", "tcp"} {
				if got := a.resolve(proto, s, "bert", dns.TypeAAAA); got != ip {
					t.Errorf("%s, %s at %s: %s", step, proto, s, got)
				}
			}
		}
	}
	gw := "[" + r.ranked(a.id)[0].Settings.IPv6Gateway.String() + "]:53"
	ask("at first", "127.0.0.11:53", gw)
	if err := a.ping(ip); err != nil {
		t.Error(err)
	}
	a.running(r, "four") // IPv4 comes, and with it the way by the bridge
	ask("with a second network", "127.0.0.11:53", gw)
	if len(r.insiders) != 1 { // bert's
		t.Errorf("%d servers inside", len(r.insiders))
	}
	a.leave(r, "four")
	ask("alone again", "127.0.0.11:53", gw)
}

// worldDNS answers every A question in the box's namespace with 192.0.2.99.
func (b *box) worldDNS() {
	b.t.Helper()
	ns, err := openNetns(b.netns())
	if err != nil {
		b.t.Fatal(err)
	}
	defer ns.close()
	var u stdnet.PacketConn
	var l stdnet.Listener
	err = ns.do(func() (err error) {
		if u, err = stdnet.ListenPacket("udp", ":53"); err != nil {
			return err
		}
		l, err = stdnet.Listen("tcp", ":53")
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
	h := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		a := new(dns.Msg).SetReply(q)
		a.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET}, A: stdnet.IPv4(192, 0, 2, 99)}}
		_ = w.WriteMsg(a)
	})
	go func() { _ = (&dns.Server{PacketConn: u, Handler: h}).ActivateAndServe() }()
	go func() { _ = (&dns.Server{Listener: l, Handler: h}).ActivateAndServe() }()
	b.t.Cleanup(func() { u.Close(); l.Close() })
}

func TestNames(t *testing.T) {
	needRoot(t)
	w := outside(t)
	w.worldDNS()
	dir := t.TempDir()
	o := Options{Dir: dir, DNS: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("203.0.113.2")}}
	r, err := Open(bg, o)
	if err != nil {
		t.Fatal(err)
	}
	yes := true
	create(t, r, network.CreateRequest{Name: "Front", EnableIPv6: &yes})
	create(t, r, network.CreateRequest{Name: "back", Internal: true})
	a, b, c, d := newBox(t), newBox(t), newBox(t), newBox(t)
	with := func(x *box, name string, aliases []string, nets ...string) model.AttachNetworks {
		q := x.request(nets...)
		q.Name = name
		for _, s := range q.Want {
			s.Aliases = aliases
		}
		return q
	}
	qa := with(a, "api", []string{"service"}, "Front", "back")
	qa.DNS = []netip.Addr{netip.MustParseAddr("203.0.113.2")}
	ea := attach(t, r, qa)
	eb := attach(t, r, with(b, "web", []string{"service"}, "Front"))
	ec := attach(t, r, with(c, "db", nil, "back"))
	attach(t, r, with(d, "old", nil, "bridge"))
	front := ea[slices.IndexFunc(ea, func(e model.Endpoint) bool { return e.Network == "Front" })].Settings
	ip := func(e model.Endpoint) string { return e.Settings.IPAddress.String() }
	both := []string{front.IPAddress.String(), ip(eb[0])}
	slices.Sort(both)
	rev, _ := dns.ReverseAddr(ip(eb[0]))
	check := func(when string) {
		t.Helper()
		for _, q := range []struct {
			from          *box
			proto, server string
			name          string
			typ           uint16
			want          string
		}{
			{a, "udp", "127.0.0.11:53", "web", dns.TypeA, ip(eb[0])},
			{a, "tcp", "127.0.0.11:53", "WEB", dns.TypeA, ip(eb[0])},
			{a, "udp", front.Gateway.String() + ":53", "web.front", dns.TypeA, ip(eb[0])},
			{a, "udp", "127.0.0.11:53", "db", dns.TypeA, ip(ec[0])},
			{a, "udp", "127.0.0.11:53", b.id.Short(), dns.TypeA, ip(eb[0])},
			{a, "udp", "127.0.0.11:53", "web", dns.TypeAAAA, eb[0].Settings.GlobalIPv6Address.String()},
			{a, "udp", "127.0.0.11:53", "web", dns.TypeMX, "NOERROR"},
			{b, "udp", "127.0.0.11:53", "service", dns.TypeA, strings.Join(both, ",")},
			{b, "udp", "127.0.0.11:53", rev, dns.TypePTR, "web.Front."},
			{b, "udp", "127.0.0.11:53", "db", dns.TypeA, "192.0.2.99"}, // not on b's network: somebody else's name
			{a, "udp", "127.0.0.11:53", "example.org", dns.TypeA, "192.0.2.99"},
			{a, "tcp", "127.0.0.11:53", "example.org", dns.TypeA, "192.0.2.99"},
			{c, "udp", "127.0.0.11:53", "example.org", dns.TypeA, "SERVFAIL"}, // internal
			{c, "udp", "127.0.0.11:53", "api", dns.TypeA, ea[slices.IndexFunc(ea, func(e model.Endpoint) bool { return e.Network == "back" })].Settings.IPAddress.String()},
		} {
			if got := q.from.resolve(q.proto, q.server, q.name, q.typ); got != q.want {
				t.Errorf("%s: %s %s %s %s: %s, want %s", when, q.proto, q.server, q.name, dns.TypeToString[q.typ], got, q.want)
			}
		}
		if got := d.resolveWithin(silence, "udp", front.Gateway.String()+":53", "web"); !strings.Contains(got, "timeout") && !strings.Contains(got, "refused") {
			t.Errorf("%s: another network was answered: %s", when, got)
		}
	}
	check("first")
	// The daemon is started again; nothing inside changes.
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	r = open(t, o)
	for id, eps := range map[model.ID][]model.Endpoint{a.id: ea, b.id: eb, c.id: ec} {
		if err := r.Restore(bg, id, eps); err != nil {
			t.Fatal(err)
		}
	}
	check("after a restart")
	if got := a.must("cat", "/proc/sys/net/ipv4/conf/eth0/route_localnet"); strings.TrimSpace(got) != "1" {
		t.Error(got)
	}
}

func TestLocalNames(t *testing.T) {
	a := asking{hosts: []nameHost{{names: []string{"Web", "www"}, network: "Net", addrs: []netip.Addr{netip.MustParseAddr("10.0.0.2")}}}}
	for _, c := range []struct {
		name string
		typ  uint16
		n    int
		ok   bool
	}{
		{"web.", dns.TypeA, 1, true}, {"WWW.net.", dns.TypeA, 1, true}, {"web.", dns.TypeAAAA, 0, true}, {"web.other.", dns.TypeA, 0, false},
		{"net.", dns.TypeA, 0, false}, {".", dns.TypeA, 0, false}, {"2.0.0.10.in-addr.arpa.", dns.TypePTR, 1, true}, {"3.0.0.10.in-addr.arpa.", dns.TypePTR, 0, false},
	} {
		rrs, ok := a.local(dns.Question{Name: c.name, Qtype: c.typ, Qclass: dns.ClassINET})
		if len(rrs) != c.n || ok != c.ok {
			t.Errorf("%s: %v %v", c.name, rrs, ok)
		}
	}
	if _, ok := a.local(dns.Question{Name: "web.", Qtype: dns.TypeTXT, Qclass: dns.ClassCHAOS}); ok {
		t.Error("answered another class")
	}
}
