package monitor

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"wharf/api/monitorapi"
)

// early is an engine that does something ahead, for as long as it has to.
type early struct {
	native
	err     error
	until   chan struct{} // nil: at once
	body    string
	more    int
	givenUp chan struct{}
}

func (e *early) Ahead(body []byte, f Files) error {
	e.body, e.more = string(body), len(f.More)
	if e.until != nil {
		<-e.until
	}
	return e.err
}

func (e *early) GiveUp() {
	select {
	case <-e.givenUp:
	default:
		close(e.givenUp)
		if e.until != nil {
			close(e.until)
		}
	}
}

// dialogue runs orders against what say does with the other end.
func dialogue(t *testing.T, e Engine, say func(other *os.File, r *monitorapi.Reader)) (monitorapi.Start, error) {
	t.Helper()
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, other := os.NewFile(uintptr(p[0]), "control"), os.NewFile(uintptr(p[1]), "daemon")
	said := make(chan struct{})
	defer other.Close()
	defer func() { _ = ours.Close(); <-said }()
	go func() {
		defer close(said)
		say(other, &monitorapi.Reader{R: other})
	}()
	from := &rights{conn: ours}
	return orders(&monitorapi.Reader{R: from}, from, e)
}

// What is to be done ahead is done before the start, and is ended when no start
// comes, also while it is under way.
func TestAhead(t *testing.T) {
	ask := func(f *os.File) {
		q, _ := json.Marshal(monitorapi.Ahead{Version: 1, Body: json.RawMessage(`{"x":1}`), Files: []string{monitorapi.FileMore + "a"}})
		frame, _ := monitorapi.Frame(monitorapi.AheadFrame, q)
		rc, _ := f.SyscallConn()
		_ = rc.Control(func(fd uintptr) { _ = unix.Sendmsg(int(fd), frame, unix.UnixRights(0), nil, 0) })
	}
	failure := errors.New("no")
	for name, c := range map[string]struct {
		engine  *early
		say     func(*os.File, *monitorapi.Reader)
		want    error // nil: a start
		givenUp bool
	}{
		"a start follows": {&early{}, func(f *os.File, r *monitorapi.Reader) {
			ask(f)
			var ready monitorapi.Ready
			if err := r.Expect(monitorapi.ReadyFrame, &ready); err != nil {
				t.Error(err)
			}
			_ = monitorapi.WriteJSON(f, monitorapi.StartFrame, monitorapi.Start{ID: "x"})
		}, nil, false},
		"no start follows": {&early{}, func(f *os.File, r *monitorapi.Reader) {
			ask(f)
			_, _, _ = r.Next()
			_ = f.Close()
		}, io.EOF, true},
		"the daemon goes meanwhile": {&early{until: make(chan struct{}), err: failure}, func(f *os.File, _ *monitorapi.Reader) {
			ask(f)
			time.Sleep(20 * time.Millisecond)
			_ = f.Close()
		}, failure, true},
		"it fails": {&early{err: failure}, func(f *os.File, r *monitorapi.Reader) {
			ask(f)
			var told *monitorapi.Failed
			if err := r.Expect(monitorapi.ReadyFrame, &monitorapi.Ready{}); !errors.As(err, &told) || told.Text != "no" {
				t.Errorf("told %v", err)
			}
		}, failure, false},
	} {
		t.Run(name, func(t *testing.T) {
			c.engine.givenUp = make(chan struct{})
			st, err := dialogue(t, c.engine, c.say)
			if !errors.Is(err, c.want) || err == nil && st.ID != "x" {
				t.Errorf("%+v %v, want %v", st, err, c.want)
			}
			if c.engine.body != `{"x":1}` || c.engine.more != 1 {
				t.Errorf("body %q, %d descriptors", c.engine.body, c.engine.more)
			}
			select {
			case <-c.engine.givenUp:
				if !c.givenUp {
					t.Error("given up")
				}
			case <-time.After(50 * time.Millisecond):
				if c.givenUp {
					t.Error("not given up")
				}
			}
		})
	}
	_, err := dialogue(t, native{}, func(f *os.File, r *monitorapi.Reader) { ask(f) })
	var f *monitorapi.Failed
	if !errors.As(err, &f) || f.Kind != monitorapi.KindUnimplemented {
		t.Errorf("a monitor of containers: %v", err)
	}
}
