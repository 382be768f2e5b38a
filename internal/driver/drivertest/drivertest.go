// Package drivertest is the suite that every driver runs: the contract of
// package driver as tests, and benchmarks of what people wait for.
//
// A driver's own test calls Run with a Target; the target gives bundles that
// run busybox. What a driver cannot do it says in Target.Lacks, and that test
// is skipped by name.
package drivertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"wharf/internal/driver"
	"wharf/internal/model"
)

// Target is a driver under test.
type Target struct {
	Driver driver.Driver
	// Again returns another driver on the same state, as a restarted daemon
	// has it.
	Again func(t testing.TB) driver.Driver
	// Bundle returns a bundle that runs args of busybox, with a json-file
	// log.
	Bundle func(t testing.TB, args ...string) *model.Bundle
	// Lacks names tests that the driver cannot pass.
	Lacks []string
	// Many is how many instances are started at once; 0 is 50.
	Many int
	// Slow is what a start may take longer than a container's: each step of a
	// test that waits for an instance waits that much longer.
	Slow time.Duration
}

// limit is more than any test takes that starts containers.
const limit = 60 * time.Second

// slow is added to every wait: Run sets it, for one driver at a time.
var slow time.Duration

// Run runs the suite.
func Run(t *testing.T, g Target) {
	slow = g.Slow
	tests := map[string]func(*testing.T, Target){
		"ExitCodes": exitCodes, "Output": output, "AttachBeforeStart": attachBeforeStart, "AttachInput": attachInput,
		"Terminal": terminal, "Signal": signalled, "NotFound": notFound, "NotExecutable": notExecutable,
		"Exec": execs, "ExecTerminal": execTerminal, "ExecErrors": execErrors, "ExecOutlivesClient": execOutlivesClient,
		"Recover": recovered, "RecoverEnded": recoverEnded, "RecoverNothing": recoverNothing,
		"Processes": processes, "Files": files, "ReleaseRunning": releaseRunning, "ReleaseNothing": releaseNothing, "List": list, "Many": many,
		"Pause": paused, "Pids": pids, "Stats": stats, "SandboxUnused": sandboxUnused, "Restart": restart,
	}
	var names []string
	for n := range tests {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		t.Run(n, func(t *testing.T) {
			if slices.Contains(g.Lacks, n) {
				t.Skipf("the driver %s cannot do this", g.Driver.Isolation())
			}
			tests[n](t, g)
		})
	}
}

// ctxOf is a context that ends with the test's patience.
func ctxOf(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), limit+5*slow)
	t.Cleanup(cancel)
	return ctx
}

// start starts b and releases it with the test.
func start(t testing.TB, d driver.Driver, b *model.Bundle) driver.Instance {
	t.Helper()
	i, err := try(t, d, b)
	must(t, err)
	return i
}

func try(t testing.TB, d driver.Driver, b *model.Bundle) (driver.Instance, error) {
	t.Helper()
	ctx := ctxOf(t)
	sb, err := d.Sandbox(ctx, b)
	must(t, err)
	t.Cleanup(func() {
		if err := d.Release(context.Background(), b.ID); err != nil {
			t.Errorf("release: %v", err)
		}
	})
	return d.Start(ctx, b, sb)
}

// wait waits for the exit code.
func wait(t testing.TB, w interface {
	Wait(context.Context) (model.Exit, error)
}) int {
	t.Helper()
	e, err := w.Wait(ctxOf(t))
	must(t, err)
	if e.At.IsZero() {
		t.Error("the exit has no time")
	}
	return e.Code
}

// shown reads what a terminal shows until text is in it.
func shown(t testing.TB, s model.Stream, text string) string {
	t.Helper()
	var o bytes.Buffer
	for !strings.Contains(o.String(), text) {
		_, p, err := s.Next()
		if err != nil {
			t.Fatalf("the terminal shows %q, not %q: %v", o.String(), text, err)
		}
		o.Write(p)
	}
	return o.String()
}

// drain reads a stream to its end.
func drain(t testing.TB, s model.Stream) (out, errs string) {
	t.Helper()
	var o, e bytes.Buffer
	for {
		k, p, err := s.Next()
		if errors.Is(err, io.EOF) {
			return o.String(), e.String()
		}
		must(t, err)
		if k == model.Stderr {
			e.Write(p)
		} else {
			o.Write(p)
		}
	}
}

func exitCodes(t *testing.T, g Target) {
	for script, want := range map[string]int{"exit 0": 0, "exit 7": 7, "kill -9 $$; sleep 1": 137} {
		b := g.Bundle(t, "/bin/sh", "-c", script)
		b.Init = false
		// The init of a pid namespace cannot kill itself: a child does.
		if strings.Contains(script, "kill") {
			b = g.Bundle(t, "/bin/sh", "-c", "sh -c 'kill -9 $$'; exit $?")
		}
		i := start(t, g.Driver, b)
		if got := wait(t, i); got != want {
			t.Errorf("%s: exit code %d", script, got)
		}
		if i.Pid() != 0 {
			t.Errorf("pid %d after the end", i.Pid())
		}
	}
}

