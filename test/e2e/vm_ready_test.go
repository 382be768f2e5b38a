package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestMachineReady: when a template is there, a machine is kept ready, and a start
// takes it: with its networks and a published port, and it survives the daemon.
// The one that waits does not.
func TestMachineReady(t *testing.T) {
	machines(t)
	s := ownDaemon(t, "--vm-ready", "1")
	s.slow("run", "--rm", "--isolation", "vm", "busybox", "true")
	ready := func(n int) {
		s.Helper()
		for end := time.Now().Add(machineLimit); strings.Count(s.d.log(1<<20), "a virtual machine is ready") < n; time.Sleep(200 * time.Millisecond) {
			if time.Now().After(end) {
				s.Fatal("no machine is ready")
			}
		}
	}
	ready(1)
	name, network := s.name("vm"), s.name("net")
	s.ok("network", "create", network)
	s.ok("create", "--name", name, "--isolation", "vm", "--hostname", "own-name", "busybox",
		"sh", "-c", "hostname; echo page >/index.html; httpd -f -p 80 -h /")
	s.ok("network", "connect", network, name)
	s.slow("start", name)
	if timing := s.wharf("inspect", "--timing", name); !strings.Contains(timing.Stdout, "machine goes on") {
		s.Errorf("it was not the machine that was ready: %s", timing)
	}
	s.prints(name, "own-name")
	for _, n := range []string{"bridge", network} {
		at := s.inspect(name, `{{(index .NetworkSettings.Networks "`+n+`").IPAddress}}`)
		fetch := "for i in $(seq 60); do wget -q -O- http://" + at + " 2>/dev/null && exit; sleep 1; done; exit 1"
		s.equal("through "+n, s.slow("run", "--rm", "--network", n, "busybox", "sh", "-c", fetch), "page")
	}
	s.contains("inside", s.slow("exec", name, "sh", "-c", "ip addr"), "eth0", "eth1")
	ready(2)
	if err := s.d.kill(); err != nil {
		t.Fatal(err)
	}
	if err := eventually(10*time.Second, func() error {
		for _, g := range groups(s.d.parent) {
			if strings.Contains(g, "/"+readyGroup) {
				return fmt.Errorf("%s outlives its daemon", g)
			}
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	if err := s.d.start(); err != nil {
		t.Fatal(err)
	}
	s.equal("after the daemon", s.slow("exec", name, "cat", "/index.html"), "page")
	s.ok("rm", "-f", name)
	s.ok("network", "rm", network)
}
