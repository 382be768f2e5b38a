package e2e

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestLogs(t *testing.T) {
	for _, driver := range []string{"json-file", "local"} {
		t.Run(driver, func(t *testing.T) {
			s := newScene(t)
			id := s.running("--log-driver", driver, "busybox", "sh", "-c", "for i in 1 2 3 4 5; do echo out $i; done; sleep 0.05; echo err >&2; sleep 0.05; printf 'no newline'")
			s.ok("wait", id)
			r := s.docker("logs", id)
			s.equal("stdout", r.Stdout, "out 1\nout 2\nout 3\nout 4\nout 5\nno newline")
			s.equal("stderr", r.Stderr, "err\n")
			s.equal("tail", s.ok("logs", "--tail", "1", id), "no newline")
			s.equal("tail 0", s.ok("logs", "--tail", "0", id), "")
			first, _, _ := strings.Cut(s.ok("logs", "-t", id), "\n")
			if !regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z out 1$`).MatchString(first) {
				t.Errorf("with time: %q", first)
			}
			s.equal("since later", s.ok("logs", "--since", strconv.FormatInt(time.Now().Unix()+100, 10), id), "")
			s.equal("until earlier", s.ok("logs", "--until", "2020-01-01T00:00:00", id), "")
			s.contains("since earlier", s.ok("logs", "--since", "1h", id), "out 1")
			s.equal("follow of an ended one ends", s.ok("logs", "-f", "--tail", "1", id), "no newline")
			s.ok("start", id)
			s.ok("wait", id)
			if n := strings.Count(s.ok("logs", id), "out 1\n"); n != 2 {
				t.Errorf("after a second start the log has %d runs, want 2", n)
			}
		})
	}
}

func TestLogsFollow(t *testing.T) {
	s := newScene(t)
	id := s.running("busybox", "sh", "-c", "for i in 1 2 3 4 5 6; do echo line $i; sleep 0.1; done")
	start := time.Now()
	s.equal("followed", s.ok("logs", "-f", id), "line 1\nline 2\nline 3\nline 4\nline 5\nline 6")
	if took := time.Since(start); took > max(busy, patient(5*time.Second))/2 {
		t.Errorf("follow ended %s after the start", took)
	}
	// What is printed while we follow arrives at once.
	id = s.running("-i", "busybox", "cat")
	cmd := exec.Command(tools.docker, "logs", "-f", id)
	cmd.Env = s.d.env()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	// Nobody closes the stdin of a container that was started detached: attach stays.
	attach := exec.Command(tools.docker, "attach", "--sig-proxy=false", id)
	attach.Env, attach.Stdin = s.d.env(), strings.NewReader("now\n")
	if err := attach.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = attach.Process.Kill(); _ = attach.Wait() }()
	got := make(chan string, 1)
	go func() { l, _ := bufio.NewReader(out).ReadString('\n'); got <- l }()
	select {
	case l := <-got:
		s.equal("line", l, "now\n")
	case <-time.After(max(busy, patient(5*time.Second))):
		t.Error("the line did not arrive")
	}
}

func TestLogsNoneAndBad(t *testing.T) {
	s := newScene(t)
	id := s.running("--log-driver", "none", "busybox", "echo", "x")
	s.ok("wait", id)
	s.fails(1, "does not support reading", "logs", id)
	s.fails(125, "nonesuch", "run", "--log-driver", "nonesuch", "busybox", "true")
	s.fails(125, "nonesuch", "run", "--log-opt", "nonesuch=1", "busybox", "true")
	s.fails(1, "No such container: nonesuch", "logs", "nonesuch")
	s.fails(1, "", "logs", "--since", "nonesuch", id)
}

func TestLogsRotate(t *testing.T) {
	s := newScene(t)
	id := s.running("--log-driver", "json-file", "--log-opt", "max-size=100k", "--log-opt", "max-file=2", "busybox", "sh", "-c", "seq 1 20000")
	s.ok("wait", id)
	lines := strings.Split(s.ok("logs", id), "\n")
	if last := lines[len(lines)-1]; last != "20000" {
		t.Errorf("last line %q", last)
	}
	if len(lines) >= 20000 || len(lines) < 500 {
		t.Errorf("%d lines kept of 20000 with 2 files of 100k", len(lines))
	}
	for i := 1; i < len(lines); i++ {
		a, _ := strconv.Atoi(lines[i-1])
		if b, _ := strconv.Atoi(lines[i]); b != a+1 {
			t.Fatalf("after line %d comes %d", a, b)
		}
	}
}

func TestLogLongLines(t *testing.T) {
	s := newScene(t)
	id := s.running("busybox", "sh", "-c", "head -c 100000 /dev/zero | tr '\\0' x; echo; echo end")
	s.ok("wait", id)
	out := s.ok("logs", id)
	s.equal("length and end", fmt.Sprint(len(out), out[len(out)-4:]), fmt.Sprint(100004, "\nend"))
}

// TestDaemonKilled is the promise that a daemon's death costs no container a
// line of output, its exit code or its life.
func TestDaemonKilled(t *testing.T) {
	s := ownDaemon(t)
	const lines = 3000
	printer := s.running("busybox", "sh", "-c", fmt.Sprintf("i=0; while [ $i -lt %d ]; do i=$((i+1)); echo line $i; [ $((i %% 30)) = 0 ] && sleep 0.02; done; exit 17", lines))
	stays := s.idle("--name", s.name("stays"))
	paused := s.idle()
	s.ok("pause", paused)
	auto := s.running("--rm", "busybox", "sleep", "0.5")
	pid := s.inspect(stays, "{{.State.Pid}}")
	if err := s.d.kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat("/proc/" + pid); err != nil {
		t.Fatalf("the container died with the daemon: %v", err)
	}
	time.Sleep(300 * time.Millisecond) // it prints on with nobody there
	if err := s.d.start(); err != nil {
		t.Fatal(err)
	}
	s.equal("found again", s.inspect(stays, "{{.State.Running}} {{.State.Pid}}"), "true "+pid)
	s.equal("paused still", s.inspect(paused, "{{.State.Status}}"), "paused")
	s.equal("code", s.ok("wait", printer), "17")
	got := strings.Split(s.ok("logs", printer), "\n")
	if len(got) != lines {
		t.Errorf("the log has %d lines, want %d", len(got), lines)
	}
	for i, l := range got {
		if l != "line "+strconv.Itoa(i+1) {
			t.Fatalf("line %d is %q", i+1, l)
		}
	}
	s.equal("exec works", s.ok("exec", stays, "echo", "yes"), "yes")
	s.ok("unpause", paused)
	if err := eventually(5*time.Second, func() error {
		if s.docker("inspect", auto).Code == 0 {
			return fmt.Errorf("--rm container %s is still there", auto[:12])
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	s.ok("stop", "-t", "0", stays)
	s.equal("stopped", s.inspect(stays, "{{.State.Status}}"), "exited")
}

// TestExitWhileDown ends containers while no daemon runs.
func TestExitWhileDown(t *testing.T) {
	s := ownDaemon(t)
	id := s.running("busybox", "sh", "-c", "sleep 0.5; echo last words; exit 9")
	again := s.running("--restart", "always", "busybox", "sh", "-c", "sleep 0.5; exit 1")
	pid := s.inspect(id, "{{.State.Pid}}")
	if err := s.d.stop(); err != nil {
		t.Fatal(err)
	}
	if err := eventually(patient(time.Second), func() error {
		if pid != "0" && exists("/proc/"+pid) {
			return fmt.Errorf("process %s runs on", pid)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := s.d.start(); err != nil {
		t.Fatal(err)
	}
	s.until(id, "{{.State.Status}} {{.State.ExitCode}}", "exited 9")
	s.equal("log", s.ok("logs", id), "last words")
	if err := eventually(10*time.Second, func() error {
		if n := s.inspect(again, "{{.RestartCount}}"); n == "0" {
			return fmt.Errorf("restart policy does not go on")
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

// TestMonitorKilled kills the monitor of a running container: the container is
// found, ended, and its record says so.
func TestMonitorKilled(t *testing.T) {
	s := newScene(t)
	id := s.idle()
	pid, _ := strconv.Atoi(s.inspect(id, "{{.State.Pid}}"))
	monitor := parent(pid)
	line := processes()[monitor]
	if !strings.Contains(line, "wharf-monitor") {
		t.Fatalf("parent of the container is %d: %s", monitor, line)
	}
	if err := exec.Command("kill", "-9", strconv.Itoa(monitor)).Run(); err != nil {
		t.Fatal(err)
	}
	s.until(id, "{{.State.Running}}", "false")
	if err := eventually(5*time.Second, func() error {
		if _, err := os.Stat("/proc/" + strconv.Itoa(pid)); err == nil {
			return fmt.Errorf("process %d lives without its monitor", pid)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	s.ok("start", id)
	s.equal("can be started again", s.inspect(id, "{{.State.Running}}"), "true")
}

// parent is a process's parent.
func parent(pid int) int {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := strings.Cut(string(b), ") ")
	f := strings.Fields(rest)
	if len(f) < 2 {
		return 0
	}
	n, _ := strconv.Atoi(f[1])
	return n
}
