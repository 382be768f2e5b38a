package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"
)

// A container that is gone still tells how it ended.
func TestRemovedTells(t *testing.T) {
	s := newScene(t)
	for _, tc := range []struct {
		name   string
		args   []string
		end    []string // a command, with the name behind
		reason string
		text   string
	}{
		{"exited", []string{"busybox", "sh", "-c", "echo one; echo two; exit 3"}, nil, "exited", "exited with code 3"},
		{"signal", []string{"busybox", "sh", "-c", "kill -SEGV $$"}, nil, "exited", ""},
		{"stop", []string{"--init", "busybox", "sleep", "1000"}, []string{"stop"}, "user", "stopped by the user with SIGTERM"},
		{"kill", []string{"busybox", "sleep", "1000"}, []string{"kill"}, "user", "killed by the user with SIGKILL"},
		{"rm", []string{"busybox", "sleep", "1000"}, nil, "user", "rm -f"},
		{"nonesuch", []string{"busybox", "nonesuch"}, nil, "engine", "could not be started"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			name := s.name(tc.name)
			s.docker(append([]string{"run", "-d", "--name", name}, tc.args...)...)
			if tc.end != nil {
				s.ok(append(tc.end, name)...)
			}
			if tc.name != "rm" && tc.name != "nonesuch" {
				s.until(name, "{{.State.Status}}", "exited")
			}
			s.ok("rm", "-f", name)
			got := s.wharfOK("inspect", "--removed", "-f", "{{.EndReason.Reason}}: {{.EndReason.Text}}", name)
			if tc.text != "" && (!strings.HasPrefix(got, tc.reason+":") || !strings.Contains(got, tc.text)) {
				t.Errorf("reason %q, want %s: %s", got, tc.reason, tc.text)
			}
			s.contains("ps --removed", s.wharfOK("ps", "--removed", "--filter", "name="+name, "--format", "{{.Names}} {{.Status}} {{.State}}"), name, "removed")
		})
	}
	name := s.name("exited")
	s.equal("logs", s.wharfOK("logs", "--removed", name), "one\ntwo")
	s.equal("the end of it", s.wharfOK("logs", "--removed", "-n", "1", name), "two")
	s.contains("with times", s.wharfOK("logs", "--removed", "-t", name), "Z one")
	s.equal("nothing so late", s.wharfOK("logs", "--removed", "--since", "2100-01-01T00:00:00Z", name), "")
	s.contains("ps", s.wharfOK("ps", "--removed", "--filter", "exited=3", "--filter", "name="+name, "--no-trunc"), "exited with code 3")
	for _, bad := range [][]string{{"logs", "--removed", "-f", name}, {"logs", "--removed", "nonesuch"}, {"inspect", "--removed", "--type", "image", name}, {"ps", "--removed", "--filter", "nonsense=1"}} {
		if r := s.wharf(bad...); r.Code == 0 || r.Stderr == "" {
			t.Errorf("%s", r)
		}
	}
	// Of a name that is used again and again the newest is meant.
	for _, word := range []string{"first", "second"} {
		s.ok("run", "--rm", "--name", s.name("again"), "busybox", "echo", word)
	}
	s.equal("the newest", s.wharfOK("logs", "--removed", s.name("again")), "second")
	s.equal("all of them", itoa(int64(len(strings.Fields(s.wharfOK("ps", "--removed", "-q", "--filter", "name="+s.name("again")))))), "2")
}

// many are a container's options, most that there are. {dir}, {net}, {vol},
// {c} are filled in.
var many = []string{
	"-i", "--hostname", "h1", "--domainname", "d.x", "-u", "0:0", "--group-add", "20", "-w", "/tmp", "-e", "A=b c", "-e", `Q=it's $HOME "x"`, "-e", "E=",
	"-l", "k=v", "-l", "l2=a b", "--init", "--stop-signal", "INT", "--stop-timeout", "3", "--log-opt", "max-size=1m", "--log-opt", "max-file=2",
	"--health-cmd", "test -e / || exit 1", "--health-interval", "5s", "--health-retries", "2", "-v", "{vol}:/v:ro", "-v", "/anon", "-v", "{dir}:/b",
	"--mount", "type=volume,source={vol},target=/v2,volume-nocopy", "--mount", "type=tmpfs,target=/t2,tmpfs-size=1m,tmpfs-mode=1770", "--tmpfs", "/t:size=1m",
	"--read-only", "--shm-size", "32m", "--network", "name={net},alias=al,alias=al2", "--expose", "77", "--dns", "1.1.1.1", "--dns-search", "s.x",
	"--dns-option", "ndots:2", "--add-host", "a.b:1.2.3.4", "-m", "64m", "--memory-reservation", "32m", "--cpus", "0.5", "--cpu-shares", "512",
	"--cpuset-cpus", "0", "--pids-limit", "100", "--ulimit", "nofile=100:200", "--sysctl", "net.ipv4.ip_unprivileged_port_start=80",
	"--device", "/dev/null:/dev/nul2:r", "--cap-add", "NET_ADMIN", "--cap-drop", "MKNOD", "--security-opt", "no-new-privileges",
	"--security-opt", "systempaths=unconfined", "--ipc", "shareable", "--oom-score-adj", "100", "--restart", "on-failure:3",
}

