package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// repaired asks the daemon to repair itself and wants it clean afterwards.
func (d *daemon) repaired() error {
	if r := d.wharf("system", "fsck", "--repair", "--format", "json"); r.Code != 0 {
		return fmt.Errorf("fsck --repair: %s", r)
	}
	return d.ask()
}

// recorded finds out how a container ended.
type recorded struct {
	Status, Error string
	ExitCode      int
}

func (s *scene) state(ref string) recorded {
	s.Helper()
	var r recorded
	if err := json.Unmarshal([]byte(s.inspect(ref, "{{json .State}}")), &r); err != nil {
		s.Fatal(err)
	}
	return r
}

// A power cut: the data root is copied while the daemon works, at a moment
// between two of its system calls, the end of the record torn off at random,
// and nothing of the machine survives. A daemon that starts on the copy is
// consistent and works.
func TestPowerCut(t *testing.T) {
	s := ownDaemon(t)
	s.ok("volume", "create", "kept")
	s.ok("create", "--name", "acknowledged", "-v", "kept:/kept", "busybox", "echo", "here")
	stop := make(chan struct{})
	var work sync.WaitGroup
	for i := range 3 {
		work.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				name := fmt.Sprintf("cut-%d-%d", i, n)
				s.docker("run", "--init", "-d", "--name", name, "-v", "/anon", "--restart", "unless-stopped", "busybox", "sleep", "1000")
				s.docker("network", "create", name)
				s.docker("rm", "-f", "-v", name)
				s.docker("network", "rm", name)
			}
		})
	}
	for cut := range 4 {
		time.Sleep(time.Duration(100+rand.IntN(400)) * time.Millisecond)
		s.afterPowerCut(cut)
	}
	close(stop)
	work.Wait()
	s.docker("volume", "rm", "kept")
}

// afterPowerCut copies the data root and starts a daemon on the copy.
func (s *scene) afterPowerCut(cut int) {
	s.Helper()
	d, err := newDaemon("cut")
	if err != nil {
		s.Fatal(err)
	}
	if err := d.ownNetwork(); err != nil {
		s.Fatal(err)
	}
	// Stopped, so that the copy is of one moment, as a disk would be.
	_ = s.d.cmd.Process.Signal(syscall.SIGSTOP)
	out, err := exec.Command("cp", "-a", "--sparse=always", s.d.data(), d.data()).CombinedOutput()
	_ = s.d.cmd.Process.Signal(syscall.SIGCONT)
	if err != nil && !strings.Contains(string(out), "No such file") { // a monitor's log may go while it is copied
		s.Fatalf("copy: %v\n%s", err, out)
	}
	if cut > 0 {
		s.tear(filepath.Join(d.data(), "record.log"), cut)
	}
	if err := d.start(); err != nil {
		s.Fatalf("after power cut %d: %v", cut, err)
	}
	// What restart policies want is started behind; then all is well without
	// a repair.
	well := func() error { return d.ask() }
	if cut == 3 { // a bad disk: somebody has to ask for the repair
		well = d.repaired
	}
	if err := eventually(15*time.Second, well); err != nil {
		s.Errorf("after power cut %d: %v\n%s", cut, err, d.log(3000))
	}
	if r := d.docker("start", "-a", "acknowledged"); cut < 3 && r.out() != "here" {
		s.Errorf("after power cut %d: %s", cut, r)
	}
	if r := d.docker("run", "--rm", "busybox", "echo", "alive"); r.out() != "alive" {
		s.Errorf("after power cut %d: %s", cut, r)
	}
	if ids := strings.Fields(d.docker("ps", "-aq").Stdout); len(ids) > 0 {
		if r := d.docker(append([]string{"rm", "-f", "-v"}, ids...)...); r.Code != 0 {
			s.Errorf("after power cut %d: %s", cut, r)
		}
	}
	if err := d.end(); err != nil {
		s.Error(err)
	}
}

