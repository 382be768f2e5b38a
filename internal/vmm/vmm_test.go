package vmm

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode"

	"wharf/api/guestapi"
)

func TestTail(t *testing.T) {
	var x tail
	x.follow(strings.NewReader(strings.Repeat("flood\n", 100_000) + "one\x1b[31m\r\ntwo\x00\nthree"))
	if len(x.buf) > tailSize {
		t.Errorf("%d bytes are kept", len(x.buf))
	}
	if got := x.last(3); got != "one[31m\ntwo\nthree" {
		t.Errorf("%q", got)
	}
	var dying tail
	dying.add([]byte("[  1.0] all well\n[  2.0] Kernel panic - not syncing: sysrq\x1b triggered crash\r\n[  2.0] Call Trace:\n"))
	if got := dying.panic(); got != "sysrq triggered crash" {
		t.Errorf("why the kernel gave up: %q", got)
	}
	if got := without("a\nhub 1 is not\nb", "is not"); got != "a\nb" {
		t.Errorf("without: %q", got)
	}
	if got := new(tail).last(3); got != "" {
		t.Errorf("%q of nothing", got)
	}
}

// What a guest says of an exit is bounded, and its time is the host's.
func FuzzExit(f *testing.F) {
	for _, s := range []string{`{"code":3}`, `{"code":-1}`, `{"code":300,"error":"a\u0007b"}`, `{`, `{"at":"1970-01-01T00:00:00Z"}`, "{\"at\":\"\x7f\"}"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		e := exitOf(b)
		if e.Code < 0 || e.Code > 255 || len(e.Error) > 10_000 || time.Since(e.At) > time.Minute {
			t.Errorf("%+v", e)
		}
		if strings.ContainsFunc(e.Error, unicode.IsControl) {
			t.Errorf("control characters in %q", e.Error)
		}
	})
}

func TestQMP(t *testing.T) {
	ours, theirs, err := socketpair("qmp")
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	q := newQMP(ours)
	defer q.close()
	go func() {
		_, _ = io.WriteString(theirs, `{"QMP":{"version":{}}}`+"\n")
		for r := bufio.NewScanner(theirs); r.Scan(); {
			var q struct{ ID json.RawMessage }
			_ = json.Unmarshal(r.Bytes(), &q)
			id := `,"id":` + string(q.ID) + "}\n"
			answer := `{"return":{}` + id
			switch {
			case strings.Contains(r.Text(), "query-status"):
				answer = `{"event":"RESUME"}` + "\n" + `{"return":{"status":"running"}` + id
			case strings.Contains(r.Text(), "bad"):
				answer = `{"error":{"class":"GenericError","desc":"no such thing"}` + id
			case strings.Contains(r.Text(), "slow"):
				time.Sleep(300 * time.Millisecond)
				_, _ = io.WriteString(theirs, `{"return":{"la`)
				answer = `te":1}` + id
			}
			_, _ = io.WriteString(theirs, answer)
		}
	}()
	v, err := q.run("query-status", nil)
	if err != nil || string(v) != `{"status":"running"}` {
		t.Errorf("%s %v", v, err)
	}
	if _, err := q.run("bad", object("id", "x")); err == nil || !strings.Contains(err.Error(), "no such thing") {
		t.Errorf("%v", err)
	}
	if _, err := q.runFor(100*time.Millisecond, "slow"); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("too slow: %v", err)
	}
	if v, err := q.run("query-status", nil); err != nil || string(v) != `{"status":"running"}` {
		t.Errorf("after an answer that came too late: %s %v", v, err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if _, err := q.runWith("getfd", object("fdname", "x"), null); err != nil {
		t.Error(err)
	}
}

// Output comes in order; a process whose reader does not read is found to have
// ended.
func TestQueue(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	q := newQueue()
	piece := bytes.Repeat([]byte("0123456789abcdef"), guestapi.MaxData/16)
	var asked atomic.Int64
	const n = 40 // more than the queue and the pipe hold
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range n {
			q.push(w, piece, func() bool { return asked.Add(1) >= 2 })
		}
	}()
	select {
	case <-done:
		if asked.Load() < 2 {
			t.Error("the queue took everything without asking")
		}
	case <-time.After(time.Minute):
		t.Fatal("the queue did not let the end through")
	}
	q.close(func() { _ = w.Close() })
	got, err := io.ReadAll(r)
	if err != nil || len(got) != n*len(piece) || !bytes.Equal(got[:len(piece)], piece) {
		t.Errorf("%d bytes of %d, %v", len(got), n*len(piece), err)
	}
}
