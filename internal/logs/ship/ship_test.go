package ship

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"wharf/internal/logs"
	"wharf/internal/logs/logfile"
	"wharf/internal/logs/logopts"
	"wharf/internal/model"
)

// collectorFake fails as often as told and remembers what it took.
type collectorFake struct {
	mu    sync.Mutex
	fail  int
	err   error
	got   []string
	tries int
}

func (c *collectorFake) open(context.Context) error { return nil }
func (c *collectorFake) close()                     {}
func (c *collectorFake) send(_ context.Context, e entry) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tries++
	if c.fail != 0 {
		c.fail--
		return c.err
	}
	text := string(e.text)
	if e.part != nil {
		text += fmt.Sprintf(" %d %v", e.part.ordinal, e.part.last)
	}
	c.got = append(c.got, text)
	return nil
}

// written makes a copy as the monitor does.
func written(t *testing.T, dir string, lines ...string) string {
	t.Helper()
	path := filepath.Join(dir, "copy")
	l, err := logfile.Open(logfile.Plan{Driver: "local", Path: path})
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range lines {
		l.Write(logfile.Stdout, []byte(line))
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// shipping is a shipment of a container that has ended.
func shipping(t *testing.T, path string, to target, retry logopts.Retry) *shipment {
	t.Helper()
	s := &shipment{to: to, retry: retry, done: make(chan struct{}), stderr: io.Discard, plan: logfile.Plan{Driver: "fake", Path: path}}
	close(s.done)
	var err error
	if s.mark, err = openMark(path + ".sent"); err != nil {
		t.Fatal(err)
	}
	s.log, err = logs.New().Read(t.Context(), model.LogPlan{Driver: "local", Path: path}, model.LogsRequest{Stdout: true, Stderr: true, Since: s.mark.next(), Tail: -1, Follow: true}, s.done)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.log.Close() })
	return s
}

func TestDelivery(t *testing.T) {
	away := errors.New("away")
	long := strings.Repeat("x", logfile.MaxLine)
	for _, c := range []struct {
		name  string
		fail  int
		err   error
		retry logopts.Retry
		lines []string
		want  []string
		tries int
	}{
		{"all is well", 0, nil, logopts.Retry{Max: -1}, []string{"a\n", "b\n", "\n"}, []string{"a", "b", ""}, 3},
		{"pieces", 0, nil, logopts.Retry{Max: -1}, []string{long + "tail\n", "c\n"}, []string{long + " 1 false", "tail 2 true", "c"}, 3},
		{"away for a while", 3, away, logopts.Retry{Max: -1, Wait: time.Millisecond}, []string{"a\n", "b\n"}, []string{"a", "b"}, 5},
		{"given up", 2, away, logopts.Retry{Max: 1, Wait: time.Millisecond}, []string{"first\n", "b\n"}, []string{"[wharf: 1 lines (5 bytes) of output were not delivered from TIME on: away]", "b"}, 4},
		{"refused", 1, fmt.Errorf("%w: odd", errRefused), logopts.Retry{Max: -1}, []string{"a\n", "b\n"}, []string{"[wharf: 1 lines (1 bytes) of output were not delivered from TIME on: not sent: odd]", "b"}, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			to := &collectorFake{fail: c.fail, err: c.err}
			s := shipping(t, written(t, t.TempDir(), c.lines...), to, c.retry)
			if err := s.run(t.Context()); err != nil {
				t.Fatal(err)
			}
			for i, g := range to.got {
				if a, b, ok := strings.Cut(g, " from 2"); ok {
					_, b, _ = strings.Cut(b, " on: ")
					to.got[i] = a + " from TIME on: " + b
				}
			}
			if d := cmp.Diff(c.want, to.got); d != "" || to.tries != c.tries {
				t.Errorf("%d tries, want %d\n%s", to.tries, c.tries, d)
			}
		})
	}
}

