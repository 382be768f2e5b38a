package e2e

import (
	"encoding/json"
	"strings"
	"testing"
)

// TestWharfCLI runs our own CLI through the plain verbs.
func TestWharfCLI(t *testing.T) {
	s := newScene(t)
	check := func(code int, stdout, stderr string, args ...string) {
		t.Helper()
		r := s.wharf(args...)
		if r.Code != code || !strings.Contains(r.Stdout, stdout) || !strings.Contains(r.Stderr, stderr) {
			t.Errorf("want exit %d, stdout with %q, stderr with %q; got %s", code, stdout, stderr, r)
		}
	}
	check(0, "hello\n", "", "run", "--rm", "wharf/base", "echo", "hello")
	check(3, "", "", "run", "--rm", "busybox", "sh", "-c", "exit 3")
	check(127, "", "nonesuch", "run", "--rm", "busybox", "nonesuch")
	check(125, "", "unknown flag", "run", "--nonesuch", "busybox")
	check(0, "Usage:  wharf", "", "--help")
	check(0, "Usage:  wharf run", "", "run", "--help")
	check(0, "wharf", "", "version")
	check(0, "busybox", "", "images")
	check(1, "", "nonesuch", "inspect", "nonesuch")
	id := s.wharf("run", "-d", "--name", s.name("a"), "--init", "busybox", "sleep", "1000").out()
	check(0, s.name("a"), "", "ps")
	check(0, "yes", "", "exec", id, "echo", "yes")
	check(0, "", "", "stop", "-t", "0", id)
	check(0, id, "", "rm", "--force", id)
	for _, verb := range [][]string{{"run", "--help"}, {"ps", "--help"}, {"--help"}, {"image", "--help"}, {"nonesuch"}} {
		r := s.wharf(verb...)
		for line := range strings.Lines(r.Stdout + r.Stderr) {
			if strings.Contains(line, "docker ") && !strings.Contains(line, "http") {
				t.Errorf("wharf %s speaks of docker: %q", strings.Join(verb, " "), strings.TrimSpace(line))
				break
			}
		}
	}
}

func TestDoctor(t *testing.T) {
	s := newScene(t)
	out := s.wharf("doctor")
	if out.Code != 0 {
		t.Fatal(out)
	}
	s.contains("doctor", out.Stdout, "kernel", "idmapped mounts", "seccomp", "cgroup memory")
	js := s.wharf("doctor", "--format", "json")
	if js.Code != 0 || !json.Valid([]byte(js.Stdout)) {
		t.Errorf("doctor --format json: %s", js)
	}
}

func TestCompletion(t *testing.T) {
	s := newScene(t)
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if r := s.wharf("completion", shell); r.Code != 0 || !strings.Contains(r.Stdout, "wharf") {
			t.Errorf("completion %s: %s", shell, r)
		}
	}
}