// tear takes off or garbles the last bytes of a log: a write that the power
// cut came into. The last cut loses a lot more, also what was synced: a bad
// disk.
func (s *scene) tear(path string, cut int) {
	s.Helper()
	st, err := os.Stat(path)
	if err != nil {
		s.Fatal(err)
	}
	switch cut {
	case 1:
		err = os.Truncate(path, st.Size()-1-rand.Int64N(200))
	case 2:
		var f *os.File
		if f, err = os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0); err == nil {
			_, err = f.Write(make([]byte, 300)) // blocks that were allocated and never written
			f.Close()
		}
	default:
		err = os.Truncate(path, st.Size()/2)
	}
	if err != nil {
		s.Fatal(err)
	}
}

// A restart of the machine: no process is left, /run is empty. Containers with
// a restart policy come back in the order in which they need each other.
func TestMachineRestart(t *testing.T) {
	s := ownDaemon(t)
	label := func(service, depends string) []string {
		return []string{"--label", "com.docker.compose.project=p", "--label", "com.docker.compose.service=" + service, "--label", "com.docker.compose.depends_on=" + depends}
	}
	run := func(args ...string) {
		s.Helper()
		s.ok(append(append([]string{"run", "-d", "--init"}, args...), "busybox", "sleep", "1000")...)
	}
	run(append(label("web", "api:service_started:true"), "--name", "web", "--restart", "always")...)
	run(append(label("api", "db:service_started:false"), "--name", "api", "--restart", "unless-stopped")...)
	run(append(label("db", ""), "--name", "db", "--restart", "always")...)
	run("--name", "side", "--restart", "always", "--network", "container:db")
	run("--name", "user", "--restart", "always", "--volumes-from", "web")
	run("--name", "linked", "--restart", "always", "--link", "db:database")
	run("--name", "once")
	run("--name", "stopped", "--restart", "unless-stopped")
	s.ok("stop", "-t", "0", "stopped")
	s.cutPower()
	if err := s.d.start(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"web", "api", "db", "side", "user", "linked"} {
		s.until(name, "{{.State.Running}}", "true")
	}
	started := map[string]time.Time{}
	for _, name := range []string{"web", "api", "db", "side", "user", "linked"} {
		at, err := time.Parse(time.RFC3339Nano, s.inspect(name, "{{.State.StartedAt}}"))
		if err != nil {
			t.Fatal(err)
		}
		started[name] = at
	}
	for _, o := range [][2]string{{"db", "api"}, {"api", "web"}, {"db", "side"}, {"web", "user"}, {"db", "linked"}} {
		if !started[o[0]].Before(started[o[1]]) {
			t.Errorf("%s started at %s, before %s at %s", o[1], started[o[1]], o[0], started[o[0]])
		}
	}
	if st := s.state("once"); st.Status != "exited" || st.ExitCode != 255 || !strings.Contains(st.Error, "gone when the daemon started") {
		t.Errorf("a container without a policy: %+v", st)
	}
	s.equal("stopped by a person", s.state("stopped").Status, "exited")
}

