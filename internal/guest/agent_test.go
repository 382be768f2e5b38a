package guest

import (
	"archive/tar"
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"wharf/api/guestapi"
	"wharf/internal/driver/drivertest"
	"wharf/internal/model"
	"wharf/internal/runtime"
	"wharf/internal/runtime/cgroup"
)

// The tests run the agent in a plain process with namespaces of its own, so
// that it may mount and be process 1 as in a machine.
const insideEnv = "WHARF_GUEST_TEST_INSIDE"

func TestMain(m *testing.M) {
	runtime.Main()
	if os.Getuid() != 0 {
		fmt.Println("tests of the agent need root: run as root (go test in a root shell)")
		os.Exit(0)
	}
	if os.Getenv(insideEnv) == "" {
		os.Exit(enter())
	}
	if err := settle(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// enter runs this test again in new namespaces.
func enter() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS, Unshareflags: unix.CLONE_NEWNS,
	}
	err := cmd.Run()
	var x *exec.ExitError
	if errors.As(err, &x) {
		return x.ExitCode()
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

func settle() error {
	return errors.Join(
		unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""),
		unix.Mount("proc", "/proc", "proc", 0, ""),
		unix.Mount("tmpfs", "/run", "tmpfs", 0, ""),
		unix.Mount("/etc/passwd", "/etc/machine-id", "", unix.MS_BIND, ""), // a write must not reach the host's
		unix.Mount("", "/etc/machine-id", "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""),
		loopbackUp(),
	)
}

// plain is a machine that is none.
type plain struct {
	late    int
	time    int64
	entropy int
	off     chan struct{}
	once    sync.Once
}

func (m *plain) lateModules() error { m.late++; return nil }
func (m *plain) disk(serial string) (string, error) {
	return "", failed(guestapi.KindNotFound, "no disk %s", serial)
}
func (m *plain) powerOff()                 { m.once.Do(func() { close(m.off) }) }
func (m *plain) setTime(ns int64) error    { m.time = ns; return nil }
func (m *plain) addEntropy(p []byte) error { m.entropy = len(p); return nil }

// place is an agent in this process, and its host.
type place struct {
	host
	m     *plain
	a     *Agent
	conn  net.Conn // the host's end
	layer string
}

func newPlace(t *testing.T) *place {
	t.Helper()
	m := &plain{off: make(chan struct{})}
	p := &place{m: m}
	p.t, p.layout = t, testCgroup(t)
	p.a = newAgent("test", m, p.layout)
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	theirs := fileConn(t, fds[1])
	p.conn = &detached{fileConn(t, fds[0])}
	done := make(chan struct{})
	go func() { defer close(done); _ = p.a.channel(&port{dev: theirs}) }()
	t.Cleanup(func() {
		_ = p.conn.(*detached).Conn.Close()
		_ = theirs.Close()
		<-done
		for unix.Unmount(guestapi.RootDir, 0) == nil {
		}
		_ = unix.Unmount(guestapi.LayersDir+"/0", unix.MNT_DETACH)
		_ = unix.Unmount(guestapi.WritableAt, unix.MNT_DETACH)
		_ = os.RemoveAll(guestapi.RunDir)
	})
	p.greet(p.conn)
	return p
}

func fileConn(t *testing.T, fd int) *net.UnixConn {
	t.Helper()
	f := os.NewFile(uintptr(fd), "socket")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	return c.(*net.UnixConn)
}

// testCgroup is a cgroup v2 tree of its own: without controllers where the
// host keeps them in v1, but it can be frozen.
func testCgroup(t *testing.T) cgroup.Layout {
	t.Helper()
	l := cgroup.Detect()
	if l.V2 == "" {
		return cgroup.Layout{}
	}
	dir := filepath.Join(l.V2, fmt.Sprintf("wharf-guest-test-%d", time.Now().UnixNano()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Logf("no cgroup: %v", err)
		return cgroup.Layout{}
	}
	t.Cleanup(func() {
		_ = cgroup.New(cgroup.Layout{V2: dir}, guestapi.CgroupPath).Remove()
		for _, d := range []string{filepath.Join(dir, "wharf"), dir} {
			if err := os.Remove(d); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%v", err)
			}
		}
	})
	return cgroup.Layout{V2: dir, V2Controllers: map[string]bool{}}
}

// boot tells the agent what it is: an instance of drivertest's layer.
func (p *place) boot() *place {
	p.t.Helper()
	p.layer = drivertest.Layer(p.t)
	for name, text := range map[string]string{"etc/gone": "x", "etc/kept": "x", "old/sub/file": "x", "old/other": "y"} {
		f := filepath.Join(p.layer, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(f), 0o755), os.WriteFile(f, []byte(text), 0o644)); err != nil {
			p.t.Fatal(err)
		}
	}
	at := guestapi.LayersDir + "/0"
	if err := errors.Join(os.MkdirAll(at, 0o755), unix.Mount(p.layer, at, "", unix.MS_BIND, "")); err != nil {
		p.t.Fatal(err)
	}
	f := fresh()
	f.MachineID = "" // the host's file
	p.ask(guestapi.Request{Op: guestapi.OpBoot, Boot: &guestapi.Boot{ID: "x", Fresh: f,
		Mounts: []guestapi.Mount{{Type: "tmpfs", Target: guestapi.WritableAt, Options: []string{"nodev", "size=16m"}, Dirs: []string{"upper", "work"}}},
		Files:  []guestapi.File{{Path: guestapi.EtcDir + "/hosts", Data: []byte("127.0.0.1 localhost\n")}},
	}})
	return p
}

func (p *place) run(args ...string) (*model.Bundle, net.Conn, *guestapi.Reader) {
	p.t.Helper()
	b := p.bundle(p.layer, args...)
	b.OpenStdin = true
	_, s, r, err := p.start(b)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = s.Close() })
	return b, s, r
}