// A container made with the printed command line is the same as the first.
func TestRunCommandAgain(t *testing.T) {
	s := newScene(t)
	net, vol := s.name("net"), s.name("vol")
	s.ok("network", "create", net)
	s.ok("volume", "create", vol)
	t.Cleanup(func() { s.docker("network", "rm", net); s.docker("volume", "rm", vol) })
	dir := t.TempDir()
	fill := strings.NewReplacer("{dir}", dir, "{net}", net, "{vol}", vol)
	for _, tc := range []struct {
		name string
		args []string
	}{
		{"plain", []string{"busybox"}},
		{"many", append(slices.Clone(many), "--entrypoint", "/bin/sh", "busybox", "-c", `echo "$0" a b`, "x y")},
		{"host", []string{"--network", "host", "--pid", "host", "--privileged", "--rm", "busybox", "true"}},
		{"none", []string{"--network", "none", "--no-healthcheck", "-t", "--entrypoint", "", "busybox", "echo", "*"}},
		{"rich", []string{"-e", "NEW=1", "rich"}},
		{"ports", []string{"-p", "127.0.0.1:0:80", "-p", "53/udp", "-P", "--cgroupns", "private", "--userns", "host", "busybox", "a\nb"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			args := []string{"create", "--name", s.name(tc.name)}
			for _, a := range tc.args {
				args = append(args, fill.Replace(a))
			}
			s.ok(args...)
			for _, removed := range []bool{false, true} {
				verb := []string{"run-command", "--docker"}
				if removed {
					verb = append(verb, "--removed")
				}
				first := s.same(s.name(tc.name), removed)
				line := s.wharfOK(append(verb, s.name(tc.name))...)
				again := strings.Replace(strings.Replace(line, s.name(tc.name), s.name(tc.name)+"-b", 1), "docker run", tools.docker+" create", 1)
				if r := s.d.command(commandLimit, nil, "sh", "-c", again); r.Code != 0 {
					t.Fatalf("%s\n%s", line, r)
				}
				if d := cmp.Diff(first, s.same(s.name(tc.name)+"-b", false)); d != "" {
					t.Errorf("made by\n%s\n%s", line, d)
				}
				s.ok("rm", "-v", s.name(tc.name)+"-b")
				if !removed {
					s.ok("rm", "-v", s.name(tc.name))
				}
			}
		})
	}
}

// same is what inspect says of a container, without what differs between two
// that were made alike.
func (s *scene) same(name string, removed bool) map[string]any {
	s.Helper()
	verb := []string{"inspect", name}
	if removed {
		verb = []string{"inspect", "--removed", name}
	}
	var all []container.InspectResponse
	if err := json.Unmarshal([]byte(s.wharfOK(verb...)), &all); err != nil || len(all) != 1 {
		s.Fatalf("inspect %s: %v", name, err)
	}
	c := all[0]
	if c.Config.Hostname == c.ID[:12] {
		c.Config.Hostname = ""
	}
	words := slices.Concat(c.Config.Entrypoint, c.Config.Cmd) // --entrypoint takes one word
	c.Config.Entrypoint, c.Config.Cmd = nil, nil
	c.Config.AttachStdout, c.Config.AttachStderr, c.Config.AttachStdin, c.Config.StdinOnce = false, false, false, false
	for _, l := range [][]string{c.HostConfig.Binds, c.Config.Env} { // some versions of docker's CLI send them in any order
		slices.Sort(l)
	}
	b, err := json.Marshal(map[string]any{"Config": c.Config, "HostConfig": c.HostConfig, "Words": words})
	if err != nil {
		s.Fatal(err)
	}
	var out map[string]any
	if err := json.Unmarshal(b, &out); err != nil {
		s.Fatal(err)
	}
	for name, ep := range c.NetworkSettings.Networks {
		out["net "+name] = []any{ep.IPAMConfig, ep.Aliases, ep.DriverOpts}
	}
	return out
}

// The Compose file makes a container too.
func TestRunCommandCompose(t *testing.T) {
	s := newScene(t)
	if _, err := os.Stat(filepath.Join(tools.bin, "wharf-compose")); err != nil {
		t.Skip("no wharf-compose beside wharf: make build")
	}
	s.ok("create", "--name", s.name("a"), "-e", "A=$b 'c'", "-v", "/data", "-m", "32m", "--init", "busybox", "sh", "-c", "echo $A")
	text := s.wharfOK("run-command", "--compose", s.name("a"))
	s.ok("rm", "-v", s.name("a"))
	file := filepath.Join(t.TempDir(), "compose.yaml")
	if err := os.WriteFile(file, []byte(text+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := s.wharf("compose", "-p", s.name("p"), "-f", file, "up", "--no-log-prefix")
	if r.Code != 0 {
		t.Fatalf("%s\n%s", text, r)
	}
	s.contains("what it says", r.Stdout, "$b 'c'")
	s.equal("its limit", s.inspect(s.name("a"), "{{.HostConfig.Memory}}"), "33554432")
	if r := s.wharf("compose", "-p", s.name("p"), "-f", file, "down", "-v"); r.Code != 0 {
		t.Errorf("%s", r)
	}
}
