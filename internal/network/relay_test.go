package network

import (
	"testing"

	"github.com/moby/moby/api/types/network"
)

// A container with IPv4 only answers at the host's IPv6 addresses, one with
// IPv6 also at [::1].
func TestRelay(t *testing.T) {
	w := outside(t)
	sh(t, "ip addr add 2001:db8::1/64 dev wan nodad; ip link set lo up")
	w.must("ip", "addr", "add", "2001:db8::2/64", "dev", "eth0", "nodad")
	r := open(t, Options{})
	yes := true
	create(t, r, network.CreateRequest{Name: "six", EnableIPv6: &yes, IPAM: ipam(subnet("2001:db8:9::/64", "", ""))})
	four, six := newBox(t), newBox(t)
	q := four.request("bridge")
	q.Ports = portMapOf(t, ":8080:80/tcp", ":8080:80/udp", "::1:8081:80/tcp")
	e4 := attach(t, r, q)
	four.serve(80)
	q = six.request("six")
	q.Ports = portMapOf(t, ":8090:80/tcp", ":8090:80/udp", "::1:8091:80/tcp")
	attach(t, r, q)
	six.serve(80)
	if got := e4[0].Ports[network.MustParsePort("80/tcp")]; len(got) != 3 || got[1].HostIP.String() != "::" || got[1].HostPort != "8080" {
		t.Errorf("%+v", got)
	}
	gw := e4[0].Settings.Gateway.String()
	for _, c := range []struct {
		from              *box
		proto, addr, want string
	}{
		{nil, "tcp", "127.0.0.1:8080", gw},
		{nil, "tcp", "[::1]:8080", gw},
		{nil, "udp", "[::1]:8080", gw},
		{nil, "tcp", "[::1]:8081", gw},
		{w, "tcp", "203.0.113.1:8080", "203.0.113.2"},
		{w, "tcp", "[2001:db8::1]:8080", gw},
		{w, "udp", "[2001:db8::1]:8080", gw},
		{nil, "tcp", "[::1]:8090", "2001:db8:9::1"},
		{nil, "udp", "[::1]:8090", "2001:db8:9::1"},
		{nil, "tcp", "[::1]:8091", "2001:db8:9::1"},
		{w, "tcp", "[2001:db8::1]:8090", "2001:db8::2"},
		{w, "udp", "[2001:db8::1]:8090", "2001:db8::2"},
	} {
		if got, err := ask(c.from, c.proto, c.addr); err != nil || got != c.want {
			t.Errorf("%s %s: %q, %v; want %q", c.proto, c.addr, got, err, c.want)
		}
	}
	for _, addr := range []string{"[2001:db8::1]:8081", "[2001:db8::1]:8091"} {
		if _, err := askWithin(silence, w, "tcp", addr); err == nil {
			t.Errorf("%s answers", addr)
		}
	}
	if err := r.Detach(bg, four.id); err != nil {
		t.Fatal(err)
	}
	if _, err := askWithin(silence, nil, "tcp", "[::1]:8080"); err == nil {
		t.Error("the relay is still open after detach")
	}
	q = newBox(t).request("bridge")
	q.Ports = portMapOf(t, ":8080:80/tcp")
	attach(t, r, q)
}

// Neighbours that may not talk still reach what one of them publishes.
func TestPublishedPortWithoutICC(t *testing.T) {
	r := open(t, Options{})
	create(t, r, network.CreateRequest{Name: "quiet", Options: map[string]string{optICC: "false"}})
	for _, filtered := range []string{"1", "0"} {
		sh(t, "for f in /proc/sys/net/bridge/bridge-nf-call-ip*tables; do echo "+filtered+" > $f; done")
		a, b := newBox(t), newBox(t)
		q := a.request("quiet")
		q.Ports = portMapOf(t, ":8080:80/tcp")
		ea := attach(t, r, q)
		a.serve(80)
		attach(t, r, b.request("quiet"))
		if err := b.pingWithin(silence, ea[0].Settings.IPAddress.String()); err == nil {
			t.Errorf("bridge-nf-call %s: neighbours talk", filtered)
		}
		if _, err := askWithin(silence, b, "tcp", ea[0].Settings.IPAddress.String()+":80"); err == nil {
			t.Errorf("bridge-nf-call %s: neighbours talk", filtered)
		}
		if _, err := ask(b, "tcp", ea[0].Settings.Gateway.String()+":8080"); err != nil {
			t.Errorf("bridge-nf-call %s: %v", filtered, err)
		}
		for _, x := range []*box{a, b} {
			if err := r.Detach(bg, x.id); err != nil {
				t.Fatal(err)
			}
			x.kill()
		}
	}
}
