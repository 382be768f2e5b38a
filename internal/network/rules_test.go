package network

import (
	"bufio"
	"fmt"
	stdnet "net"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"

	"wharf/internal/model"
)

func TestChangeRules(t *testing.T) {
	r := &Room{}
	rule := func(d, v, w string) model.NetworkRule { return model.NetworkRule{Direction: d, Verdict: v, Target: w} }
	text := func(s string) *string { return &s }
	have := &model.NetworkRules{EgressDeny: []string{"10.0.0.0/8"}, BandwidthIn: "1mbit"}
	for _, c := range []struct {
		name string
		ch   model.NetworkRulesChange
		want *model.NetworkRules
		err  string
	}{
		{"canonical", model.NetworkRulesChange{Set: []model.NetworkRule{rule("egress", "deny", "any:25-25/tcp"), rule("ingress", "allow", "[2001:db8::1/128]:53")}},
			&model.NetworkRules{EgressDeny: []string{"10.0.0.0/8", "*:25/tcp"}, IngressAllow: []string{"[2001:db8::1]:53"}, BandwidthIn: "1mbit"}, ""},
		{"moves to the other list", model.NetworkRulesChange{Set: []model.NetworkRule{rule("egress", "allow", "10.0.0.0/8")}},
			&model.NetworkRules{EgressDeny: []string{}, EgressAllow: []string{"10.0.0.0/8"}, BandwidthIn: "1mbit"}, ""},
		{"twice is once", model.NetworkRulesChange{Set: []model.NetworkRule{rule("egress", "deny", "10.0.0.0/8")}}, have, ""},
		{"unset", model.NetworkRulesChange{Unset: []model.NetworkRule{rule("egress", "", "10.0.0.0/8")}, BandwidthIn: text("")}, nil, ""},
		{"unset what is not there", model.NetworkRulesChange{Unset: []model.NetworkRule{rule("ingress", "", "10.0.0.0/8")}}, nil, "no rule for ingress 10.0.0.0/8"},
		{"clear", model.NetworkRulesChange{Clear: true, BandwidthOut: text("none")}, &model.NetworkRules{BandwidthOut: "none"}, ""},
		{"no direction", model.NetworkRulesChange{Set: []model.NetworkRule{rule("out", "deny", "10.0.0.0/8")}}, nil, `invalid rule "out" "deny"`},
		{"no address", model.NetworkRulesChange{Set: []model.NetworkRule{rule("egress", "deny", "db")}}, nil, `"db" is no address`},
		{"no rate", model.NetworkRulesChange{BandwidthIn: text("fast")}, nil, "bandwidth: invalid value"},
	} {
		got, err := r.ChangeRules(have, c.ch)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		if d := cmp.Diff(c.want, got); d != "" || err != nil {
			t.Errorf("%s: %v\n%s", c.name, err, d)
		}
	}
	if len(have.EgressDeny) != 1 {
		t.Error("the old rules were written to")
	}
}

func TestShowRules(t *testing.T) {
	r := &Room{}
	labels := map[string]string{labelEgressDeny: "10.0.0.0/8", labelBandwidthIn: "1mbit", labelBandwidthOut: "2mbit"}
	got, err := r.ShowRules(labels, &model.NetworkRules{EgressAllow: []string{"10.1.0.0/16:80/tcp", "1.1.1.1"}, IngressDeny: []string{"*"}, BandwidthIn: "none"})
	want := model.NetworkLimits{
		Rules: []model.NetworkRule{
			{Direction: "egress", Verdict: "deny", Target: "10.0.0.0/8", Source: "label"},
			{Direction: "egress", Verdict: "allow", Target: "10.1.0.0/16:80/tcp", Source: "rule"},
			{Direction: "egress", Verdict: "allow", Target: "1.1.1.1", Source: "rule"},
			{Direction: "ingress", Verdict: "deny", Target: "*", Source: "rule"},
		},
		Egress: "deny", Ingress: "deny",
		BandwidthIn: model.NetworkRate{Source: "rule"}, BandwidthOut: model.NetworkRate{Rate: "2mbit", Source: "label"},
		Warnings: []string{"egress: allowing 10.1.0.0/16:80/tcp has no effect, 10.0.0.0/8 is denied and that comes first"},
	}
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Error(err, d)
	}
	for mode, want := range map[string]string{"host": "host's network", "container:x": "container x", "bridge": ""} {
		if err := r.CheckRules(model.AttachNetworks{}, container.NetworkMode(mode)); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", mode, err)
		}
	}
	admin := model.AttachNetworks{NetAdmin: true}
	if err := r.CheckRules(admin, "bridge"); !errdefs.IsConflict(err) {
		t.Error(err)
	}
	if admin.Tap = true; r.CheckRules(admin, "bridge") != nil {
		t.Error("a machine may be limited whatever it may do inside")
	}
}

