package e2e

import (
	"errors"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// begun is a pull that stands still after its first megabytes.
func (s *scene) begun(g *gauge, ref string) *exec.Cmd {
	s.Helper()
	before := g.got.Load()
	g.stall.Store(true)
	cmd := exec.Command(tools.docker, "pull", ref)
	cmd.Env = s.d.env()
	if err := cmd.Start(); err != nil {
		s.Fatal(err)
	}
	err := eventually(20*time.Second, func() error {
		if g.got.Load()-before < 1<<20 {
			return errors.New("the pull does not begin")
		}
		return nil
	})
	if err != nil {
		s.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond) // what is on its way arrives
	return cmd
}

// TestPullBroken: a pull that its client or its daemon leaves in the middle
// makes no image, and the next goes on with what has come.
func TestPullBroken(t *testing.T) {
	s := ownDaemon(t, "--bridge", "none")
	sh := newShelf(s)
	g := newGauge(s, sh.addr)
	ref := g.addr + "/big:1"
	noisy(s, ref)
	s.ok("push", ref)
	s.ok("rmi", ref)
	pull := s.begun(g, ref)
	_ = pull.Process.Signal(syscall.SIGINT)
	_ = pull.Wait()
	g.stall.Store(false)
	s.fails(1, "No such image", "image", "inspect", ref)

	g.got.Store(0)
	pull = s.begun(g, ref)
	if err := s.d.kill(); err != nil {
		t.Fatal(err)
	}
	_ = pull.Wait()
	g.stall.Store(false)
	if err := s.d.start(); err != nil {
		t.Fatal(err)
	}
	s.fails(1, "No such image", "image", "inspect", ref)
	s.ok("pull", ref)
	// What was on its way to the killed daemon comes again, the rest does not.
	if n := g.got.Load(); n > 10<<20 {
		t.Errorf("%d bytes came for a layer of 8 MiB", n)
	}
	s.equal("whole", s.ok("run", "--rm", "--network", "none", ref, "stat", "-c", "%s", "/noise"), "8388608")
	s.ok("rmi", ref)

	// Two at once: each layer comes once.
	g.gets.Store(0)
	g.got.Store(0)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			if r := s.docker("pull", ref); r.Code != 0 {
				t.Errorf("%s", r)
			}
		})
	}
	wg.Wait()
	if n := g.got.Load(); n > 9<<20 {
		t.Errorf("two pulls at once fetched %d bytes", n)
	}
	s.equal("whole", s.ok("run", "--rm", "--network", "none", ref, "stat", "-c", "%s", "/noise"), "8388608")
}

// TestImagesOnFullDisk: what does not fit says so and leaves nothing; with
// room again it works.
func TestImagesOnFullDisk(t *testing.T) {
	s := smallDaemon(t, "40m")
	sh := newShelf(s)
	ref, archive := sh.addr+"/big:1", filepath.Join(t.TempDir(), "big.tar")
	noisy(s, ref)
	s.ok("save", "-o", archive, ref)
	s.ok("push", ref)
	s.ok("rmi", ref)
	empty := s.fill()
	for _, args := range [][]string{{"pull", ref}, {"load", "-i", archive}, {"import", archive}} {
		s.fails(1, "no space left on device", args...)
		s.fails(1, "No such image", "image", "inspect", ref)
	}
	if err := s.d.kill(); err != nil {
		t.Fatal(err)
	}
	if err := s.d.start(); err != nil {
		t.Fatalf("on the full disk: %v", err)
	}
	s.fails(1, "no space left on device", "pull", ref)
	empty()
	s.ok("pull", ref)
	s.equal("whole", s.ok("run", "--rm", "--network", "none", ref, "stat", "-c", "%s", "/noise"), "8388608")
	empty = s.fill()
	if r := s.docker("push", ref); r.Code != 0 {
		s.contains("push", r.Stderr, "no space left on device")
	}
	empty()
	s.ok("push", ref)
	s.ok("rmi", ref)
	s.ok("load", "-i", archive)
}
