package network

import (
	"context"
	"net/netip"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/moby/moby/api/types/network"

	"wharf/internal/model"
)

var bg = context.Background()

func create(t testing.TB, r *Room, q network.CreateRequest) string {
	t.Helper()
	resp, err := r.Create(bg, q)
	if err != nil {
		t.Fatal(err)
	}
	return resp.ID
}

func subnet(s, gw, ipRange string) network.IPAMConfig {
	c := network.IPAMConfig{Subnet: netip.MustParsePrefix(s)}
	if gw != "" {
		c.Gateway = netip.MustParseAddr(gw)
	}
	if ipRange != "" {
		c.IPRange = netip.MustParsePrefix(ipRange)
	}
	return c
}

func ipam(cs ...network.IPAMConfig) *network.IPAM { return &network.IPAM{Config: cs} }

func TestCreateRefusals(t *testing.T) {
	r := open(t, Options{})
	no, yes := false, true
	create(t, r, network.CreateRequest{Name: "first", IPAM: ipam(subnet("10.5.0.0/16", "", ""))})
	for _, c := range []struct {
		q    network.CreateRequest
		text string
		is   func(error) bool
	}{
		{network.CreateRequest{Name: " "}, "name is empty", errdefs.IsInvalidArgument},
		{network.CreateRequest{Name: "bridge"}, "operation is not permitted on predefined bridge network", errdefs.IsPermissionDenied},
		{network.CreateRequest{Name: "first"}, "network with name first already exists", errdefs.IsConflict},
		{network.CreateRequest{Name: "x", Driver: "host"}, "only one instance of \"host\" network is allowed", errdefs.IsPermissionDenied},
		{network.CreateRequest{Name: "x", Driver: "overlay"}, "overlay", errdefs.IsNotImplemented},
		{network.CreateRequest{Name: "x", IPAM: &network.IPAM{Driver: "dhcp"}}, "dhcp", errdefs.IsNotImplemented},
		{network.CreateRequest{Name: "x", EnableIPv4: &no}, "IPv4 or IPv6", errdefs.IsInvalidArgument},
		{network.CreateRequest{Name: "x", IPAM: ipam(subnet("10.5.9.0/24", "", ""))}, "Pool overlaps with other one on this address space", errdefs.IsPermissionDenied},
		{network.CreateRequest{Name: "x", IPAM: ipam(subnet("10.6.0.1/24", "", ""))}, "it should be 10.6.0.0/24", errdefs.IsInvalidArgument},
		{network.CreateRequest{Name: "x", IPAM: ipam(subnet("10.6.0.0/24", "10.7.0.1", ""))}, "invalid gateway 10.7.0.1", errdefs.IsInvalidArgument},
		{network.CreateRequest{Name: "x", IPAM: ipam(subnet("10.6.0.0/24", "", "10.7.0.0/28"))}, "invalid ip-range", errdefs.IsInvalidArgument},
		{network.CreateRequest{Name: "x", IPAM: ipam(subnet("10.6.0.0/24", "10.6.0.0", ""))}, "reserved", errdefs.IsInvalidArgument},
		{network.CreateRequest{Name: "x", IPAM: ipam(subnet("fd00:1::/64", "", ""))}, "--ipv6", errdefs.IsInvalidArgument},
		{network.CreateRequest{Name: "x", EnableIPv6: &yes, IPAM: ipam(subnet("10.6.0.0/24", "", ""), subnet("10.6.0.0/25", "", ""))}, "overlap", errdefs.IsInvalidArgument},
		{network.CreateRequest{Name: "x", Options: map[string]string{optMTU: "many"}}, `invalid value "many"`, errdefs.IsInvalidArgument},
		{network.CreateRequest{Name: "x", Options: map[string]string{optName: "much-too-long-a-name"}}, "characters", errdefs.IsInvalidArgument},
		{network.CreateRequest{Name: "x", Options: map[string]string{optName: "wharf0"}}, "is used by network bridge", errdefs.IsConflict},
		{network.CreateRequest{Name: "x", Options: map[string]string{"com.docker.network.bridge.inhibit_ipv4": "y"}}, "inhibit_ipv4", errdefs.IsNotImplemented},
	} {
		_, err := r.Create(bg, c.q)
		if err == nil || !c.is(err) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%+v: %v; want %q", c.q, err, c.text)
		}
	}
	resp, err := r.Create(bg, network.CreateRequest{Name: "warned", Options: map[string]string{"colour": "red"}})
	if err != nil || !strings.Contains(resp.Warning, "colour") {
		t.Errorf("%+v, %v", resp, err)
	}
	if err := r.Remove(bg, "host"); !errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), "host is a pre-defined network and cannot be removed") {
		t.Error(err)
	}
	if err := r.Remove(bg, "nope"); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "network nope not found") {
		t.Error(err)
	}
}

