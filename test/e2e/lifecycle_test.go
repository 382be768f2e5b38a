package e2e

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestStopAndKill(t *testing.T) {
	s := newScene(t)
	id := s.trapping("TERM", 3)
	s.ok("stop", id)
	s.equal("trapped", s.inspect(id, "{{.State.Status}} {{.State.ExitCode}}"), "exited 3")
	s.ok("stop", id) // again is fine

	id = s.running("--stop-timeout", "1000", "busybox", "sh", "-c", "trap '' TERM; while :; do sleep 0.05; done")
	start := time.Now()
	s.ok("stop", "-t", "1", id) // the command may not take as long as the container's own time
	if took := time.Since(start); took < 900*time.Millisecond {
		t.Errorf("stop -t 1 took %s", took)
	}
	s.equal("killed", s.inspect(id, "{{.State.Status}} {{.State.ExitCode}}"), "exited 137")

	id = s.trapping("USR1", 4, "--stop-signal", "USR1")
	s.ok("stop", id)
	s.equal("stop signal", s.inspect(id, "{{.State.ExitCode}}"), "4")

	id = s.trapping("HUP", 5)
	s.ok("kill", "-s", "HUP", id)
	s.equal("wait", s.ok("wait", id), "5")
	s.fails(1, "is not running", "kill", id)
	s.fails(1, "nvalid signal", "kill", "-s", "NONESUCH", s.idle())
	s.fails(1, "No such container: nonesuch", "stop", "nonesuch")
	s.fails(1, "No such container: nonesuch", "kill", "nonesuch")
}

// trapping starts a container that ends with code when the signal comes, and
// waits until it listens: before that, PID 1 ignores most signals.
func (s *scene) trapping(signal string, code int, options ...string) string {
	s.Helper()
	script := fmt.Sprintf("trap 'exit %d' %s; echo ready; while :; do sleep 0.05; done", code, signal)
	id := s.running(append(options, "busybox", "sh", "-c", script)...)
	if err := eventually(5*time.Second, func() error {
		if got := s.docker("logs", id).out(); got != "ready" {
			return fmt.Errorf("%s printed %q", id[:12], got)
		}
		return nil
	}); err != nil {
		s.Error(err)
	}
	return id
}

func TestRestart(t *testing.T) {
	s := newScene(t)
	id := s.idle()
	s.ok("exec", id, "touch", "/kept")
	before := s.inspect(id, "{{.State.Pid}} {{.State.StartedAt}}")
	s.ok("restart", "-t", "0", id)
	if after := s.inspect(id, "{{.State.Pid}} {{.State.StartedAt}}"); after == before {
		t.Errorf("restart left %s", after)
	}
	s.ok("exec", id, "test", "-e", "/kept")
	s.ok("stop", "-t", "0", id)
	s.ok("restart", id)
	s.equal("restart of a stopped one", s.inspect(id, "{{.State.Running}}"), "true")
}

