package dockerapi

import (
	"bytes"
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/client"

	"wharf/internal/model"
)

type fakeLog struct {
	entries chan model.LogEntry
	closed  chan struct{}
}

func (l *fakeLog) Next() (model.LogEntry, error) {
	select {
	case e, ok := <-l.entries:
		if !ok {
			return e, io.EOF
		}
		return e, nil
	case <-l.closed:
		return model.LogEntry{}, net.ErrClosed
	}
}

func (l *fakeLog) Close() error { close(l.closed); return nil }

func logServer(t *testing.T, l *fakeLog, tty bool) (*client.Client, *model.LogsRequest) {
	var got model.LogsRequest
	return newClient(t, listen(t, New(Options{Log: quiet(), Containers: &fakeContainers{
		logs: func(_ context.Context, r model.LogsRequest) (model.LogReader, bool, error) {
			got = r
			return l, tty, nil
		},
	}}))), &got
}

func TestLogs(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 600, time.UTC)
	l := &fakeLog{entries: make(chan model.LogEntry, 10), closed: make(chan struct{})}
	l.entries <- model.LogEntry{Time: at, Stream: model.Stdout, Line: []byte("long "), Partial: true}
	l.entries <- model.LogEntry{Time: at, Stream: model.Stderr, Line: []byte("oops\n"), Attrs: map[string]string{"b": "2 3", "a": "1"}}
	l.entries <- model.LogEntry{Time: at, Stream: model.Stdout, Line: []byte("line\n")}
	close(l.entries)
	c, got := logServer(t, l, false)
	rc, err := c.ContainerLogs(context.Background(), "x", client.ContainerLogsOptions{
		ShowStdout: true, ShowStderr: true, Timestamps: true, Details: true, Tail: "7", Since: "12.5",
	})
	if err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	if _, err := stdcopy.StdCopy(&out, &errs, rc); err != nil {
		t.Fatal(err)
	}
	if want := "2026-01-02T03:04:05.000000600Z  long line\n"; out.String() != want {
		t.Errorf("stdout %q, want %q", out.String(), want)
	}
	if want := "2026-01-02T03:04:05.000000600Z a=1,b=2+3 oops\n"; errs.String() != want {
		t.Errorf("stderr %q, want %q", errs.String(), want)
	}
	if got.Tail != 7 || !got.Since.Equal(time.Unix(12, 5e8)) || !got.Until.IsZero() || got.Follow {
		t.Errorf("request %+v", got)
	}
}

// A followed log flushes each line at once, and ends with its client.
func TestLogsFollow(t *testing.T) {
	l := &fakeLog{entries: make(chan model.LogEntry), closed: make(chan struct{})}
	c, _ := logServer(t, l, true)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	rc, err := c.ContainerLogs(ctx, "x", client.ContainerLogsOptions{ShowStdout: true, Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	for _, line := range []string{"one\n", "two\n"} {
		l.entries <- model.LogEntry{Stream: model.Stdout, Line: []byte(line)}
		n, err := rc.Read(buf)
		if err != nil || string(buf[:n]) != line {
			t.Fatalf("got %q, %v", buf[:n], err)
		}
	}
	cancel()
	_ = rc.Close()
	waitFor(t, "log closed", l.closed)
	noLeak(t)
}

func TestLogsNeedAStream(t *testing.T) {
	h := New(Options{Containers: &fakeContainers{}, Log: quiet()})
	if w := get(h, "/containers/x/logs"); w.Code != 400 || !strings.Contains(message(t, w), "at least one of 'stdout' or 'stderr'") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := get(h, "/containers/x/logs?stdout=1&since=yesterday"); w.Code != 400 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestParseTime(t *testing.T) {
	for text, want := range map[string]time.Time{
		"":                      {},
		"0":                     time.Unix(0, 0),
		"1136073600":            time.Unix(1136073600, 0),
		"1136073600.000000001":  time.Unix(1136073600, 1),
		"1136073600.5":          time.Unix(1136073600, 5e8),
		"1136073600.1234567891": time.Unix(1136073600, 123456789),
		"-1.0":                  time.Unix(-1, 0),
	} {
		got, err := parseTime("since", text)
		if err != nil || !got.Equal(want) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"x", "1.x", "1.-5", "1.123456789012345678901", "2026-01-02"} {
		if _, err := parseTime("since", text); err == nil {
			t.Errorf("%q: no error", text)
		}
	}
}