// A further run goes on behind what was delivered, and the one before it ends.
func TestGoesOn(t *testing.T) {
	dir := t.TempDir()
	path := written(t, dir, "a\n")
	to := &collectorFake{}
	if err := shipping(t, path, to, logopts.Retry{Max: -1}).run(t.Context()); err != nil {
		t.Fatal(err)
	}
	written(t, dir, "b\n", "c\n")
	if err := shipping(t, path, to, logopts.Retry{Max: -1}).run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"a", "b", "c"}, to.got); d != "" {
		t.Error(d)
	}
	written(t, dir, "d\n")
	old := shipping(t, path, &collectorFake{fail: -1, err: errors.New("away")}, logopts.Retry{Max: -1, Wait: time.Millisecond})
	time.AfterFunc(100*time.Millisecond, func() { // another process
		_ = os.WriteFile(path+".sent", fmt.Appendf(nil, markForm, old.mark.at.UnixNano(), 1), 0o600)
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := old.run(ctx); err != nil || ctx.Err() != nil {
		t.Errorf("%v", err)
	}
	if b, _ := os.ReadFile(path + ".sent"); !strings.HasSuffix(string(b), " 0000000001\n") {
		t.Errorf("%q", b)
	}
	if err := os.WriteFile(path+".sent", []byte("torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	again := &collectorFake{}
	if err := shipping(t, path, again, logopts.Retry{Max: -1}).run(t.Context()); err != nil || len(again.got) != 4 {
		t.Errorf("%v %v", again.got, err)
	}
}

// The whole program, with a collector that closes between two lines.
func TestMainSyslog(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	lines := make(chan string, 10)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			l, err := bufio.NewReader(c).ReadString('\n')
			_ = c.Close()
			if err == nil {
				lines <- l
			}
		}
	}()
	path := written(t, t.TempDir(), "one\n")
	plan, _ := json.Marshal(logfile.Plan{Driver: "syslog", Path: path, ContainerID: "0123456789abcdef", Options: map[string]string{"syslog-address": "tcp://" + ln.Addr().String()}})
	stdin, life := io.Pipe()
	var out, errs bytes.Buffer
	code := make(chan int, 1)
	go func() { code <- Main(stdin, &out, &errs) }()
	_, _ = life.Write(append(plan, '\n'))
	got := <-lines
	// The end of the connection has come: a line before that is lost.
	stacks := make([]byte, 1<<20)
	for end := time.Now().Add(time.Minute); strings.Contains(string(stacks[:runtime.Stack(stacks, true)]), "ship.watch("); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the end of the connection is not noticed")
		}
	}
	l, err := logfile.Open(logfile.Plan{Driver: "local", Path: path})
	if err != nil {
		t.Fatal(err)
	}
	l.Write(logfile.Stderr, []byte("two\n"))
	_ = l.Close()
	got += <-lines
	_ = life.Close()
	if c := <-code; c != 0 || out.String() != "ok\n" {
		t.Errorf("code %d, %q, %q", c, out.String(), errs.String())
	}
	if !strings.Contains(got, "]: one\n<27>") || !strings.HasSuffix(got, "]: two\n") {
		t.Errorf("%q", got)
	}
}

func TestMainRefuses(t *testing.T) {
	dir := t.TempDir()
	for text, want := range map[string]string{
		"": "not by hand", "x\n": "log plan", `{"driver":"json-file"}` + "\n": "knows no log driver",
		`{"driver":"gelf","path":"` + dir + `/c","options":{"gelf-address":"tcp://127.0.0.1:1"}}` + "\n":                                                 "cannot connect to GELF endpoint",
		`{"driver":"syslog","path":"` + dir + `/c","options":{"syslog-address":"tcp+tls://127.0.0.1:1","syslog-tls-ca-cert":"` + dir + `/none"}}` + "\n": "syslog-tls-ca-cert",
	} {
		var out bytes.Buffer
		if code := Main(strings.NewReader(text), &out, io.Discard); code != 1 || !strings.Contains(out.String(), want) || strings.Count(out.String(), "\n") != 1 {
			t.Errorf("%q: %d %q", text, code, out.String())
		}
	}
}

// A collector that is away for longer than the copy holds is told so.
func TestOverrun(t *testing.T) {
	path := filepath.Join(t.TempDir(), "copy")
	l, err := logfile.Open(logfile.Plan{Driver: "local", Path: path, Options: map[string]string{"max-size": "2k", "max-file": "3"}})
	if err != nil {
		t.Fatal(err)
	}
	l.Write(logfile.Stdout, []byte("first\n"))
	to := &collectorFake{fail: -1, err: errors.New("away")}
	s := shipping(t, path, to, logopts.Retry{Max: -1, Wait: time.Millisecond})
	ended := make(chan error, 1)
	go func() { ended <- s.run(t.Context()) }()
	for tries := 0; tries == 0; time.Sleep(time.Millisecond) {
		to.mu.Lock()
		tries = to.tries
		to.mu.Unlock()
	}
	for i := range 500 {
		l.Write(logfile.Stdout, fmt.Appendf(nil, "line %d\n", i))
	}
	_ = l.Close()
	to.mu.Lock()
	to.fail = 0
	to.mu.Unlock()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	var at int
	for i, g := range to.got {
		if strings.Contains(g, "may be missing here") {
			at = i
		}
	}
	if n := len(to.got); at == 0 || n < 50 || n > 400 || to.got[0] != "first" || to.got[n-1] != "line 499" {
		t.Errorf("told at %d of %d: %.300q", at, n, to.got)
	}
}
