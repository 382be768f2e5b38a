package lifecycle

import (
	"context"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"

	"wharf/internal/model"
	"wharf/internal/plan"
)

// TestInputEnds: one client's end of input ends it for all only where the
// container was made for one client.
func TestInputEnds(t *testing.T) {
	for _, x := range []struct {
		once, tty, want bool
	}{{true, false, true}, {true, true, false}, {false, false, false}} {
		s := &fakeStream{}
		c := &model.Container{Config: &container.Config{StdinOnce: x.once, Tty: x.tty}}
		if err := shared(c, s).CloseWrite(); err != nil || s.closedWrite != x.want {
			t.Errorf("%+v: closed %t", x, s.closedWrite)
		}
	}
}

// TestLateInput: what a client writes and asks for before the start arrives.
func TestLateInput(t *testing.T) {
	w := newWorld(t)
	e := w.engine()
	r, err := e.Create(bg, model.CreateRequest{Config: &container.Config{Image: "busybox", OpenStdin: true, StdinOnce: true}})
	if err != nil {
		t.Fatal(err)
	}
	s, _, err := e.Attach(bg, r.ID, model.AttachRequest{Stream: true, Stdin: true})
	if err != nil {
		t.Fatal(err)
	}
	wrote := make(chan error)
	go func() {
		_, err := s.Write([]byte("in"))
		if err == nil {
			err = s.CloseWrite()
		}
		wrote <- err
	}()
	if err := s.Resize(24, 80); err != nil {
		t.Error(err)
	}
	if err := e.Start(bg, r.ID); err != nil {
		t.Fatal(err)
	}
	if err := <-wrote; err != nil {
		t.Error(err)
	}
	got := s.(detachable).Stream.(*lateStream).wait().(*fakeStream)
	if string(got.wrote) != "in" || !got.closedWrite || got.size != [2]uint{24, 80} {
		t.Errorf("the process got %q, closed %t, size %v", got.wrote, got.closedWrite, got.size)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := e.Resize(bg, r.ID, 1, 2); err != nil {
		t.Error(err)
	}
	if m, _ := w.lastEvent(events.ActionResize); m.Actor.Attributes["height"] != "1" {
		t.Errorf("%+v", m)
	}
}

// TestExecHeldOpen: a child in the background that holds the output does not
// keep the client for ever.
func TestExecHeldOpen(t *testing.T) {
	never, ended := make(chan struct{}), make(chan struct{})
	in := &fakeStream{over: never, onClose: func() { close(never) }}
	x := newExecStream(in, model.ExecRequest{AttachStdout: true}, ended)
	close(ended)
	began := time.Now()
	if _, _, err := x.Next(); err != io.EOF {
		t.Errorf("end: %v", err)
	}
	if d := time.Since(began); d < streamPatience/2 {
		t.Errorf("cut after %v", d)
	}
	if n, err := x.Write([]byte("ignored")); n != 7 || err != nil || len(in.wrote) != 0 {
		t.Errorf("input that was not asked for: %d, %v, %q", n, err, in.wrote)
	}
	if err := x.Close(); err != nil {
		t.Error(err)
	}
}

func TestExecResize(t *testing.T) {
	w := newWorld(t)
	e := w.engine()
	id := started(t, e, "x", nil)
	w.instance(id).execSlow = true
	ex, err := e.ExecCreate(bg, id, model.ExecRequest{Cmd: []string{"sh"}, Tty: true, AttachStdout: true})
	if err != nil {
		t.Fatal(err)
	}
	size := [2]uint{9, 9}
	s, err := e.ExecStart(bg, ex, false, &size)
	if err != nil {
		t.Fatal(err)
	}
	if got := w.instance(id).execs[0].ConsoleSize; got != size {
		t.Errorf("console size %v", got)
	}
	if err := e.ExecResize(bg, ex, 3, 4); err != nil {
		t.Error(err)
	}
	if got := s.(detachable).Stream.(*execStream).Stream.(*fakeStream).size; got != [2]uint{3, 4} {
		t.Errorf("size %v", got)
	}
	if r, _ := e.ExecInspect(bg, ex); !r.Running || r.ExitCode != nil {
		t.Errorf("%+v", r)
	}
	if _, err := e.ExecStart(bg, ex, false, nil); !errdefs.IsConflict(err) || err.Error() != "exec command "+ex+" is already running" {
		t.Errorf("second start: %v", err)
	}
}

// TestHealthTimeout: a check that takes too long is killed and fails.
func TestHealthTimeout(t *testing.T) {
	w := newWorld(t)
	e := w.engine()
	w.onRun = func(i *fakeInstance) { i.execSlow = true }
	r, err := e.Create(bg, model.CreateRequest{Config: &container.Config{Image: "busybox", Healthcheck: &container.HealthConfig{
		Test: []string{"CMD", "slow"}, Interval: time.Millisecond, Timeout: 5 * time.Millisecond, Retries: 1,
	}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Start(bg, r.ID); err != nil {
		t.Fatal(err)
	}
	wait(t, "it is unhealthy", func() bool {
		c, _ := e.Inspect(bg, r.ID, false)
		return c.State.Health.Status == container.Unhealthy
	})
	c, _ := e.Inspect(bg, r.ID, false)
	if l := c.State.Health.Log[0]; l.ExitCode != -1 || !strings.HasPrefix(l.Output, "Health check exceeded timeout (5ms)") {
		t.Errorf("%+v", l)
	}
}

func TestLimited(t *testing.T) {
	l := &limited{}
	l.add([]byte(strings.Repeat("x", healthOutput)))
	l.add([]byte("y"))
	if s := l.String(); len(s) != healthOutput+3 || !strings.HasSuffix(s, "x...") {
		t.Errorf("%d bytes kept, end %q", len(s), s[len(s)-5:])
	}
}

func TestArchivesAndTop(t *testing.T) {
	w := newWorld(t)
	e := w.engine()
	id := create(t, e, "x", nil)
	unmounts := func() int {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(slices.DeleteFunc(slices.Clone(w.calls), func(s string) bool { return s != "unmount" }))
	}
	for _, open := range []func() (io.ReadCloser, error){
		func() (io.ReadCloser, error) { r, _, err := e.ArchiveGet(bg, id, "/etc"); return r, err },
		func() (io.ReadCloser, error) { return e.Export(bg, id) },
	} {
		before := unmounts()
		r, err := open()
		if err != nil {
			t.Fatal(err)
		}
		if unmounts() != before {
			t.Error("unmounted while it is read")
		}
		_, _ = r.Close(), r.Close()
		if unmounts() != before+1 {
			t.Errorf("unmounted %d times", unmounts()-before)
		}
	}
	if ch, err := e.Changes(bg, id); err != nil || len(ch) != 1 {
		t.Errorf("changes %v, %v", ch, err)
	}
	if _, err := e.Top(bg, id, ""); !errdefs.IsConflict(err) {
		t.Errorf("top: %v", err)
	}
	if err := e.Start(bg, id); err != nil {
		t.Fatal(err)
	}
	top, err := e.Top(bg, id, "-o pid")
	if err != nil || cmp.Diff([]string{"PID"}, top.Titles) != "" || cmp.Diff([][]string{{"1"}}, top.Processes) != "" {
		t.Errorf("top %+v, %v", top, err)
	}
}

func TestLinks(t *testing.T) {
	w := newWorld(t)
	e := w.engine()
	db := started(t, e, "db", nil)
	c := *e.core.index.get(model.ID(db)).record()
	c.Attached = []model.Endpoint{{Network: "bridge", Settings: &network.EndpointSettings{IPAddress: netip.MustParseAddr("::ffff:172.17.0.9")}}}
	e.core.index.get(model.ID(db)).rec.Store(&c)
	got := e.core.links(&model.Container{HostConfig: &container.HostConfig{Links: []string{"db:sql", "gone:x"}}})
	want := []plan.Link{{IP: netip.MustParseAddr("172.17.0.9"), Names: []string{"sql", c.ID.Short(), "db"}}}
	if d := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// TestComposeOrder: depends_on of Compose's labels is an order for boot.
func TestComposeOrder(t *testing.T) {
	w := newWorld(t)
	e := w.engine()
	service := func(name, needs string) *entry {
		r, err := e.Create(bg, model.CreateRequest{Name: name, Config: &container.Config{Image: "busybox", Labels: map[string]string{
			composeProject: "p", composeService: name, composeDepends: needs,
		}}})
		if err != nil {
			t.Fatal(err)
		}
		return e.core.index.get(model.ID(r.ID))
	}
	web, db, a, b := service("web", "db:service_started:false"), service("db", ""), service("aa", "bb:x:y"), service("bb", "aa:x:y")
	waves := e.recoverer.waves([]*entry{web, db, a, b})
	if len(waves) != 3 || waves[0][0] != db || waves[1][0] != web || len(waves[2]) != 2 {
		t.Errorf("%d waves: %v", len(waves), waves)
	}
}

func TestTTYName(t *testing.T) {
	for dev, want := range map[int]string{0: "?", 136 << 8: "pts/0", 136<<8 | 5: "pts/5", 137 << 8: "pts/1048576", 4<<8 | 1: "tty1", 4<<8 | 64: "ttyS0", 1 << 8: "?"} {
		if got := ttyName(dev); got != want {
			t.Errorf("%#x: %s, want %s", dev, got, want)
		}
	}
}

// TestFullDisk: an exit that cannot be recorded is known all the same, and
// recorded when that is possible again.
func TestFullDisk(t *testing.T) {
	w := newWorld(t)
	e := w.engine()
	id := started(t, e, "x", nil)
	ended, _ := e.Wait(bg, id, "")
	w.mu.Lock()
	w.fail["put-exited"] = io.ErrShortWrite
	w.mu.Unlock()
	w.instance(id).end(6)
	if r := <-ended; r.Code != 6 || phase(e, id) != container.StateExited {
		t.Errorf("code %d, %s", r.Code, phase(e, id))
	}
	recorded := func() container.ContainerState {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.recs[model.ID(id)].State.Phase
	}
	if got := recorded(); got != container.StateRunning {
		t.Errorf("recorded as %s", got)
	}
	w.mu.Lock()
	delete(w.fail, "put-exited")
	w.mu.Unlock()
	wait(t, "it is recorded", func() bool { return recorded() == container.StateExited })
}

func TestRewrite(t *testing.T) {
	path := t.TempDir() + "/hosts"
	for _, text := range []string{"long text\n", "short\n", "short\n", "", "long again\n"} {
		if err := rewrite(path, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if got, _ := os.ReadFile(path); string(got) != text {
			t.Errorf("got %q, want %q", got, text)
		}
	}
}

// TestStartDeadline: a start that its deadline ends is recorded and released.
func TestStartDeadline(t *testing.T) {
	w := newWorld(t)
	e := w.engine()
	e.core.opts.Deadline = 20 * time.Millisecond
	id := create(t, e, "slow", nil)
	ctxs := make(chan error, 1)
	steps := []step[int]{
		{"hold", func(context.Context, int) error { return nil }, func(ctx context.Context, _ int) error { ctxs <- ctx.Err(); return nil }},
		{"slow", func(ctx context.Context, _ int) error { <-ctx.Done(); return ctx.Err() }, nil},
	}
	ctx, cancel := e.core.detach(bg)
	defer cancel()
	var times []StepTime
	if err := walk(ctx, steps, 0, &times, func(string, error) {}); err == nil {
		t.Fatal("the deadline did not end it")
	}
	if err := <-ctxs; err != nil {
		t.Errorf("released with a context that has ended: %v", err)
	}
	if err := e.Remove(bg, id, model.RemoveRequest{}); err != nil {
		t.Error(err)
	}
}