func TestBootOnce(t *testing.T) {
	p := newPlace(t).boot()
	if p.m.late != 1 || p.m.time == 0 || p.m.entropy != 64 {
		t.Errorf("machine %+v", p.m)
	}
	var u unix.Utsname
	_ = unix.Uname(&u)
	if got := unix.ByteSliceToString(u.Nodename[:]); got != "box" {
		t.Errorf("host name %q", got)
	}
	_, _, _, err := p.try(guestapi.Request{Op: guestapi.OpBoot, Boot: &guestapi.Boot{ID: "y"}})
	wantKind(t, err, guestapi.KindConflict)
}

func wantKind(t *testing.T, err error, kind string) {
	t.Helper()
	var f *guestapi.Failed
	if !errors.As(err, &f) || f.Kind != kind {
		t.Errorf("error %v, want one of kind %s", err, kind)
	}
}

// What needs a boot is refused before, what is not known always.
func TestRefusals(t *testing.T) {
	p := newPlace(t)
	for op := range handlers {
		if beforeBoot[op] {
			continue
		}
		_, _, _, err := p.try(guestapi.Request{Op: op})
		wantKind(t, err, guestapi.KindUnavailable)
	}
	_, _, _, err := p.try(guestapi.Request{Op: "dance"})
	wantKind(t, err, guestapi.KindUnimplemented)
	p.boot()
	for _, q := range []guestapi.Request{
		{Op: guestapi.OpStart}, {Op: guestapi.OpExec}, {Op: guestapi.OpSignal}, {Op: guestapi.OpResize}, {Op: guestapi.OpUpdate},
		{Op: guestapi.OpLink}, {Op: guestapi.OpUnlink}, {Op: guestapi.OpMount}, {Op: guestapi.OpUnmount, Path: "/etc"},
		{Op: guestapi.OpFile, File: &guestapi.File{Path: "/etc/passwd"}}, {Op: guestapi.OpFile, File: &guestapi.File{Path: guestapi.RunDir + "/../../etc/x"}},
		{Op: guestapi.OpMount, Mount: &guestapi.Mount{Type: "nfs", Tag: "x", Target: guestapi.RunDir + "/x"}},
		{Op: guestapi.OpMount, Mount: &guestapi.Mount{Type: "tmpfs", Target: "/etc"}},
		{Op: guestapi.OpLink, Interface: &guestapi.Interface{MAC: "nonsense"}}, {Op: guestapi.OpPut}, {Op: guestapi.OpFreshen},
	} {
		_, _, _, err := p.try(q)
		wantKind(t, err, guestapi.KindInvalid)
	}
	_, _, _, err = p.try(guestapi.Request{Op: guestapi.OpSignal, Signal: 9})
	wantKind(t, err, guestapi.KindNotFound)
	_, _, _, err = p.try(guestapi.Request{Op: guestapi.OpMount, Mount: &guestapi.Mount{Type: "ext4", Disk: "no", Target: guestapi.VolumesDir + "/0"}})
	wantKind(t, err, guestapi.KindNotFound)
}

