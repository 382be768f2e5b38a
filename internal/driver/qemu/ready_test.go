package qemu

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"wharf/internal/driver/held"
	"wharf/internal/image/erofs"
	"wharf/internal/model"
)

// fakeIDs gives out ranges and knows who has one.
type fakeIDs struct {
	mu   sync.Mutex
	held map[model.ID]model.IDRange
	n    uint32
}

func (f *fakeIDs) TakeIDs(holder model.ID) (model.IDRange, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.n++
	r := model.IDRange{Host: 800_000_000 + f.n*65536, Size: 65536}
	f.held[holder] = r
	return r, nil
}

func (f *fakeIDs) HoldIDs(holder model.ID, r model.IDRange) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.held[holder] = r
}

func (f *fakeIDs) FreeIDs(holder model.ID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.held, holder)
}

func (f *fakeIDs) of(holder model.ID) model.IDRange {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.held[holder]
}

// count is how many machines wait.
func (s *standbys) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.all)
}

// eventually waits for what takes a machine's time.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(4 * time.Minute); !f(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(what)
		}
	}
}

// A start takes the machine that waits: it runs as it would in another, with ids
// that QEMU has for itself, and nothing of the rehearsal is seen. A machine that
// waits costs no processor time, and what ends it costs nobody anything.
func TestReady(t *testing.T) {
	g, bundle := target(t)
	d := g.Driver.(*Driver)
	ids := &fakeIDs{held: map[model.ID]model.IDRange{}}
	d.SetReady(Ready{Most: 1, IDs: ids, Disks: func(ctx context.Context, tree string, root, writable *os.File) error {
		at := filepath.Join(t.TempDir(), "disk")
		emptyDisk(t, at)
		if out, err := exec.Command("cp", "--sparse=always", at, "/proc/"+strconv.Itoa(os.Getpid())+"/fd/"+strconv.Itoa(int(writable.Fd()))).CombinedOutput(); err != nil {
			t.Errorf("%v %s", err, out)
		}
		return erofs.Write(ctx, root, tree)
	}})
	closed := false
	shut := func() {
		if closed {
			return
		}
		closed = true
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(shut)
	s := &d.m.standbys
	const look = "hostname; cat /proc/sys/kernel/random/boot_id; cat /sys/fs/cgroup/memory.events 2>/dev/null; ls -A / /etc; cat /proc/net/dev; echo written > /file; cat /file"
	cold := toEnd(t, d, bundle(t, "/bin/sh", "-c", look))
	eventually(t, "no machine is ready", func() bool { return s.count() == 1 })

	pid := s.qemu(t)
	eventually(t, "QEMU of a machine that waits takes more than 3 ticks of the processor in each second", func() bool {
		before := cpuTicks(t, pid)
		time.Sleep(time.Second)
		return cpuTicks(t, pid)-before <= 3
	})

	b := bundle(t, "/bin/sh", "-c", look)
	text, i := d.taken(t, b)
	if want, got := shape(cold), shape(text); want != got {
		t.Errorf("inside a machine that was ready:\n%s", cmp.Diff(want, got))
	}
	if !strings.Contains(text, b.ID.Short()) || strings.Contains(text, "rehearsal") {
		t.Errorf("log %q", text)
	}
	if r := ids.of(machineIDs(b.ID)); !r.Mapped() {
		t.Error("the range of ids of QEMU is nobody's")
	}
	ids.FreeIDs(machineIDs(b.ID))
	d.holdIDs(i) // as the next daemon does
	if r := ids.of(machineIDs(b.ID)); !r.Mapped() {
		t.Error("the range of ids is not found again")
	}
	if err := d.Release(context.Background(), b.ID); err != nil {
		t.Error(err)
	}
	if r := ids.of(machineIDs(b.ID)); r.Mapped() {
		t.Errorf("the range %v is still held", r)
	}

	eventually(t, "no second machine is ready", func() bool { return s.count() == 1 })
	_ = unix.Kill(s.qemu(t), unix.SIGKILL)
	eventually(t, "a machine that was killed is still thought to wait", func() bool { return s.count() == 0 })
	toEnd(t, d, bundle(t, "/bin/true"))
	eventually(t, "no third machine is ready", func() bool { return s.count() == 1 })
	shut()
	if left := held.ListCgroups(parent); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if len(ids.held) > 0 {
		t.Errorf("ranges are still held: %v", ids.held)
	}
}

// taken runs b to its end in the machine that waits, and leaves it to be released.
func (d *Driver) taken(t *testing.T, b *model.Bundle) (log string, _ *held.Instance) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	sb, err := d.Sandbox(ctx, b)
	if err != nil {
		t.Fatal(err)
	}
	x, err := d.Start(ctx, b, sb)
	if err != nil {
		t.Fatal(err)
	}
	i := x.(*instance).Instance
	took := false
	for name := range i.Steps {
		took = took || name == "machine goes on"
	}
	if !took {
		t.Errorf("it was another machine: %v", i.Trace())
	}
	if e, err := x.Wait(ctx); err != nil || e.Code != 0 {
		t.Errorf("exit %+v %v", e, err)
	}
	text, err := os.ReadFile(b.Log.Path)
	if err != nil {
		t.Error(err)
	}
	return string(text), i
}

