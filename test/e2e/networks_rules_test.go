package e2e

import (
	"strings"
	"testing"
)

// TestNetworkRules limits a running container; the rules outlive its restart
// and the daemon's death, and stand beside its labels'.
func TestNetworkRules(t *testing.T) {
	s := ownDaemon(t)
	verb := func(want string, args ...string) {
		t.Helper()
		r := s.wharf(append([]string{"network"}, args...)...)
		if r.Code != 0 || !strings.Contains(strings.Join(strings.Fields(r.Stdout), " "), want) {
			t.Errorf("network %v: %s", args, r)
		}
	}
	peer := s.idle()
	ip := s.inspect(peer, "{{.NetworkSettings.Networks.bridge.IPAddress}}")
	web := s.name("web")
	s.idle("--name", web, "--label", "wharf.bandwidth.out=80mbit", "--label", "wharf.egress.deny=192.0.2.0/24")
	ping := func(step string, passes bool) {
		t.Helper()
		wait := map[bool]string{true: "-W20", false: "-W1"}[passes]
		if r := s.docker("exec", web, "ping", "-c1", wait, ip); (r.Code == 0) != passes {
			t.Errorf("%s: %s", step, r)
		}
	}
	ping("at first", true)
	verb("egress deny "+ip+" rule", "deny", web, "--to", ip)
	ping("denied", false)
	s.ok("restart", "-t0", web)
	ping("after its restart", false)
	if err := s.d.kill(); err != nil {
		t.Fatal(err)
	}
	if err := s.d.start(); err != nil {
		t.Fatal(err)
	}
	ping("after the daemon's death", false)
	verb("egress deny 192.0.2.0/24 label egress deny "+ip+" rule egress allow the rest ingress allow the rest egress limit 80mbit label", "rules", web)
	verb("egress allow the rest", "unset", web, "--to", ip)
	ping("unset", true)
	verb("egress deny the rest", "deny", web, "--to", "any")
	ping("everything denied", false)
	verb("egress allow "+ip+"/icmp rule", "allow", web, "--to", ip, "--port", "icmp")
	ping("but pings", true)
	verb("egress limit 8mbit rule", "limit", web, "--egress", "8mbit")
	if got := s.ok("inspect", "-f", "{{.Config.Labels}}", web); strings.Contains(got, ip) {
		t.Errorf("rules are not labels: %s", got)
	}
	rulesRefused(s, web, verb)
}

// rulesRefused are mistakes, and a container that does not run.
func rulesRefused(s *scene, web string, verb func(want string, args ...string)) {
	for _, c := range []struct{ args, want string }{
		{"deny " + web + " --to nowhere", `"nowhere" is no address`},
		{"deny " + web + " --to 10.0.0.1/8", "did you mean 10.0.0.0/8?"},
		{"limit " + web + " --egress fast", `invalid value "fast"`},
		{"unset " + web + " --to 192.0.2.0/24", "rules of labels stay"},
		{"rules no-such-container", "No such container: no-such-container"},
	} {
		if r := s.wharf(append([]string{"network"}, strings.Fields(c.args)...)...); r.Code == 0 || !strings.Contains(r.Stderr, c.want) {
			s.Errorf("%s: %s", c.args, r)
		}
	}
	if !onMachines { // which never have the host's
		host := s.ok("create", "--network", "host", "busybox", "true")
		if r := s.wharf("network", "deny", host, "--to", "any"); r.Code == 0 || !strings.Contains(r.Stderr, "host's network") {
			s.Errorf("host: %s", r)
		}
	}
	s.ok("stop", "-t0", web)
	verb("counts from its next start", "deny", web, "--from", "any")
	s.ok("start", web)
	verb("ingress deny * rule ingress deny the rest", "rules", web)
}
