package network

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/miekg/dns"
	"github.com/moby/moby/api/types/network"
)

// running is request for a container that runs.
func (b *box) running(r *Room, nets ...string) {
	b.t.Helper()
	for _, n := range nets {
		q := b.request(n)
		q.Netns, q.Pid = "", b.cmd.Process.Pid
		if _, err := r.Connect(bg, q, n); err != nil {
			b.t.Fatal(err)
		}
	}
}

func (b *box) leave(r *Room, n string) {
	b.t.Helper()
	if err := r.Disconnect(bg, b.id, n, false); err != nil {
		b.t.Fatal(err)
	}
	q := b.request()
	q.Netns, q.Pid = "", b.cmd.Process.Pid
	if _, err := r.Refresh(bg, q); err != nil {
		b.t.Fatal(err)
	}
}

func (b *box) gateway(family string) string {
	b.t.Helper()
	var gws []string
	for l := range strings.Lines(b.must("ip", family, "route", "show", "default")) {
		gws = append(gws, strings.Fields(l)[2])
	}
	return strings.Join(gws, ",")
}

// The default route and the way to names move with the networks.
func TestGatewayAndNamesMove(t *testing.T) {
	r := open(t, Options{})
	yes := true
	gw := map[string]string{}
	for name, net := range map[string]string{"beta": "10.20.2.0/24", "alpha": "10.20.1.0/24", "zeta": "10.20.9.0/24"} {
		create(t, r, network.CreateRequest{Name: name, EnableIPv6: &yes, IPAM: ipam(subnet(net, "", ""))})
		gw[name] = netip.MustParsePrefix(net).Addr().Next().String()
	}
	create(t, r, network.CreateRequest{Name: "aaa", Internal: true})
	a, b := newBox(t), newBox(t)
	q := b.request("alpha", "beta", "zeta", "aaa")
	q.Name = "other"
	attach(t, r, q)
	ea := attach(t, r, a.request("bridge"))
	names := func(want string) {
		t.Helper()
		got := a.resolveWithin(awaited(want != ""), "udp", "127.0.0.11:53", "other")
		if want == "" && !strings.Contains(got, "refused") && !strings.Contains(got, "timeout") || want != "" && !strings.HasPrefix(got, want) {
			t.Errorf("other is %s, want %s", got, want)
		}
	}
	names("")
	a.running(r, "beta", "aaa")
	if got := a.gateway("-4"); got != gw["beta"] { // "beta" sorts before "bridge"; "aaa" is internal
		t.Errorf("default by %s", got)
	}
	names("10.20.2.")
	a.running(r, "zeta")
	q = a.request("alpha")
	q.Netns, q.Pid = "", a.cmd.Process.Pid
	q.Want["alpha"].GwPriority = 7
	if _, err := r.Connect(bg, q, "alpha"); err != nil {
		t.Fatal(err)
	}
	if got := a.gateway("-4"); got != gw["alpha"] {
		t.Errorf("default by %s", got)
	}
	if got := a.gateway("-6"); !strings.HasPrefix(got, "fd") || strings.Contains(got, ",") {
		t.Errorf("IPv6 default by %s", got)
	}
	for _, step := range []struct{ leave, gw string }{
		{"alpha", gw["beta"]}, {"beta", ea[0].Settings.Gateway.String()}, {"aaa", ea[0].Settings.Gateway.String()}, {"bridge", gw["zeta"]},
	} {
		a.leave(r, step.leave)
		if got := a.gateway("-4"); got != step.gw {
			t.Errorf("without %s: default by %s, want %s", step.leave, got, step.gw)
		}
		if got := a.resolve("udp", "127.0.0.11:53", "other", dns.TypeA); !strings.HasPrefix(got, "10.20.") {
			t.Errorf("without %s: other is %s", step.leave, got)
		}
	}
	a.leave(r, "zeta")
	if got := a.gateway("-4") + a.gateway("-6"); got != "" {
		t.Errorf("default by %s", got)
	}
	names("")
}

