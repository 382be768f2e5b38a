package guest

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"wharf/api/guestapi"
)

// TestLinks: an interface is found by its device's address, gets everything that
// the host says, loses it again and goes out of sight.
func TestLinks(t *testing.T) {
	ip := func(args ...string) string {
		out, err := exec.Command("ip", args...).CombinedOutput()
		if err != nil {
			t.Fatalf("ip %v: %v: %s", args, err, out)
		}
		return string(out)
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("no ip: apt-get install iproute2")
	}
	p := newPlace(t).boot()
	t.Cleanup(func() { p.a.links.close() })
	ip("link", "add", "d0", "address", "02:00:00:00:00:01", "type", "veth", "peer", "name", "d1")
	ip("link", "set", "d1", "up")
	one := guestapi.Interface{Device: "02:00:00:00:00:01", MAC: "02:42:00:00:00:09", Name: "eth1", MTU: 1300, Addresses: []string{"10.7.0.2/24", "fd00:7::2/64"},
		Routes: []guestapi.Route{{Gateway: "10.7.0.1"}, {Destination: "10.8.0.0/16", Gateway: "10.7.0.3", Metric: 7}}, Sysctls: map[string]string{"net.ipv4.conf.IFNAME.forwarding": "1"}}
	p.ask(guestapi.Request{Op: guestapi.OpLink, Interface: &one})
	for _, want := range []string{"mtu 1300", "02:42:00:00:00:09", "10.7.0.2/24 brd 10.7.0.255", "fd00:7::2/64"} {
		if out := ip("addr", "show", "eth1"); !strings.Contains(out, want) {
			t.Errorf("no %q in %s", want, out)
		}
	}
	for _, want := range []string{"default via 10.7.0.1 dev eth1", "10.8.0.0/16 via 10.7.0.3 dev eth1 proto static metric 7"} {
		if out := ip("route"); !strings.Contains(out, want) {
			t.Errorf("no %q in %s", want, out)
		}
	}
	if text, _ := os.ReadFile("/proc/sys/net/ipv4/conf/eth1/forwarding"); string(text) != "1\n" {
		t.Errorf("sysctl %q", text)
	}
	// Told again with less, it keeps what it keeps and does not go down.
	less := one
	less.Device, less.Addresses, less.Routes = "", one.Addresses[:1], one.Routes[:1]
	p.ask(guestapi.Request{Op: guestapi.OpLink, Interface: &less})
	if out := ip("addr", "show", "eth1"); !strings.Contains(out, "10.7.0.2/") || strings.Contains(out, "fd00:7") {
		t.Errorf("%s", out)
	}
	if out := ip("route"); !strings.Contains(out, "default") || strings.Contains(out, "10.8") {
		t.Errorf("%s", out)
	}
	p.ask(guestapi.Request{Op: guestapi.OpUnlink, Interface: &guestapi.Interface{MAC: one.MAC}})
	if out := ip("link"); strings.Contains(out, "eth1") || strings.Contains(out, "spare") {
		t.Errorf("still in sight: %s", out)
	}
	again := guestapi.Interface{MAC: one.MAC, Name: "eth4", Addresses: []string{"10.7.0.5/24"}}
	p.ask(guestapi.Request{Op: guestapi.OpLink, Interface: &again})
	if out := ip("addr", "show", "eth4"); !strings.Contains(out, "10.7.0.5/24") || strings.Contains(out, "10.7.0.2/") {
		t.Errorf("%s", out)
	}
	_, _, _, err := p.try(guestapi.Request{Op: guestapi.OpLink, Interface: &guestapi.Interface{MAC: one.MAC, Name: "eth4", Addresses: []string{"nonsense"}}})
	wantKind(t, err, guestapi.KindInvalid)
	ip("link", "del", "eth4")
}
