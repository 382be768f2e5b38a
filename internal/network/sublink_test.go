package network

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/miekg/dns"
	"github.com/moby/moby/api/types/network"

	"wharf/internal/model"
)

// lan is a machine on the segment behind the links par0 and par1 of this host.
func lan(t testing.TB) *box {
	t.Helper()
	w := outside(t)
	sh(t, "ip addr flush dev wan; ip link set wan name par0")
	return w
}

func sub(driver string, opts map[string]string) network.CreateRequest {
	opts[optParent] = "par0"
	return network.CreateRequest{Name: "seg", Driver: driver, Options: opts, IPAM: ipam(subnet("203.0.113.0/24", "203.0.113.2", "203.0.113.64/26"))}
}

func TestMacvlan(t *testing.T) {
	w := lan(t)
	dir := t.TempDir()
	r, err := Open(bg, Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.kindThere("macvlan"); err != nil {
		t.Skip(err)
	}
	create(t, r, sub(driverMacvlan, map[string]string{optMTU: "1400"}))
	a, b := newBox(t), newBox(t)
	qa := a.request("seg")
	qa.Name = "anna"
	qa.Want["seg"].MacAddress = network.HardwareAddr{2, 0, 0, 0, 0, 7}
	ea := attach(t, r, qa)
	q := b.request("seg")
	q.Name = "bert"
	q.Ports = portMapOf(t, ":8080:80/tcp") // as in Docker: nothing to publish
	eb := attach(t, r, q)
	ip := eb[0].Settings.IPAddress.String()
	for _, to := range []string{"203.0.113.2", ip} {
		if err := a.ping(to); err != nil {
			t.Error(err)
		}
	}
	if err := w.ping(ip); err != nil {
		t.Error(err)
	}
	link := a.must("ip", "-d", "link", "show", "eth0")
	for _, want := range []string{"macvlan mode bridge", "mtu 1400", "02:00:00:00:00:07"} {
		if !strings.Contains(link, want) {
			t.Errorf("no %q in %s", want, link)
		}
	}
	if got := a.gateway("-4"); got != "203.0.113.2" {
		t.Error(got)
	}
	if len(eb[0].Ports) != 0 || eb[0].HostLink != "" {
		t.Errorf("%+v", eb[0])
	}
	if got := a.resolve("udp", "127.0.0.11:53", "bert", dns.TypeA); got != ip {
		t.Error(got)
	}
	if got := a.resolve("tcp", "127.0.0.11:53", "nosuch", dns.TypeA); got != "NXDOMAIN" {
		t.Error(got)
	}
	if _, err := r.Create(bg, network.CreateRequest{Name: "two", Driver: driverMacvlan, Options: map[string]string{optParent: "par0"}}); !errdefs.IsConflict(err) || !strings.Contains(err.Error(), "network seg is already using parent interface par0") {
		t.Error(err)
	}
	// The daemon starts again: names come back with Refresh.
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	r = open(t, Options{Dir: dir})
	for x, known := range map[*box][]model.Endpoint{a: ea, b: eb} {
		if err := r.Restore(bg, x.id, known); err != nil {
			t.Fatal(err)
		}
		q := x.request()
		q.Name = known[0].Container
		if _, err := r.Refresh(bg, q); err != nil {
			t.Fatal(err)
		}
	}
	if got := a.resolve("udp", "127.0.0.11:53", "bert", dns.TypeA); got != ip {
		t.Error(got)
	}
	a.running(r, "bridge") // sorts before "seg"
	if got := a.gateway("-4"); got != "172.17.0.1" {
		t.Error(got)
	}
	a.leave(r, "seg")
	if out := a.must("ip", "-o", "link"); strings.Contains(out, "macvlan") || strings.Contains(out, "eth0") {
		t.Error(out)
	}
	if err := r.Detach(bg, b.id); err != nil {
		t.Fatal(err)
	}
	if err := r.Remove(bg, "seg"); err != nil {
		t.Fatal(err)
	}
	if !r.linkExists("par0") {
		t.Error("a parent that is not ours was removed")
	}
}

func TestMacvlanPrivate(t *testing.T) {
	lan(t)
	r := open(t, Options{})
	if err := r.kindThere("macvlan"); err != nil {
		t.Skip(err)
	}
	create(t, r, sub(driverMacvlan, map[string]string{optMacvlanMode: "private"}))
	a, b := newBox(t), newBox(t)
	attach(t, r, a.request("seg"))
	ip := attach(t, r, b.request("seg"))[0].Settings.IPAddress.String()
	if a.pingWithin(silence, ip) == nil {
		t.Error("private neighbours talk")
	}
	if err := a.ping("203.0.113.2"); err != nil {
		t.Error(err)
	}
}

func TestSubRefusals(t *testing.T) {
	lan(t)
	r := open(t, Options{})
	if err := r.kindThere("macvlan"); err != nil {
		t.Skip(err)
	}
	for _, c := range []struct {
		driver, opt, value, text string
	}{
		{driverMacvlan, optMacvlanMode, "loud", `invalid value "loud" for option macvlan_mode: it is one of bridge, passthru, private, vepa`},
		{driverIpvlan, optIpvlanMode, "l4", `invalid value "l4" for option ipvlan_mode: it is one of l2, l3, l3s`},
		{driverIpvlan, optIpvlanFlag, "x", `invalid value "x" for option ipvlan_flag`},
		{driverMacvlan, optParent, "eth77", "parent interface eth77 does not exist"},
		{driverMacvlan, optParent, "eth77.5", "there is no interface eth77 on this host"},
		{driverMacvlan, optParent, "par0.0", "does not exist"},
		{driverMacvlan, optMTU, "7", `invalid value "7"`},
		{driverMacvlan, optICC, "true", "is not one of driver macvlan"},
	} {
		q := sub(c.driver, map[string]string{})
		q.Options[c.opt] = c.value
		if _, err := r.Create(bg, q); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	if base, vlan, ok := parentOf("eth0.10"); base != "eth0" || vlan != 10 || !ok {
		t.Error(base, vlan, ok)
	}
	if _, _, ok := parentOf("eth0.4095"); ok {
		t.Error("VLAN 4095")
	}
}

// On kernels without a module the error names it; with it, it works.
func TestVLANParent(t *testing.T) {
	w := lan(t)
	r := open(t, Options{})
	q := sub(driverMacvlan, map[string]string{})
	q.Options[optParent] = "par0.10"
	if err := r.kindThere("vlan"); err != nil {
		if _, err := r.Create(bg, q); !errdefs.IsNotImplemented(err) || !strings.Contains(err.Error(), "8021q") {
			t.Error(err)
		}
		return
	}
	create(t, r, q)
	a := newBox(t)
	attach(t, r, a.request("seg"))
	w.must("sh", "-c", "ip link add link eth0 name eth0.10 type vlan id 10; ip addr flush dev eth0; ip addr add 203.0.113.2/24 dev eth0.10; ip link set eth0.10 up")
	if err := a.ping("203.0.113.2"); err != nil {
		t.Error(err)
	}
	if err := r.Detach(bg, a.id); err != nil {
		t.Fatal(err)
	}
	a.kill()
	if err := r.Remove(bg, "seg"); err != nil {
		t.Fatal(err)
	}
	if r.linkExists("par0.10") {
		t.Error("the VLAN's link is still there")
	}
}

func TestInternalWithoutParent(t *testing.T) {
	r := open(t, Options{})
	if err := r.kindThere("macvlan"); err != nil {
		t.Skip(err)
	}
	create(t, r, network.CreateRequest{Name: "seg", Driver: driverMacvlan, Internal: true})
	a, b := newBox(t), newBox(t)
	eps, err := r.Attach(bg, a.request("seg"))
	if errdefs.IsNotImplemented(err) && strings.Contains(err.Error(), "modprobe dummy") {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	attach(t, r, b.request("seg"))
	if err := b.ping(eps[0].Settings.IPAddress.String()); err != nil {
		t.Error(err)
	}
	if got := a.gateway("-4"); got != "" {
		t.Error(got)
	}
}

func TestIpvlan(t *testing.T) {
	w := lan(t)
	r := open(t, Options{})
	if err := r.kindThere("ipvlan"); err != nil {
		if _, err := r.Create(bg, sub(driverIpvlan, map[string]string{})); !errdefs.IsNotImplemented(err) || !strings.Contains(err.Error(), "modprobe ipvlan") {
			t.Error(err)
		}
		return
	}
	for _, mode := range []string{"l2", "l3"} {
		create(t, r, sub(driverIpvlan, map[string]string{optIpvlanMode: mode}))
		a, b := newBox(t), newBox(t)
		attach(t, r, a.request("seg"))
		ip := attach(t, r, b.request("seg"))[0].Settings.IPAddress.String()
		if err := a.ping(ip); err != nil {
			t.Errorf("%s: %v", mode, err)
		}
		if mode == "l2" {
			if err := a.ping("203.0.113.2"); err != nil {
				t.Error(err)
			}
		} else if out := a.must("ip", "route", "show", "default"); !strings.Contains(out, "default dev eth0") {
			t.Error(out)
		}
		for _, x := range []*box{a, b} {
			if err := r.Detach(bg, x.id); err != nil {
				t.Fatal(err)
			}
			x.kill()
		}
		if err := r.Remove(bg, "seg"); err != nil {
			t.Fatal(err)
		}
	}
	_ = w
}
