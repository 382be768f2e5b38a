package network

import (
	"strings"
	"testing"

	"github.com/miekg/dns"
	"github.com/moby/moby/api/types/network"

	"wharf/internal/model"
)

// A daemon died in the middle of a Connect or a Disconnect.
func TestMend(t *testing.T) {
	dir := t.TempDir()
	needRoot(t)
	sh(t, "ip link set lo up")
	r, err := Open(bg, Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { wipe(t, r) })
	create(t, r, network.CreateRequest{Name: "aone"})
	create(t, r, network.CreateRequest{Name: "btwo"})
	a := newBox(t)
	q := a.request("aone", "btwo")
	q.Name = "anna"
	eps := attach(t, r, q)
	links := func() string {
		return strings.Join(strings.Fields(a.must("sh", "-c", "ip -o link | grep -o 'eth[0-9]' | sort")), " ")
	}
	died := func(step string, recorded []model.Endpoint, want string) {
		t.Helper()
		next, err := Open(bg, Options{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		defer next.Close()
		if err := next.Restore(bg, a.id, recorded); err != nil {
			t.Fatal(err)
		}
		mq := q
		mq.Want = nil
		for i, expect := range []bool{true, false} {
			if got, err := next.Mend(bg, mq); err != nil || got != expect {
				t.Errorf("%s: mended %v, %v (time %d)", step, got, err, i)
			}
		}
		if got := links(); got != want {
			t.Errorf("%s: links %s, want %s", step, got, want)
		}
		if gw := recorded[0].Settings.Gateway.String(); !strings.Contains(a.must("ip", "route"), "default via "+gw) || a.ping(gw) != nil {
			t.Errorf("%s: no way by %s: %s", step, gw, a.must("ip", "route"))
		}
		if got := a.resolve("udp", "127.0.0.11:53", "anna", dns.TypeA); !strings.Contains(got, recorded[0].Settings.IPAddress.String()) {
			t.Errorf("%s: anna is %s", step, got)
		}
	}
	if err := r.Close(); err != nil { // the name servers' sockets
		t.Fatal(err)
	}
	died("connect without a record", eps[1:], "eth1")
	died("disconnect without a record", eps, "eth0 eth1")
	died("the other way round", eps[:1], "eth0")
}