func output(t *testing.T, g Target) {
	b := g.Bundle(t, "/bin/sh", "-c", "id -u; seq 3000; echo oops >&2; printf end")
	i := start(t, g.Driver, b)
	if c := wait(t, i); c != 0 {
		t.Fatalf("exit code %d", c)
	}
	var want strings.Builder
	want.WriteString("0\n")
	for i := range 3000 {
		fmt.Fprintln(&want, i+1)
	}
	want.WriteString("end")
	// Which of the two streams is read first is nobody's promise.
	out, errs := logText(t, b.Log.Path)
	if out != want.String() || errs != "oops\n" {
		t.Errorf("stdout has %d bytes of %d, ends in %q; stderr %q", len(out), want.Len(), out[max(0, len(out)-20):], errs)
	}
}

func attachBeforeStart(t *testing.T, g Target) {
	b := g.Bundle(t, "/bin/sh", "-c", "echo first; echo second >&2")
	b.Waiting = 2
	i := start(t, g.Driver, b)
	time.Sleep(20 * time.Millisecond)
	for range 2 {
		s, err := i.Attach(ctxOf(t), false, true, true)
		must(t, err)
		defer s.Close()
		defer func() {
			if out, errs := drain(t, s); out != "first\n" || errs != "second\n" {
				t.Errorf("read %q and %q", out, errs)
			}
		}()
	}
	wait(t, i)
}

func attachInput(t *testing.T, g Target) {
	b := g.Bundle(t, "/bin/cat")
	b.OpenStdin, b.StdinOnce, b.Waiting = true, true, 1
	i := start(t, g.Driver, b)
	s, err := i.Attach(ctxOf(t), true, true, true)
	must(t, err)
	defer s.Close()
	big := strings.Repeat("0123456789abcde\n", 20000)
	go func() {
		_, _ = io.WriteString(s, big)
		_ = s.CloseWrite()
	}()
	if out, _ := drain(t, s); out != big {
		t.Errorf("cat gave %d bytes of %d", len(out), len(big))
	}
	wait(t, i)
}

func terminal(t *testing.T, g Target) {
	b := g.Bundle(t, "/bin/sh", "-c", "test -t 0 && test -t 1 && echo tty; stty size; read x; stty size; echo got $x")
	b.Spec.Process.Terminal, b.OpenStdin, b.Waiting, b.ConsoleSize = true, true, 1, [2]uint{25, 81}
	i := start(t, g.Driver, b)
	s, err := i.Attach(ctxOf(t), true, true, true)
	must(t, err)
	defer s.Close()
	must(t, s.Resize(40, 100))
	_, err = io.WriteString(s, "word\n")
	must(t, err)
	out, _ := drain(t, s)
	for _, want := range []string{"tty\r\n", "40 100\r\n", "got word\r\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("terminal shows %q, not %q", out, want)
		}
	}
	wait(t, i)
}

func signalled(t *testing.T, g Target) {
	b := g.Bundle(t, "/bin/sh", "-c", "trap 'exit 9' TERM; echo ready; while :; do sleep 0.01; done")
	i := start(t, g.Driver, b)
	ctx := ctxOf(t)
	logged(t, b.Log.Path, "ready")
	must(t, i.Signal(ctx, syscall.SIGTERM))
	if c := wait(t, i); c != 9 {
		t.Errorf("exit code %d", c)
	}
	if err := i.Signal(ctx, syscall.SIGTERM); !errdefs.IsNotFound(err) {
		t.Errorf("signal after the end: %v", err)
	}
	j := start(t, g.Driver, g.Bundle(t, "/bin/sleep", "100"))
	must(t, j.Signal(ctx, syscall.SIGKILL))
	if c := wait(t, j); c != 137 {
		t.Errorf("killed: exit code %d", c)
	}
}

func notFound(t *testing.T, g Target)      { badProgram(t, g, "/bin/nothing", 127) }
func notExecutable(t *testing.T, g Target) { badProgram(t, g, "/etc/passwd", 126) }

func badProgram(t *testing.T, g Target, path string, code int) {
	_, err := try(t, g.Driver, g.Bundle(t, path))
	var s *driver.StartError
	if !errors.As(err, &s) || s.Code != code || !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), path) {
		t.Errorf("%s: %v", path, err)
	}
}

