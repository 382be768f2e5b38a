package logs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"wharf/internal/logs/logfile"
	"wharf/internal/model"
)

var both = model.LogsRequest{Stdout: true, Stderr: true, Tail: -1}

// plan makes a log plan in a new directory.
func plan(t *testing.T, driver string, opts map[string]string) model.LogPlan {
	t.Helper()
	return model.LogPlan{Driver: driver, Path: filepath.Join(t.TempDir(), "x-json.log"), Options: opts}
}

func openLog(t *testing.T, p model.LogPlan) *logfile.Log {
	t.Helper()
	l, err := logfile.Open(logfile.Plan{Driver: p.Driver, Path: p.Path, Options: p.Options, Attrs: p.Attrs})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// write writes pieces "o:text" and "e:text" and closes the log.
func write(t *testing.T, p model.LogPlan, pieces ...string) {
	t.Helper()
	l := openLog(t, p)
	for _, x := range pieces {
		stream := logfile.Stdout
		if x[0] == 'e' {
			stream = logfile.Stderr
		}
		l.Write(stream, []byte(x[2:]))
	}
	l.Flush(logfile.Stdout)
	l.Flush(logfile.Stderr)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// read reads until the end and returns "o:text" for each entry.
func read(t *testing.T, p model.LogPlan, q model.LogsRequest) []string {
	t.Helper()
	r, err := New().Read(context.Background(), p, q, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var out []string
	for {
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, show(e))
	}
}

func show(e model.LogEntry) string {
	if e.Stream == model.Stderr {
		return "e:" + string(e.Line)
	}
	return "o:" + string(e.Line)
}

func numbered(from, to int) (lines []string) {
	for i := from; i < to; i++ {
		lines = append(lines, fmt.Sprintf("o:line %d\n", i))
	}
	return lines
}

var fileDrivers = []string{"json-file", "local"}

func TestRoundTrip(t *testing.T) {
	long := strings.Repeat("x", 40000)
	for _, d := range fileDrivers {
		t.Run(d, func(t *testing.T) {
			p := plan(t, d, nil)
			write(t, p, "o:one\ntwo\nthr", "e:<&>\u2028\"\\\t\x01\n", "o:ee\n\n", "o:"+long+"\n", "o:no newline")
			want := []string{"o:one\n", "o:two\n", "e:<&>\u2028\"\\\t\x01\n", "o:three\n", "o:\n",
				"o:" + long[:16384], "o:" + long[:16384], "o:" + long[:40000-2*16384] + "\n", "o:no newline"}
			if diff := cmp.Diff(want, read(t, p, both)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestChoice(t *testing.T) {
	for _, d := range fileDrivers {
		p := plan(t, d, nil)
		write(t, p, "o:a\n", "e:b\n", "o:c\n", "e:d\n", "o:"+strings.Repeat("y", 20000)+"\n", "e:f\n")
		long := "o:" + strings.Repeat("y", 16384)
		rest := "o:" + strings.Repeat("y", 20000-16384) + "\n"
		for _, c := range []struct {
			name string
			q    model.LogsRequest
			want []string
		}{
			{"stdout", model.LogsRequest{Stdout: true, Tail: -1}, []string{"o:a\n", "o:c\n", long, rest}},
			{"tail 1", model.LogsRequest{Stdout: true, Stderr: true, Tail: 1}, []string{"e:f\n"}},
			{"tail 2, a cut line", model.LogsRequest{Stdout: true, Stderr: true, Tail: 2}, []string{long, rest, "e:f\n"}},
			{"tail 2 of stderr", model.LogsRequest{Stderr: true, Tail: 2}, []string{"e:d\n", "e:f\n"}},
			{"tail 0", model.LogsRequest{Stdout: true, Stderr: true}, nil},
			{"tail of more", model.LogsRequest{Stderr: true, Tail: 99}, []string{"e:b\n", "e:d\n", "e:f\n"}},
			{"since the future", model.LogsRequest{Stdout: true, Tail: -1, Since: time.Now().Add(time.Hour)}, nil},
			{"until the past", model.LogsRequest{Stdout: true, Tail: -1, Until: time.Now().Add(-time.Hour)}, nil},
		} {
			if diff := cmp.Diff(c.want, read(t, p, c.q)); diff != "" {
				t.Errorf("%s, %s: %s", d, c.name, diff)
			}
		}
	}
}

func TestSinceUntil(t *testing.T) {
	for _, d := range fileDrivers {
		p := plan(t, d, nil)
		var marks []time.Time
		l := openLog(t, p)
		for i := range 5 {
			marks = append(marks, time.Now())
			time.Sleep(2 * time.Millisecond)
			l.Write(logfile.Stdout, fmt.Appendf(nil, "line %d\n", i))
		}
		_ = l.Close()
		q := both
		q.Since, q.Until = marks[1], marks[4]
		if diff := cmp.Diff(numbered(1, 4), read(t, p, q)); diff != "" {
			t.Errorf("%s: %s", d, diff)
		}
		q.Tail = 2
		if diff := cmp.Diff(numbered(2, 4), read(t, p, q)); diff != "" {
			t.Errorf("%s tail: %s", d, diff)
		}
	}
}

func TestRotationAndTail(t *testing.T) {
	for _, d := range fileDrivers {
		for _, compress := range []string{"false", "true"} {
			t.Run(d+" compress="+compress, func(t *testing.T) {
				p := plan(t, d, map[string]string{"max-size": "2k", "max-file": "4", "compress": compress})
				write(t, p, strings.Replace(strings.Join(numbered(0, 500), ""), "o:", "", -1)[:0]+"o:"+strings.ReplaceAll(strings.Join(numbered(0, 500), ""), "o:", ""))
				names, _ := siblings(p.Path)
				if len(names) != 4 {
					t.Errorf("files %q", names)
				}
				for _, n := range names {
					if fi, err := os.Stat(n); err != nil || fi.Size() > 2<<10 || fi.Mode().Perm() != 0o600 {
						t.Errorf("%s: %v %v", n, fi, err)
					}
				}
				all := read(t, p, both)
				if len(all) < 50 || !cmp.Equal(all, numbered(500-len(all), 500)) {
					t.Errorf("read %d lines: %q", len(all), all)
				}
				q := both
				for _, n := range []int{1, 30, len(all) - 1} {
					q.Tail = n
					if diff := cmp.Diff(numbered(500-n, 500), read(t, p, q)); diff != "" {
						t.Errorf("tail %d: %s", n, diff)
					}
				}
				if err := New().Remove(p); err != nil {
					t.Error(err)
				}
				if names, _ := siblings(p.Path); len(names) != 0 {
					t.Errorf("left %q", names)
				}
			})
		}
	}
}

// A reader that follows sees every line once while files are rotated under
// it, and ends when the container has ended.
func TestFollow(t *testing.T) {
	for _, d := range fileDrivers {
		for _, opts := range []map[string]string{nil, {"max-size": "16k", "max-file": "100"}} {
			t.Run(fmt.Sprint(d, opts), func(t *testing.T) {
				p := plan(t, d, opts)
				done := make(chan struct{})
				q := both
				q.Follow = true
				r, err := New().Read(context.Background(), p, q, done)
				if err != nil {
					t.Fatal(err)
				}
				defer r.Close()
				const n = 2000
				go func() {
					l := openLog(t, p)
					for i := range n {
						l.Write(logfile.Stdout, fmt.Appendf(nil, "line %d\n", i))
						if i%50 == 0 {
							time.Sleep(time.Millisecond)
						}
					}
					_ = l.Close()
					close(done)
				}()
				for i := range n {
					e, err := r.Next()
					if err != nil || show(e) != fmt.Sprintf("o:line %d\n", i) {
						t.Fatalf("entry %d: %q %v", i, show(e), err)
					}
				}
				if _, err := r.Next(); !errors.Is(err, io.EOF) {
					t.Errorf("end: %v", err)
				}
			})
		}
	}
}

func TestFollowEnds(t *testing.T) {
	p := plan(t, "json-file", nil)
	write(t, p, "o:a\n")
	q := both
	q.Follow = true
	ctx, cancel := context.WithCancel(context.Background())
	r, err := New().Read(ctx, p, q, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Next(); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(20*time.Millisecond, cancel)
	if _, err := r.Next(); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	_ = r.Close()

	q.Until = time.Now().Add(30 * time.Millisecond)
	if got := read(t, p, q); !cmp.Equal(got, []string{"o:a\n"}) {
		t.Errorf("until: %q", got)
	}

	q.Until = time.Time{}
	r, err = New().Read(context.Background(), p, q, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = r.Next()
	time.AfterFunc(20*time.Millisecond, func() { _ = r.Close() })
	if _, err := r.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("closed: %v", err)
	}
}

// One file only: it is emptied when it is full.
func TestFollowEmptied(t *testing.T) {
	p := plan(t, "json-file", map[string]string{"max-size": "1k", "max-file": "1"})
	q := both
	q.Follow = true
	done := make(chan struct{})
	r, err := New().Read(context.Background(), p, q, done)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	l := openLog(t, p)
	for i := range 60 {
		l.Write(logfile.Stdout, fmt.Appendf(nil, "line %d\n", i))
		e, err := r.Next()
		if err != nil || show(e) != fmt.Sprintf("o:line %d\n", i) {
			t.Fatalf("entry %d: %q %v", i, show(e), err)
		}
	}
	_ = l.Close()
	close(done)
}

func TestTornAndForeign(t *testing.T) {
	for _, d := range fileDrivers {
		t.Run(d, func(t *testing.T) {
			p := plan(t, d, nil)
			write(t, p, "o:one\ntwo\nthree\n")
			whole, _ := os.ReadFile(p.Path)
			two := []string{"o:one\n", "o:two\n"}
			for cut := 1; cut < 15; cut++ {
				_ = os.WriteFile(p.Path, whole[:len(whole)-cut], 0o600)
				if diff := cmp.Diff(two, read(t, p, both)); diff != "" {
					t.Errorf("cut %d: %s", cut, diff)
				}
				q := both
				q.Tail = 1
				if diff := cmp.Diff(two[1:], read(t, p, q)); diff != "" {
					t.Errorf("cut %d, tail: %s", cut, diff)
				}
				// The next run repairs the end.
				write(t, p, "e:four\n")
				if diff := cmp.Diff(append(two[:2:2], "e:four\n"), read(t, p, both)); diff != "" {
					t.Errorf("cut %d, repaired: %s", cut, diff)
				}
			}
			// Zeros, as a power cut leaves them, and something foreign.
			for _, junk := range []string{strings.Repeat("\x00", 100), "junk", "junk\n{}\n[1]\nnull\n"} {
				_ = os.WriteFile(p.Path, []byte(string(whole)+junk), 0o600)
				if diff := cmp.Diff(numberWords, read(t, p, both)); diff != "" {
					t.Errorf("%q: %s", junk, diff)
				}
				q := both
				q.Tail = 2
				if diff := cmp.Diff(numberWords[1:], read(t, p, q)); diff != "" {
					t.Errorf("%q, tail: %s", junk, diff)
				}
			}
		})
	}
}

var numberWords = []string{"o:one\n", "o:two\n", "o:three\n"}

func TestDetails(t *testing.T) {
	for _, d := range fileDrivers {
		p := plan(t, d, map[string]string{"max-size": "300", "max-file": "3"})
		p.Attrs = map[string]string{"label": "<v>"}
		write(t, p, "o:one\ntwo\nthree\nfour\nfive\n")
		q := both
		q.Details, q.Tail = true, 1
		r, err := New().Read(context.Background(), p, q, nil)
		if err != nil {
			t.Fatal(err)
		}
		e, err := r.Next()
		if err != nil || e.Attrs["label"] != "<v>" || string(e.Line) != "five\n" {
			t.Errorf("%s: %+v %v", d, e, err)
		}
		_ = r.Close()
	}
}

func TestUnreadable(t *testing.T) {
	for _, d := range []string{"none", "syslog", "journald"} {
		_, err := New().Read(context.Background(), model.LogPlan{Driver: d}, both, nil)
		if !errdefs.IsNotImplemented(err) || !strings.Contains(err.Error(), "configured logging driver does not support reading") {
			t.Errorf("%s: %v", d, err)
		}
	}
	if got := read(t, plan(t, "json-file", nil), both); got != nil {
		t.Errorf("a log that was not begun: %q", got)
	}
}

func FuzzFormats(f *testing.F) {
	dir := f.TempDir()
	for _, d := range fileDrivers {
		l, err := logfile.Open(logfile.Plan{Driver: d, Path: filepath.Join(dir, d), Attrs: map[string]string{"a": "b"}})
		if err != nil {
			f.Fatal(err)
		}
		l.Write(logfile.Stdout, []byte("one\ntwo\n"))
		_ = l.Close()
		b, _ := os.ReadFile(filepath.Join(dir, d))
		f.Add(b)
		f.Add(b[:len(b)-3])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(t.TempDir(), "log")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, d := range fileDrivers {
			p := model.LogPlan{Driver: d, Path: path}
			all := read(t, p, both)
			q := both
			q.Tail = 1 << 20
			if tail := read(t, p, q); len(all) < 1000 && len(tail) > len(all) {
				t.Errorf("%s: tail has %d entries, all %d", d, len(tail), len(all))
			}
		}
	})
}