func TestMainProcess(t *testing.T) {
	p := newPlace(t).boot()
	b, s, r := p.run("sh", "-c", "echo up; echo no >&2; read x; echo got $x; exit 7")
	if _, _, _, err := p.start(b); err == nil {
		t.Error("two main processes")
	}
	state, _, _ := p.ask(guestapi.Request{Op: guestapi.OpState})
	if state.State.Pid == 0 || state.State.ID != "x" || state.State.Exit != nil {
		t.Errorf("state %+v", state.State)
	}
	out, _, e := p.exec(b, "sh", "-c", "cat /etc/hosts; hostname; ps | head -n 3; exit 3")
	if e.Code != 3 || !strings.Contains(out, "127.0.0.1 localhost") || !strings.Contains(out, "read x") {
		t.Errorf("exec: %q, %+v", out, e)
	}
	if err := guestapi.Write(s, guestapi.Stdin, []byte("word\n")); err != nil {
		t.Fatal(err)
	}
	out, errs, e := p.output(s, r)
	if out != "up\ngot word\n" || errs != "no\n" || e.Code != 7 || e.OOMKilled {
		t.Errorf("output %q %q, exit %+v", out, errs, e)
	}
	state, _, _ = p.ask(guestapi.Request{Op: guestapi.OpState})
	if state.State.Pid != 0 || state.State.Exit == nil || state.State.Exit.Code != 7 {
		t.Errorf("state %+v", state.State)
	}
	_, _, _, err := p.try(p.execRequest(b, false, "true"))
	wantKind(t, err, guestapi.KindNotFound)
}

// What the image or the request is to blame for comes with a shell's code.
func TestStartErrors(t *testing.T) {
	p := newPlace(t).boot()
	for args, code := range map[string]int{"nothing-here": 127, "/etc/passwd": 126} {
		_, _, _, err := p.start(p.bundle(p.layer, args))
		var f *guestapi.Failed
		if !errors.As(err, &f) || f.Code != code {
			t.Errorf("%s: %v", args, err)
		}
	}
	b, _, _ := p.run("sleep", "60") // the machine can still be used
	_, _, _, err := p.try(p.execRequest(b, false, "nothing-here"))
	var f *guestapi.Failed
	if !errors.As(err, &f) || f.Code != 127 {
		t.Errorf("exec: %v", err)
	}
}

func TestSignals(t *testing.T) {
	p := newPlace(t).boot()
	b, s, r := p.run("sh", "-c", "trap 'echo term; exit 4' TERM; echo on; while :; do sleep 0.05; done")
	q := p.execRequest(b, false, "sleep", "60")
	_, xs, xr := p.ask(q)
	p.ask(guestapi.Request{Op: guestapi.OpSignal, Target: q.Process.ID, Signal: 9})
	if _, _, e := p.output(xs, xr); e.Code != 137 || e.Signal != 9 {
		t.Errorf("exec: %+v", e)
	}
	_, _, _, err := p.try(guestapi.Request{Op: guestapi.OpSignal, Target: q.Process.ID, Signal: 9})
	wantKind(t, err, guestapi.KindNotFound)
	if typ, _, err := r.Next(); err != nil || typ != guestapi.Stdout { // the trap is set
		t.Fatalf("%d %v", typ, err)
	}
	if err := guestapi.WriteJSON(s, guestapi.Signal, guestapi.SignalNumber(15)); err != nil {
		t.Fatal(err)
	}
	if out, _, e := p.output(s, r); e.Code != 4 || out != "term\n" {
		t.Errorf("%q %+v", out, e)
	}
}

