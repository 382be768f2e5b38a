package network

import (
	"fmt"
	"io"
	"math"
	stdnet "net"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/miekg/dns"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"wharf/internal/model"
)

func TestPolicyLabels(t *testing.T) {
	for _, c := range []struct{ key, value, want string }{
		{labelEgressAllow, "10.0.0.0/8, 1.1.1.1:443/tcp", "[{10.0.0.0/8 0 0 0} {1.1.1.1/32 6 443 443}]"},
		{labelEgressAllow, "", "[]"},
		{labelEgressAllow, "*:80-90", "[{invalid Prefix 6 80 90} {invalid Prefix 17 80 90}]"},
		{labelEgressAllow, "[2001:db8::/32]:53/udp,fd00::/8,::1/tcp", "[{2001:db8::/32 17 53 53} {fd00::/8 0 0 0} {::1/128 6 0 0}]"},
		{labelEgressAllow, "*/icmp 8.8.8.8/udp", "[{invalid Prefix 1 0 0} {8.8.8.8/32 17 0 0}]"},
		{labelEgressAllow, "10.0.0.1/8", "did you mean 10.0.0.0/8?"},
		{labelEgressAllow, "example.org", `label wharf.egress.allow: invalid value "example.org": "example.org" is no address`},
		{labelEgressDeny, "1.1.1.1:0", `"0" is no port or range of ports`},
		{labelEgressDeny, "1.1.1.1:99-5", `"99-5" is no port`},
		{labelEgressDeny, "[::1]x", `what is "x"?`},
		{labelEgressDeny, "1.1.1.1:5/icmp", "icmp has no ports"},
		{labelEgressDeny, "fe80::1%eth0", "is no address"},
		{"wharf.egress.alow", "1.1.1.1", "label wharf.egress.alow is not known"},
		{labelBandwidthIn, "10mbit", "1250000"},
		{labelBandwidthIn, "1.5 gbit", "187500000"},
		{labelBandwidthIn, "10mbps", `label wharf.bandwidth.in: invalid value "10mbps"`},
		{labelBandwidthIn, "-1mbit", "invalid value"},
		{labelBandwidthIn, "NaNmbit", "invalid value"},
		{labelBandwidthIn, "7kbit", "less than 8kbit"},
	} {
		p, _, err := readPolicy(map[string]string{c.key: c.value, "other": "x"})
		got := ""
		switch {
		case err != nil && !errdefs.IsInvalidArgument(err):
			t.Errorf("%s: %v", c.value, err)
		case err != nil:
			got = err.Error()
		case c.key == labelBandwidthIn:
			got = fmt.Sprint(p.in)
		default:
			var all []string
			for _, x := range p.egress.allow {
				all = append(all, fmt.Sprintf("{%s %d %d %d}", x.net, x.proto, x.first, x.last))
			}
			got = fmt.Sprint(all)
		}
		if !strings.Contains(got, c.want) || err == nil && got != c.want {
			t.Errorf("%s=%s: %s, want %s", c.key, c.value, got, c.want)
		}
	}
	r := &Room{}
	limited := map[string]string{labelBandwidthOut: "1mbit"}
	for _, c := range []struct {
		labels map[string]string
		mode   container.NetworkMode
		admin  bool
		want   string
	}{
		{limited, "bridge", false, ""}, {limited, "none", false, ""}, {nil, "host", true, ""},
		{limited, "host", false, "--network host"}, {limited, "container:x", false, "--network container:x"}, {limited, "bridge", true, "--cap-add NET_ADMIN"},
	} {
		if err := r.CheckLimits(c.labels, c.mode, c.admin); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func FuzzParseTargets(f *testing.F) {
	for _, s := range []string{"10.0.0.0/8, 1.1.1.1:443/tcp", "[::1]:5-6/udp", "*", "*/icmp", "]:", "1:2/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ts, err := parseTargets(words(s))
		for _, x := range ts {
			if err == nil && (x.first > x.last || x.first != 0 && x.proto == 0 || x.net.IsValid() && x.net != x.net.Masked()) {
				t.Errorf("%q: %+v", s, x)
			}
		}
		_, _ = parseRate(s)
	})
}

func TestEgress(t *testing.T) {
	w := outside(t)
	for _, p := range []int{80, 81, 443} {
		w.serve(p)
	}
	r := open(t, Options{})
	create(t, r, network.CreateRequest{Name: "app", IPAM: ipam(subnet("10.30.0.0/24", "", ""))})
	peer := newBox(t)
	q := peer.request("app")
	q.Name = "peer"
	ip := attach(t, r, q)[0].Settings.IPAddress.String()
	peer.serve(80)
	with := func(labels map[string]string) (*box, []model.Endpoint) {
		b := newBox(t)
		q := b.request("app")
		q.Labels = labels
		q.Ports = portMapOf(t, ":0:80/tcp")
		eps := attach(t, r, q)
		b.serve(80)
		return b, eps
	}
	denied, _ := with(map[string]string{labelEgressDeny: "203.0.113.0/24:81/tcp, 10.30.0.0/24"})
	allowed, eps := with(map[string]string{labelEgressAllow: "203.0.113.2:80-81", labelEgressDeny: "*:81/tcp"})
	shut, _ := with(map[string]string{labelEgressAllow: ""})
	for _, c := range []struct {
		who, proto, addr string
		from             *box
		ok               bool
	}{
		{"denied", "tcp", "203.0.113.2:80", denied, true},
		{"denied", "tcp", "203.0.113.2:81", denied, false},
		{"denied", "udp", "203.0.113.2:81", denied, true},
		{"denied", "tcp", ip + ":80", denied, false}, // a neighbour on the bridge
		{"allowed", "tcp", "203.0.113.2:80", allowed, true},
		{"allowed", "udp", "203.0.113.2:80", allowed, true},
		{"allowed", "tcp", "203.0.113.2:81", allowed, false},
		{"allowed", "tcp", "203.0.113.2:443", allowed, false},
		{"allowed", "tcp", ip + ":80", allowed, false},
		{"shut", "tcp", "203.0.113.2:80", shut, false},
		{"shut", "tcp", "127.0.0.1:80", shut, true},
		{"world", "tcp", "203.0.113.1:" + eps[0].Ports[network.MustParsePort("80/tcp")][0].HostPort, w, true}, // answers may leave
	} {
		_, err := ask(c.from, c.proto, c.addr)
		if (err == nil) != c.ok {
			t.Errorf("%s: %s %s: %v", c.who, c.proto, c.addr, err)
		}
		if e, late := err.(stdnet.Error); late && e.Timeout() { // it hears "refused", and need not wait
			t.Errorf("%s: %s %s: %v", c.who, c.proto, c.addr, err)
		}
	}
	if got := shut.resolve("udp", "127.0.0.11:53", "peer", dns.TypeA); got != ip {
		t.Errorf("names: %s", got)
	}
	if denied.ping("203.0.113.2") != nil || allowed.pingWithin(silence, "203.0.113.2") == nil {
		t.Error("ping")
	}
	bad := newBox(t).request("app")
	bad.Labels = map[string]string{labelEgressDeny: "nowhere"}
	if _, err := r.Attach(bg, bad); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), `"nowhere"`) {
		t.Error(err)
	}
	bad.Labels, bad.NetAdmin = map[string]string{labelEgressDeny: "*"}, true
	if _, err := r.Attach(bg, bad); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
}