func TestRenameLinksAndUnknownNames(t *testing.T) {
	r := open(t, Options{ResolvConf: "/nonexistent"})
	create(t, r, network.CreateRequest{Name: "app"})
	create(t, r, network.CreateRequest{Name: "shut", Internal: true})
	a, b, c := newBox(t), newBox(t), newBox(t)
	q := b.request("app")
	q.Name = "db1"
	ip := attach(t, r, q)[0].Settings.IPAddress.String()
	q = a.request("app")
	q.Want["app"].Links = []string{"db1:database", b.id.Short() + ":byid", "gone:nobody"}
	attach(t, r, q)
	attach(t, r, c.request("app", "shut"))
	look := func(from *box, name, want string) {
		t.Helper()
		if got := from.resolve("udp", "127.0.0.11:53", name, dns.TypeA); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	look(a, "database", ip)
	look(a, "database.app", ip)
	look(a, "byid", ip)
	look(a, "nobody", "NXDOMAIN")
	look(c, "database", "NXDOMAIN") // a link is its owner's
	look(c, "nosuch", "NXDOMAIN")
	look(c, "example.org", "SERVFAIL")
	rev, _ := dns.ReverseAddr(ip)
	if got := a.resolve("udp", "127.0.0.11:53", rev, dns.TypePTR); got != "db1.app." {
		t.Error(got)
	}
	q = b.request()
	q.Name = "db2"
	eps, err := r.Refresh(bg, q)
	if err != nil || len(eps) != 1 || eps[0].Container != "db2" || eps[0].Settings.DNSNames[0] != "db2" {
		t.Errorf("%+v, %v", eps, err)
	}
	look(c, "db2", ip)
	look(c, "db1", "NXDOMAIN")
}

// Docker: an address may be asked for in the families whose subnet was given.
func TestGivenIPv6Address(t *testing.T) {
	r := open(t, Options{})
	yes := true
	create(t, r, network.CreateRequest{Name: "given", EnableIPv6: &yes, IPAM: ipam(subnet("2001:db8:1::/64", "", ""))})
	create(t, r, network.CreateRequest{Name: "picked", EnableIPv6: &yes})
	a := newBox(t)
	q := a.request("given")
	q.Want["given"].IPAMConfig = &network.EndpointIPAMConfig{IPv6Address: netip.MustParseAddr("2001:db8:1::f00d")}
	if err := r.Check(bg, "given", q.Want); err != nil {
		t.Fatal(err)
	}
	if got := attach(t, r, q)[0].Settings; got.GlobalIPv6Address.String() != "2001:db8:1::f00d" || !got.IPAddress.IsValid() {
		t.Errorf("%+v", got)
	}
	for _, c := range []struct{ net, ip string }{{"given", "172.18.0.9"}, {"picked", "fd00::5"}} {
		q := newBox(t).request(c.net)
		ip := netip.MustParseAddr(c.ip)
		q.Want[c.net].IPAMConfig = &network.EndpointIPAMConfig{}
		if ip.Is4() {
			q.Want[c.net].IPAMConfig.IPv4Address = ip
		} else {
			q.Want[c.net].IPAMConfig.IPv6Address = ip
		}
		if err := r.Check(bg, "", q.Want); err == nil || !strings.Contains(err.Error(), "user configured subnets") {
			t.Errorf("%v: %v", c, err)
		}
	}
}

// Addresses of the link beside the network's own; options that nobody knows.
func TestLinkLocalAndUnknownOptions(t *testing.T) {
	r := open(t, Options{})
	a := newBox(t)
	q := a.request("bridge")
	q.Want["bridge"].IPAMConfig = &network.EndpointIPAMConfig{LinkLocalIPs: []netip.Addr{netip.MustParseAddr("169.254.8.8")}}
	q.Want["bridge"].DriverOpts = map[string]string{"com.example.colour": "red"}
	if err := r.Check(bg, "bridge", q.Want); err != nil {
		t.Fatal(err)
	}
	eps := attach(t, r, q)
	if got := a.must("ip", "-4", "-o", "addr", "show", "eth0"); !strings.Contains(got, "169.254.8.8/16") || eps[0].Settings.DriverOpts["com.example.colour"] != "red" {
		t.Error(got, eps[0].Settings.DriverOpts)
	}
	q.Want["bridge"].IPAMConfig.LinkLocalIPs[0] = netip.MustParseAddr("10.0.0.1")
	if err := r.Check(bg, "bridge", q.Want); err == nil || !strings.Contains(err.Error(), "invalid link-local address 10.0.0.1") {
		t.Error(err)
	}
	q.Want["bridge"] = &network.EndpointSettings{DriverOpts: map[string]string{"com.docker.network.endpoint.nosuch": "1"}}
	if err := r.Check(bg, "bridge", q.Want); err == nil || !strings.Contains(err.Error(), "endpoint.nosuch") {
		t.Error(err)
	}
}
