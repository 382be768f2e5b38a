package monitor

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"wharf/api/monitorapi"
	"wharf/internal/logs/logfile"
	"wharf/internal/runtime"
)

// fakeEngine runs plain shell commands of the host.
type fakeEngine struct{}

type fakeProcess struct {
	p    int
	gate *os.File
}

func (fakeEngine) Create(st *monitorapi.Start, f Files) (Process, error) {
	return fakeScript(st.Prepared, f)
}

func fakeScript(prepared json.RawMessage, f Files) (Process, error) {
	var script string
	if err := json.Unmarshal(prepared, &script); err != nil {
		return nil, err
	}
	if script == "missing" {
		return nil, &runtime.ExecError{Code: 127, Msg: "exec: missing: not found"}
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	in := uintptr(0)
	if f.Stdin != nil {
		in = f.Stdin.Fd()
	}
	p, err := syscall.ForkExec("/bin/sh", []string{"sh", "-c", "read x <&3; exec 3<&-\n" + script},
		&syscall.ProcAttr{Files: []uintptr{in, f.Stdout.Fd(), f.Stderr.Fd(), r.Fd()}, Env: os.Environ()})
	return &fakeProcess{p, w}, err
}

func (fakeEngine) Exec(_ Process, e *monitorapi.Exec, f Files) (Process, error) {
	return fakeScript(e.Prepared, f)
}

func (f *fakeProcess) Pid() int                 { return f.p }
func (f *fakeProcess) Console() *os.File        { return nil }
func (f *fakeProcess) Trace() []monitorapi.Step { return nil }
func (f *fakeProcess) Warnings() []string       { return []string{"just a fake"} }
func (f *fakeProcess) Close()                   { _ = f.gate.Close() }
func (f *fakeProcess) Start() error {
	_, err := f.gate.Write([]byte("go\n"))
	return err
}

// rig is a monitor that runs in this process.
type rig struct {
	t       *testing.T
	dir     string
	control *monitorapi.Reader
	ctlFile *os.File
	started monitorapi.Started
	ended   chan int
}

// boot starts a script under a monitor. The working directory is the
// instance's meanwhile.
func boot(t *testing.T, script string, edit func(*monitorapi.Start)) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir(), ended: make(chan int, 1)}
	t.Chdir(r.dir)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "ours"), os.NewFile(uintptr(pair[1]), "theirs")
	t.Cleanup(func() { _ = ours.Close() })
	prepared, _ := json.Marshal(script)
	log, _ := json.Marshal(logfile.Plan{Driver: "json-file", Path: filepath.Join(r.dir, "log")})
	st := monitorapi.Start{Version: 1, ID: "x", Prepared: prepared, Log: log}
	if edit != nil {
		edit(&st)
	}
	go func() { r.ended <- run(st, Files{}, theirs, &monitorapi.Reader{R: theirs}, fakeEngine{}, nil) }()
	r.control, r.ctlFile = &monitorapi.Reader{R: ours}, ours
	_ = ours.SetReadDeadline(time.Now().Add(5 * time.Minute))
	if err := r.control.Expect(monitorapi.StartedFrame, &r.started); err != nil {
		t.Fatal(err)
	}
	return r
}

// exit waits for the exit on the control socket and for the monitor's end.
func (r *rig) exit() monitorapi.Exit {
	r.t.Helper()
	var e monitorapi.Exit
	if err := r.control.Expect(monitorapi.ExitFrame, &e); err != nil {
		r.t.Fatal(err)
	}
	select {
	case <-r.ended:
	case <-time.After(time.Minute):
		r.t.Fatal("the monitor did not end")
	}
	return e
}

// log returns the text of the log.
func (r *rig) log() string {
	r.t.Helper()
	b, err := os.ReadFile(filepath.Join(r.dir, "log"))
	if err != nil {
		r.t.Fatal(err)
	}
	var out strings.Builder
	for _, line := range bytes.Split(bytes.TrimSpace(b), []byte("\n")) {
		var m struct{ Log string }
		if err := json.Unmarshal(line, &m); err != nil && len(line) > 0 {
			r.t.Fatalf("%s: %v", line, err)
		}
		out.WriteString(m.Log)
	}
	return out.String()
}