func TestTerminal(t *testing.T) {
	p := newPlace(t).boot()
	b, _, _ := p.run("sleep", "60")
	q := p.execRequest(b, true, "sh", "-c", "read x; stty size; test -t 0 && test -t 2 && echo tty $x >&2")
	_, s, r := p.ask(q)
	p.ask(guestapi.Request{Op: guestapi.OpResize, Target: q.Process.ID, Size: &guestapi.WinSize{Height: 33, Width: 77}})
	if err := guestapi.Write(s, guestapi.Stdin, []byte("in\n")); err != nil {
		t.Fatal(err)
	}
	if out, errs, e := p.output(s, r); e.Code != 0 || errs != "" || !strings.Contains(out, "33 77") || !strings.Contains(out, "tty in") {
		t.Errorf("%q %q %+v", out, errs, e)
	}
}

// A megabyte comes whole though the host reads slowly, and the exit after it.
func TestSlowHost(t *testing.T) {
	p := newPlace(t).boot()
	b, _, _ := p.run("sleep", "60")
	_, s, r := p.ask(p.execRequest(b, false, "sh", "-c", "head -c 3000000 /dev/zero; exit 9"))
	time.Sleep(300 * time.Millisecond)
	if out, _, e := p.output(s, r); len(out) != 3000000 || e.Code != 9 {
		t.Errorf("%d bytes, %+v", len(out), e)
	}
}

// What ends with a closed stdin, and a descendant that keeps stdout open.
func TestEnds(t *testing.T) {
	p := newPlace(t).boot()
	b, _, _ := p.run("sleep", "60")
	_, s, r := p.ask(p.execRequest(b, false, "cat"))
	if err := errors.Join(guestapi.Write(s, guestapi.Stdin, []byte("abc")), guestapi.Write(s, guestapi.CloseStdin, nil)); err != nil {
		t.Fatal(err)
	}
	if out, _, e := p.output(s, r); out != "abc" || e.Code != 0 {
		t.Errorf("%q %+v", out, e)
	}
	began := time.Now()
	_, s, r = p.ask(p.execRequest(b, false, "sh", "-c", "sleep 30 & echo out; exit 2"))
	if out, _, e := p.output(s, r); out != "out\n" || e.Code != 2 {
		t.Errorf("%q %+v", out, e)
	}
	if d := time.Since(began); d > 20*time.Second {
		t.Errorf("waited %v for a descendant", d)
	}
}

func TestPauseAndTop(t *testing.T) {
	p := newPlace(t)
	if p.layout.V2 == "" {
		t.Skip("this machine has no cgroup v2")
	}
	p.boot()
	b, _, _ := p.run("sh", "-c", "while :; do echo x >>/tmp/ticks; sleep 0.02; done")
	ticks := func() int64 {
		st, err := os.Stat(guestapi.UpperDir + "/tmp/ticks")
		if err != nil {
			return 0
		}
		return st.Size()
	}
	for end := time.Now().Add(10 * time.Second); ticks() == 0 && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	p.ask(guestapi.Request{Op: guestapi.OpPause})
	before := ticks()
	time.Sleep(200 * time.Millisecond)
	if state, _, _ := p.ask(guestapi.Request{Op: guestapi.OpState}); !state.State.Paused || ticks() != before {
		t.Errorf("not paused: %+v, %d more ticks", state.State, ticks()-before)
	}
	p.ask(guestapi.Request{Op: guestapi.OpResume})
	p.exec(b, "sleep", "0.3")
	if ticks() == before {
		t.Error("not resumed")
	}
	top, _, _ := p.ask(guestapi.Request{Op: guestapi.OpTop})
	if len(top.Top.Pids) == 0 || len(top.Top.Files["uptime"]) == 0 {
		t.Fatalf("top %+v", top.Top)
	}
	if pid := fmt.Sprint(top.Top.Pids[0]); !bytes.Contains(top.Top.Files[pid+"/cmdline"], []byte("ticks")) || len(top.Top.Files[pid+"/status"]) == 0 {
		t.Errorf("files %q", top.Top.Files)
	}
	if stats, _, _ := p.ask(guestapi.Request{Op: guestapi.OpStats}); !bytes.Contains(stats.Stats.Docker, []byte(`"total_usage"`)) {
		t.Errorf("stats %s", stats.Stats.Docker)
	}
}