// shape is a log without times and what no two machines have in common.
func shape(log string) string {
	var out []string
	for line := range strings.Lines(log) {
		line, _, _ = strings.Cut(line, `","stream"`)
		if strings.Count(line, "-") == 4 || len(out) == 0 { // the boot's id, the host name
			line = "*"
		}
		out = append(out, strings.TrimSpace(line))
	}
	return strings.Join(out, "\n")
}

// qemu is the process of the machine that waits.
func (s *standbys) qemu(t *testing.T) int {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	pids, err := s.m.readyGroup(string(s.all[0].holder)).Pids()
	if err != nil || len(pids) != 1 {
		t.Fatalf("processes %v %v", pids, err)
	}
	return pids[0]
}

// cpuTicks is the processor time of a process (proc_pid_stat(5)).
func cpuTicks(t *testing.T, pid int) int {
	t.Helper()
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+2:]))
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return user + system
}

// As many are kept as is said, of the template that was used last.
func TestReadyNext(t *testing.T) {
	for name, c := range map[string]struct {
		have []string
		most int
		off  bool
		want string // key to make
		out  string // which has to go
	}{
		"none yet":            {nil, 1, false, "a", ""},
		"enough":              {[]string{"a"}, 1, false, "", ""},
		"one more":            {[]string{"a"}, 2, false, "a", ""},
		"another template's":  {[]string{"b"}, 1, false, "a", "b"},
		"the oldest goes":     {[]string{"b", "c"}, 2, false, "a", "b"},
		"one is there of two": {[]string{"b", "a"}, 2, false, "", ""},
		"switched off":        {nil, 1, true, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := &standbys{o: Ready{Most: c.most}, off: c.off, making: true, last: &want{key: "a"}}
			for _, k := range c.have {
				s.all = append(s.all, &standby{key: k})
			}
			w, out, _, done := s.next()
			if done != nil {
				defer done()
			}
			key, gone := "", ""
			if w != nil {
				key = w.key
			}
			if out != nil {
				gone = out.key
			}
			if key != c.want || gone != c.out || s.making != (c.want != "") {
				t.Errorf("make %q, end %q, making %v", key, gone, s.making)
			}
		})
	}
}

// Nothing that costs time is done for a start as long as none waits.
func TestReadyNone(t *testing.T) {
	s := &standbys{taken: map[model.ID]*taken{}}
	b := helperBundle("x", model.Rootfs{}, model.IDRange{})
	b.Spec.Process.Args = []string{"sh"}
	if got := s.take(context.Background(), b); got != nil { // s.m is nil: a look would panic
		t.Errorf("%+v", got)
	}
	s.want("k", nil)
	if s.making {
		t.Error("a template that has gone is wanted")
	}
}

// What fails each time is not tried for ever.
func TestReadyFails(t *testing.T) {
	s := &standbys{m: &machines{}, making: true}
	for range mostFailed {
		if s.want("k", &hardware{}); s.last == nil {
			t.Fatal("given up too early")
		}
		s.last = nil
		s.fails("k")
	}
	if s.want("k", &hardware{}); s.last != nil {
		t.Error("it is tried for ever")
	}
	if s.want("other", &hardware{}); s.last == nil {
		t.Error("another template's is not tried")
	}
	s.idle.Stop()
}

// The rehearsal's program is one.
func TestRehearsalProgram(t *testing.T) {
	at := filepath.Join(t.TempDir(), "rehearsal")
	if err := os.WriteFile(at, rehearsalProgram(), 0o755); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(at).CombinedOutput()
	if err != nil || string(out) != "ready\n" {
		t.Errorf("%q %v", out, err)
	}
}
