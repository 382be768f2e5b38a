package logfile

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

func open(t testing.TB, p Plan) *Log {
	t.Helper()
	l, err := Open(p)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// Docker's bytes exactly.
func TestJSONBytes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l := open(t, Plan{Driver: "json-file", Path: path, Attrs: map[string]string{"b": "2", "a": "<1>"}})
	l.Write(Stdout, []byte("a<&>\"\\\t\x01\xff\u2028é\n"))
	l.Write(Stderr, []byte("cut"))
	l.Flush(Stderr)
	_ = l.Close()
	got, _ := os.ReadFile(path)
	got = regexp.MustCompile(`"time":"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z"`).ReplaceAll(got, []byte(`"time":T`))
	want := `{"log":"a\u003c\u0026\u003e\"\\\t\u0001\ufffd\u2028é\n","stream":"stdout","attrs":{"a":"\u003c1\u003e","b":"2"},"time":T}` + "\n" +
		`{"log":"cut","stream":"stderr","attrs":{"a":"\u003c1\u003e","b":"2"},"time":T}` + "\n"
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// One write(2) for what was read at once, however many lines.
func TestSplitterPieces(t *testing.T) {
	var s splitter
	var got []string
	f := func(e entry) { got = append(got, fmt.Sprintf("%d %v", len(e.line), e.partial)) }
	s.feed(bytes.Repeat([]byte("x"), MaxLine-1), f)
	s.feed([]byte("xx\n\ny"), f)
	s.flush(f)
	s.flush(f)
	want := "[16384 true 1 false 0 false 1 true]"
	if fmt.Sprint(got) != want {
		t.Errorf("%v, want %s", got, want)
	}
}

func FuzzEscape(f *testing.F) {
	f.Add([]byte("plain"))
	f.Add([]byte("<\xff\xe2\x80\xa8\x00\"\\"))
	f.Fuzz(func(t *testing.T, b []byte) {
		want, err := json.Marshal(string(b))
		if err != nil {
			t.Fatal(err)
		}
		got := append(appendEscaped([]byte{'"'}, b), '"')
		var x, y string
		if json.Unmarshal(got, &x) != nil || json.Unmarshal(want, &y) != nil || x != y || !utf8.Valid(got) {
			t.Errorf("%q: %s, want %s", b, got, want)
		}
	})
}

func FuzzRecord(f *testing.F) {
	f.Add(AppendRecord(nil, time.Now(), Stderr, true, []byte("line")))
	a, _ := AppendAttrs(nil, map[string]string{"a": "b"})
	f.Add(a)
	f.Fuzz(func(t *testing.T, b []byte) {
		r, n, err := DecodeRecord(b)
		if err != nil {
			return
		}
		if n < recordFrame || n > len(b) {
			t.Fatalf("length %d of %d", n, len(b))
		}
		r2, n2, err := LastRecord(b[:n])
		if err != nil || n2 != n || r2.Time != r.Time || !bytes.Equal(r.Line, r2.Line) {
			t.Errorf("from the end: %+v %d %v", r2, n2, err)
		}
	})
}

// A full disk: the container goes on, the gap is counted and told.
func TestGap(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounts a small tmpfs and needs root")
	}
	for _, driver := range []string{"json-file", "local"} {
		t.Run(driver, func(t *testing.T) {
			dir := t.TempDir()
			if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
				t.Skipf("mount tmpfs: %v", err)
			}
			defer func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }()
			path, fill := filepath.Join(dir, "log"), filepath.Join(dir, "fill")
			l := open(t, Plan{Driver: driver, Path: path})
			l.Write(Stdout, []byte("before\n"))
			_ = os.WriteFile(fill, make([]byte, 128<<10), 0o600) // fails half way: full
			line := []byte(strings.Repeat("y", 5000) + "\n")
			for range 3 {
				l.Write(Stdout, line)
			}
			s := l.State()
			if s.LostLines == 0 || s.LostLines > 3 || s.Gaps != 1 || !strings.Contains(s.Failing, "no space") {
				t.Errorf("state %+v", s)
			}
			_ = os.Remove(fill)
			l.Write(Stdout, []byte("after\n"))
			after := l.State()
			if after.Failing != "" || after.LostLines != s.LostLines {
				t.Errorf("state after %+v", after)
			}
			_ = l.Close()
			b, _ := os.ReadFile(path)
			want := fmt.Sprintf("[wharf: %d lines (%d bytes) of output were lost from ", s.LostLines, s.LostBytes)
			for _, w := range []string{"before", want, "after"} {
				if !strings.Contains(string(b), w) {
					t.Errorf("log lacks %q: %.300q", w, b)
				}
			}
			if n := strings.Count(string(b), "wharf:"); n != 1 {
				t.Errorf("%d entries tell of the gap", n)
			}
		})
	}
}

