package e2e

import (
	"io"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// scene is what one test does on one daemon. Its containers carry a label;
// they and what they hold are gone at the test's end, or the test fails.
type scene struct {
	*testing.T
	d     *daemon
	label string
}

var scenes atomic.Int64

// newScene begins a test on the shared daemon, beside others.
func newScene(t *testing.T) *scene {
	t.Helper()
	s := newSceneAlone(t)
	t.Parallel()
	return s
}

// newSceneAlone is for what others would notice: events, prune, counts.
func newSceneAlone(t *testing.T) *scene {
	t.Helper()
	if notHere != "" {
		t.Skip(notHere)
	}
	skipOnMachines(t)
	return sceneOn(t, shared)
}

func sceneOn(t *testing.T, d *daemon) *scene {
	t.Helper()
	name := regexp.MustCompile(`[^a-zA-Z0-9]+`).ReplaceAllString(t.Name(), "-")
	s := &scene{T: t, d: d, label: strings.ToLower(strings.TrimPrefix(name, "Test")) + "-" + itoa(scenes.Add(1))}
	t.Cleanup(s.finish)
	return s
}

// ownDaemon begins a test that kills its daemon or starts it differently. The
// busybox image is loaded.
func ownDaemon(t *testing.T, args ...string) *scene {
	t.Helper()
	if notHere != "" {
		t.Skip(notHere)
	}
	skipOnMachines(t)
	t.Parallel()
	d, err := newDaemon("own", args...)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(args, "--bridge") {
		if err := d.ownNetwork(); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if err := d.end(); err != nil {
			t.Error(err)
		}
	})
	if err := d.start(); err != nil {
		t.Fatal(err)
	}
	if err := d.load("busybox"); err != nil {
		t.Fatal(err)
	}
	return sceneOn(t, d)
}

// finish removes the scene's containers and looks for what is left of them.
func (s *scene) finish() {
	s.Helper()
	ids := strings.Fields(s.d.docker("ps", "-aq", "--no-trunc", "--filter", "label=e2e="+s.label).Stdout)
	if len(ids) > 0 {
		if r := s.d.docker(append([]string{"rm", "-f", "-v"}, ids...)...); r.Code != 0 {
			s.Errorf("cleaning up: %s", r)
		}
	}
	for _, id := range ids {
		if err := eventually(3*time.Second, func() error { return s.d.fsckContainer(id) }); err != nil {
			s.Errorf("after removing %s: %v", id[:12], err)
		}
	}
	if len(ids) > 0 { // all of it at the daemon's end
		if err := eventually(3*time.Second, func() error { return s.d.ask(ids...) }); err != nil {
			s.Errorf("fsck after the test: %v", err)
		}
	}
	if s.Failed() {
		s.Logf("daemon: %s\nend of the daemon's log:\n%s", s.d.dir, s.d.log(3000))
	}
}

// name makes a name of the scene's own.
func (s *scene) name(suffix string) string { return s.label + "-" + suffix }

// args puts the label behind run and create.
func (s *scene) args(args []string) []string {
	for i, a := range args {
		if i > 1 {
			break
		}
		if a == "run" || a == "create" && (i == 0 || args[0] == "container") {
			return append(append(append([]string{}, args[:i+1]...), "--label", "e2e="+s.label), args[i+1:]...)
		}
	}
	return args
}

// docker runs the stock CLI, whatever comes of it.
func (s *scene) docker(args ...string) result { return s.d.docker(s.args(args)...) }

// dockerIn runs it with an input.
func (s *scene) dockerIn(stdin string, args ...string) result {
	var r io.Reader = strings.NewReader(stdin)
	return s.d.command(commandLimit, r, tools.docker, s.args(args)...)
}

func (s *scene) wharf(args ...string) result { return s.d.wharf(s.args(args)...) }

// ok runs the stock CLI, which must succeed, and returns its trimmed output.
func (s *scene) ok(args ...string) string {
	s.Helper()
	r := s.docker(args...)
	if r.Code != 0 {
		s.Fatalf("%s", r)
	}
	return r.out()
}

// fails runs the stock CLI, which must fail with code and say text.
func (s *scene) fails(code int, text string, args ...string) {
	s.Helper()
	r := s.docker(args...)
	if r.Code != code || !strings.Contains(r.Stderr, text) {
		s.Errorf("want exit %d and %q from %s", code, text, r)
	}
}

// running starts a container that stays and returns its id.
func (s *scene) running(args ...string) string {
	s.Helper()
	return s.ok(append([]string{"run", "-d"}, args...)...)
}

// idle starts a container that does nothing and ends at once when told to.
func (s *scene) idle(options ...string) string {
	s.Helper()
	return s.running(append(append([]string{"--init"}, options...), "busybox", "sleep", "1000")...)
}

// inspect returns one field.
func (s *scene) inspect(ref, format string) string {
	s.Helper()
	return s.ok("inspect", "-f", format, ref)
}

// until waits for a field to have a value.
func (s *scene) until(ref, format, want string) {
	s.Helper()
	var got string
	deadline := time.Now().Add(max(busy, patient(15*time.Second)))
	for time.Now().Before(deadline) {
		if got = s.docker("inspect", "-f", format, ref).out(); got == want {
			return
		}
		time.Sleep(30 * time.Millisecond)
	}
	s.Errorf("%s of %s is %q, want %q", format, ref, got, want)
}

func (s *scene) equal(what, got, want string) {
	s.Helper()
	if got != want {
		s.Errorf("%s: got %q, want %q", what, got, want)
	}
}

func (s *scene) contains(what, got string, want ...string) {
	s.Helper()
	for _, w := range want {
		if !strings.Contains(got, w) {
			s.Errorf("%s: %q is not in %q", what, w, cut(got))
		}
	}
}

func itoa(n int64) string {
	const digits = "0123456789"
	if n < 10 {
		return digits[n : n+1]
	}
	return itoa(n/10) + digits[n%10:n%10+1]
}

// row is one line of a table of commands.
type row struct {
	name   string
	args   []string
	stdin  string
	stdout string // exact, trimmed; "~..." is a regular expression; "" anything
	stderr string // contained
	code   int
	need   func() string // why it cannot run here
}

// rows runs a table, each line beside the others.
func rows(t *testing.T, table []row) {
	for _, r := range table {
		t.Run(r.name, func(t *testing.T) {
			s := newScene(t)
			if r.need != nil {
				if why := r.need(); why != "" {
					t.Skip(why)
				}
			}
			s.check(r)
		})
	}
}

func (s *scene) check(r row) {
	s.Helper()
	args := make([]string, len(r.args))
	for i, a := range r.args {
		args[i] = strings.ReplaceAll(a, "{c}", s.label)
	}
	got := s.dockerIn(r.stdin, args...)
	bad := got.Code != r.code || !strings.Contains(got.Stderr, r.stderr)
	if pattern, ok := strings.CutPrefix(r.stdout, "~"); ok {
		bad = bad || !regexp.MustCompile(pattern).MatchString(got.out())
	} else if r.stdout != "" {
		bad = bad || got.out() != r.stdout
	}
	if bad {
		s.Errorf("want exit %d, stdout %q, stderr with %q; got %s", r.code, r.stdout, r.stderr, got)
	}
}
