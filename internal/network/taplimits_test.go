package network

import (
	"context"
	stdnet "net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/moby/moby/api/types/network"

	"wharf/internal/model"
)

// What holds for containers holds for a machine, whatever it may do inside,
// and from this side of its tap.
func TestMachineLimits(t *testing.T) {
	w := outside(t)
	for _, p := range []int{80, 81} {
		w.serve(p)
	}
	w.echo(7)
	r := open(t, Options{})
	create(t, r, network.CreateRequest{Name: "app", IPAM: ipam(subnet("10.30.0.0/24", "", ""))})
	peer := newBox(t)
	pq := peer.request("app")
	pq.Name = "peer"
	ip := attach(t, r, pq)[0].Settings.IPAddress.String()
	peer.serve(80)
	q := tapRequest("app")
	q.NetAdmin = true
	q.Ports = portMapOf(t, ":8080:80/tcp", ":8081:81/tcp")
	q.Labels = map[string]string{labelEgressDeny: "203.0.113.2:81/tcp, " + ip}
	ep := attach(t, r, q)[0]
	m := machine(t, ep)
	m.serve(80)
	m.serve(81)
	try := func(step string, rules *model.NetworkRules, want string) {
		t.Helper()
		q.Rules = rules
		if err := r.Limit(bg, q); err != nil {
			t.Fatal(step, err)
		}
		var got []string
		for _, c := range []struct {
			name, proto, addr string
			from              *box
		}{
			{"80", "tcp", "203.0.113.2:80", m}, {"80u", "udp", "203.0.113.2:80", m}, {"81", "tcp", "203.0.113.2:81", m}, {"81u", "udp", "203.0.113.2:81", m},
			{"peer", "tcp", ip + ":80", m}, {"in80", "tcp", "203.0.113.1:8080", w}, {"in81", "tcp", "203.0.113.1:8081", w}, {"inpeer", "tcp", ep.Settings.IPAddress.String() + ":80", peer},
		} {
			if knock(awaited(slices.Contains(strings.Fields(want), c.name)), c.from, c.proto, c.addr) == nil {
				got = append(got, c.name)
			}
		}
		if m.pingWithin(awaited(strings.Contains(want, "ping")), "203.0.113.2") == nil {
			got = append(got, "ping")
		}
		if m.resolve("udp", ep.NameServer.String()+":53", "peer", dns.TypeA) == ip {
			got = append(got, "names")
		}
		if s := strings.Join(got, " "); s != want {
			t.Errorf("%s: %s, want %s", step, s, want)
		}
	}
	try("label", nil, "80 80u 81u in80 in81 inpeer ping names")
	try("egress closed", &model.NetworkRules{EgressDeny: []string{"any"}}, "in80 in81 inpeer names")
	try("but one", &model.NetworkRules{EgressAllow: []string{"203.0.113.0/24:80/tcp", "any/icmp"}}, "80 in80 in81 inpeer ping names")
	try("ingress", &model.NetworkRules{IngressAllow: []string{"203.0.113.2:80/tcp"}}, "80 80u 81u in80 ping names")
	tapTableComesBack(t, r, q, ep)
	c := dialFrom(t, m, "203.0.113.2:7")
	if err := chat(patience, c); err != nil {
		t.Fatal(err)
	}
	q.Rules = &model.NetworkRules{EgressDeny: []string{"203.0.113.2:7/tcp"}}
	if err := r.Limit(bg, q); err != nil {
		t.Fatal(err)
	}
	if err := chat(silence, c); err == nil {
		t.Error("an open connection goes on")
	}
	q.Labels, q.Rules = nil, nil
	if err := r.Limit(bg, q); err != nil {
		t.Fatal(err)
	}
	if got := sh(t, "nft list tables"); strings.Contains(got, limitsTable) {
		t.Error(got)
	}
}

// knock is ask for what may be dropped on the way.
func knock(d time.Duration, b *box, proto, addr string) error {
	ns, err := openNetns(b.netns())
	if err != nil {
		return err
	}
	defer ns.close()
	var c stdnet.Conn
	if err := ns.do(func() (err error) { c, err = stdnet.DialTimeout(proto, addr, d); return err }); err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(d))
	if _, err = c.Write([]byte("x")); err == nil {
		_, err = c.Read(make([]byte, 64))
	}
	return err
}

// tapTableComesBack flushes the rules, and leaves one behind as a daemon that
// died would.
func tapTableComesBack(t *testing.T, r *Room, q model.AttachNetworks, ep model.Endpoint) {
	t.Helper()
	table := limitsTable + "-" + ep.HostLink
	sh(t, "nft flush ruleset; nft add table bridge "+limitsTable+"-wh0123456789ab0")
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		got := sh(t, "nft list tables")
		if strings.Contains(got, table) && !strings.Contains(got, "wh0123456789ab0") {
			return
		}
		if time.Now().After(end) {
			t.Fatal("after a flush:", got)
		}
	}
}

func TestMachineBandwidth(t *testing.T) {
	r := open(t, Options{})
	q := tapRequest("bridge")
	q.Labels = map[string]string{labelBandwidthIn: "16mbit", labelBandwidthOut: "8mbit"}
	ep := attach(t, r, q)[0]
	m, b := machine(t, ep), newBox(t)
	eb := attach(t, r, b.request("bridge"))[0]
	for _, c := range []struct {
		from, to *box
		addr     string
		want     float64
	}{{m, b, eb.Settings.IPAddress.String(), 1e6}, {b, m, ep.Settings.IPAddress.String(), 2e6}} {
		if got, ok := flood(t, c.from, c.to, c.addr, c.want, 0.6); !ok {
			t.Errorf("%.0f bytes a second, want %.0f", got, c.want)
		}
	}
	if err := r.Detach(context.Background(), q.ID); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(janitorDelay + patience); strings.Contains(sh(t, "nft list tables"), limitsTable); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the limits outlive their tap")
		}
	}
}