func TestIngress(t *testing.T) {
	w := outside(t)
	r := open(t, Options{})
	a, b := newBox(t), newBox(t)
	q := a.request("bridge")
	q.Labels = map[string]string{labelIngressAllow: "203.0.113.0/24:80/tcp"}
	q.Ports = portMapOf(t, ":8080:80/tcp", ":8081:81/tcp")
	ip := attach(t, r, q)[0].Settings.IPAddress.String()
	a.serve(80)
	a.serve(81)
	attach(t, r, b.request("bridge"))
	if got, err := ask(w, "tcp", "203.0.113.1:8080"); err != nil || got != "203.0.113.2" {
		t.Error(got, err)
	}
	if _, err := askWithin(silence, w, "tcp", "203.0.113.1:8081"); err == nil {
		t.Error("a port that is not allowed answers")
	}
	if _, err := askWithin(silence, b, "tcp", ip+":80"); err == nil {
		t.Error("a neighbour that is not allowed is answered")
	}
	if err := a.ping("203.0.113.2"); err != nil {
		t.Error(err)
	}
}

// flood sends from one box to the other and returns bytes a second: the mean
// from the start, as soon as it is as near to want as tolerance says, or after
// a long while. What passes at once at first, and a moment in which nobody
// reads, lose their weight with time.
func flood(t *testing.T, from, to *box, addr string, want, tolerance float64) (rate float64, ok bool) {
	t.Helper()
	ns, err := openNetns(to.netns())
	if err != nil {
		t.Fatal(err)
	}
	defer ns.close()
	var l stdnet.Listener
	if err := ns.do(func() (err error) { l, err = stdnet.Listen("tcp", ":9999"); return err }); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := dialFrom(t, from, addr+":9999")
	defer c.Close()
	go func() {
		for buf := make([]byte, 32<<10); ; {
			if _, err := c.Write(buf); err != nil {
				return
			}
		}
	}()
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var n int64
	for began, next := time.Now(), time.Second; next < patience; next += 250 * time.Millisecond {
		_ = s.SetDeadline(began.Add(next))
		k, _ := io.Copy(io.Discard, s)
		n += k
		rate = float64(n) / time.Since(began).Seconds()
		if math.Abs(rate/want-1) <= tolerance {
			return rate, true
		}
	}
	return rate, false
}

func TestBandwidth(t *testing.T) {
	r := open(t, Options{})
	create(t, r, network.CreateRequest{Name: "later", IPAM: ipam(subnet("10.31.0.0/24", "", ""))})
	a, b := newBox(t), newBox(t)
	q := a.request("bridge")
	q.Labels = map[string]string{labelBandwidthIn: "16mbit", labelBandwidthOut: "8mbit"}
	ea := attach(t, r, q)
	eb := attach(t, r, b.request("bridge"))
	for _, c := range []struct {
		from, to *box
		addr     string
		want     float64
	}{{a, b, eb[0].Settings.IPAddress.String(), 1e6}, {b, a, ea[0].Settings.IPAddress.String(), 2e6}} {
		if got, ok := flood(t, c.from, c.to, c.addr, c.want, 0.4); !ok {
			t.Errorf("%.0f bytes a second, want %.0f", got, c.want)
		}
	}
	q.Want = map[string]*network.EndpointSettings{"later": {}}
	ep, err := r.Connect(bg, q, "later")
	if err != nil {
		t.Fatal(err)
	}
	if got := a.must("tc", "qdisc", "show", "dev", ep.Interface) + sh(t, "tc qdisc show dev "+ep.HostLink); !strings.Contains(got, "rate 8Mbit") || !strings.Contains(got, "rate 16Mbit") {
		t.Error(got)
	}
}