// cutPower ends every process of the daemon and empties its exec root.
func (s *scene) cutPower() {
	s.Helper()
	if err := s.d.kill(); err != nil {
		s.Fatal(err)
	}
	own := s.d.execDir() + "/"
	for range 3 { // monitors first, or they would record exits
		for pid := range processes() {
			if cwd, _ := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid)); strings.HasPrefix(cwd, own) {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		for _, g := range groups(s.d.parent) {
			b, _ := os.ReadFile(filepath.Join(g, "cgroup.procs"))
			for _, f := range strings.Fields(string(b)) {
				var pid int
				if _, err := fmt.Sscan(f, &pid); err == nil && pid > 1 {
					_ = syscall.Kill(pid, syscall.SIGKILL)
				}
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	removeGroups(s.d.parent)
	if err := os.RemoveAll(s.d.execDir()); err != nil {
		s.Fatal(err)
	}
}

// A monitor that is killed takes its container along; the record says why, and
// the restart policy acts as after any bad end.
func TestMonitorKilledIsRecorded(t *testing.T) {
	s := ownDaemon(t)
	s.ok("run", "-d", "--init", "--name", "plain", "busybox", "sleep", "1000")
	s.ok("run", "-d", "--init", "--name", "again", "--restart", "always", "busybox", "sleep", "1000")
	pid := s.inspect("again", "{{.State.Pid}}")
	s.killMonitor("plain")
	s.killMonitor("again")
	s.until("plain", "{{.State.Status}}", "exited")
	if st := s.state("plain"); st.ExitCode != 137 || !strings.Contains(st.Error, "monitor process was killed") {
		t.Errorf("%+v", st)
	}
	s.until("again", "{{.RestartCount}}", "1")
	s.until("again", "{{.State.Running}}", "true")
	if s.inspect("again", "{{.State.Pid}}") == pid {
		t.Error("it has the same process")
	}
	// The same without a daemon: the next one finds out.
	s.ok("start", "plain")
	if err := s.d.kill(); err != nil {
		t.Fatal(err)
	}
	s.killMonitorOf(filepath.Base(s.instance("plain")))
	if err := s.d.start(); err != nil {
		t.Fatal(err)
	}
	s.until("plain", "{{.State.Status}}", "exited")
	if st := s.state("plain"); st.ExitCode != 137 || !strings.Contains(st.Error, "monitor process was killed") {
		t.Errorf("without a daemon: %+v", st)
	}
}

// TestGarbledImages: the disk garbles the image store's databases. The daemon
// starts, what runs runs on, images are there under their names, and what was
// stopped starts with what it wrote.
func TestGarbledImages(t *testing.T) {
	s := ownDaemon(t)
	s.ok("run", "-d", "--init", "--name", "runs", "busybox", "sleep", "1000")
	s.ok("run", "--name", "ended", "busybox", "sh", "-c", "echo kept > /wrote")
	if err := eventually(2*time.Second, func() error {
		if b, _ := os.ReadFile(filepath.Join(s.d.data(), "image", "names.json")); !bytes.Contains(b, []byte("busybox")) {
			return fmt.Errorf("the copy of the names is %q", b)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"meta.db", "layers/metadata.db"} {
		if err := s.d.kill(); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(s.d.data(), "image", name)
		f, err := os.OpenFile(file, os.O_WRONLY, 0)
		if err == nil {
			_, err = f.WriteAt(bytes.Repeat([]byte("garbled "), 16<<10), 0)
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := s.d.start(); err != nil {
			t.Fatal(err)
		}
		s.equal("what ran", s.state("runs").Status, "running")
		s.equal("exec in it", s.ok("exec", "runs", "echo", "yes"), "yes")
		s.ok("start", "-a", "ended")
		s.ok("cp", "ended:/wrote", filepath.Join(s.TempDir(), "wrote"))
		s.equal("a new one", s.ok("run", "--rm", "busybox", "echo", "new"), "new")
	}
	s.ok("rm", "-f", "runs")
	if r := s.wharf("system", "fsck", "--repair"); r.Code != 0 || !strings.Contains(r.String(), "damaged-") {
		t.Errorf("fsck --repair: %s", r)
	}
}

// instance is the one instance directory whose bundle names the container.
func (s *scene) instance(name string) string {
	dirs, _ := filepath.Glob(filepath.Join(s.d.execDir(), "instances", "*"))
	for _, dir := range dirs {
		if b, _ := os.ReadFile(filepath.Join(dir, "bundle.json")); strings.Contains(string(b), `"`+name+`"`) || strings.Contains(string(b), "/"+name) {
			return dir
		}
	}
	s.Fatalf("no instance of %s in %v", name, dirs)
	return ""
}

func (s *scene) killMonitor(ref string) {
	s.Helper()
	s.killMonitorOf(s.inspect(ref, "{{.Id}}"))
}

// killMonitorOf kills the process that works in the instance's directory.
func (s *scene) killMonitorOf(id string) {
	s.Helper()
	dir := filepath.Join(s.d.execDir(), "instances", id)
	for pid := range processes() {
		if cwd, _ := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid)); cwd == dir {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				s.Fatal(err)
			}
			return
		}
	}
	s.Fatalf("no monitor of %s", id)
}

// fullDaemon has its data root on a tmpfs of so many bytes.
func fullDaemon(t *testing.T, size string) *scene {
	t.Helper()
	if notHere != "" {
		t.Skip(notHere)
	}
	skipOnMachines(t)
	t.Parallel()
	d, err := newDaemon("full")
	if err != nil {
		t.Fatal(err)
	}
	if err := d.ownNetwork(); err != nil {
		t.Fatal(err)
	}
	return onTmpfs(t, d, size)
}

// onTmpfs starts d with its data root on a tmpfs of so many bytes, and loads
// busybox.
func onTmpfs(t *testing.T, d *daemon, size string) *scene {
	t.Helper()
	if err := os.MkdirAll(d.data(), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", d.data(), "tmpfs", 0, "mode=0700,size="+size); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := d.endKeeping(func() { _ = unix.Unmount(d.data(), unix.MNT_DETACH) })
		if err != nil {
			t.Error(err)
		}
	})
	if err := d.start(); err != nil {
		t.Fatal(err)
	}
	if err := d.load("busybox"); err != nil {
		t.Fatal(err)
	}
	return sceneOn(t, d)
}

// fill writes until the disk is full and returns what takes it away again.
func (s *scene) fill() func() {
	s.Helper()
	name := filepath.Join(s.d.data(), "filler")
	f, err := os.Create(name)
	if err != nil {
		s.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, 64<<10); len(block) > 0; {
		if _, err := f.Write(block); err != nil {
			block = block[:len(block)/2] // down to the last byte
		}
	}
	return func() { _ = os.Remove(name) }
}

// A full disk gives errors, not damage: containers run on, what ends is known,
// the log says what it lacks, and all goes on when there is room again.
func TestFullDisk(t *testing.T) {
	s := fullDaemon(t, "24m")
	s.ok("run", "-d", "--init", "--name", "talks", "busybox", "sh", "-c", "n=0; while :; do echo $(printf %01000d 0); n=$((n+1)); echo $n >/dev/shm/n; sleep 0.02; done")
	s.ok("run", "-d", "--name", "ends", "busybox", "sh", "-c", "while [ ! -e /go ]; do sleep 0.05; done; exit 7")
	empty := s.fill()
	if r := s.docker("create", "--name", "none", "busybox", "true"); r.Code == 0 {
		t.Error("a container was created on a full disk")
	} else {
		s.contains("error", r.Stderr, "no space left on device")
	}
	s.ok("exec", "talks", "true")
	lines := func() int {
		n, _ := strconv.Atoi(s.docker("exec", "talks", "cat", "/dev/shm/n").out())
		return n
	}
	before := lines()
	if err := eventually(time.Second, func() error {
		if n := lines() - before; n < 50 { // then the log has its gap
			return fmt.Errorf("%d lines on the full disk", n)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	s.ok("kill", "ends")
	s.until("ends", "{{.State.Status}}", "exited")
	s.equal("exit code", s.inspect("ends", "{{.State.ExitCode}}"), "137")
	s.equal("talks", s.inspect("talks", "{{.State.Running}}"), "true")

	// A daemon starts on the full disk, and again when there is room.
	if err := s.d.kill(); err != nil {
		t.Fatal(err)
	}
	if err := s.d.start(); err != nil {
		t.Fatal(err)
	}
	s.until("ends", "{{.State.Status}}", "exited")
	s.ok("rm", "-f", "ends") // the remedy works on a full disk
	empty()
	err := eventually(5*time.Second, func() error {
		if r := s.docker("logs", "--tail", "2000", "talks"); !strings.Contains(r.Stderr, "of output were lost") {
			return fmt.Errorf("the log does not tell of its gap: %q", cut(r.Stderr))
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	s.equal("after", s.ok("run", "--rm", "busybox", "echo", "room"), "room")
	if err := s.d.ask(); err != nil {
		t.Error(err)
	}
}
