package main

import (
	"os"
	"testing"

	"github.com/docker/cli/cli/config"
	"github.com/docker/compose/v5/cmd/compatibility"
)

// TestPointAtWharf checks where standalone wharf-compose looks for a daemon.
func TestPointAtWharf(t *testing.T) {
	for _, c := range []struct {
		name, wharf, docker, context string
		args                         []string
		want                         string
	}{
		{name: "nothing set", want: defaultHost},
		{name: "options of Compose", args: []string{"-f", "x.yaml", "up"}, want: defaultHost},
		{name: "WHARF_HOST", wharf: "unix:///a", docker: "unix:///b", want: "unix:///a"},
		{name: "DOCKER_HOST", docker: "unix:///b", want: "unix:///b"},
		{name: "a context", context: "far", want: ""},
		{name: "-H", args: []string{"-H", "unix:///c", "ps"}, want: ""},
		{name: "--host=", args: []string{"--host=unix:///c", "ps"}, want: ""},
		{name: "-H of exec is not ours", args: []string{"exec", "a", "curl", "-H", "x"}, want: defaultHost},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			config.SetDir(dir)
			for k, v := range map[string]string{"WHARF_HOST": c.wharf, "DOCKER_HOST": c.docker, "DOCKER_CONTEXT": c.context, "DOCKER_CONFIG": dir} {
				t.Setenv(k, v)
			}
			pointAtWharf(compatibility.Convert(c.args))
			if got := os.Getenv("DOCKER_HOST"); got != c.want {
				t.Errorf("DOCKER_HOST is %q, want %q", got, c.want)
			}
		})
	}
}

// TestVersion checks that the library's version is known and reaches it.
func TestVersion(t *testing.T) {
	if isOurs("/usr/bin/docker") || isOurs("docker-compose") || !isOurs("/usr/bin/wharf") || !isOurs("wharf-compose") {
		t.Error("names are taken for one another")
	}
	if v := linkedVersion(); v == "" {
		t.Error("no version")
	}
}
