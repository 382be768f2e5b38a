package e2e

import (
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestMachineDies: the daemon killed below an attached client, the guest's
// kernel in panic, the holder killed. What happened is recorded, nothing is
// left, and the restart policy goes on.
func TestMachineDies(t *testing.T) {
	machines(t)
	s := ownDaemon(t)
	name := s.name("vm")
	client := exec.Command(tools.docker, s.args([]string{"run", "--name", name, "--isolation", "vm", "--privileged", "--restart", "on-failure:1",
		"busybox", "sh", "-c", "i=0; while :; do i=$((i+1)); echo line $i; sleep 1; done"})...)
	client.Env = s.d.env()
	if err := client.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = client.Wait(); close(ended) }()
	s.prints(name, "line 3")
	if err := s.d.kill(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
	case <-time.After(time.Minute):
		_ = client.Process.Kill()
		t.Error("the attached client does not notice that its daemon is gone")
	}
	if err := s.d.start(); err != nil {
		t.Fatal(err)
	}
	n := strings.Count(s.ok("logs", name), "\n") + 1
	s.prints(name, fmt.Sprintf("line %d", n+2))
	for i, line := range strings.Split(s.ok("logs", name), "\n") {
		if line != fmt.Sprintf("line %d", i+1) {
			t.Fatalf("line %d of the log is %q", i+1, line)
		}
	}

	// The guest's kernel dies, its restart policy applies, the log says why.
	s.docker("exec", "-d", name, "sh", "-c", "echo c >/proc/sysrq-trigger")
	s.untilSlow(name, "{{.RestartCount}} {{.State.Status}}", "1 running")
	s.contains("the daemon's log", s.d.log(1<<20), "the kernel of the virtual machine gave up: sysrq", "last on its console")

	// Its holder dies, with all that it held.
	qemu, holder := s.qemuOf(s.inspect(name, "{{.Id}}")), s.holderOf(s.inspect(name, "{{.Id}}"))
	if err := syscall.Kill(holder, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	s.untilSlow(name, "{{.State.Status}} {{.State.ExitCode}}", "exited 137")
	if err := eventually(10*time.Second, func() error {
		if processes()[qemu] != "" {
			return fmt.Errorf("QEMU %d lives without its holder", qemu)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	if e := s.inspect(name, "{{.State.Error}}"); e == "" {
		t.Errorf("nothing is said of it: %s", s.inspect(name, "{{json .State}}"))
	}
}

// prints waits for a line of a machine's output.
func (s *scene) prints(name, line string) {
	s.Helper()
	for deadline := time.Now().Add(machineLimit); !strings.Contains(s.docker("logs", name).Stdout, line+"\n"); time.Sleep(200 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.Fatalf("%s does not print %q: %s", name, line, s.docker("logs", name))
		}
	}
}

// untilSlow is until for what a machine takes its time for.
func (s *scene) untilSlow(ref, format, want string) {
	s.Helper()
	deadline := time.Now().Add(machineLimit)
	for s.docker("inspect", "-f", format, ref).out() != want && time.Now().Before(deadline) {
		time.Sleep(200 * time.Millisecond)
	}
	s.equal(format, s.inspect(ref, format), want)
}

// TestMachineFullDisk: a machine that writes when the host's disk is full
// stands still until there is room, and loses nothing.
func TestMachineFullDisk(t *testing.T) {
	machines(t)
	s := fullDaemon(t, "320m")
	vm := s.slow("run", "-d", "--isolation", "vm", "busybox", "sh", "-c",
		"echo up; sleep 10; head -c 40000000 /dev/urandom >/big && sync && md5sum </big && sleep 1000")
	s.prints(vm, "up")
	empty := s.fill()
	if err := eventually(machineLimit, func() error {
		r := s.docker("exec", vm, "true")
		if !strings.Contains(r.Stderr, "it stands still, because the host's disk is full since ") {
			return fmt.Errorf("exec in a machine that stands still: %s", r)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	if out := s.docker("logs", vm).Stdout; out != "up\n" {
		t.Errorf("40 MB were written to a full disk: %s", out)
	}
	s.equal("recorded", s.inspect(vm, "{{.State.Status}}"), "running")
	empty()
	s.prints(vm, "  -")
	s.equal("alive", s.slow("exec", vm, "sh", "-c", "wc -c </big"), strconv.Itoa(40000000))
	s.contains("console", s.slow("exec", vm, "sh", "-c", "touch /more && echo writable"), "writable")
}