func recovered(t *testing.T, g Target) {
	b := g.Bundle(t, "/bin/sh", "-c", "read x; echo got $x; exit 4")
	b.OpenStdin = true
	i := start(t, g.Driver, b)
	d := g.Again(t)
	j, err := d.Recover(ctxOf(t), b.ID)
	must(t, err)
	if j.Pid() != i.Pid() {
		t.Errorf("pid %d, was %d", j.Pid(), i.Pid())
	}
	p, err := j.Exec(ctxOf(t), Exec("/bin/sh", "-c", "exit 3"))
	must(t, err)
	if c := wait(t, p); c != 3 {
		t.Errorf("exec after recovery: exit code %d", c)
	}
	s, err := j.Attach(ctxOf(t), true, true, false)
	must(t, err)
	defer s.Close()
	_, err = io.WriteString(s, "it\n")
	must(t, err)
	if out, _ := drain(t, s); out != "got it\n" {
		t.Errorf("read %q", out)
	}
	for _, x := range []driver.Instance{i, j} {
		if c := wait(t, x); c != 4 {
			t.Errorf("exit code %d", c)
		}
	}
	must(t, d.Release(ctxOf(t), b.ID))
}

func recoverEnded(t *testing.T, g Target) {
	b := g.Bundle(t, "/bin/sh", "-c", "exit 6")
	wait(t, start(t, g.Driver, b))
	j, err := g.Again(t).Recover(ctxOf(t), b.ID)
	must(t, err)
	if c := wait(t, j); c != 6 {
		t.Errorf("exit code %d", c)
	}
}

func recoverNothing(t *testing.T, g Target) {
	if _, err := g.Driver.Recover(ctxOf(t), model.NewID()); !errdefs.IsNotFound(err) {
		t.Errorf("%v", err)
	}
}

func releaseRunning(t *testing.T, g Target) {
	b := g.Bundle(t, "/bin/sh", "-c", "sleep 100 & sleep 100")
	i := start(t, g.Driver, b)
	must(t, g.Driver.Release(ctxOf(t), b.ID))
	if c := wait(t, i); c != 137 {
		t.Errorf("exit code %d", c)
	}
	has(t, g.Driver, b.ID, false)
	must(t, g.Driver.Release(ctxOf(t), b.ID))
	// By a daemon that never saw it.
	b = g.Bundle(t, "/bin/sleep", "100")
	start(t, g.Driver, b)
	must(t, g.Again(t).Release(ctxOf(t), b.ID))
	has(t, g.Driver, b.ID, false)
}

func releaseNothing(t *testing.T, g Target) { must(t, g.Driver.Release(ctxOf(t), model.NewID())) }

func list(t *testing.T, g Target) {
	b := g.Bundle(t, "/bin/sleep", "100")
	start(t, g.Driver, b)
	has(t, g.Driver, b.ID, true)
	has(t, g.Again(t), b.ID, true)
	must(t, g.Driver.Release(ctxOf(t), b.ID))
	has(t, g.Driver, b.ID, false)
}

func has(t *testing.T, d driver.Driver, id model.ID, want bool) {
	t.Helper()
	ids, err := d.List(ctxOf(t))
	must(t, err)
	if slices.Contains(ids, id) != want {
		t.Errorf("list has %s: %v", id.Short(), !want)
	}
}

func sandboxUnused(t *testing.T, g Target) {
	b := g.Bundle(t, "/bin/true")
	sb, err := g.Driver.Sandbox(ctxOf(t), b)
	must(t, err)
	must(t, sb.Close())
	must(t, g.Driver.Release(ctxOf(t), b.ID))
}

// restart starts the same id again after its release.
func restart(t *testing.T, g Target) {
	b := g.Bundle(t, "/bin/sh", "-c", "echo run >> /runs; cat /runs")
	for range 3 {
		i := start(t, g.Driver, b)
		wait(t, i)
		must(t, g.Driver.Release(ctxOf(t), b.ID))
	}
	out, _ := logText(t, b.Log.Path)
	if n := strings.Count(out, "run\n"); n != 1+2+3 {
		t.Errorf("the log has %d lines", n)
	}
}

// many starts many at once.
func many(t *testing.T, g Target) {
	n := 50
	if g.Many != 0 {
		n = g.Many
	}
	errs := make(chan error, n)
	var bundles []*model.Bundle
	for k := range n {
		bundles = append(bundles, g.Bundle(t, "/bin/sh", "-c", fmt.Sprintf("echo %d; exit %d", k, k)))
	}
	ctx := ctxOf(t)
	for k, b := range bundles {
		go func() { errs <- one(ctx, g.Driver, b, k) }()
	}
	for range n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	for k, b := range bundles {
		if got, _ := logText(t, b.Log.Path); got != fmt.Sprintf("%d\n", k) {
			t.Errorf("log %d: %q", k, got)
		}
	}
}

func one(ctx context.Context, d driver.Driver, b *model.Bundle, code int) error {
	sb, err := d.Sandbox(ctx, b)
	if err != nil {
		return err
	}
	i, err := d.Start(ctx, b, sb)
	if err != nil {
		return errors.Join(err, d.Release(ctx, b.ID))
	}
	e, err := i.Wait(ctx)
	if err == nil && e.Code != code {
		err = fmt.Errorf("exit %+v, not %d", e, code)
	}
	return errors.Join(err, d.Release(ctx, b.ID))
}
