package guest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"wharf/api/guestapi"
)

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
	_, s, r = p.ask(p.execRequest(b, false, "sh", "-c", "sleep 300 & echo out; exit 2"))
	if out, _, e := p.output(s, r); out != "out\n" || e.Code != 2 {
		t.Errorf("%q %+v", out, e)
	}
	if d := time.Since(began); d > time.Minute {
		t.Errorf("waited %v for a descendant", d)
	}
}

func TestPauseAndTop(t *testing.T) {
	p := newPlace(t)
	if p.layout.V2 == "" {
		t.Skip("this machine has no cgroup v2")
	}
	p.boot()
	p.run("sh", "-c", "while :; do echo x >>/tmp/ticks; sleep 0.02; done")
	ticks := func() int64 {
		st, err := os.Stat(guestapi.UpperDir + "/tmp/ticks")
		if err != nil {
			return 0
		}
		return st.Size()
	}
	for end := time.Now().Add(time.Minute); ticks() == 0 && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	p.ask(guestapi.Request{Op: guestapi.OpPause})
	before := ticks()
	time.Sleep(200 * time.Millisecond)
	if state, _, _ := p.ask(guestapi.Request{Op: guestapi.OpState}); !state.State.Paused || ticks() != before {
		t.Errorf("not paused: %+v, %d more ticks", state.State, ticks()-before)
	}
	p.ask(guestapi.Request{Op: guestapi.OpResume})
	for end := time.Now().Add(time.Minute); ticks() == before && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
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

// Output that was not read yet, because the machine was held up, is waited for
// longer than a descendant that is silent.
func TestDrainSeesWhatIsUnread(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	p := &process{stdout: r}
	p.pumps.Add(1) // which does not come to run, and never ends
	if _, err := w.WriteString("last words"); err != nil {
		t.Fatal(err)
	}
	drained := make(chan struct{})
	go func() { p.drain(); close(drained) }()
	select {
	case <-drained:
		t.Fatal("what is in the pipe is lost")
	case <-time.After(drainTime * 3 / 2):
	}
	if _, err := r.Read(make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	select {
	case <-drained:
	case <-time.After(patience()):
		t.Error("a silent descendant is waited for")
	}
}
