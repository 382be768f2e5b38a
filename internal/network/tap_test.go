package network

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/miekg/dns"
	"github.com/moby/moby/api/types/network"
	"golang.org/x/sys/unix"

	"wharf/internal/model"
)

// openTapNamed does what a driver does with Endpoint.HostLink.
func openTapNamed(t testing.TB, name string) *os.File {
	t.Helper()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skip("needs /dev/net/tun:", err)
	}
	ifr, _ := unix.NewIfreq(name)
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		t.Fatalf("open tap %s: %v", name, err)
	}
	if err := unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 0); err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fd), name)
}

// machine plays a virtual machine: a namespace with a kernel's network stack
// behind a cable that ends in the tap.
func machine(t testing.TB, ep model.Endpoint) *box {
	m := newBox(t)
	outer := openTapNamed(t, ep.HostLink)
	ns, err := openNetns(m.netns())
	if err != nil {
		t.Fatal(err)
	}
	defer ns.close()
	var inner *os.File
	if err := ns.do(func() error { inner = openTapNamed(t, ep.Interface); return nil }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { outer.Close(); inner.Close() })
	cable := func(from, to *os.File) {
		buf := make([]byte, 70000)
		for {
			n, err := from.Read(buf)
			if err != nil {
				return
			}
			_, _ = to.Write(buf[:n])
		}
	}
	go cable(outer, inner)
	go cable(inner, outer)
	s := ep.Settings
	m.must("sh", "-c", fmt.Sprintf("ip link set lo up; ip link set %s address %s mtu %d up", ep.Interface, s.MacAddress, ep.MTU))
	if s.IPAddress.IsValid() {
		m.must("ip", "addr", "add", fmt.Sprintf("%s/%d", s.IPAddress, s.IPPrefixLen), "dev", ep.Interface)
	}
	if s.GlobalIPv6Address.IsValid() {
		m.must("ip", "addr", "add", fmt.Sprintf("%s/%d", s.GlobalIPv6Address, s.GlobalIPv6PrefixLen), "dev", ep.Interface, "nodad")
	}
	if s.Gateway.IsValid() {
		m.must("ip", "route", "add", "default", "via", s.Gateway.String())
	}
	return m
}

func tapRequest(nets ...string) model.AttachNetworks {
	q := model.AttachNetworks{ID: model.NewID(), Tap: true, Want: map[string]*network.EndpointSettings{}}
	q.Name = "vm-" + q.ID.Short()
	for _, n := range nets {
		q.Want[n] = &network.EndpointSettings{}
	}
	return q
}

func TestMachineOnABridge(t *testing.T) {
	w := outside(t)
	r := open(t, Options{})
	yes := true
	create(t, r, network.CreateRequest{Name: "app", EnableIPv6: &yes})
	c := newBox(t)
	q := c.request("app")
	q.Name = "web"
	webEP := attach(t, r, q)[0]
	vq := tapRequest("app")
	vq.Name = "db"
	vq.Ports = portMapOf(t, ":8080:80/tcp")
	ep := attach(t, r, vq)[0]
	if !ep.Tap || ep.Interface != "eth0" || ep.MTU != 1500 || ep.NameServer != ep.Settings.Gateway {
		t.Fatalf("%+v", ep)
	}
	m := machine(t, ep)
	for _, to := range []string{webEP.Settings.IPAddress.String(), webEP.Settings.GlobalIPv6Address.String(), ep.Settings.Gateway.String(), "203.0.113.2"} {
		if err := m.ping(to); err != nil {
			t.Error(err)
		}
	}
	if got := m.resolve("udp", ep.NameServer.String()+":53", "web", dns.TypeA); got != webEP.Settings.IPAddress.String() {
		t.Error("web is", got)
	}
	if got := c.resolve("udp", "127.0.0.11:53", "db", dns.TypeA); got != ep.Settings.IPAddress.String() {
		t.Error("db is", got)
	}
	m.serve(80)
	if got, err := ask(w, "tcp", "203.0.113.1:8080"); err != nil || got != "203.0.113.2" {
		t.Errorf("published port: %q, %v", got, err)
	}
	st, err := r.Stats(context.Background(), vq.ID)
	if err != nil || st["eth0"].TxPackets == 0 || st["eth0"].RxPackets == 0 {
		t.Errorf("stats %+v, %v", st, err)
	}
	machineMoves(t, r, vq)
}

// machineMoves connects and disconnects a machine, and restarts the daemon.
func machineMoves(t *testing.T, r *Room, vq model.AttachNetworks) {
	ctx := context.Background()
	create(t, r, network.CreateRequest{Name: "second"})
	vq.Want = map[string]*network.EndpointSettings{"second": {}}
	ep, err := r.Connect(ctx, vq, "second")
	if err != nil || !ep.Tap || ep.Interface != "eth1" {
		t.Fatalf("%+v, %v", ep, err)
	}
	m2 := machine(t, ep)
	if err := m2.ping(ep.Settings.Gateway.String()); err != nil {
		t.Error(err)
	}
	if eps, err := r.Refresh(ctx, vq); err != nil || len(eps) != 2 {
		t.Errorf("%v, %v", eps, err)
	}
	if err := r.Disconnect(ctx, vq.ID, "second", false); err != nil {
		t.Error(err)
	}
	if r.linkExists(ep.HostLink) {
		t.Error("a disconnected tap is still there")
	}
	again, err := Open(ctx, Options{Dir: r.opts.Dir})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if ids, err := again.Attached(ctx); err != nil || !strings.Contains(fmt.Sprint(ids), vq.ID.Short()) {
		t.Errorf("a sweep does not see the tap: %v, %v", ids, err)
	}
}

func TestMachineThatNeverStarts(t *testing.T) {
	r := open(t, Options{})
	q := tapRequest("bridge")
	ep := attach(t, r, q)[0]
	if ep.NameServer.IsValid() {
		t.Error("the default bridge has no names")
	}
	if err := r.Detach(context.Background(), q.ID); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(janitorDelay + patience); r.linkExists(ep.HostLink); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("nobody took the tap away")
		}
	}
	lan(t)
	create(t, r, sub(driverMacvlan, map[string]string{}))
	q = tapRequest("seg")
	if _, err := r.Attach(context.Background(), q); !errdefs.IsNotImplemented(err) {
		t.Errorf("macvlan: %v", err)
	}
}