func TestPause(t *testing.T) {
	s := newScene(t)
	id := s.running("busybox", "sh", "-c", "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done")
	s.ok("pause", id)
	s.equal("state", s.inspect(id, "{{.State.Status}} {{.State.Paused}}"), "paused true")
	s.fails(1, "already paused", "pause", id)
	a := s.ok("logs", id)
	if err := eventually(10*time.Second, func() error { // what it said before is on its way to the log for a while
		time.Sleep(200 * time.Millisecond)
		before := a
		if a = s.ok("logs", id); a != before {
			return fmt.Errorf("it prints: %q", strings.TrimPrefix(a, before))
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	s.ok("unpause", id)
	s.equal("state", s.inspect(id, "{{.State.Status}}"), "running")
	s.fails(1, "is not paused", "unpause", id)
	s.ok("pause", id)
	s.ok("stop", "-t", "0", id)
	s.equal("a paused one stops", s.inspect(id, "{{.State.Status}}"), "exited")
	id = s.idle()
	s.ok("pause", id)
	s.ok("rm", "-f", id)
}

func TestWait(t *testing.T) {
	s := newScene(t)
	id := s.running("busybox", "sh", "-c", "sleep 0.3; exit 6")
	s.equal("wait", s.ok("wait", id), "6")
	s.equal("wait again", s.ok("wait", id), "6")
	s.fails(1, "No such container: nonesuch", "wait", "nonesuch")
}

func TestTopStatsPs(t *testing.T) {
	s := newScene(t)
	id := s.idle("--name", s.name("a"), "-m", "32m")
	if err := eventually(5*time.Second, func() error { // init's child becomes it a moment after the start
		if out := s.ok("top", id); !strings.Contains(out, "PID") || !strings.Contains(out, "sleep 1000") {
			return fmt.Errorf("top: %q", out)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	s.contains("top -o", s.ok("top", id, "-o", "pid,comm"), "sleep")
	line := s.ok("stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}} {{.PIDs}}", id)
	if !regexp.MustCompile(`^` + s.name("a") + ` [0-9.]+[KM]iB / 32MiB \d+$`).MatchString(line) {
		t.Errorf("stats: %q", line)
	}
	s.contains("ps", s.ok("ps", "--filter", "id="+id), s.name("a"), "Up ", "busybox")
	s.equal("ps by name", s.ok("ps", "-q", "--no-trunc", "--filter", "name=^"+s.name("a")+"$"), id)
	s.equal("ps by status", s.ok("ps", "-q", "--no-trunc", "--filter", "label=e2e="+s.label, "--filter", "status=running"), id)
	s.equal("ps by ancestor", s.ok("ps", "-q", "--no-trunc", "--filter", "label=e2e="+s.label, "--filter", "ancestor=busybox"), id)
	s.ok("stop", "-t", "0", id)
	s.equal("stopped is not listed", s.ok("ps", "-q", "--filter", "id="+id), "")
	s.contains("ps -a", s.ok("ps", "-a", "--filter", "id="+id), "Exited (")
	s.equal("by exit code", s.ok("ps", "-aq", "--no-trunc", "--filter", "label=e2e="+s.label, "--filter", "exited="+s.inspect(id, "{{.State.ExitCode}}")), id)
	s.contains("ps -s", s.ok("ps", "-as", "--filter", "id="+id), "virtual")
	s.fails(1, "nvalid filter", "ps", "--filter", "nonesuch=1")
	s.fails(1, "is not running", "top", id)
}

func TestRenameUpdate(t *testing.T) {
	s := newScene(t)
	id := s.idle("--name", s.name("a"), "-m", "64m")
	s.ok("rename", s.name("a"), s.name("b"))
	s.equal("renamed", s.inspect(id, "{{.Name}}"), "/"+s.name("b"))
	s.fails(1, "No such container", "rename", s.name("a"), s.name("c"))
	other := s.idle("--name", s.name("other"))
	s.fails(1, "is already in use", "rename", other, s.name("b"))
	s.ok("update", "-m", "128m", "--memory-swap", "128m", "--pids-limit", "77", id)
	s.equal("memory", s.ok("exec", id, "sh", "-c", "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; true"), strconv.Itoa(128<<20))
	s.equal("recorded", s.inspect(id, "{{.HostConfig.Memory}} {{.HostConfig.PidsLimit}}"), "134217728 77")
	s.ok("update", "--restart", "on-failure:3", id)
	s.equal("policy", s.inspect(id, "{{.HostConfig.RestartPolicy.Name}}:{{.HostConfig.RestartPolicy.MaximumRetryCount}}"), "on-failure:3")
	s.fails(1, "emory", "update", "-m", "1k", id)
}

func TestRestartPolicies(t *testing.T) {
	s := newScene(t)
	id := s.running("--restart", "on-failure:2", "busybox", "false")
	s.until(id, "{{.State.Status}} {{.RestartCount}} {{.State.ExitCode}}", "exited 2 1")
	id = s.running("--restart", "on-failure", "busybox", "true")
	s.until(id, "{{.State.Status}} {{.RestartCount}}", "exited 0")
	id = s.running("--restart", "always", "busybox", "sh", "-c", "sleep 0.2")
	if err := eventually(10*time.Second, func() error {
		if n, _ := strconv.Atoi(s.inspect(id, "{{.RestartCount}}")); n < 2 {
			return fmt.Errorf("restarted %d times", n)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	s.ok("stop", id)
	s.equal("stopped by a person", s.inspect(id, "{{.State.Running}}"), "false")
	time.Sleep(400 * time.Millisecond)
	s.equal("stays stopped", s.inspect(id, "{{.State.Running}}"), "false")
	s.fails(125, "", "run", "--rm", "--restart", "always", "busybox", "true")
	s.fails(125, "", "run", "--restart", "nonesuch", "busybox", "true")
}

func TestHealth(t *testing.T) {
	s := newScene(t)
	id := s.idle("--health-cmd", "test -e /tmp/well", "--health-interval", "200ms", "--health-retries", "2", "--health-timeout", "60s")
	s.until(id, "{{.State.Health.Status}}", "unhealthy")
	s.ok("exec", id, "touch", "/tmp/well")
	s.until(id, "{{.State.Health.Status}}", "healthy")
	s.contains("ps", s.ok("ps", "--filter", "id="+id), "(healthy)")
	s.equal("by health", s.ok("ps", "-q", "--no-trunc", "--filter", "health=healthy", "--filter", "id="+id), id)
	id = s.idle("--no-healthcheck")
	s.equal("none", s.inspect(id, "{{.State.Health}}"), "<nil>")
}

func TestOOM(t *testing.T) {
	s := newScene(t)
	id := s.running("-m", "16m", "--memory-swap", "16m", "busybox", "tail", "-c", "256000000", "/dev/zero")
	s.ok("wait", id)
	s.equal("recorded", s.inspect(id, "{{.State.OOMKilled}} {{.State.ExitCode}}"), "true 137")
	s.equal("once, and first", s.oomEvents(id), "oom die")
}

// The event comes when the kernel kills, also of a child whose container lives
// on, and under the next daemon.
func TestOOMOfAChild(t *testing.T) {
	s := ownDaemon(t)
	// One process alone asks for memory, and it is the one to be killed: a shell
	// that forks beside it may be the kernel's next choice.
	id := s.running("-m", "32m", "--memory-swap", "32m", "busybox", "sh", "-c", "trap exit TERM; sleep 100000 & wait")
	hungry := []string{"exec", id, "sh", "-c", "echo 1000 >/proc/self/oom_score_adj; exec tail -c 256000000 /dev/zero"}
	s.equal("before", s.inspect(id, "{{.State.OOMKilled}}"), "false")
	s.fails(137, "", hungry...)
	s.until(id, "{{.State.OOMKilled}} {{.State.Running}}", "true true")
	s.equal("first", s.oomEvents(id), "oom")
	s.d.kill()
	if err := s.d.start(); err != nil {
		t.Fatal(err)
	}
	s.equal("recovered", s.inspect(id, "{{.State.OOMKilled}} {{.State.Running}}"), "true true")
	s.fails(137, "", hungry...)
	if err := eventually(5*time.Second, func() error {
		if got := s.oomEvents(id); got != "oom oom" {
			return fmt.Errorf("events %q", got)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	s.ok("stop", id)
	s.equal("still said", s.inspect(id, "{{.State.OOMKilled}}"), "true")
	s.equal("not again", s.oomEvents(id), "oom oom die")
	s.ok("start", id)
	s.equal("a new run", s.inspect(id, "{{.State.OOMKilled}}"), "false")
}

// oomEvents are the container's events oom and die.
func (s *scene) oomEvents(id string) string {
	s.Helper()
	out := s.ok("events", "--since", "0", "--until", strconv.FormatInt(time.Now().Unix()+1, 10), "--filter", "container="+id,
		"--filter", "event=oom", "--filter", "event=die", "--format", "{{.Action}}")
	return strings.Join(strings.Fields(out), " ")
}

func TestFiftyAtOnce(t *testing.T) {
	s := newSceneAlone(t)
	const n = 50
	errs := make(chan error, n)
	start := time.Now()
	for i := range n {
		go func() {
			r := s.docker("run", "--rm", "--name", s.name(strconv.Itoa(i)), "busybox", "sh", "-c", "echo "+strconv.Itoa(i)+"; sleep 0.5")
			if r.Code != 0 || r.out() != strconv.Itoa(i) {
				errs <- fmt.Errorf("%s", r)
				return
			}
			errs <- nil
		}()
	}
	for range n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	t.Logf("%d containers in %s", n, time.Since(start).Round(time.Millisecond))
	s.equal("left", s.ok("ps", "-aq", "--filter", "label=e2e="+s.label), "")
}

func TestTwoClientsAtOnce(t *testing.T) {
	s := newScene(t)
	for range 5 {
		id := s.idle()
		results := make(chan result, 4)
		for _, args := range [][]string{{"stop", "-t", "0", id}, {"kill", id}, {"rm", "-f", id}, {"restart", "-t", "0", id}} {
			go func() { results <- s.docker(args...) }()
		}
		for range 4 {
			r := <-results
			sane := r.Code == 0 || regexp.MustCompile(`No such container|is not running|in progress|marked for removal|conflict|cannot`).MatchString(r.Stderr)
			if !sane {
				t.Errorf("neither done nor a sane refusal: %s", r)
			}
		}
		s.docker("rm", "-f", id)
		if r := s.docker("inspect", id); r.Code == 0 {
			t.Errorf("%s is still there", id[:12])
		}
	}
}

func TestPruneContainers(t *testing.T) {
	s := newScene(t)
	id := s.ok("run", "-d", "busybox", "true")
	s.ok("wait", id)
	keep := s.idle()
	s.contains("prune", s.ok("container", "prune", "-f", "--filter", "label=e2e="+s.label), id)
	s.equal("running one stays", s.inspect(keep, "{{.State.Running}}"), "true")
	s.fails(1, "No such object", "inspect", id)
}

func TestRemoveWhileRunningLeavesProcessesNone(t *testing.T) {
	s := newScene(t)
	id := s.running("busybox", "sh", "-c", "sleep 1001 & sleep 1002 & wait")
	pid := s.inspect(id, "{{.State.Pid}}")
	s.ok("rm", "-f", id)
	if _, err := os.Stat("/proc/" + pid); err == nil {
		t.Errorf("process %s lives", pid)
	}
	for pid, line := range processes() {
		if strings.HasPrefix(line, "sleep 100") && strings.HasSuffix(line, "1001") {
			t.Errorf("process %d: %s lives", pid, line)
		}
	}
}

// TestRemoveBesideExecs removes containers while execs are being started in
// them: neither may wait for the other for ever.
func TestRemoveBesideExecs(t *testing.T) {
	s := newScene(t)
	for i := range 10 {
		id := s.idle()
		done := make(chan result, 3)
		for range cap(done) {
			go func() { done <- s.docker("exec", id, "true") }()
		}
		time.Sleep(time.Duration(i) * 8 * time.Millisecond)
		if r := s.docker("rm", "-f", id); r.Code != 0 || r.Took > max(busy, patient(8*time.Second))/2 {
			t.Errorf("rm -f beside execs: %s", r)
		}
		for range cap(done) {
			if r := <-done; r.Code == -1 {
				t.Errorf("an exec hangs: %s", r)
			}
		}
	}
}

// TestInitQuickExit ends a program under --init before init waits for it.
func TestInitQuickExit(t *testing.T) {
	s := newScene(t)
	for range 15 {
		if r := s.docker("run", "--rm", "--init", "busybox", "sh", "-c", "kill -9 $$"); r.Code != 137 {
			t.Fatal(r)
		}
	}
}