func TestNonBlocking(t *testing.T) {
	// Nobody reads this socket: a blocking log would hang.
	old := sendTime
	sendTime = 100 * time.Millisecond
	defer func() { sendTime = old }()
	path := filepath.Join(t.TempDir(), "s")
	a, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	l := open(t, Plan{Driver: "syslog", ContainerID: "0123456789abcdef",
		Options: map[string]string{"syslog-address": "unixgram://" + path, "mode": "non-blocking", "max-buffer-size": "1k"}})
	begin := time.Now()
	for range 5000 {
		l.Write(Stdout, []byte("some words\n"))
	}
	if d := time.Since(begin); d > time.Minute {
		t.Errorf("writing took %v", d)
	}
	if s := l.State(); s.LostLines == 0 {
		t.Errorf("state %+v", s)
	}
	_ = a.Close()
	_ = l.Close()
}

func TestSyslog(t *testing.T) {
	const id = "0123456789abcdef0123"
	for _, c := range []struct{ format, want string }{
		{"", `^<134>\w{3} [ \d]\d \d\d:\d\d:\d\d 0123456789ab\[\d+\]: hello\n$`},
		{"rfc3164", `^<134>\w{3} [ \d]\d \d\d:\d\d:\d\d \S+ 0123456789ab\[\d+\]: hello\n$`},
		{"rfc5424", `^<134>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|[+-]\d\d:\d\d) \S+ 0123456789ab \d+ 0123456789ab - hello\n$`},
		{"rfc5424micro", `^<134>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|[+-]\d\d:\d\d) \S+ 0123456789ab \d+ 0123456789ab - hello\n$`},
	} {
		conn, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		l := open(t, Plan{Driver: "syslog", ContainerID: id, Options: map[string]string{
			"syslog-address": "udp://" + conn.LocalAddr().String(), "syslog-format": c.format, "syslog-facility": "local0"}})
		l.Write(Stdout, []byte("hello\n"))
		buf := make([]byte, 1000)
		_ = conn.SetReadDeadline(time.Now().Add(time.Minute))
		n, _, err := conn.ReadFrom(buf)
		if err != nil || !regexp.MustCompile(c.want).Match(buf[:n]) {
			t.Errorf("%s: %q %v", c.format, buf[:n], err)
		}
		_, _ = l, conn.Close()
		_ = l.Close()
	}
}

func TestSyslogNobodyThere(t *testing.T) {
	_, err := Open(Plan{Driver: "syslog", Path: filepath.Join(t.TempDir(), "copy"), Options: map[string]string{"syslog-address": "unix:///nowhere/at/all"}})
	if err == nil || !strings.Contains(err.Error(), "/nowhere/at/all") {
		t.Errorf("%v", err)
	}
}

// What is sent by datagram is kept, too, unless that is not wanted.
func TestCopy(t *testing.T) {
	for _, disabled := range []string{"false", "true"} {
		conn, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "copy")
		p := Plan{Driver: "syslog", ContainerID: "0123456789abcdef", Path: path, Attrs: map[string]string{"a": "b"},
			Options: map[string]string{"syslog-address": "udp://" + conn.LocalAddr().String(), "cache-disabled": disabled}}
		if disabled == "true" {
			p.Path = ""
		}
		l := open(t, p)
		l.Write(Stderr, []byte("hello\n"))
		_ = l.Close()
		b, err := os.ReadFile(path)
		if disabled == "true" {
			if err == nil {
				t.Error("a copy was kept")
			}
		} else if a, n, err := DecodeRecord(b); err != nil || a.Attrs["a"] != "b" {
			t.Errorf("%+v %v", a, err)
		} else if r, _, err := DecodeRecord(b[n:]); err != nil || string(r.Line) != "hello" || r.Stream != Stderr {
			t.Errorf("%+v %v", r, err)
		}
		_ = conn.Close()
	}
}