// TestFiles: copies both ways, changes and the layer, while the process lives
// and after its end.
func TestFiles(t *testing.T) {
	p := newPlace(t).boot()
	_, s, r := p.run("sh", "-c", "rm /etc/gone; echo new >/etc/new; rm -r /old; mkdir /old; echo b >/old/back; ln /etc/new /etc/hard; echo done; read x")
	if typ, _, err := r.Next(); err != nil || typ != guestapi.Stdout {
		t.Fatalf("%d %v", typ, err)
	}
	p.copies("running")
	if err := guestapi.Write(s, guestapi.CloseStdin, nil); err != nil {
		t.Fatal(err)
	}
	p.output(s, r)
	p.copies("ended")
}

func (p *place) copies(when string) {
	p.t.Helper()
	var in bytes.Buffer
	w := tar.NewWriter(&in)
	_ = w.WriteHeader(&tar.Header{Name: "put-" + when, Typeflag: tar.TypeReg, Mode: 0o640, Size: 4, Uid: 1000, Gid: 1000})
	_, _ = w.Write([]byte("text"))
	_ = w.Close()
	_, s, r := p.ask(guestapi.Request{Op: guestapi.OpPut, Path: "/tmp", Put: &guestapi.Put{}})
	for _, part := range [][]byte{in.Bytes()[:100], in.Bytes()[100:], nil} {
		if err := guestapi.Write(s, guestapi.Data, part); err != nil {
			p.t.Fatal(err)
		}
	}
	if err := r.Expect(guestapi.ReplyFrame, new(guestapi.Reply)); err != nil {
		p.t.Fatalf("%s: put: %v", when, err)
	}
	stat, _, _ := p.ask(guestapi.Request{Op: guestapi.OpStat, Path: "/tmp/put-" + when})
	if !strings.Contains(string(stat.Stat), `"size":4`) {
		p.t.Errorf("%s: stat %s", when, stat.Stat)
	}
	_, _, r = p.ask(guestapi.Request{Op: guestapi.OpGet, Path: "/etc/new"})
	p.wantTar(p.data(r), map[string]string{"new": "new\n"}, nil)
	_, _, r = p.ask(guestapi.Request{Op: guestapi.OpExport})
	p.wantTar(p.data(r), map[string]string{"etc/kept": "x", "etc/new": "new\n", "old/back": "b\n", "tmp/put-" + when: "text"}, []string{"etc/gone", "old/other"})
	_, _, r = p.ask(guestapi.Request{Op: guestapi.OpUpper})
	p.wantTar(p.data(r), map[string]string{"etc/new": "new\n", "old/back": "b\n", "etc/.wh.gone": "", "old/.wh.other": "", "old/.wh.sub": "", "tmp/put-" + when: "text"},
		[]string{"etc/kept", "etc/gone", "old/other", "bin/", "dev/", "etc/hosts"})
	changes, _, _ := p.ask(guestapi.Request{Op: guestapi.OpChanges})
	got := fmt.Sprint(changes.Changes)
	for _, want := range []string{"{/etc/gone 2}", "{/etc/new 1}", "{/old/back 1}", "{/old/sub 2}", "{/etc 0}"} {
		if !strings.Contains(got, want) {
			p.t.Errorf("%s: no %s in %s", when, want, got)
		}
	}
	_, _, _, err := p.try(guestapi.Request{Op: guestapi.OpGet, Path: "/nowhere"})
	wantKind(p.t, err, guestapi.KindNotFound)
}

