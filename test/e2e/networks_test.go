package e2e

import (
	"strings"
	"testing"
)

// TestNetworksOfARunningContainer changes networks and names while the
// container runs: routes, names and files follow.
func TestNetworksOfARunningContainer(t *testing.T) {
	s := newScene(t)
	one, two := s.name("one"), s.name("two")
	s.ok("network", "create", one)
	s.ok("network", "create", two)
	peer := s.running("--network", one, "--name", s.name("peer"), "busybox", "sleep", "1000")
	id := s.running("busybox", "sleep", "1000")
	if got := s.ok("exec", id, "cat", "/etc/resolv.conf"); strings.Contains(got, "127.0.0.11") {
		t.Errorf("resolv.conf on the default bridge: %s", got)
	}
	before := s.ok("exec", id, "ip", "route")
	s.ok("network", "connect", one, id)
	s.contains("resolv.conf", s.ok("exec", id, "cat", "/etc/resolv.conf"), "127.0.0.11")
	s.ok("exec", id, "ping", "-c1", "-W20", s.name("peer"))
	s.ok("rename", peer, s.name("renamed"))
	s.ok("exec", id, "ping", "-c1", "-W20", s.name("renamed"))
	s.ok("network", "connect", two, id)
	s.ok("network", "disconnect", "bridge", id)
	after := s.ok("exec", id, "ip", "route")
	if !strings.Contains(after, "default via") || after == before {
		t.Errorf("routes after the disconnect: %s", after)
	}
	s.ok("network", "disconnect", one, id)
	s.contains("names by the other network", s.ok("exec", id, "nslookup", id[:12]), id[:12])
	s.contains("routes", s.ok("exec", id, "ip", "route"), "default via")
	s.ok("rm", "-f", peer, id)
	s.ok("network", "rm", one, two)
}

// TestLimitsByLabel refuses what cannot be carried out and holds the rest.
func TestLimitsByLabel(t *testing.T) {
	s := newScene(t)
	peer := s.running("busybox", "sleep", "1000")
	ip := s.ok("inspect", "-f", "{{.NetworkSettings.Networks.bridge.IPAddress}}", peer)
	s.ok("run", "--rm", "busybox", "ping", "-c1", "-W20", ip)
	s.fails(1, "", "run", "--rm", "--label", "wharf.egress.deny="+ip, "busybox", "ping", "-c1", "-W2", ip)
	s.fails(1, `invalid value "nowhere"`, "create", "--label", "wharf.egress.deny=nowhere", "busybox")
	s.fails(1, "NET_ADMIN", "create", "--cap-add", "NET_ADMIN", "--label", "wharf.bandwidth.in=1mbit", "busybox")
	s.ok("run", "--rm", "--label", "wharf.bandwidth.out=1mbit", "busybox", "ping", "-c1", "-W20", ip)
}

// A network that is made after the container, as Docker has it: it is looked
// for at the start.
func TestNetworkMadeLater(t *testing.T) {
	s := newScene(t)
	net, name := s.name("later"), s.name("c")
	r := s.docker("create", "--name", name, "--network", net, "--network-alias", "al", "--init", "busybox", "sleep", "1000")
	if r.Code != 0 || !strings.Contains(r.Stderr, "is not there") {
		t.Fatalf("create: %s", r)
	}
	s.fails(1, "not found", "start", name)
	s.ok("network", "create", net)
	t.Cleanup(func() { s.docker("rm", "-f", name); s.docker("network", "rm", net) })
	s.ok("start", name)
	s.equal("its alias", s.ok("run", "--rm", "--network", net, "busybox", "sh", "-c", "ping -c1 -W20 al >/dev/null && echo there"), "there")
}
