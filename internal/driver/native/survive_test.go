package native

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"wharf/internal/model"
)

// childEnv names a file with the bundle to start: the test program is then
// the "daemon" that will be killed.
const childEnv = "WHARF_NATIVE_CHILD"

// child starts one container and hangs until it is killed.
func child() int {
	var c struct {
		Options Options
		Bundle  *model.Bundle
	}
	b, err := os.ReadFile(os.Getenv(childEnv))
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	if err == nil {
		var d *Driver
		if d, err = New(c.Options); err == nil {
			ctx := context.Background()
			sb, serr := d.Sandbox(ctx, c.Bundle)
			if err = serr; err == nil {
				_, err = d.Start(ctx, c.Bundle, sb)
			}
		}
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("started")
	select {}
}

// The daemon is killed while the container prints 3,000 lines: all of them are
// in the log and the exit code is known to the next daemon.
func TestDaemonKilled(t *testing.T) {
	g, m := target(t)
	d := g.Driver.(*Driver)
	b := m.New(t, "/bin/sh", "-c", "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); [ $((i%100)) = 0 ] && sleep 0.1; done; exit 42")
	file := filepath.Join(t.TempDir(), "child")
	p, _ := json.Marshal(map[string]any{"Options": d.opts, "Bundle": b})
	if err := os.WriteFile(file, p, 0o600); err != nil {
		t.Fatal(err)
	}
	c := exec.Command("/proc/self/exe")
	c.Env = append(os.Environ(), childEnv+"="+file)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Release(context.Background(), b.ID); err != nil {
			t.Error(err)
		}
	})
	var word string
	_, _ = fmt.Fscanln(out, &word)
	_ = c.Process.Kill()
	_ = c.Wait()
	if word != "started" {
		t.Fatalf("the child says %q", word)
	}
	i, err := d.Recover(context.Background(), b.ID)
	if err != nil {
		t.Fatal(err)
	}
	if i.Pid() == 0 {
		t.Error("the container had ended before the daemon: the test shows nothing")
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	e, err := i.Wait(ctx)
	if err != nil || e.Code != 42 {
		t.Errorf("exit %+v %v", e, err)
	}
	log, err := os.ReadFile(b.Log.Path)
	if n := strings.Count(string(log), `{"log":"line `); err != nil || n != 3000 {
		t.Errorf("%d lines in the log, %v", n, err)
	}
}

// The monitor is killed: the container is ended and the exit says why, to the
// daemon that waits and to a later one.
func TestMonitorKilled(t *testing.T) {
	g, m := target(t)
	d := g.Driver.(*Driver)
	for _, waiting := range []bool{true, false} {
		b := m.New(t, "/bin/sh", "-c", "sleep 100 & sleep 100")
		sb, err := d.Sandbox(context.Background(), b)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := d.Release(context.Background(), b.ID); err != nil {
				t.Error(err)
			}
		})
		s, err := d.Start(context.Background(), b, sb)
		if err != nil {
			t.Fatal(err)
		}
		pid := s.Pid()
		for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) { // by which a later daemon knows it
			if text, _ := os.ReadFile(filepath.Join(d.opts.ExecRoot, "instances", string(b.ID), "pid")); len(text) > 0 {
				break
			}
			if time.Now().After(end) {
				t.Fatal("the pid is not noted")
			}
		}
		w := s
		kill := func() {
			if err := unix.Kill(parentOf(t, pid), unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
		kill()
		if !waiting {
			time.Sleep(100 * time.Millisecond)
			if w, err = g.Again(t).Recover(context.Background(), b.ID); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		e, err := w.Wait(ctx)
		if err != nil || e.Code != 137 || !strings.Contains(e.Error, "monitor") {
			t.Errorf("exit %+v %v", e, err)
		}
		if err := unix.Kill(pid, 0); err == nil && !isZombie(pid) {
			t.Errorf("process %d still runs", pid)
		}
	}
}

// parentOf returns the parent of a process: of a container's first one, its
// monitor.
func parentOf(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	var state string
	var ppid int
	_, _ = fmt.Sscan(string(b[strings.LastIndexByte(string(b), ')')+1:]), &state, &ppid)
	comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", ppid))
	if strings.TrimSpace(string(comm)) != "wharf-monitor" {
		t.Fatalf("the parent of %d is %d, %s", pid, ppid, comm)
	}
	return ppid
}

func isZombie(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && strings.Contains(string(b), ") Z ")
}

// A monitor takes no notice of signals to everybody; its container starts with
// the usual dispositions.
func TestMonitorSignals(t *testing.T) {
	g, m := target(t)
	// As under a shell or service that ignores signals. The first is one that
	// os/signal, like libc, does not reach.
	for _, sig := range []uintptr{32, 40, 64} {
		ignore := [4]uint64{1} // the kernel's struct sigaction: SIG_IGN
		var old [4]uint64
		action := func(set, get *[4]uint64) {
			if _, _, e := unix.RawSyscall6(unix.SYS_RT_SIGACTION, sig, uintptr(unsafe.Pointer(set)), uintptr(unsafe.Pointer(get)), 8, 0, 0); e != 0 {
				t.Fatal(e)
			}
		}
		action(&ignore, &old)
		defer action(&old, nil)
	}
	d := g.Driver.(*Driver)
	b := m.New(t, "/bin/cat", "/proc/self/status")
	b2 := m.New(t, "/bin/sleep", "100")
	for _, x := range []*model.Bundle{b, b2} {
		sb, err := d.Sandbox(context.Background(), x)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := d.Release(context.Background(), x.ID); err != nil {
				t.Error(err)
			}
		})
		i, err := d.Start(context.Background(), x, sb)
		if err != nil {
			t.Fatal(err)
		}
		if x == b {
			_, _ = i.Wait(context.Background())
			log, _ := os.ReadFile(b.Log.Path)
			for _, want := range []string{`SigIgn:\t0000000000000000`, `SigBlk:\t0000000000000000`} {
				if !strings.Contains(string(log), want) {
					t.Errorf("the container's status lacks %s: %s", want, log)
				}
			}
			continue
		}
		for _, sig := range []unix.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGTERM, unix.SIGQUIT, unix.SIGUSR1, unix.SIGPIPE} {
			_ = unix.Kill(parentOf(t, i.Pid()), sig)
		}
		time.Sleep(50 * time.Millisecond)
		if i.Pid() == 0 {
			t.Error("a signal ended the monitor")
		}
	}
}