// ask makes a request and returns the connection behind the reply.
func (r *rig) ask(q monitorapi.Request) (net.Conn, *monitorapi.Reader, monitorapi.Reply, error) {
	r.t.Helper()
	c, err := net.Dial("unix", filepath.Join(r.dir, monitorapi.SocketName))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(5 * time.Minute))
	q.Version = 1
	if err := monitorapi.WriteJSON(c, monitorapi.RequestFrame, q); err != nil {
		r.t.Fatal(err)
	}
	rd := &monitorapi.Reader{R: c}
	var rep monitorapi.Reply
	err = rd.Expect(monitorapi.ReplyFrame, &rep)
	return c, rd, rep, err
}

// stream reads a stream to its end.
func stream(t *testing.T, r *monitorapi.Reader) (out, errs string, exit *monitorapi.Exit) {
	t.Helper()
	for {
		typ, p, err := r.Next()
		if err != nil {
			return out, errs, exit
		}
		switch typ {
		case monitorapi.Stdout:
			out += string(p)
		case monitorapi.Stderr:
			errs += string(p)
		case monitorapi.ExitFrame:
			exit = new(monitorapi.Exit)
			if err := json.Unmarshal(p, exit); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestOutputLogAndExit(t *testing.T) {
	r := boot(t, "echo out; echo err >&2; printf end; exit 7", nil)
	if e := r.exit(); e.Code != 7 || e.At.IsZero() {
		t.Errorf("exit %+v", e)
	}
	got := r.log()
	for _, want := range []string{"out\n", "err\n", "end"} {
		if !strings.Contains(got, want) {
			t.Errorf("log %q lacks %q", got, want)
		}
	}
	var e monitorapi.Exit
	b, err := os.ReadFile(filepath.Join(r.dir, monitorapi.ExitName))
	if err != nil || json.Unmarshal(b, &e) != nil || e.Code != 7 {
		t.Errorf("exit file %s: %v", b, err)
	}
	if _, err := os.Stat(filepath.Join(r.dir, monitorapi.SocketName)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("socket is left: %v", err)
	}
	if len(r.started.Warnings) != 1 {
		t.Errorf("warnings %q", r.started.Warnings)
	}
}

func TestWaitingClientGetsTheFirstByte(t *testing.T) {
	r := boot(t, "echo hello", func(s *monitorapi.Start) { s.Waiting = 2 })
	time.Sleep(50 * time.Millisecond) // the process has ended
	for range 2 {
		_, rd, _, err := r.ask(monitorapi.Request{Op: monitorapi.OpAttach, Attach: &monitorapi.Attach{Stdout: true}})
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if out, _, e := stream(t, rd); out != "hello\n" || e == nil || e.Code != 0 {
				t.Errorf("client read %q, exit %v", out, e)
			}
		}()
	}
	r.exit()
}

func TestStdinOnce(t *testing.T) {
	r := boot(t, "cat; echo done", func(s *monitorapi.Start) { s.OpenStdin, s.StdinOnce, s.Waiting = true, true, 1 })
	c, rd, _, err := r.ask(monitorapi.Request{Op: monitorapi.OpAttach, Attach: &monitorapi.Attach{Stdin: true, Stdout: true}})
	if err != nil {
		t.Fatal(err)
	}
	_ = monitorapi.Write(c, monitorapi.Stdin, []byte("in\n"))
	_ = monitorapi.Write(c, monitorapi.CloseStdin, nil)
	if out, _, _ := stream(t, rd); out != "in\ndone\n" {
		t.Errorf("read %q", out)
	}
	r.exit()
}

func TestStdinStaysOpenWithoutOnce(t *testing.T) {
	r := boot(t, "read a; echo $a; read b; echo $b", func(s *monitorapi.Start) { s.OpenStdin = true })
	for _, word := range []string{"one", "two"} {
		c, _, _, err := r.ask(monitorapi.Request{Op: monitorapi.OpAttach, Attach: &monitorapi.Attach{Stdin: true}})
		if err != nil {
			t.Fatal(err)
		}
		_ = monitorapi.Write(c, monitorapi.Stdin, []byte(word+"\n"))
		_ = monitorapi.Write(c, monitorapi.CloseStdin, nil)
		// It was read before the client goes and another comes: who of two is
		// heard first is nobody's promise.
		for end := time.Now().Add(time.Minute); !strings.Contains(r.log(), word) && time.Now().Before(end); {
			time.Sleep(5 * time.Millisecond)
		}
		_ = c.Close()
	}
	r.exit()
	if got := r.log(); got != "one\ntwo\n" {
		t.Errorf("log %q", got)
	}
}

// A client that reads slowly loses nothing, does not delay the exit once the
// process has ended, and is read out before the monitor goes.
func TestSlowClient(t *testing.T) {
	const lines = 40000 // more than socket, queue and pipe hold
	r := boot(t, fmt.Sprintf("i=0; while [ $i -lt %d ]; do echo line-$i-xxxxxxxxxxxxxxxx; i=$((i+1)); done", lines),
		func(s *monitorapi.Start) { s.Waiting = 1 })
	_, rd, _, err := r.ask(monitorapi.Request{Op: monitorapi.OpAttach, Attach: &monitorapi.Attach{Stdout: true}})
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond)
	out, _, e := stream(t, rd)
	if n := strings.Count(out, "\n"); n != lines || e == nil {
		t.Errorf("client read %d lines, exit %v", n, e)
	}
	r.exit()
	if n := strings.Count(r.log(), "\n"); n != lines {
		t.Errorf("log has %d lines", n)
	}
}

func TestVanishedClientIsDropped(t *testing.T) {
	r := boot(t, "i=0; while [ $i -lt 20000 ]; do echo line-$i-xxxxxxxxxxxxxxxxxxxxxxxxxxx; i=$((i+1)); done",
		func(s *monitorapi.Start) { s.Waiting = 1 })
	c, _, _, err := r.ask(monitorapi.Request{Op: monitorapi.OpAttach, Attach: &monitorapi.Attach{Stdout: true}})
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	if e := r.exit(); e.Code != 0 {
		t.Errorf("exit %+v", e)
	}
	if n := strings.Count(r.log(), "\n"); n != 20000 {
		t.Errorf("log has %d lines", n)
	}
}

func TestGrandchildHoldsThePipe(t *testing.T) {
	r := boot(t, "sleep 300 & echo $!; exit 3", nil)
	begin := time.Now()
	e := r.exit()
	if e.Code != 3 || time.Since(begin) > time.Minute {
		t.Errorf("exit %+v after %v", e, time.Since(begin))
	}
	var pid int
	if _, err := fmt.Sscan(r.log(), &pid); err == nil && pid > 1 {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
}

func TestSignalStateAndRefusals(t *testing.T) {
	r := boot(t, "sleep 300", nil)
	_, _, rep, err := r.ask(monitorapi.Request{Op: monitorapi.OpState})
	if err != nil || rep.State == nil || rep.State.Pid != r.started.Pid || rep.State.Log.Driver != "json-file" {
		t.Fatalf("state %+v: %v", rep, err)
	}
	for _, q := range []monitorapi.Request{
		{Op: "dance"}, {Op: monitorapi.OpSignal, Signal: 99}, {Op: monitorapi.OpAttach}, {Op: monitorapi.OpExec},
		{Op: monitorapi.OpResize, Size: &monitorapi.WinSize{Height: 1, Width: 1}}, {Op: monitorapi.OpWait, Exec: "none"},
	} {
		var f *monitorapi.Failed
		if _, _, _, err := r.ask(q); !errors.As(err, &f) || f.Text == "" || f.Kind == monitorapi.KindInternal {
			t.Errorf("%+v: %v", q, err)
		}
	}
	if _, _, _, err := r.ask(monitorapi.Request{Op: monitorapi.OpSignal, Signal: 15}); err != nil {
		t.Fatal(err)
	}
	if e := r.exit(); e.Code != 128+15 {
		t.Errorf("exit %+v", e)
	}
}

func TestExec(t *testing.T) {
	r := boot(t, "sleep 300", nil)
	script, _ := json.Marshal("cat; echo problem >&2; exit 5")
	c, rd, rep, err := r.ask(monitorapi.Request{Op: monitorapi.OpExec, Start: &monitorapi.Exec{ID: "e1", Prepared: script, OpenStdin: true}})
	if err != nil || rep.Pid == 0 {
		t.Fatalf("%+v %v", rep, err)
	}
	_ = monitorapi.Write(c, monitorapi.Stdin, []byte("word"))
	_ = monitorapi.Write(c, monitorapi.CloseStdin, nil)
	out, errs, e := stream(t, rd)
	if out != "word" || errs != "problem\n" || e == nil || e.Code != 5 {
		t.Errorf("out %q, err %q, exit %+v", out, errs, e)
	}
	_, _, rep, _ = r.ask(monitorapi.Request{Op: monitorapi.OpState})
	if len(rep.State.Execs) != 1 || rep.State.Execs[0].Exit == nil || rep.State.Execs[0].Exit.Code != 5 {
		t.Errorf("state %+v", rep.State)
	}
	missing, _ := json.Marshal("missing")
	var f *monitorapi.Failed
	if _, _, _, err := r.ask(monitorapi.Request{Op: monitorapi.OpExec, Start: &monitorapi.Exec{ID: "e2", Prepared: missing}}); !errors.As(err, &f) || f.Code != 127 {
		t.Errorf("missing program: %v", err)
	}

	// An exec whose client leaves goes on; its exit is known afterwards.
	script, _ = json.Marshal("i=0; while [ $i -lt 5000 ]; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; i=$((i+1)); done; exit 6")
	c, _, _, err = r.ask(monitorapi.Request{Op: monitorapi.OpExec, Start: &monitorapi.Exec{ID: "e3", Prepared: script}})
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	_, rd, _, err = r.ask(monitorapi.Request{Op: monitorapi.OpWait, Exec: "e3"})
	var exit monitorapi.Exit
	if err != nil || rd.Expect(monitorapi.ExitFrame, &exit) != nil || exit.Code != 6 {
		t.Errorf("exit of an abandoned exec %+v: %v", exit, err)
	}
	_ = unix.Kill(r.started.Pid, unix.SIGKILL)
	if e := r.exit(); e.Code != 137 {
		t.Errorf("exit %+v", e)
	}
}

func TestFailedStart(t *testing.T) {
	t.Chdir(t.TempDir())
	log, _ := json.Marshal(logfile.Plan{Driver: "none"})
	_, err := begin(monitorapi.Start{Prepared: json.RawMessage(`"missing"`), Log: log}, Files{}, nil, fakeEngine{}, nil)
	if f := asFailed(err); f.Code != 127 || !strings.Contains(f.Text, "not found") {
		t.Errorf("%+v", f)
	}
}

// A log that cannot be opened is an error like any other, after the container
// was made: it is unmade.
func TestFailedLog(t *testing.T) {
	t.Chdir(t.TempDir())
	prepared, _ := json.Marshal("echo never")
	log, _ := json.Marshal(logfile.Plan{Driver: "json-file", Path: filepath.Join(t.TempDir(), "no", "such", "log")})
	_, err := begin(monitorapi.Start{Version: 1, ID: "x", Prepared: prepared, Log: log}, Files{}, nil, fakeEngine{}, nil)
	if err == nil || !strings.Contains(err.Error(), "logging driver") {
		t.Fatalf("error %v", err)
	}
}

// Clients that were announced cannot come any more when the daemon is gone:
// the end is recorded at once.
func TestDaemonGoneBeforeItsClients(t *testing.T) {
	r := boot(t, "echo hi", func(st *monitorapi.Start) { st.Waiting = 1 })
	_ = r.ctlFile.Close()
	select {
	case <-r.ended:
	case <-time.After(waitingTime / 2):
		t.Fatal("the monitor waits for clients that cannot come")
	}
}