// The process that sends: its answers, its end, and that it is started again.
func TestShipper(t *testing.T) {
	dir := t.TempDir()
	script := func(text string) string {
		p := filepath.Join(dir, "logger")
		if err := os.WriteFile(p, []byte("#!/bin/sh\n"+text), 0o700); err != nil {
			t.Fatal(err)
		}
		return p
	}
	p := Plan{Driver: "gelf", ContainerID: "0123456789abcdef", Path: filepath.Join(dir, "copy"), Options: map[string]string{"gelf-address": "tcp://h:1"}}
	for text, want := range map[string]string{"echo no way": "no way", "exit 1": "does not answer", "echo half; printf x": "half"} {
		p.Logger = script(text)
		if _, err := Open(p); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
	p.Logger = script("read plan; echo \"$plan\" >>" + dir + "/plans; echo ok; [ $(wc -l <" + dir + "/plans) = 1 ] && exit; cat; echo end >>" + dir + "/plans")
	l := open(t, p)
	lines := func(n int) string {
		for range 6000 {
			b, _ := os.ReadFile(dir + "/plans")
			if strings.Count(string(b), "\n") >= n {
				return string(b)
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Fatalf("not %d lines", n)
		return ""
	}
	if got := lines(2); !strings.Contains(got, `"driver":"gelf"`) {
		t.Error(got)
	}
	l.Write(Stdout, []byte("x\n"))
	_ = l.Close()
	if got := lines(3); !strings.HasSuffix(got, "end\n") {
		t.Error(got)
	}
}

func TestJournald(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	old := journalSocket
	journalSocket = path
	defer func() { journalSocket = old }()
	l := open(t, Plan{Driver: "journald", ContainerID: "0123456789abcdef", ContainerName: "box", ImageName: "img", Tag: "t",
		Attrs: map[string]string{"com.example.a-b": "two\nlines", "_MESSAGE": "no"}})
	defer l.Close()
	next := func() string {
		buf := make([]byte, 64<<10)
		_ = conn.SetReadDeadline(time.Now().Add(time.Minute))
		n, err := conn.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
	l.Write(Stderr, []byte("hello\n"))
	got := next()
	for _, want := range []string{"MESSAGE=hello\n", "PRIORITY=3\n", "CONTAINER_ID=0123456789ab\n", "CONTAINER_ID_FULL=0123456789abcdef\n",
		"CONTAINER_NAME=box\n", "CONTAINER_TAG=t\n", "IMAGE_NAME=img\n", "SYSLOG_IDENTIFIER=t\n", "COM_EXAMPLE_A_B\n\x09\x00\x00\x00\x00\x00\x00\x00two\nlines\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("entry lacks %q: %q", want, got)
		}
	}
	l.Write(Stdout, []byte(strings.Repeat("x", MaxLine+1)+"\n"))
	if got := next(); !strings.Contains(got, "CONTAINER_PARTIAL_MESSAGE=true\n") || !strings.Contains(got, "CONTAINER_PARTIAL_LAST=false\n") {
		t.Errorf("first piece: %.200q", got[MaxLine:])
	}
	if got := next(); !strings.Contains(got, "CONTAINER_PARTIAL_ORDINAL=2\n") || !strings.Contains(got, "CONTAINER_PARTIAL_LAST=true\n") {
		t.Errorf("last piece: %q", got)
	}
}

func BenchmarkJSONFile(b *testing.B) {
	l := open(b, Plan{Driver: "json-file", Path: filepath.Join(b.TempDir(), "log"), Options: map[string]string{"max-size": "4m"}})
	defer l.Close()
	p := bytes.Repeat([]byte("a line of a usual length, so to say, with some words in it\n"), 500)
	b.SetBytes(int64(len(p)))
	for b.Loop() {
		l.Write(Stdout, p)
	}
}