// Signals reach the program behind --init too, those that the monitor ignores
// included.
func TestInitSignals(t *testing.T) {
	g, m := target(t)
	for _, sig := range []unix.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGTERM, unix.SIGUSR1} {
		b := m.New(t, "/bin/sleep", "20")
		b.Init = true
		sb, err := g.Driver.Sandbox(context.Background(), b)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := g.Driver.Release(context.Background(), b.ID); err != nil {
				t.Error(err)
			}
		})
		i, err := g.Driver.Start(context.Background(), b, sb)
		if err != nil {
			t.Fatal(err)
		}
		if err := i.Signal(context.Background(), sig); err != nil {
			t.Fatal(err)
		}
		exit, err := i.Wait(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if exit.Code != 128+int(sig) {
			t.Errorf("%v: exit code %d, want %d", sig, exit.Code, 128+int(sig))
		}
	}
}

// A monitor holds nothing of the daemon's but what it was given.
func TestMonitorDescriptors(t *testing.T) {
	g, m := target(t)
	d := g.Driver.(*Driver)
	leak, err := unix.Open("/etc/passwd", unix.O_RDONLY, 0) // not close-on-exec
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(leak)
	b := m.New(t, "/bin/sleep", "100")
	sb, err := d.Sandbox(context.Background(), b)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := d.Release(context.Background(), b.ID); err != nil {
			t.Error(err)
		}
	}()
	i, err := d.Start(context.Background(), b, sb)
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range []int{parentOf(t, i.Pid()), i.Pid()} {
		fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range fds {
			to, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, f.Name()))
			t.Logf("%d: %s -> %s", pid, f.Name(), to)
			if to == "/etc/passwd" || pid == i.Pid() && len(f.Name()) > 1 || pid == i.Pid() && f.Name() > "2" {
				t.Errorf("process %d has descriptor %s: %s", pid, f.Name(), to)
			}
		}
	}
}

// Starts with spare monitors: the contract holds, ps shows the id, and a spare
// that died is not used.
func TestSpares(t *testing.T) {
	g, m := target(t)
	o := g.Driver.(*Driver).opts
	o.Spares = 1
	d, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for k := range 3 {
		spare := waitSpare(t, true)
		if k == 1 {
			killed(t, spare)
		}
		b := m.New(t, "/bin/sleep", "100")
		sb, err := d.Sandbox(context.Background(), b)
		if err != nil {
			t.Fatal(err)
		}
		i, err := d.Start(context.Background(), b, sb)
		if err != nil {
			t.Fatal(err)
		}
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", parentOf(t, i.Pid())))
		if !strings.Contains(string(line), string(b.ID)) {
			t.Errorf("ps shows %q", line)
		}
		if err := d.Release(context.Background(), b.ID); err != nil {
			t.Error(err)
		}
	}
	waitSpare(t, true)
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	waitSpare(t, false)
}

// killed kills a process and waits for its end, as the kernel tells it.
func killed(t *testing.T, pid int) {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if n, _ := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 1000); n > 0 {
			return
		}
	}
	t.Fatalf("process %d does not end", pid)
}

// waitSpare waits until this process has a spare monitor, or none.
func waitSpare(t *testing.T, want bool) int {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if pid := spareOf(os.Getpid()); (pid != 0) == want {
			return pid
		}
	}
	t.Fatalf("there is no spare monitor: %v", want)
	return 0
}

// spareOf is the spare monitor that pid started, 0 for none.
func spareOf(pid int) int {
	children, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, c := range children {
		b, _ := os.ReadFile(c)
		for _, f := range strings.Fields(string(b)) {
			line, _ := os.ReadFile("/proc/" + f + "/cmdline")
			if strings.HasPrefix(string(line), "wharf-monitor\x00spare") {
				n, _ := strconv.Atoi(f)
				return n
			}
		}
	}
	return 0
}