// wantTar checks names and contents; a linked file has its first name's.
func (p *place) wantTar(data []byte, want map[string]string, not []string) {
	p.t.Helper()
	got := map[string]string{}
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			p.t.Fatal(err)
		}
		text, _ := io.ReadAll(r)
		got[h.Name] = string(text)
		if h.Typeflag == tar.TypeLink {
			got[h.Name] = got[h.Linkname]
		}
	}
	for name, text := range want {
		if have, ok := got[name]; !ok || have != text {
			p.t.Errorf("%s: %q (%v), want %q", name, have, ok, text)
		}
	}
	for _, name := range not {
		if _, ok := got[name]; ok {
			p.t.Errorf("%s should not be there", name)
		}
	}
}

// TestHelper: a guest without a process shows a stopped instance's files.
func TestHelper(t *testing.T) {
	p := newPlace(t)
	layer := drivertest.Layer(t)
	at := guestapi.LayersDir + "/0"
	if err := errors.Join(os.MkdirAll(at, 0o755), unix.Mount(layer, at, "", unix.MS_BIND, "")); err != nil {
		t.Fatal(err)
	}
	p.ask(guestapi.Request{Op: guestapi.OpBoot, Boot: &guestapi.Boot{ID: "x",
		Mounts: []guestapi.Mount{{Type: "tmpfs", Target: guestapi.WritableAt, Dirs: []string{"upper", "work"}}},
		Files:  []guestapi.File{{Path: guestapi.UpperDir + "/etc/new", Data: []byte("n")}},
		Root:   &guestapi.Overlay{Lower: []string{at}, Upper: guestapi.UpperDir, Work: guestapi.WorkDir}}})
	_, _, r := p.ask(guestapi.Request{Op: guestapi.OpGet, Path: "/etc/passwd"})
	if len(p.data(r)) == 0 {
		t.Error("no file")
	}
	changes, _, _ := p.ask(guestapi.Request{Op: guestapi.OpChanges})
	if got := fmt.Sprint(changes.Changes); got != "[{/etc 0} {/etc/new 1}]" {
		t.Errorf("changes %s", got)
	}
	p.ask(guestapi.Request{Op: guestapi.OpPowerOff})
	select {
	case <-p.m.off:
	case <-time.After(10 * time.Second):
		t.Error("no power off")
	}
}

// TestSessions: garbage, a lost session and a Hello in the middle of one end
// the session and nothing else.
func TestSessions(t *testing.T) {
	p := newPlace(t).boot()
	b, _, _ := p.run("sh", "-c", "while :; do echo tick; sleep 0.05; done")
	for name, mess := range map[string]func(){
		"garbage":    func() { _, _ = p.conn.Write(bytes.Repeat([]byte("garbage\n"), 5000)) },
		"a hello":    func() {},
		"half frame": func() { _, _ = p.conn.Write([]byte{0, 0, 0, 1, 0, 0}) },
		"noise": func() {
			noise := make([]byte, 100_000)
			_, _ = rand.Read(noise)
			_, _ = p.conn.Write(noise)
		},
		"nonsense in a stream": func() {
			for _, junk := range []string{"", "x", "{}", "\x14\x00\x00\x00\x00\x00\x00\x02{]", "\x14\x00\x00\x00\xff\xff\xff\xff", "\x14\x01\x00\x00\x00\x00\x00\x00"} {
				s, err := p.session.Open()
				if err != nil {
					p.t.Fatal(err)
				}
				_, _ = io.WriteString(s, junk)
				_ = s.Close()
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			p.t = t
			mess()
			p.again()
			if out, _, e := p.exec(b, "echo", "alive"); out != "alive\n" || e.Code != 0 {
				t.Errorf("%q %+v", out, e)
			}
		})
	}
}

// again greets over the connection of a session that is left as it is.
func (p *place) again() {
	p.t.Helper()
	_ = p.conn.SetReadDeadline(time.Now()) // its reader would take the answer
	<-p.session.CloseChan()
	time.Sleep(10 * time.Millisecond)
	p.greet(p.conn)
}

// detached is a connection that sessions do not close.
type detached struct{ net.Conn }

func (d *detached) Close() error { return nil }

