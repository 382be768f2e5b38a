package e2e

import "testing"

// The default bridge has IPv6 where daemon.json or a flag says so.
func TestDefaultBridgeIPv6(t *testing.T) {
	s := ownDaemon(t, "--ipv6", "--fixed-cidr-v6", "fd00:251:7::/64")
	a, b := s.idle(), s.idle()
	ip := s.inspect(a, "{{.NetworkSettings.Networks.bridge.GlobalIPv6Address}}")
	s.contains("address", ip, "fd00:251:7::")
	s.ok("exec", b, "ping", "-6", "-c", "1", "-w", "30", ip)
	s.contains("route", s.ok("exec", b, "ip", "-6", "route"), "default via fd00:251:7::1")
	s.equal("network", s.ok("network", "inspect", "bridge", "-f", "{{.EnableIPv6}} {{(index .IPAM.Config 1).Subnet}}"), "true fd00:251:7::/64")
	s.d.kill()
	if err := s.d.start(); err != nil {
		t.Fatal(err)
	}
	s.ok("exec", b, "ping", "-6", "-c", "1", "-w", "30", ip)
}
