package network

import (
	"net/netip"
	"testing"

	"github.com/containerd/errdefs"
)

func TestPoolGoesRound(t *testing.T) {
	p, err := newPool(subnet("10.0.0.0/29", "", ""))
	if err != nil {
		t.Fatal(err)
	}
	if p.gateway.String() != "10.0.0.1" {
		t.Errorf("gateway %s", p.gateway)
	}
	a, _ := p.pick()
	p.free(a)
	b, _ := p.pick()
	if a == b || a.String() != "10.0.0.2" {
		t.Errorf("%s was given again at once: %s", a, b)
	}
	for range 4 {
		if _, err := p.pick(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := p.pick(); !errdefs.IsResourceExhausted(err) {
		t.Error(err)
	}
	p.free(netip.MustParseAddr("10.0.0.4"))
	p.free(netip.MustParseAddr("10.0.0.4"))
	p.free(p.gateway) // never
	if c, err := p.pick(); err != nil || c.String() != "10.0.0.4" {
		t.Error(c, err)
	}
	if s := p.status(); s.IPsInUse != 8 || s.DynamicIPsAvailable != 0 {
		t.Errorf("%+v", s)
	}
}

func TestPoolSizes(t *testing.T) {
	for s, want := range map[string][2]string{
		"10.0.0.0/8": {"10.0.0.1", "10.0.0.2"}, "10.0.0.0/31": {"10.0.0.0", "10.0.0.1"}, "fd00::/64": {"fd00::1", "fd00::2"},
		"fd00::/48": {"fd00::1", "fd00::2"}, "10.0.255.0/24": {"10.0.255.1", "10.0.255.2"},
	} {
		p, err := newPool(subnet(s, "", ""))
		if err != nil {
			t.Fatal(s, err)
		}
		a, err := p.pick()
		if err != nil || p.gateway.String() != want[0] || a.String() != want[1] {
			t.Errorf("%s: %s %s %v", s, p.gateway, a, err)
		}
	}
	p, _ := newPool(subnet("10.0.0.0/16", "", ""))
	seen := map[netip.Addr]bool{}
	for range 65533 {
		a, err := p.pick()
		if err != nil || seen[a] || !p.subnet.Contains(a) {
			t.Fatal(a, err)
		}
		seen[a] = true
	}
	if _, err := p.pick(); err == nil {
		t.Error("more addresses than there are")
	}
}

func TestCut(t *testing.T) {
	pre := netip.MustParsePrefix
	for _, c := range []struct {
		pool  AddressPool
		taken []string
		want  string
	}{
		{AddressPool{pre("172.17.0.0/16"), 16}, nil, "172.17.0.0/16"},
		{AddressPool{pre("172.17.0.0/16"), 16}, []string{"172.17.3.0/24"}, ""},
		{AddressPool{pre("192.168.0.0/16"), 20}, []string{"192.168.1.1/32", "192.168.16.0/19"}, "192.168.32.0/20"},
		{AddressPool{pre("10.0.0.0/8"), 24}, []string{"10.0.0.0/9"}, "10.128.0.0/24"},
		{AddressPool{pre("10.0.0.0/8"), 24}, []string{"10.0.0.0/8"}, ""},
		{AddressPool{pre("255.255.255.0/24"), 25}, []string{"255.255.255.0/24"}, ""},
		{AddressPool{pre("10.0.0.0/24"), 16}, nil, ""},
	} {
		var taken []netip.Prefix
		for _, s := range c.taken {
			taken = append(taken, pre(s))
		}
		got, ok := cut(c.pool, taken)
		if ok != (c.want != "") || ok && got.String() != c.want {
			t.Errorf("%v without %v: %v %v", c.pool, c.taken, got, ok)
		}
	}
}

func TestSysctlPath(t *testing.T) {
	for in, want := range map[string]string{
		"net.ipv4.conf.eth0.rp_filter":   "/proc/sys/net/ipv4/conf/eth0/rp_filter",
		"net/ipv4/conf/eth0.5/rp_filter": "/proc/sys/net/ipv4/conf/eth0.5/rp_filter",
		"net.ipv4.conf.eth0/5.rp_filter": "/proc/sys/net/ipv4/conf/eth0.5/rp_filter",
		"net/../../../etc/passwd":        "/proc/sys/etc/passwd", // which writeSysctl refuses
	} {
		if got := sysctlPath(in); got != want {
			t.Errorf("%s: %s", in, got)
		}
	}
}

func TestWriteSysctlStaysInTheNamespace(t *testing.T) {
	for _, name := range []string{"net/../kernel/core_pattern", "kernel.core_pattern", "net.", ""} {
		if err := writeSysctl(name, "x"); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestInterfaceSysctls(t *testing.T) {
	got, err := interfaceSysctls("net.ipv4.conf.IFNAME.arp_ignore=1", "eth0.5")
	if err != nil || len(got) != 1 || sysctlPath(got[0].name) != "/proc/sys/net/ipv4/conf/eth0.5/arp_ignore" {
		t.Error(got, err)
	}
	for _, bad := range []string{"net.ipv4.conf.eth0.x=1", "net.ipv4.conf.IFNAME.x", "kernel.x.y.IFNAME.z=1", "net.ipv4./../../..IFNAME.x=1", "a,b"} {
		if _, err := interfaceSysctls(bad, "eth0"); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}
