package changes

import (
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
)

func TestApply(t *testing.T) {
	for _, c := range []struct {
		name  string
		base  container.Config
		lines []string
		want  container.Config
	}{
		{"cmd list", container.Config{}, []string{`CMD ["a", "b c"]`}, container.Config{Cmd: []string{"a", "b c"}}},
		{"cmd text", container.Config{}, []string{`cmd echo $HOME`}, container.Config{Cmd: []string{"/bin/sh", "-c", "echo $HOME"}}},
		{"own shell", container.Config{Shell: []string{"/bin/bash", "-lc"}}, []string{`CMD x`}, container.Config{Shell: []string{"/bin/bash", "-lc"}, Cmd: []string{"/bin/bash", "-lc", "x"}}},
		{"entrypoint drops cmd", container.Config{Cmd: []string{"old"}}, []string{`ENTRYPOINT ["/e"]`}, container.Config{Entrypoint: []string{"/e"}}},
		{"entrypoint keeps new cmd", container.Config{}, []string{`CMD ["new"]`, `ENTRYPOINT ["/e"]`}, container.Config{Entrypoint: []string{"/e"}, Cmd: []string{"new"}}},
		{"env", container.Config{Env: []string{"A=1"}}, []string{`ENV A=2 B="x y" C=$A D='$A' E=e\ f`}, container.Config{Env: []string{"A=2", "B=x y", "C=1", "D=$A", "E=e f"}}},
		{"env old form", container.Config{}, []string{`ENV A some  text`}, container.Config{Env: []string{"A=some  text"}}},
		{"env default", container.Config{Env: []string{"A=1"}}, []string{`ENV B=${A:+yes} C=${N:-no} D=${A}x E=$`}, container.Config{Env: []string{"A=1", "B=yes", "C=no", "D=1x", "E=$"}}},
		{"label", container.Config{Labels: map[string]string{"k": "v"}}, []string{`LABEL a=b "c d"="e f"`}, container.Config{Labels: map[string]string{"k": "v", "a": "b", "c d": "e f"}}},
		{"expose", container.Config{}, []string{`EXPOSE 80 53/udp 90-91`}, container.Config{ExposedPorts: network.PortSet{
			network.MustParsePort("80"): {}, network.MustParsePort("53/udp"): {}, network.MustParsePort("90"): {}, network.MustParsePort("91"): {}}}},
		{"volume", container.Config{}, []string{`VOLUME /a /b`, `VOLUME ["/c d"]`}, container.Config{Volumes: map[string]struct{}{"/a": {}, "/b": {}, "/c d": {}}}},
		{"user and workdir", container.Config{WorkingDir: "/srv"}, []string{`USER app:staff`, `WORKDIR www`, `WORKDIR ../x`}, container.Config{User: "app:staff", WorkingDir: "/srv/x"}},
		{"health", container.Config{}, []string{`HEALTHCHECK --interval=5s --retries=2 CMD curl -f x || exit 1`},
			container.Config{Healthcheck: &container.HealthConfig{Interval: 5 * time.Second, Retries: 2, Test: []string{"CMD-SHELL", "curl -f x || exit 1"}}}},
		{"no health", container.Config{}, []string{`HEALTHCHECK NONE`}, container.Config{Healthcheck: &container.HealthConfig{Test: []string{"NONE"}}}},
		{"stop signal", container.Config{}, []string{`STOPSIGNAL SIGUSR1`}, container.Config{StopSignal: "SIGUSR1"}},
		{"onbuild", container.Config{OnBuild: []string{"RUN a"}}, []string{`ONBUILD RUN b`}, container.Config{OnBuild: []string{"RUN a", "RUN b"}}},
		{"several lines", container.Config{}, []string{"# comment\nUSER a\n\nCMD [\"x\", \\\n\"y\"]"}, container.Config{User: "a", Cmd: []string{"x", "y"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Apply(&c.base, c.lines)
			if err != nil {
				t.Fatal(err)
			}
			opts := cmp.Options{cmpopts.EquateEmpty(), cmp.Comparer(func(a, b network.Port) bool { return a == b })}
			if d := cmp.Diff(&c.want, got, opts); d != "" {
				t.Error("(-want +got)\n", d)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	for line, want := range map[string]string{
		"RUN x": "RUN is not a valid change command", "FROM x": "FROM is not", "ENV": "at least one argument", "ENV A": "two arguments",
		"EXPOSE 0": "invalid containerPort", "EXPOSE 80/icmp": "invalid protocol", "ENV A='x": "matching quote", "ENV A=${x": "without }",
		"ENV A=${x?y}": "unsupported modifier", "STOPSIGNAL nope": "invalid signal", "HEALTHCHECK CMD": "Missing command", "HEALTHCHECK x": "Unknown type",
		"HEALTHCHECK --interval=1ns CMD x": "duration", "ONBUILD ONBUILD x": "Chaining", "ONBUILD FROM x": "isn't allowed", `VOLUME [""]`: "empty string", "ENV =x": "name",
	} {
		if _, err := Apply(nil, []string{line}); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", line, err, want)
		}
	}
}

func TestBaseIsNotChanged(t *testing.T) {
	base := &container.Config{Env: []string{"A=1"}, Labels: map[string]string{"a": "b"}}
	if _, err := Apply(base, []string{"ENV A=2", "LABEL a=c"}); err != nil {
		t.Fatal(err)
	}
	if base.Env[0] != "A=1" || base.Labels["a"] != "b" {
		t.Errorf("%+v", base)
	}
}

func FuzzApply(f *testing.F) {
	for _, s := range []string{"ENV A=b", `CMD ["x"]`, "EXPOSE 1-2/tcp", "HEALTHCHECK --retries=1 CMD x", "LABEL 'a'=\"b\\", "VOLUME /x", "ENV A=$A${A}"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := Apply(&container.Config{Env: []string{"A=1"}}, []string{s})
		if err != nil && !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: kind of %v", s, err)
		}
		if err == nil && got == nil {
			t.Errorf("%q: nothing", s)
		}
	})
}
