package network

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"
)

// The address that containers' packets leave with, and interfaces from where
// everything is reached.
func TestHostAddressAndTrustedInterfaces(t *testing.T) {
	w := outside(t)
	w.serve(80)
	sh(t, "ip addr add 203.0.113.9/24 dev wan")
	r := open(t, Options{})
	create(t, r, network.CreateRequest{Name: "app", IPAM: ipam(subnet("10.31.0.0/24", "", "")), Options: map[string]string{optHostIPv4: "203.0.113.9", optTrusted: "lan9:wan"}})
	a := newBox(t)
	ip := attach(t, r, a.request("app"))[0].Settings.IPAddress.String()
	a.serve(80)
	if got, err := ask(a, "tcp", "203.0.113.2:80"); err != nil || got != "203.0.113.9" {
		t.Errorf("%q, %v", got, err)
	}
	w.must("ip", "route", "add", "10.31.0.0/24", "via", "203.0.113.1")
	if got, err := ask(w, "tcp", ip+":80"); err != nil || got != "203.0.113.2" {
		t.Errorf("from a trusted interface: %q, %v", got, err)
	}
	for k, v := range map[string]string{optHostIPv4: "::1", optHostIPv6: "1.1.1.1", optTrusted: "a::b"} {
		if _, err := r.Create(bg, network.CreateRequest{Name: "x", Options: map[string]string{k: v}}); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), k) {
			t.Errorf("%s=%s: %v", k, v, err)
		}
	}
}
