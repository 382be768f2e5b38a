package lifecycle

import (
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"wharf/internal/model"
)

var now = time.Date(2026, 11, 21, 12, 0, 0, 0, time.Local)

func fakeProc() fstest.MapFS {
	file := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }
	return fstest.MapFS{
		"uptime":     file("3600.00 100.0\n"),
		"meminfo":    file("MemTotal:       1024000 kB\n"),
		"42/stat":    file("42 (a) b) S 1 42 42 34817 42 0 0 0 0 0 250 50 0 0 20 0 2 0 180000 4096000 100 0 0\n"),
		"42/status":  file("Name:\ta) b\nUid:\t1000033\t1000000\t0\t0\nGid:\t5\t1000001\t0\t0\nVmLck:\t 0 kB\n"),
		"42/cmdline": file("nginx\x00-g\x00daemon off;\x00\x1b[31m\x00"),
		"43/stat":    file("43 (idle) I 42 42 42 0 -1 0 0 0 0 0 0 0 0 0 39 19 1 0 360000 0 0 0 0\n"),
		"43/status":  file("Uid:\t1000033\t1000033\t0\t0\n"),
		"43/cmdline": file(""),
	}
}

func TestPS(t *testing.T) {
	v := newPSView(fakeProc(), model.IDRange{Host: 1000000, Size: 65536}, now)
	for args, want := range map[string]string{
		"":                           "UID PID PPID C STIME TTY TIME CMD|root 42 1 0 11:30 pts/1 00:00:03 nginx -g daemon off; ?[31m|33 43 42 0 12:00 ? 00:00:00 [idle]",
		"-ef":                        "UID PID PPID C STIME TTY TIME CMD|root 42 1 0 11:30 pts/1 00:00:03 nginx -g daemon off; ?[31m|33 43 42 0 12:00 ? 00:00:00 [idle]",
		"aux":                        "USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND|root 42 0.2 0.0 4000 400 pts/1 Ssl+ 11:30 0:03 nginx -g daemon off; ?[31m|33 43 0.0 0.0 0 0 ? IN 12:00 0:00 [idle]",
		"-e":                         "PID TTY TIME CMD|42 pts/1 00:00:03 a) b|43 ? 00:00:00 idle",
		"-o pid,uid,ruid,gid":        "PID UID RUID GID|42 0 33 1|43 33 33 0",
		"-eo pid,args=WHAT, IT SAYS": "",
		"-o pid -o comm=NAME":        "PID NAME|42 a) b|43 idle",
		"axo pid,etime,ni":           "PID ELAPSED NI|42 30:00 0|43 00:00 19",
		"--format=pid,cmd":           "PID CMD|42 nginx -g daemon off; ?[31m|43 [idle]",
		"ax":                         "PID TTY STAT TIME COMMAND|42 pts/1 Ssl+ 0:03 nginx -g daemon off; ?[31m|43 ? IN 0:00 [idle]",
	} {
		f, err := parsePS(args)
		if err != nil {
			if want != "" || !errdefs.IsInvalidArgument(err) {
				t.Errorf("%q: %v", args, err)
			}
			continue
		}
		lines := []string{strings.Join(f.titles(), " ")}
		for _, pid := range []int{42, 43} {
			p, err := v.read(pid)
			if err != nil {
				t.Fatal(err)
			}
			lines = append(lines, strings.Join(f.row(p), " "))
		}
		if d := cmp.Diff(want, strings.Join(lines, "|")); d != "" {
			t.Errorf("%q (-want +got):\n%s", args, d)
		}
	}
	for _, bad := range []string{"-Z", "-o", "-o nope", "--forest"} {
		if _, err := parsePS(bad); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestParseStat(t *testing.T) {
	ns, cpus := parseStat([]byte("cpu  1 2 3 4 5 6 7 8 9 9\ncpu0 1\ncpu1 1\nintr 5\ncpu2 1\n"))
	if ns != 36*clockTick || cpus != 2 {
		t.Errorf("%d, %d", ns, cpus)
	}
}

// FuzzPidStat: a process chooses its own name.
func FuzzPidStat(f *testing.F) {
	f.Add([]byte("42 (a) b) S 1 42 42 34817 42 0 0 0 0 0 250 50 0 0 20 0 2 0 180000 4096000 100 0 0\n"))
	f.Add([]byte("1 (x) R"))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := parsePidStat(b)
		if err == nil && strings.ContainsAny(p.comm, "\x1b\n\x00") {
			t.Errorf("control characters in %q", p.comm)
		}
	})
}

// FuzzPS: arguments come from a client.
func FuzzPS(f *testing.F) {
	f.Add("-eo pid,args=X")
	f.Add("aux")
	f.Fuzz(func(t *testing.T, s string) {
		if cols, err := parsePS(s); err == nil && len(cols) == 0 {
			t.Errorf("%q: no columns and no error", s)
		}
	})
}