// echo answers every line in the box, on connections that stay.
func (b *box) echo(port int) {
	b.t.Helper()
	ns, err := openNetns(b.netns())
	if err != nil {
		b.t.Fatal(err)
	}
	defer ns.close()
	var l stdnet.Listener
	if err := ns.do(func() (err error) { l, err = stdnet.Listen("tcp", fmt.Sprintf(":%d", port)); return err }); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for s := bufio.NewScanner(c); s.Scan(); {
					fmt.Fprintln(c, s.Text())
				}
			}()
		}
	}()
}

func dialFrom(t *testing.T, b *box, addr string) stdnet.Conn {
	t.Helper()
	ns, err := openNetns(b.netns())
	if err != nil {
		t.Fatal(err)
	}
	defer ns.close()
	var c stdnet.Conn
	if err := ns.do(func() (err error) { c, err = stdnet.DialTimeout("tcp", addr, patience); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// awaited is how long to wait for an answer that has to come, or must not.
func awaited(yes bool) time.Duration {
	if yes {
		return patience
	}
	return silence
}

func chat(d time.Duration, c stdnet.Conn) error {
	_ = c.SetDeadline(time.Now().Add(d))
	if _, err := fmt.Fprintln(c, "x"); err != nil {
		return err
	}
	_, err := c.Read(make([]byte, 10))
	return err
}

// Rules of a running container count at once, on open connections too, in
// both directions, and go away as they came.
func TestRulesOfARunningContainer(t *testing.T) {
	w := outside(t)
	w.echo(7)
	r := open(t, Options{})
	a := newBox(t)
	q := a.request("bridge")
	q.Ports = portMapOf(t, ":8080:80/tcp")
	attach(t, r, q)
	a.echo(80)
	out := dialFrom(t, a, "203.0.113.2:7")
	in := dialFrom(t, w, "203.0.113.1:8080")
	try := func(step string, rules *model.NetworkRules, outOK, inOK bool) {
		t.Helper()
		q.Rules = rules
		for range 2 { // again changes nothing
			if err := r.Limit(bg, q); err != nil {
				t.Fatal(step, err)
			}
		}
		// The side that is let through speaks first, as its program would.
		ierr := chat(awaited(inOK), in)
		oerr := chat(awaited(outOK), out)
		if (oerr == nil) != outOK || (ierr == nil) != inOK {
			t.Errorf("%s: out %v, in %v", step, oerr, ierr)
		}
	}
	try("none", nil, true, true)
	try("egress denied", &model.NetworkRules{EgressDeny: []string{"203.0.113.0/24:7/tcp"}}, false, true)
	out = dialAgain(t, r, a, &q)
	try("egress closed", &model.NetworkRules{EgressDeny: []string{"*"}}, false, true)
	out = dialAgain(t, r, a, &q)
	try("with an exception", &model.NetworkRules{EgressDeny: []string{"*"}, EgressAllow: []string{"203.0.113.2:7/tcp"}}, true, true)
	try("ingress denied", &model.NetworkRules{IngressDeny: []string{"*:80/tcp"}}, true, false)
	try("lifted", nil, true, true)
	if got := a.must("nft", "list", "tables"); strings.Contains(got, limitsTable) {
		t.Errorf("left behind: %s", got)
	}
}

// dialAgain lifts the rules and opens the connection anew: the old one waits
// for its retransmission.
func dialAgain(t *testing.T, r *Room, a *box, q *model.AttachNetworks) stdnet.Conn {
	t.Helper()
	q.Rules = nil
	if err := r.Limit(bg, *q); err != nil {
		t.Fatal(err)
	}
	return dialFrom(t, a, "203.0.113.2:7")
}

func TestBandwidthOfARunningContainer(t *testing.T) {
	r := open(t, Options{})
	a := newBox(t)
	q := a.request("bridge")
	q.Labels = map[string]string{labelBandwidthIn: "16mbit"}
	ep := attach(t, r, q)[0]
	qdiscs := func() string {
		return a.must("tc", "qdisc", "show", "dev", "eth0") + sh(t, "tc qdisc show dev "+ep.HostLink)
	}
	for _, c := range []struct {
		in, out, want string
	}{{"", "8mbit", "rate 16Mbit rate 8Mbit"}, {"4mbit", "2mbit", "rate 4Mbit rate 2Mbit"}, {"none", "", ""}} {
		q.Rules = &model.NetworkRules{BandwidthIn: c.in, BandwidthOut: c.out}
		if err := r.Limit(bg, q); err != nil {
			t.Fatal(err)
		}
		got := qdiscs()
		if strings.Count(got, "rate ") != len(strings.Fields(c.want))/2 {
			t.Errorf("%+v: %s", c, got)
		}
		for _, w := range strings.SplitAfter(c.want, "bit") {
			if !strings.Contains(got, strings.TrimSpace(w)) {
				t.Errorf("%+v: %s", c, got)
			}
		}
	}
}