func TestListFiltersAndPrune(t *testing.T) {
	dir := t.TempDir()
	r := open(t, Options{Dir: dir})
	id := create(t, r, network.CreateRequest{Name: "web", Labels: map[string]string{"a": "b"}})
	create(t, r, network.CreateRequest{Name: "db"})
	a := newBox(t)
	attach(t, r, a.request("db"))
	for _, c := range []struct{ key, val, want string }{
		{"", "", "bridge,db,host,none,web"}, {"type", "custom", "db,web"}, {"type", "builtin", "bridge,host,none"},
		{"driver", "null", "none"}, {"name", "b", "bridge,db,web"}, {"id", id[:10], "web"}, {"label", "a=b", "web"}, {"label", "a=c", ""},
		{"dangling", "true", "web"}, {"dangling", "false", "bridge,db,host,none"}, {"scope", "swarm", ""},
	} {
		f := model.Filters{}
		if c.key != "" {
			f[c.key] = map[string]bool{c.val: true}
		}
		all, err := r.List(bg, f)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, n := range all {
			names = append(names, n.Name)
		}
		if got := strings.Join(names, ","); got != c.want {
			t.Errorf("%s=%s: %s, want %s", c.key, c.val, got, c.want)
		}
	}
	if _, err := r.List(bg, model.Filters{"colour": {"red": true}}); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
	if err := r.Remove(bg, "db"); !errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), "network db has active endpoints (name:\"box-") {
		t.Error(err)
	}
	// The same networks after a restart.
	before, err := r.Inspect(bg, "web", false)
	if err != nil {
		t.Fatal(err)
	}
	again := open(t, Options{Dir: dir})
	after, err := again.Inspect(bg, id[:12], false)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(before, after, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); d != "" {
		t.Error(d)
	}
	rep, err := r.Prune(bg, nil)
	if err != nil || strings.Join(rep.NetworksDeleted, ",") != "web" {
		t.Errorf("%v, %v", rep, err)
	}
}

