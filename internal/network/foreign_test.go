package network

import (
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/miekg/dns"
	"github.com/moby/moby/api/types/network"
)

// closeHost makes what ufw makes: everything dropped that is not an answer.
func closeHost(t testing.TB) {
	sh(t, `nft -f - <<'E'
table ip filter {
	chain FORWARD { type filter hook forward priority 0; policy drop; ct state established,related accept; }
	chain INPUT { type filter hook input priority 0; policy drop; ct state established,related accept; iifname "lo" accept; }
}
E`)
}

// By default the host's firewall decides; the rules that docs/networking.md
// tells the operator to add open it.
func TestHostFirewallDecides(t *testing.T) {
	w := outside(t)
	closeHost(t)
	r := open(t, Options{})
	create(t, r, network.CreateRequest{Name: "app", Options: map[string]string{optName: "br-app"}})
	a, b := newBox(t), newBox(t)
	q := a.request("app")
	q.Name = "web"
	q.Ports = portMapOf(t, ":8080:80/tcp")
	ip := attach(t, r, q)[0].Settings.IPAddress.String()
	a.serve(80)
	attach(t, r, b.request("app"))
	if _, err := askWithin(silence, w, "tcp", "203.0.113.1:8080"); err == nil {
		t.Error("a published port passes the host's firewall")
	}
	if b.pingWithin(silence, "203.0.113.2") == nil {
		t.Error("a container passes the host's firewall")
	}
	if got := b.resolveWithin(silence, "udp", "127.0.0.11:53", "web"); got == ip {
		t.Error("names pass the host's firewall")
	}
	if all := strings.Join(r.Warnings(), "\n"); !strings.Contains(all, "chain FORWARD of nftables table filter") || !strings.Contains(all, "chain INPUT of nftables table filter") {
		t.Error(all)
	}
	sh(t, `nft insert rule ip filter FORWARD iifname br-app accept; nft insert rule ip filter FORWARD oifname br-app ct status dnat accept; nft insert rule ip filter INPUT iifname br-app ct status dnat accept`)
	if got, err := ask(w, "tcp", "203.0.113.1:8080"); err != nil || got != "203.0.113.2" {
		t.Errorf("%q, %v", got, err)
	}
	if err := b.ping("203.0.113.2"); err != nil {
		t.Error(err)
	}
	if got := b.resolve("udp", "127.0.0.11:53", "web", dns.TypeA); got != ip {
		t.Error(got)
	}
}

func TestFirewallModeDocker(t *testing.T) {
	w := outside(t)
	closeHost(t)
	if _, err := Open(bg, Options{Dir: t.TempDir(), FirewallMode: "open"}); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), `"open"`) {
		t.Error(err)
	}
	dir := t.TempDir()
	r := open(t, Options{Dir: dir, FirewallMode: FirewallDocker})
	create(t, r, network.CreateRequest{Name: "app", Options: map[string]string{optName: "br-app"}})
	a, b := newBox(t), newBox(t)
	q := a.request("app")
	q.Name = "web"
	q.Ports = portMapOf(t, ":8080:80/tcp")
	ea := attach(t, r, q)
	ip := ea[0].Settings.IPAddress.String()
	a.serve(80)
	attach(t, r, b.request("app"))
	works := func(when string) {
		t.Helper()
		if got, err := ask(w, "tcp", "203.0.113.1:8080"); err != nil || got != "203.0.113.2" {
			t.Errorf("%s: %q, %v", when, got, err)
		}
		if err := b.ping("203.0.113.2"); err != nil {
			t.Errorf("%s: %v", when, err)
		}
		if got := b.resolve("udp", "127.0.0.11:53", "web", dns.TypeA); got != ip {
			t.Errorf("%s: %s", when, got)
		}
	}
	works("first")
	if w := r.Warnings(); len(w) > 0 {
		t.Error(w)
	}
	w.must("ip", "route", "add", "172.16.0.0/12", "via", "203.0.113.1")
	if w.pingWithin(silence, ip) == nil {
		t.Error("what is not published is reached")
	}
	sh(t, "nft flush ruleset") // a reload
	closeHost(t)
	deadline := time.Now().Add(patience)
	for strings.Count(sh(t, "nft list table ip filter"), `comment "wharf: `) != 4 {
		if time.Now().After(deadline) {
			t.Fatal(sh(t, "nft list table ip filter"))
		}
		time.Sleep(20 * time.Millisecond)
	}
	works("after a reload")
	for _, x := range []*box{a, b} {
		if err := r.Detach(bg, x.id); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Remove(bg, "app"); err != nil {
		t.Fatal(err)
	}
	if got := sh(t, "nft list table ip filter"); strings.Contains(got, "wharf") {
		t.Error(got)
	}
}
