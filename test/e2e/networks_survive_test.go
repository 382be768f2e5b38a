package e2e

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestDaemonDiesWhileNetworksChange kills the daemon in the middle of starts,
// connects and removals. What then runs has its network, with its names and
// ports; the rest is gone; nothing is left (the scene's end looks).
func TestDaemonDiesWhileNetworksChange(t *testing.T) {
	s := ownDaemon(t)
	s.ok("network", "create", "app")
	s.ok("network", "create", "back")
	old := s.name("old")
	s.idle("--name", old, "--network", "app", "-p", "18099:80")
	for round, after := range []time.Duration{60, 150, 300} {
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				name := s.name(fmt.Sprintf("c%d-%d", round, i))
				if s.docker("run", "-d", "--name", name, "--network", "app", "-p", fmt.Sprint(18100+4*round+i)+":80", "busybox", "sleep", "1000").Code != 0 {
					return
				}
				s.docker("network", "connect", "back", name)
				s.docker("network", "disconnect", "app", name)
				s.docker("rm", "-f", name)
			})
		}
		wg.Go(func() {
			s.docker("network", "connect", "back", old)
			s.docker("network", "disconnect", "back", old)
		})
		time.Sleep(after * time.Millisecond)
		if err := s.d.kill(); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		if err := s.d.start(); err != nil {
			t.Fatal(err)
		}
		s.wired()
	}
	s.contains("who is on the network", s.ok("network", "inspect", "app"), old)
}

// wired checks every running container's networks against what is recorded.
func (s *scene) wired() {
	s.Helper()
	for _, id := range strings.Fields(s.ok("ps", "-q", "--filter", "label=e2e="+s.label)) {
		addrs := s.docker("exec", id, "ip", "-o", "addr").Stdout
		for _, ip := range strings.Fields(s.inspect(id, "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}")) {
			if !strings.Contains(addrs, ip+"/") {
				s.Errorf("%s should have %s:\n%s", id, ip, addrs)
			}
		}
		if n, want := strings.Count(s.docker("exec", id, "ip", "-o", "link").Stdout, ": eth"), len(strings.Fields(s.inspect(id, "{{range $k, $v := .NetworkSettings.Networks}}{{$k}} {{end}}"))); n != want {
			s.Errorf("%s has %d interfaces for %d networks:\n%s", id, n, want, addrs)
		}
		if out := s.docker("exec", id, "nslookup", id+".", "127.0.0.11"); out.Code != 0 {
			s.Errorf("%s does not find its own name: %s", id, out)
		}
	}
}