func TestUserNetworks(t *testing.T) {
	r := open(t, Options{})
	yes := true
	create(t, r, network.CreateRequest{Name: "six", EnableIPv6: &yes, IPAM: ipam(subnet("10.9.0.0/24", "10.9.0.254", "10.9.0.128/25"), subnet("fd00:9::/64", "", ""))})
	create(t, r, network.CreateRequest{Name: "shut", Internal: true})
	create(t, r, network.CreateRequest{Name: "quiet", Options: map[string]string{optICC: "false"}})
	w := outside(t)
	a, b, c := newBox(t), newBox(t), newBox(t)
	q := a.request("six", "shut")
	q.Hostname = "a-host"
	q.Want["six"] = &network.EndpointSettings{
		IPAMConfig: &network.EndpointIPAMConfig{IPv4Address: netip.MustParseAddr("10.9.0.7"), IPv6Address: netip.MustParseAddr("fd00:9::77")},
		Aliases:    []string{"web"}, MacAddress: network.HardwareAddr{2, 0, 0, 0, 0, 9}, GwPriority: 1,
		DriverOpts: map[string]string{optSysctls: "net.ipv4.conf.IFNAME.arp_ignore=2,net.ipv6.conf.IFNAME.hop_limit=33"},
	}
	q.Sysctls = map[string]string{"net.ipv4.conf.eth0.log_martians": "1", "net.core.somaxconn": "99", "kernel.shmmax": "1"}
	ea := attach(t, r, q)
	eb := attach(t, r, b.request("six"))
	es := ea[0].Settings
	if ea[0].Interface != "eth0" || es.IPAddress.String() != "10.9.0.7" || es.GlobalIPv6Address.String() != "fd00:9::77" || es.Gateway.String() != "10.9.0.254" ||
		strings.Join(es.DNSNames, ",") != strings.Join([]string{q.Name, "web", a.id.Short(), "a-host"}, ",") {
		t.Errorf("%+v", es)
	}
	if ip := eb[0].Settings.IPAddress; ip.String() != "10.9.0.128" {
		t.Errorf("not from the range: %s", ip)
	}
	for _, to := range []string{"10.9.0.128", eb[0].Settings.GlobalIPv6Address.String(), "203.0.113.2"} {
		if err := a.ping(to); err != nil {
			t.Error(err)
		}
	}
	if got := a.must("sh", "-c", "cat /sys/class/net/eth0/address /proc/sys/net/ipv4/conf/eth0/arp_ignore /proc/sys/net/ipv6/conf/eth0/hop_limit /proc/sys/net/ipv4/conf/eth0/log_martians /proc/sys/net/core/somaxconn /proc/sys/net/ipv6/conf/default/disable_ipv6; ip -o -6 addr show eth1"); !strings.HasSuffix(got, "2\n33\n1\n99\n0\n") {
		t.Errorf("sysctls: %s", got)
	}
	// Isolation: between networks, of an internal one, within one without icc.
	ec := attach(t, r, c.request("shut"))
	if err := b.pingWithin(silence, ec[0].Settings.IPAddress.String()); err == nil {
		t.Error("one network reaches another")
	}
	if err := c.pingWithin(silence, "203.0.113.2"); err == nil {
		t.Error("an internal network reaches the world")
	}
	if err := c.ping(ea[1].Settings.IPAddress.String()); err != nil {
		t.Error(err)
	}
	x, y := newBox(t), newBox(t)
	attach(t, r, x.request("quiet"))
	ey := attach(t, r, y.request("quiet"))
	if err := x.pingWithin(silence, ey[0].Settings.IPAddress.String()); err == nil {
		t.Error("icc=false lets neighbours talk")
	}
	if err := x.ping("203.0.113.2"); err != nil {
		t.Error(err)
	}
	_ = w
	// An address that is taken, or wrong.
	for ip, text := range map[string]string{"10.9.0.7": "Address already in use", "10.9.0.254": "Address already in use", "10.8.0.1": "no configured subnet contains IP address 10.8.0.1"} {
		q := newBox(t).request("six")
		q.Want["six"].IPAMConfig = &network.EndpointIPAMConfig{IPv4Address: netip.MustParseAddr(ip)}
		if _, err := r.Attach(bg, q); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v", ip, err)
		}
	}
	q = newBox(t).request("shut")
	q.Want["shut"].IPAMConfig = &network.EndpointIPAMConfig{IPv4Address: netip.MustParseAddr("10.8.0.9")}
	if _, err := r.Attach(bg, q); err == nil || !strings.Contains(err.Error(), "user configured subnets") {
		t.Error(err)
	}
}

