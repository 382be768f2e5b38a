package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// compose runs wharf compose on a project file with variables set.
func (s *scene) compose(file string, vars []string, args ...string) result {
	line := append([]string{"COMPOSE_PROGRESS=quiet"}, vars...)
	line = append(line, tools.wharf, "compose", "-p", s.label, "-f", file)
	return s.d.command(90*time.Second, nil, "env", append(line, args...)...)
}

func (s *scene) composes(file string, vars []string, args ...string) string {
	s.Helper()
	r := s.compose(file, vars, args...)
	if r.Code != 0 {
		s.Fatalf("%s", r)
	}
	return r.out()
}

// TestComposeExample is the tour of examples/shop, short: all its services,
// more of one, a new version of one, down and up again.
func TestComposeExample(t *testing.T) {
	s := ownDaemon(t)
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	images := exec.Command("bash", filepath.Join(root, "test/images.sh"), "example")
	if out, err := images.CombinedOutput(); err != nil {
		t.Skipf("the example's images are not there and need Debian's packages: bash test/images.sh example (%v: %s)", err, cut(string(out)))
	}
	if err := s.d.load("shop"); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(root, "examples/shop/compose.yaml")
	vars := []string{"SHOP_PORT=18080"}
	t.Cleanup(func() { s.compose(file, vars, "down", "-v", "-t", "0") })
	get := func(path string, into any) error {
		r := s.d.command(busy, nil, "nsenter", fmt.Sprintf("--net=/proc/%d/fd/%d", os.Getpid(), s.d.net.Fd()),
			"curl", "-sSf", "--max-time", "30", "http://127.0.0.1:18080"+path)
		if r.Code != 0 {
			return fmt.Errorf("%s", r)
		}
		return json.Unmarshal([]byte(r.Stdout), into)
	}
	goods := func(want int) {
		t.Helper()
		if err := eventually(15*time.Second, func() error {
			var items []any
			if err := get("/items", &items); err != nil {
				return err
			}
			if len(items) != want {
				return fmt.Errorf("%d goods, want %d", len(items), want)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}

	s.composes(file, vars, "up", "-d", "--wait")
	goods(2)
	s.contains("migrate", s.composes(file, vars, "logs", "migrate"), "3 new")
	s.contains("seed", s.composes(file, vars, "run", "--rm", "-T", "api", "seed", "4"), "6 goods")
	s.contains("psql", s.composes(file, vars, "run", "--rm", "-T", "psql", "-tc", "select count(*) from items"), "6")
	s.equal("user of the database", s.composes(file, vars, "exec", "-T", "db", "id", "-un"), "postgres")
	db, api := s.composes(file, vars, "ps", "-q", "db"), s.composes(file, vars, "ps", "-q", "api")

	vars = append(vars, "API_COPIES=3", "API_TAG=2")
	s.composes(file, vars, "up", "-d", "--wait")
	s.equal("the database", s.composes(file, vars, "ps", "-q", "db"), db)
	if now := s.composes(file, vars, "ps", "-q", "api"); strings.Contains(now, api) || len(strings.Fields(now)) != 3 {
		t.Errorf("the service: %q, was %q", now, api)
	}
	hosts := map[string]bool{}
	if err := eventually(15*time.Second, func() error {
		var who struct{ Host, Version string }
		if err := get("/", &who); err != nil {
			return err
		}
		if who.Version == "2" {
			hosts[who.Host] = true
		}
		if len(hosts) < 3 {
			return fmt.Errorf("only %v answered", hosts)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	goods(6)

	s.composes(file, vars, "down")
	s.composes(file, vars[:1], "up", "-d", "--wait")
	goods(6)
	s.composes(file, vars, "down", "-v")
	s.equal("volumes", s.ok("volume", "ls", "-q"), "")
}

// project writes a Compose file of n services with a volume and a network.
func (s *scene) project(n int) string {
	s.Helper()
	text := "services:\n"
	for i := range n {
		text += fmt.Sprintf("  s%d:\n    image: busybox\n    init: true\n    command: sh -c 'echo up; sleep 1000'\n"+
			"    stop_grace_period: 1s\n    volumes: [data:/data]\n    labels: {e2e: %q}\n", i, s.label)
	}
	file := filepath.Join(s.TempDir(), "compose.yaml")
	if err := os.WriteFile(file, []byte(text+"volumes: {data: }\n"), 0o600); err != nil {
		s.Fatal(err)
	}
	return file
}

// servicesUp counts the project's services that run.
func (s *scene) servicesUp(file string) int {
	return len(strings.Fields(s.compose(file, nil, "ps", "-q", "--status", "running").Stdout))
}

// TestComposeDaemonKilled kills the daemon while up is at work; the next up
// brings the project to what the file says.
func TestComposeDaemonKilled(t *testing.T) {
	s := ownDaemon(t)
	file := s.project(6)
	for _, after := range []time.Duration{60, 150, 300} {
		done := make(chan result)
		go func() { done <- s.compose(file, nil, "up", "-d") }()
		time.Sleep(after * time.Millisecond)
		if err := s.d.kill(); err != nil {
			t.Fatal(err)
		}
		<-done
		if err := s.d.start(); err != nil {
			t.Fatal(err)
		}
		s.composes(file, nil, "up", "-d")
		if n := s.servicesUp(file); n != 6 {
			t.Errorf("killed after %d ms: %d of 6 services run", after, n)
		}
		s.composes(file, nil, "down", "-v")
	}
	s.equal("left", s.ok("ps", "-aq")+s.ok("volume", "ls", "-q"), "")
}

// TestComposeTwoUps runs up twice at once. One may lose a race for a name, as
// with Docker; a third up finds nothing wrong.
func TestComposeTwoUps(t *testing.T) {
	s := newScene(t)
	file := s.project(4)
	t.Cleanup(func() { s.compose(file, nil, "down", "-v") })
	done := make(chan result)
	for range 2 {
		go func() { done <- s.compose(file, nil, "up", "-d") }()
	}
	a, b := <-done, <-done
	if a.Code != 0 && b.Code != 0 {
		t.Errorf("both failed: %s\n%s", a, b)
	}
	s.composes(file, nil, "up", "-d")
	if n := s.servicesUp(file); n != 4 {
		t.Errorf("%d of 4 services run", n)
	}
}

// TestComposeInterrupted sends SIGINT to an attached up, as Ctrl-C does: its
// services end, and up says so in time.
func TestComposeInterrupted(t *testing.T) {
	s := newScene(t)
	file := s.project(3)
	t.Cleanup(func() { s.compose(file, nil, "down", "-v") })
	cmd := exec.Command(tools.wharf, "compose", "-p", s.label, "-f", file, "up")
	cmd.Env = append(s.d.env(), "COMPOSE_PROGRESS=plain")
	var out syncBuffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := eventually(20*time.Second, func() error {
		if n := strings.Count(out.String(), "| up"); n < 3 {
			return fmt.Errorf("%d of 3 services have said something: %s", n, out.String())
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case <-ended:
	case <-time.After(busy):
		_ = cmd.Process.Kill()
		t.Fatalf("up goes on after SIGINT: %s", out.String())
	}
	if n := s.servicesUp(file); n != 0 {
		t.Errorf("%d services run after SIGINT: %s", n, out.String())
	}
}

// syncBuffer is a buffer that may be read while a command writes.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
