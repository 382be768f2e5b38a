package network

import (
	"strings"
	"testing"
)

// A bridge port has no use for an address, and 1,000 of them cost every
// further one.
func TestHostEndHasNoAddress(t *testing.T) {
	r := open(t, Options{})
	a := newBox(t)
	e := attach(t, r, a.request("bridge"))[0]
	if out := sh(t, "ip -o addr show dev "+e.HostLink); out != "" {
		t.Errorf("addresses of %s: %s", e.HostLink, out)
	}
	if out := sh(t, "ip -6 route show dev "+e.HostLink); strings.Contains(out, "fe80") {
		t.Errorf("routes by %s: %s", e.HostLink, out)
	}
	if err := a.ping(e.Settings.Gateway.String()); err != nil {
		t.Error(err)
	}
}