// The first thread's namespaces are the process's: it must never be the one that
// leaves them.
func TestOnThread(t *testing.T) {
	before, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for range 200 {
		err := onThread(func() error {
			if unix.Gettid() == unix.Getpid() {
				return errors.New("the first thread")
			}
			return unix.Unshare(unix.CLONE_NEWUTS)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	var all sync.WaitGroup
	for range 8 { // other goroutines, on all threads, one of them the first
		all.Go(func() {
			for range 50 {
				if err := onThread(func() error {
					if unix.Gettid() == unix.Getpid() {
						return errors.New("the first thread")
					}
					return nil
				}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if after, _ := os.Readlink("/proc/self/ns/net"); after != before {
		t.Errorf("%s became %s", before, after)
	}
}

// TestLinks: an interface is found by its device's address, gets everything that
// the host says, loses it again and goes out of sight.
func TestLinks(t *testing.T) {
	ip := func(args ...string) string {
		out, err := exec.Command("ip", args...).CombinedOutput()
		if err != nil {
			t.Fatalf("ip %v: %v: %s", args, err, out)
		}
		return string(out)
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("no ip: apt-get install iproute2")
	}
	p := newPlace(t).boot()
	t.Cleanup(func() { p.a.links.close() })
	ip("link", "add", "d0", "address", "02:00:00:00:00:01", "type", "veth", "peer", "name", "d1")
	ip("link", "set", "d1", "up")
	one := guestapi.Interface{Device: "02:00:00:00:00:01", MAC: "02:42:00:00:00:09", Name: "eth1", MTU: 1300, Addresses: []string{"10.7.0.2/24", "fd00:7::2/64"},
		Routes: []guestapi.Route{{Gateway: "10.7.0.1"}, {Destination: "10.8.0.0/16", Gateway: "10.7.0.3", Metric: 7}}, Sysctls: map[string]string{"net.ipv4.conf.IFNAME.forwarding": "1"}}
	p.ask(guestapi.Request{Op: guestapi.OpLink, Interface: &one})
	for _, want := range []string{"mtu 1300", "02:42:00:00:00:09", "10.7.0.2/24 brd 10.7.0.255", "fd00:7::2/64"} {
		if out := ip("addr", "show", "eth1"); !strings.Contains(out, want) {
			t.Errorf("no %q in %s", want, out)
		}
	}
	for _, want := range []string{"default via 10.7.0.1 dev eth1", "10.8.0.0/16 via 10.7.0.3 dev eth1 proto static metric 7"} {
		if out := ip("route"); !strings.Contains(out, want) {
			t.Errorf("no %q in %s", want, out)
		}
	}
	if text, _ := os.ReadFile("/proc/sys/net/ipv4/conf/eth1/forwarding"); string(text) != "1\n" {
		t.Errorf("sysctl %q", text)
	}
	// Told again with less, it keeps what it keeps and does not go down.
	less := one
	less.Device, less.Addresses, less.Routes = "", one.Addresses[:1], one.Routes[:1]
	p.ask(guestapi.Request{Op: guestapi.OpLink, Interface: &less})
	if out := ip("addr", "show", "eth1"); !strings.Contains(out, "10.7.0.2/") || strings.Contains(out, "fd00:7") {
		t.Errorf("%s", out)
	}
	if out := ip("route"); !strings.Contains(out, "default") || strings.Contains(out, "10.8") {
		t.Errorf("%s", out)
	}
	p.ask(guestapi.Request{Op: guestapi.OpUnlink, Interface: &guestapi.Interface{MAC: one.MAC}})
	if out := ip("link"); strings.Contains(out, "eth1") || strings.Contains(out, "spare") {
		t.Errorf("still in sight: %s", out)
	}
	again := guestapi.Interface{MAC: one.MAC, Name: "eth4", Addresses: []string{"10.7.0.5/24"}}
	p.ask(guestapi.Request{Op: guestapi.OpLink, Interface: &again})
	if out := ip("addr", "show", "eth4"); !strings.Contains(out, "10.7.0.5/24") || strings.Contains(out, "10.7.0.2/") {
		t.Errorf("%s", out)
	}
	_, _, _, err := p.try(guestapi.Request{Op: guestapi.OpLink, Interface: &guestapi.Interface{MAC: one.MAC, Name: "eth4", Addresses: []string{"nonsense"}}})
	wantKind(t, err, guestapi.KindInvalid)
	ip("link", "del", "eth4")
}