func TestConnectAndDisconnect(t *testing.T) {
	r := open(t, Options{})
	create(t, r, network.CreateRequest{Name: "more"})
	a, b := newBox(t), newBox(t)
	attach(t, r, a.request("bridge"))
	eb := attach(t, r, b.request("more"))
	q := a.request("more")
	q.Netns, q.Pid = "", a.cmd.Process.Pid
	ep, err := r.Connect(bg, q, "more")
	if err != nil {
		t.Fatal(err)
	}
	if ep.Interface != "eth1" {
		t.Errorf("%+v", ep)
	}
	to := eb[0].Settings.IPAddress.String()
	if err := a.ping(to); err != nil {
		t.Error(err)
	}
	if _, err := r.Connect(bg, q, "more"); !errdefs.IsConflict(err) {
		t.Error(err)
	}
	if n := strings.Count(a.must("ip", "route"), "default"); n != 1 {
		t.Errorf("%d default routes", n)
	}
	if err := r.Disconnect(bg, a.id, "more", false); err != nil {
		t.Fatal(err)
	}
	if out := a.must("ip", "-o", "link"); strings.Contains(out, "eth1") {
		t.Error(out)
	}
	if err := r.Disconnect(bg, a.id, "more", false); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "is not connected to network more") {
		t.Error(err)
	}
	if err := r.Disconnect(bg, a.id, "bridge", false); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Connect(bg, q, "more"); err != nil { // now it gives the default route
		t.Fatal(err)
	}
	if out := a.must("ip", "route"); !strings.Contains(out, "default via "+eb[0].Settings.Gateway.String()+" dev eth0") {
		t.Error(out)
	}
}

func TestNoneAndHost(t *testing.T) {
	r := open(t, Options{})
	a := newBox(t)
	eps := attach(t, r, a.request("none"))
	if eps[0].Interface != "" || eps[0].NetworkID == "" {
		t.Errorf("%+v", eps)
	}
	if err := a.ping("127.0.0.1"); err != nil {
		t.Error(err)
	}
	b := newBox(t)
	attach(t, r, b.request()) // nothing wanted: loopback only
	if err := b.ping("127.0.0.1"); err != nil {
		t.Error(err)
	}
	q := newBox(t).request("host")
	q.Netns = ""
	attach(t, r, q)
	if r.linkExists("wharf0") {
		t.Error("a bridge was made for nobody")
	}
	if err := r.Check(bg, "nope", nil); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "network nope not found") {
		t.Error(err)
	}
	want := map[string]*network.EndpointSettings{"bridge": {}}
	if err := r.Check(bg, "default", want); err != nil || want["bridge"].NetworkID == "" {
		t.Error(err)
	}
	want["bridge"].IPAMConfig = &network.EndpointIPAMConfig{IPv4Address: netip.MustParseAddr("172.17.0.9")}
	if err := r.Check(bg, "bridge", want); err == nil || !strings.Contains(err.Error(), "user specified IP address is supported on user defined networks only") {
		t.Error(err)
	}
}

// A failed attach leaves nothing: no address, no link.
func TestAttachFailsWhole(t *testing.T) {
	r := open(t, Options{})
	create(t, r, network.CreateRequest{Name: "tiny", IPAM: ipam(subnet("10.4.0.0/30", "", ""))})
	a := newBox(t)
	attach(t, r, a.request("tiny"))
	b := newBox(t)
	if _, err := r.Attach(bg, b.request("bridge", "tiny")); !errdefs.IsResourceExhausted(err) || !strings.Contains(err.Error(), "no available IPv4 addresses on this network's address pools") {
		t.Error(err)
	}
	q := b.request("bridge")
	q.Sysctls = map[string]string{"net.nonsense": "1"}
	if _, err := r.Attach(bg, q); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "net.nonsense") {
		t.Error(err)
	}
	ids, err := r.Attached(bg)
	if err != nil || len(ids) > 2 {
		t.Errorf("%v, %v", ids, err)
	}
	attach(t, r, b.request("bridge")) // at once, over the link that is on its way out
	in, err := r.Inspect(bg, "bridge", false)
	if err != nil || len(in.Containers) != 1 || in.Status.IPAM.Subnets[in.IPAM.Config[0].Subnet].IPsInUse != 4 {
		t.Errorf("%+v, %v", in, err)
	}
}
