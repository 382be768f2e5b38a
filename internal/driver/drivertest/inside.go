package drivertest

import (
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"wharf/internal/driver"
)

// execs runs processes in a running instance.
func execs(t *testing.T, g Target) {
	i := start(t, g.Driver, g.Bundle(t, "/bin/sleep", "100"))
	e := Exec("/bin/sh", "-c", "cat; echo $0 >&2; id -u; exit 5")
	e.OpenStdin = true
	p, err := i.Exec(ctxOf(t), e)
	must(t, err)
	_, err = io.WriteString(p.Stream(), "in\n")
	must(t, err)
	must(t, p.Stream().CloseWrite())
	if out, errs := drain(t, p.Stream()); out != "in\n0\n" || errs != "/bin/sh\n" {
		t.Errorf("read %q and %q", out, errs)
	}
	if c := wait(t, p); c != 5 {
		t.Errorf("exit code %d", c)
	}

	e = Exec("/bin/id", "-u")
	e.User = "user"
	p, err = i.Exec(ctxOf(t), e)
	must(t, err)
	if out, _ := drain(t, p.Stream()); out != "1000\n" {
		t.Errorf("id of user: %q", out)
	}
	wait(t, p)

	p, err = i.Exec(ctxOf(t), Exec("/bin/sleep", "100"))
	must(t, err)
	must(t, p.Signal(ctxOf(t), syscall.SIGKILL))
	if c := wait(t, p); c != 137 {
		t.Errorf("killed: exit code %d", c)
	}
}

func execTerminal(t *testing.T, g Target) {
	i := start(t, g.Driver, g.Bundle(t, "/bin/sleep", "100"))
	e := Exec("/bin/sh", "-c", "stty size; read x; stty size; echo got $x; exit 2")
	e.Process.Terminal, e.OpenStdin, e.ConsoleSize = true, true, [2]uint{30, 90}
	p, err := i.Exec(ctxOf(t), e)
	must(t, err)
	first := shown(t, p.Stream(), "30 90")
	must(t, p.Stream().Resize(40, 100))
	_, err = io.WriteString(p.Stream(), "word\n")
	must(t, err)
	out, _ := drain(t, p.Stream())
	out = first + out
	for _, want := range []string{"30 90\r\n", "40 100\r\n", "got word\r\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("terminal shows %q, not %q", out, want)
		}
	}
	if c := wait(t, p); c != 2 {
		t.Errorf("exit code %d", c)
	}
}

func execErrors(t *testing.T, g Target) {
	i := start(t, g.Driver, g.Bundle(t, "/bin/sleep", "100"))
	for path, code := range map[string]int{"/bin/nothing": 127, "/etc/passwd": 126} {
		_, err := i.Exec(ctxOf(t), Exec(path))
		var s *driver.StartError
		if !errors.As(err, &s) || s.Code != code {
			t.Errorf("%s: %v", path, err)
		}
	}
	if err := i.Signal(ctxOf(t), syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	wait(t, i)
	if _, err := i.Exec(ctxOf(t), Exec("/bin/true")); err == nil {
		t.Error("exec in an instance that has ended")
	}
}

// execOutlivesClient: nobody reads, the output does not block the process.
func execOutlivesClient(t *testing.T, g Target) {
	i := start(t, g.Driver, g.Bundle(t, "/bin/sleep", "100"))
	p, err := i.Exec(ctxOf(t), Exec("/bin/sh", "-c", "seq 100000; exit 8"))
	must(t, err)
	must(t, p.Stream().Close())
	if c := wait(t, p); c != 8 {
		t.Errorf("exit code %d", c)
	}
}

func paused(t *testing.T, g Target) {
	b := g.Bundle(t, "/bin/sh", "-c", "while :; do echo x; sleep 0.01; done")
	i := start(t, g.Driver, b)
	logged(t, b.Log.Path, "x")
	must(t, i.Pause(ctxOf(t)))
	// What it wrote before is on its way to the log for a while.
	n := sizeOf(t, b.Log.Path)
	for same, end := 0, time.Now().Add(limit); same < 10; time.Sleep(20*time.Millisecond + slow/20) {
		if time.Now().After(end) {
			t.Fatal("a paused instance writes")
		}
		m := sizeOf(t, b.Log.Path)
		if same++; m != n {
			n, same = m, 0
		}
	}
	must(t, i.Resume(ctxOf(t)))
	for end := time.Now().Add(limit + slow); sizeOf(t, b.Log.Path) == n; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("a resumed instance writes nothing")
		}
	}
	// A paused one can be released.
	must(t, i.Pause(ctxOf(t)))
	must(t, g.Driver.Release(ctxOf(t), b.ID))
}

func pids(t *testing.T, g Target) {
	b := g.Bundle(t, "/bin/sh", "-c", "sleep 100 & echo ready; wait")
	i := start(t, g.Driver, b)
	logged(t, b.Log.Path, "ready")
	p, err := i.Pids(ctxOf(t))
	must(t, err)
	if len(p) != 2 || !slices.Contains(p, i.Pid()) {
		t.Errorf("pids %v, main process %d", p, i.Pid())
	}
}

func stats(t *testing.T, g Target) {
	b := g.Bundle(t, "/bin/sh", "-c", "k=0; while [ $k -lt 20000 ]; do k=$((k+1)); done; echo ready; sleep 100")
	i := start(t, g.Driver, b)
	logged(t, b.Log.Path, "ready")
	s, err := i.Stats(ctxOf(t))
	must(t, err)
	if s.MemoryStats.Usage == 0 || s.CPUStats.CPUUsage.TotalUsage == 0 || s.PidsStats.Current == 0 {
		t.Errorf("stats %+v", s)
	}
	if n, err := i.OOM(ctxOf(t)); err != nil || n != 0 {
		t.Errorf("oom %d %v", n, err)
	}
}

func sizeOf(t *testing.T, path string) int64 {
	t.Helper()
	st, err := os.Stat(path)
	must(t, err)
	return st.Size()
}
