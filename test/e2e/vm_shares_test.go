package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestMachineSharesClone: a machine with a volume and a bind is a clone as soon
// as there is a template, finds what is in them with its owners, and what it
// wrote is there for a container, and after its next start.
func TestMachineSharesClone(t *testing.T) {
	machines(t)
	s := newScene(t)
	volume, vm, web := s.name("vol"), s.name("vm"), s.name("web")
	s.ok("volume", "create", volume)
	t.Cleanup(func() {
		s.docker("rm", "-f", vm, web)
		s.docker("volume", "rm", volume)
	})
	dir := s.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "in"), []byte("of the host\n"), 0o644); err != nil {
		s.Fatal(err)
	}
	s.running("--name", web, "-v", volume+":/vol", "busybox", "sh", "-c", "echo of web >/vol/web; chown 1000:7 /vol/web; sleep 1000")
	s.slow("create", "--name", vm, "--isolation", "vm", "-v", volume+":/vol", "-v", dir+":/bind:ro", "busybox",
		"sh", "-c", "cat /vol/web /bind/in; stat -c %u:%g /vol/web /bind/in; echo start >>/vol/of-vm; chown 33:44 /vol/of-vm; cat /vol/of-vm; touch /bind/x")
	starts := 0
	for end := time.Now().Add(machineLimit); ; {
		starts++
		r := s.d.command(machineLimit, nil, tools.docker, "start", "-a", vm)
		want := "of web\nof the host\n1000:7\n0:0\n" + strings.Repeat("start\n", starts)
		if r.Stdout != want || !strings.Contains(r.Stderr, "Read-only file system") {
			s.Fatalf("start %d: want %q from %s", starts, want, r)
		}
		timing := s.wharf("inspect", "--timing", vm)
		if strings.Contains(timing.Stdout, "devices are plugged in") {
			break
		}
		if time.Now().After(end) {
			s.Fatalf("never a clone: %s", timing)
		}
		time.Sleep(2 * time.Second) // a template is begun three seconds after a cold start
	}
	s.equal("in the container", s.ok("exec", web, "sh", "-c", "stat -c %u:%g /vol/of-vm; wc -l </vol/of-vm"), "33:44\n"+itoa(int64(starts)))
}
