package lifecycle

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"wharf/internal/driver"
	"wharf/internal/model"
)

func TestExec(t *testing.T) {
	w := newWorld(t)
	e := w.engine()
	id := create(t, e, "x", nil)
	req := model.ExecRequest{Cmd: []string{"true", "-v"}, AttachStdout: true, User: "app"}
	if _, err := e.ExecCreate(bg, "x", req); !errdefs.IsConflict(err) || err.Error() != "container "+id+" is not running" {
		t.Errorf("not running: %v", err)
	}
	if err := e.Start(bg, id); err != nil {
		t.Fatal(err)
	}
	w.instance(id).execCode = 5
	ex, err := e.ExecCreate(bg, "x", req)
	if err != nil {
		t.Fatal(err)
	}
	if c, _ := e.Inspect(bg, id, false); !slices.Equal(c.ExecIDs, []string{ex}) {
		t.Errorf("exec ids %v", c.ExecIDs)
	}
	s, err := e.ExecStart(bg, ex, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, p, err := s.Next(); string(p) != "exec output\n" || err != nil {
		t.Errorf("output %q, %v", p, err)
	}
	if _, _, err := s.Next(); err != io.EOF {
		t.Errorf("end: %v", err)
	}
	r, err := e.ExecInspect(bg, ex)
	if err != nil || r.ExitCode == nil || *r.ExitCode != 5 || r.Running || r.Pid != 77 {
		t.Errorf("inspect %+v, %v", r, err)
	}
	if d := cmp.Diff([]string{"-v"}, r.ProcessConfig.Arguments); d != "" || r.ProcessConfig.Entrypoint != "true" {
		t.Errorf("process %+v", r.ProcessConfig)
	}
	if _, err := e.ExecStart(bg, ex, false, nil); !errdefs.IsConflict(err) || err.Error() != "exec command "+ex+" has already run" {
		t.Errorf("second start: %v", err)
	}
	if c, _ := e.Inspect(bg, id, false); c.ExecIDs != nil {
		t.Errorf("exec ids after the end %v", c.ExecIDs)
	}
	if got := w.actions(); !slices.Contains(got, "exec_create: true -v") || !slices.Contains(got, "exec_start: true -v") || !slices.Contains(got, "exec_die") {
		t.Errorf("events %v", got)
	}
	if err := e.Pause(bg, id); err != nil {
		t.Fatal(err)
	}
	if _, err := e.ExecCreate(bg, "x", req); !errdefs.IsConflict(err) || err.Error() != "Container "+id+" is paused, unpause the container before exec" {
		t.Errorf("paused: %v", err)
	}
	if _, err := e.ExecInspect(bg, "nope"); !errdefs.IsNotFound(err) || err.Error() != "No such exec instance: nope" {
		t.Errorf("unknown: %v", err)
	}
}

func TestExecFails(t *testing.T) {
	w := newWorld(t)
	e := w.engine()
	id := started(t, e, "x", nil)
	w.fail["exec"] = driver.NotExecutable(127, `exec: "nope": executable file not found in $PATH`)
	ex, err := e.ExecCreate(bg, id, model.ExecRequest{Cmd: []string{"nope"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.ExecStart(bg, ex, true, nil); err == nil || !strings.Contains(err.Error(), "executable file not found") {
		t.Errorf("start: %v", err)
	}
	if r, _ := e.ExecInspect(bg, ex); r.ExitCode == nil || *r.ExitCode != 127 {
		t.Errorf("inspect %+v", r)
	}
}

func TestAttachAndLogs(t *testing.T) {
	w := newWorld(t)
	e := w.engine()
	w.log = []model.LogEntry{{Stream: model.Stdout, Line: []byte("old\n")}}
	w.onRun = func(i *fakeInstance) { i.output = []string{"first\n"} }
	id := create(t, e, "x", nil)
	s, _, err := e.Attach(bg, id, model.AttachRequest{Logs: true, Stream: true, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	left, _, _ := e.Attach(bg, id, model.AttachRequest{Stream: true, Stdout: true})
	_ = left.Close()
	if err := e.Start(bg, id); err != nil {
		t.Fatal(err)
	}
	if got := w.instance(id).bundle.Waiting; got != 1 {
		t.Errorf("the driver waits for %d clients, want 1", got)
	}
	for _, want := range []string{"old\n", "first\n"} {
		if _, p, err := s.Next(); string(p) != want || err != nil {
			t.Errorf("got %q, %v; want %q", p, err, want)
		}
	}
	if _, _, err := left.Next(); err != io.EOF {
		t.Errorf("a client that left: %v", err)
	}
	// While it runs, log and stream together are the followed log.
	s, _, err = e.Attach(bg, id, model.AttachRequest{Logs: true, Stream: true, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, p, _ := s.Next(); string(p) != "old\n" {
		t.Errorf("got %q", p)
	}
	l, _, err := e.Logs(bg, id, model.LogsRequest{Stdout: true, Follow: true, Tail: -1})
	if err != nil {
		t.Fatal(err)
	}
	go w.instance(id).end(0)
	if _, _, err := s.Next(); err != io.EOF {
		t.Errorf("end of stream: %v", err)
	}
	_, _ = l.Next()
	if _, err := l.Next(); err != io.EOF {
		t.Errorf("end of log: %v", err)
	}
	if _, _, err := e.Logs(bg, id, model.LogsRequest{}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("no stream chosen: %v", err)
	}
	// A removal ends who waits for a start.
	s, _, _ = e.Attach(bg, id, model.AttachRequest{Stream: true, Stdin: true})
	wait(t, "it has exited", func() bool { return phase(e, id) == container.StateExited })
	if err := e.Remove(bg, id, model.RemoveRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Next(); err != io.EOF {
		t.Errorf("after removal: %v", err)
	}
}

func TestHealth(t *testing.T) {
	w := newWorld(t)
	e := w.engine()
	w.onRun = func(i *fakeInstance) { i.execCode = 1 }
	cfg := &container.Config{Image: "busybox", Labels: map[string]string{onUnhealthy: "restart"}, Healthcheck: &container.HealthConfig{
		Test: []string{"CMD-SHELL", "check"}, Interval: 5 * time.Millisecond, Retries: 2,
	}}
	r, err := e.Create(bg, model.CreateRequest{Name: "h", Config: cfg})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Start(bg, r.ID); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"/bin/sh", "-c", "check"}, checkOf(cfg).cmd); d != "" {
		t.Error(d)
	}
	wait(t, "it is unhealthy and restarted", func() bool {
		_, ok := w.lastEvent(events.ActionRestart)
		return ok
	})
	if _, ok := w.lastEvent(events.ActionHealthStatusUnhealthy); !ok {
		t.Errorf("events %v", w.actions())
	}
	w.instance(r.ID).mu.Lock()
	w.instance(r.ID).execCode = 0
	w.instance(r.ID).mu.Unlock()
	wait(t, "it is healthy", func() bool {
		c, _ := e.Inspect(bg, r.ID, false)
		return c.State.Health != nil && c.State.Health.Status == container.Healthy && c.State.Health.FailingStreak == 0
	})
	wait(t, "the log is bounded", func() bool {
		c, _ := e.Inspect(bg, r.ID, false)
		return len(c.State.Health.Log) == healthLog && c.State.Health.Log[4].Output == "exec output\n"
	})
	l, _ := e.List(bg, model.ListRequest{Filters: model.Filters{"health": {"healthy": true}}})
	if len(l) != 1 || !strings.HasSuffix(l[0].Status, "(healthy)") {
		t.Errorf("list %+v", l)
	}
}

func TestJudge(t *testing.T) {
	k := &check{retries: 2, grace: time.Minute}
	start := time.Now()
	st := model.State{StartedAt: start, Health: &container.Health{Status: container.Starting}}
	for i, x := range []struct {
		code   int
		at     time.Duration
		status container.HealthStatus
		streak int
	}{
		{1, time.Second, container.Starting, 0}, // in the start period
		{1, 2 * time.Minute, container.Starting, 1},
		{1, 2 * time.Minute, container.Unhealthy, 2},
		{0, 3 * time.Minute, container.Healthy, 0},
		{-1, 3 * time.Minute, container.Healthy, 1},
		{2, 3 * time.Minute, container.Unhealthy, 2},
	} {
		st.Health = judge(st, k, &container.HealthcheckResult{ExitCode: x.code, Start: start.Add(x.at)})
		if st.Health.Status != x.status || st.Health.FailingStreak != x.streak {
			t.Errorf("%d: %s %d, want %s %d", i, st.Health.Status, st.Health.FailingStreak, x.status, x.streak)
		}
	}
	if len(st.Health.Log) != healthLog {
		t.Errorf("%d results kept", len(st.Health.Log))
	}
}

func TestSettings(t *testing.T) {
	w := newWorld(t)
	e := w.engine()
	id := started(t, e, "x", nil)
	u := container.UpdateConfig{Resources: container.Resources{Memory: 1 << 20}, RestartPolicy: container.RestartPolicy{Name: "always"}}
	if _, err := e.Update(bg, id, u); err != nil {
		t.Fatal(err)
	}
	c, _ := e.Inspect(bg, id, false)
	if w.instance(id).limits.Memory != 1<<20 || c.HostConfig.Memory != 1<<20 || !c.HostConfig.RestartPolicy.IsAlways() {
		t.Errorf("limits %+v, %+v", w.instance(id).limits, c.HostConfig)
	}
	if err := e.Connect(bg, "back", id, nil); err != nil {
		t.Fatal(err)
	}
	if err := e.Connect(bg, "back", id, nil); err == nil {
		t.Error("connected twice")
	}
	c, _ = e.Inspect(bg, id, false)
	if len(c.NetworkSettings.Networks) != 2 || c.NetworkSettings.Networks["back"].NetworkID != "net-back" {
		t.Errorf("networks %v", c.NetworkSettings.Networks)
	}
	if err := e.Disconnect(bg, "net-back", id, false); err != nil {
		t.Fatal(err)
	}
	if err := e.Disconnect(bg, "back", id, false); !errdefs.IsNotFound(err) {
		t.Errorf("disconnected twice: %v", err)
	}
}

func TestPauseStopCommit(t *testing.T) {
	w := newWorld(t)
	e := w.engine()
	id := started(t, e, "x", nil)
	if _, err := e.Commit(bg, id, model.CommitRequest{Repo: "img", Tag: "v1", Pause: true}); err != nil {
		t.Fatal(err)
	}
	if m, _ := w.lastEvent(events.ActionCommit); m.Actor.Attributes["imageRef"] != "img:v1" {
		t.Errorf("commit %+v", m)
	}
	i := w.instance(id)
	if i.frozen || phase(e, id) != "running" {
		t.Error("still paused after commit")
	}
	if err := e.Pause(bg, id); err != nil {
		t.Fatal(err)
	}
	if err := e.Start(bg, id); !errdefs.IsConflict(err) || err.Error() != "cannot start a paused container, try unpause instead" {
		t.Errorf("start: %v", err)
	}
	if err := e.Pause(bg, id); !errdefs.IsConflict(err) {
		t.Errorf("pause: %v", err)
	}
	if err := e.Remove(bg, id, model.RemoveRequest{}); !errdefs.IsConflict(err) || !strings.Contains(err.Error(), "container is paused and must be unpaused first") {
		t.Errorf("remove: %v", err)
	}
	if err := e.Stop(bg, id, model.StopRequest{}); err != nil {
		t.Fatal(err)
	}
	if err := e.Unpause(bg, id); !errdefs.IsConflict(err) {
		t.Errorf("unpause: %v", err)
	}
}

func TestStats(t *testing.T) {
	w := newWorld(t)
	e := w.engine()
	id := create(t, e, "x", nil)
	one := func(stream, oneShot bool) *container.StatsResponse {
		var out *container.StatsResponse
		if err := e.Stats(bg, id, stream, oneShot, func(r *container.StatsResponse) bool { out = r; return false }); err != nil {
			t.Fatal(err)
		}
		return out
	}
	if r := one(false, false); r.Name != "/x" || r.PidsStats.Current != 0 || !r.Read.IsZero() {
		t.Errorf("stopped: %+v", r)
	}
	if err := e.Start(bg, id); err != nil {
		t.Fatal(err)
	}
	r := one(false, true)
	if r.PidsStats.Current != 1 || r.Networks["eth0"].RxBytes != 7 || r.CPUStats.OnlineCPUs == 0 || r.CPUStats.SystemUsage == 0 || r.MemoryStats.Limit == 0 || !r.PreRead.IsZero() {
		t.Errorf("one-shot: %+v", r)
	}
	if r := one(false, false); r.PreRead.IsZero() || r.PreCPUStats.SystemUsage == 0 {
		t.Errorf("with the one before: %+v", r)
	}
}

func TestFiles(t *testing.T) {
	w := newWorld(t)
	e := w.engine()
	id := create(t, e, "x", &container.HostConfig{Binds: []string{"data:/data"}, ReadonlyRootfs: true})
	if st, err := e.ArchiveStat(bg, id, "/etc/passwd"); err != nil || st.Name != w.dir+":/etc/passwd" {
		t.Errorf("%+v, %v", st, err)
	}
	if st, err := e.ArchiveStat(bg, id, "/data/a/"); err != nil || st.Name != "/volumes/data:/a/" {
		t.Errorf("%+v, %v", st, err)
	}
	if _, err := e.ArchiveStat(bg, "x", "/missing"); !errdefs.IsNotFound(err) || err.Error() != "Could not find the file /missing in container x" {
		t.Errorf("missing: %v", err)
	}
	err := e.ArchivePut(bg, id, "/etc", model.PutOptions{}, strings.NewReader(""))
	if !errdefs.IsPermissionDenied(err) || err.Error() != "container rootfs is marked read-only" {
		t.Errorf("put: %v", err)
	}
	if err := os.WriteFile(e.core.dir(model.ID(id))+"/hosts", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if st, err := e.ArchiveStat(bg, id, "/etc/hosts"); err != nil || st.Name != e.core.dir(model.ID(id))+":/hosts" {
		t.Errorf("%+v, %v", st, err)
	}
	if err := e.ArchivePut(bg, id, "/data", model.PutOptions{}, strings.NewReader("")); err != nil {
		t.Errorf("put into a volume: %v", err)
	}
	if err := e.Start(bg, id); err != nil {
		t.Fatal(err)
	}
	if st, _ := e.ArchiveStat(bg, id, "/data/a"); st.Name != "/proc/4242/root:/data/a" {
		t.Errorf("running: %+v", st)
	}
	if err := e.ArchivePut(bg, id, "/etc", model.PutOptions{}, strings.NewReader("")); !errdefs.IsPermissionDenied(err) {
		t.Errorf("put while running: %v", err)
	}
}

func TestBelow(t *testing.T) {
	mounts := []model.Mount{{Destination: "/data"}, {Destination: "/data/deep"}, {Destination: "/"}}
	for name, want := range map[string]string{
		"/data": "/data /", "/data/": "/data /", "/data/.": "/data /.", "/data/x": "/data /x", "/data/x/": "/data /x/", "/data/x/.": "/data /x/.",
		"/data/deep/y": "/data/deep /y", "/database": "/ /database", "data/x": "/data /x", "/data/../etc": "/ /etc",
	} {
		m, rest, ok := below(mounts, name)
		if got := m.Destination + " " + rest; !ok || got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	if _, _, ok := below(mounts[:2], "/etc"); ok {
		t.Error("/etc is below no mount")
	}
}

// TestClientLeaves: a verb goes on when its client is gone.
func TestClientLeaves(t *testing.T) {
	w := newWorld(t)
	e := w.engine()
	id := create(t, e, "x", nil)
	ctx, cancel := context.WithCancel(bg)
	w.onRun = func(*fakeInstance) { cancel() }
	if err := e.Start(ctx, id); err != nil {
		t.Error(err)
	}
	if got := phase(e, id); got != "running" {
		t.Errorf("it is %s", got)
	}
	if err := e.Stop(ctx, id, model.StopRequest{}); err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestOwnChanges(t *testing.T) {
	c := &model.Container{HostConfig: &container.HostConfig{Tmpfs: map[string]string{"/scratch": ""}}, Mounts: []model.Mount{{Destination: "/srv/data"}}}
	all := []container.FilesystemChange{}
	for _, s := range []string{"A/etc/hosts", "A/etc/hostname", "C/etc", "A/srv", "A/srv/data", "C/var", "A/var/new", "C/opt", "D/opt/old", "A/scratch", "C/tmp", "A/proc"} {
		all = append(all, container.FilesystemChange{Kind: map[byte]container.ChangeType{'A': container.ChangeAdd, 'C': container.ChangeModify, 'D': container.ChangeDelete}[s[0]], Path: s[1:]})
	}
	show := func(all []container.FilesystemChange) (out []string) {
		for _, c := range all {
			out = append(out, c.Kind.String()+c.Path)
		}
		return out
	}
	want := []string{"C/var", "A/var/new", "C/opt", "D/opt/old", "C/tmp"}
	if d := cmp.Diff(want, show(ownChanges(all, mountPointsOf(c)))); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	all = append(all, container.FilesystemChange{Kind: container.ChangeModify, Path: "/etc/passwd"})
	if got := show(ownChanges(all, mountPointsOf(c))); !slices.Contains(got, "C/etc") {
		t.Errorf("a changed /etc is hidden: %v", got)
	}
}
