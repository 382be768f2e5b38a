package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/flags"
)

// clean gives a test a home of its own.
func clean(t *testing.T) {
	t.Helper()
	for _, k := range []string{"WHARF_HOST", "DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG"} {
		t.Setenv(k, "")
		_ = os.Unsetenv(k)
	}
	dir := t.TempDir()
	t.Setenv("DOCKER_CONFIG", dir)
	config.SetDir(dir)
}

// wharf runs a command line against h and returns output, exit code.
func wharf(t *testing.T, h http.Handler, args ...string) (string, int) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	if h != nil {
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		srv := &http.Server{Handler: h}
		go func() { _ = srv.Serve(l) }()
		t.Cleanup(func() { _ = srv.Close() })
	}
	t.Setenv("WHARF_HOST", "unix://"+path)
	var out bytes.Buffer
	ctx := context.Background()
	dockerCLI, err := command.NewDockerCli(command.WithBaseContext(ctx), command.WithCombinedStreams(&out))
	if err != nil {
		t.Fatal(err)
	}
	err = execute(ctx, dockerCLI, args)
	code := 0
	if err != nil {
		out.WriteString(ours(err.Error()))
		code = exitCode(err)
	}
	return out.String(), code
}

// daemon answers what run needs, and at start with a given error.
func daemon(startError string) http.Handler {
	m := http.NewServeMux()
	answer := func(w http.ResponseWriter, code int, v any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(v)
	}
	m.HandleFunc("/_ping", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Api-Version", "1.56")
		w.Header().Set("Ostype", "linux")
	})
	m.HandleFunc("POST /v1.56/containers/create", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, 201, map[string]any{"Id": "abc", "Warnings": []string{}})
	})
	m.HandleFunc("POST /v1.56/containers/abc/start", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, 400, map[string]string{"message": startError})
	})
	m.HandleFunc("/v1.56/containers/abc/wait", func(w http.ResponseWriter, _ *http.Request) { answer(w, 200, map[string]int{"StatusCode": 0}) })
	m.HandleFunc("GET /wharf/v1/doctor", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, 200, []item{
			{Name: "cgroup memory", State: "ok", Detail: "v1"},
			{Name: "AppArmor", State: "missing", Cost: "one wall less", Optional: true},
			{Name: "seccomp", State: "missing", Cost: "system calls are not filtered", Remedy: "another kernel"},
		})
	})
	return m
}

func TestExitCodes(t *testing.T) {
	clean(t)
	for _, c := range []struct {
		startError string
		args       string
		code       int
		text       string
	}{
		{"", "run --nosuch", 125, "unknown flag: --nosuch"},
		{"no space left", "run -d x", 125, "no space left"},
		{`exec: "y": executable file not found in $PATH`, "run -d x y", 127, "Run 'wharf run --help'"},
		{`exec: "/etc": permission denied`, "run -d x /etc", 126, "permission denied"},
		{"", "nosuch", 1, "unknown command: wharf nosuch"},
		{"", "swarm init", 1, "this version has no swarm mode yet"},
		{"", "bake .", 1, "this version has no bake yet"},
		{"", "image build .", 1, ""},
		{"", "doctor", 1, "system calls are not filtered"},
		{"", "doctor --format yaml", 1, "want table or json"},
	} {
		out, code := wharf(t, daemon(c.startError), strings.Fields(c.args)...)
		if code != c.code || !strings.Contains(out, c.text) {
			t.Errorf("%s: exit %d, %s", c.args, code, out)
		}
	}
}

func TestNoDaemon(t *testing.T) {
	clean(t)
	t.Setenv("PATH", t.TempDir())
	out, code := wharf(t, nil, "ps")
	if code != 1 || !strings.Contains(out, "wharf") || strings.Contains(strings.ToLower(out), "docker") {
		t.Errorf("exit %d, %s", code, out)
	}
	out, code = wharf(t, nil, "doctor")
	if code != 1 || !strings.Contains(out, "start it") {
		t.Errorf("exit %d, %s", code, out)
	}
	// Where wharfd is installed it examines the machine itself.
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	script := "#!/bin/sh\n[ \"$*\" = 'doctor --json' ] && echo '[{\"name\":\"x\",\"state\":\"ok\"}]'\n"
	if err := os.WriteFile(filepath.Join(dir, "wharfd"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	if out, code = wharf(t, nil, "doctor"); code != 0 || !strings.Contains(out, "x        ok") {
		t.Errorf("exit %d, %s", code, out)
	}
}

func TestDoctorJSON(t *testing.T) {
	clean(t)
	out, code := wharf(t, daemon(""), "doctor", "--format", "json")
	var items []item
	if err := json.Unmarshal([]byte(out), &items); err != nil || len(items) != 3 || code != 1 {
		t.Errorf("%v, exit %d, %s", err, code, out)
	}
	other := http.NewServeMux()
	other.HandleFunc("/_ping", func(http.ResponseWriter, *http.Request) {})
	if out, code = wharf(t, other, "doctor"); code != 1 || !strings.Contains(out, "another engine") {
		t.Errorf("exit %d, %s", code, out)
	}
}

// others are Docker's own: its site, hub, variables and directory of settings,
// which are used here too.
var others = strings.NewReplacer("Dockerfile", "", "docs.docker.com", "", "Docker Hub", "", "DOCKER_", "", "/.docker", "", "--docker", "", "Docker endpoint", "", "docker endpoint", "")

// Nothing in our help speaks of docker as the program.
func TestHelpSaysWharf(t *testing.T) {
	clean(t)
	for _, args := range []string{"--help", "run --help", "ps --help", "container --help", "container run --help", "image --help", "cp --help", "system --help", "system df --help", "network create --help", "volume --help", "doctor --help", "context create --help",
		"create --help", "update --help", "exec --help", "login --help", "logout --help", "info --help", "manifest --help", "manifest inspect --help", "context --help", "events --help", "inspect --help",
		"pull --help", "push --help", "save --help", "load --help", "images --help", "stats --help", "version --help", "attach --help", "logs --help", "container prune --help"} {
		out, code := wharf(t, daemon(""), strings.Fields(args)...)
		if code != 0 || !strings.Contains(out, "wharf") {
			t.Errorf("%s: exit %d, %s", args, code, out)
		}
		for _, line := range strings.Split(out, "\n") {
			if programName.MatchString(line) || strings.Contains(strings.ToLower(others.Replace(line)), "docker") {
				t.Errorf("%s: %s", args, line)
			}
		}
	}
	out, _ := wharf(t, daemon(""), "--help")
	for name := range absent {
		if strings.Contains(out, "\n  "+name+" ") {
			t.Errorf("help shows %s", name)
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if out, code := wharf(t, daemon(""), "completion", shell); code != 0 || !strings.Contains(out, "wharf") {
			t.Errorf("completion %s: exit %d, %.100s", shell, code, out)
		}
	}
	if out, _ := wharf(t, daemon(""), "__complete", "doc"); !strings.Contains(out, "doctor") {
		t.Errorf("completion: %s", out)
	}
}

func TestDaemonFor(t *testing.T) {
	for _, c := range []struct {
		name         string
		env          map[string]string
		config       string
		flags        flags.ClientOptions
		hosts, dhost string
	}{
		{name: "nothing", hosts: "[" + defaultHost + "]"},
		{name: "ours", env: map[string]string{"WHARF_HOST": "unix:///w", "DOCKER_HOST": "unix:///d"}, hosts: "[]", dhost: "unix:///w"},
		{name: "docker's", env: map[string]string{"DOCKER_HOST": "unix:///d"}, hosts: "[]", dhost: "unix:///d"},
		{name: "context by environment", env: map[string]string{"DOCKER_CONTEXT": "c"}, hosts: "[]"},
		{name: "context by configuration", config: `{"currentContext":"c"}`, hosts: "[]"},
		{name: "default context", config: `{"currentContext":"default"}`, hosts: "[" + defaultHost + "]"},
		{name: "-H", flags: flags.ClientOptions{Hosts: []string{"unix:///f"}}, env: map[string]string{"WHARF_HOST": "unix:///w"}, hosts: "[unix:///f]"},
		{name: "--context", flags: flags.ClientOptions{Context: "c"}, hosts: "[]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			clean(t)
			for k, v := range c.env {
				t.Setenv(k, v)
			}
			if c.config != "" {
				if err := os.WriteFile(filepath.Join(config.Dir(), "config.json"), []byte(c.config), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			opts := c.flags
			daemonFor(&opts)
			if got := fmt.Sprint(opts.Hosts); got != c.hosts || os.Getenv("DOCKER_HOST") != c.dhost {
				t.Errorf("hosts %s, DOCKER_HOST %q", got, os.Getenv("DOCKER_HOST"))
			}
		})
	}
}

func TestPlugin(t *testing.T) {
	clean(t)
	dir := filepath.Join(config.Dir(), "cli-plugins")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	script := `#!/bin/sh
if [ "$1" = docker-cli-plugin-metadata ]; then echo '{"SchemaVersion":"0.1.0","Vendor":"v","Version":"1","ShortDescription":"Say it"}'; exit; fi
echo "$DOCKER_HOST" > "$OUT"; exit 7
`
	if err := os.WriteFile(filepath.Join(dir, "docker-sayit"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	said := filepath.Join(t.TempDir(), "out")
	t.Setenv("OUT", said)
	old := os.Args
	os.Args = []string{"wharf", "sayit"}
	defer func() { os.Args = old }()
	if out, code := wharf(t, daemon(""), "sayit"); code != 7 {
		t.Errorf("exit %d, %s", code, out)
	}
	if raw, _ := os.ReadFile(said); !strings.HasPrefix(string(raw), "unix:///") {
		t.Errorf("the plugin saw DOCKER_HOST=%q", raw)
	}
}

func TestOlder(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{{"1.24", "1.25", true}, {"1.25", "1.25", false}, {"1.100", "1.99", false}, {"2.0", "1.99", false}} {
		if older(c.a, c.b) != c.want {
			t.Errorf("%s < %s: %v", c.a, c.b, !c.want)
		}
	}
}

// --use-api-socket binds the socket that the client speaks to.
func TestUseAPISocket(t *testing.T) {
	clean(t)
	var bound []string
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Api-Version", "1.52")
		w.Header().Set("Ostype", "linux")
		if strings.HasSuffix(r.URL.Path, "/containers/create") {
			var body struct {
				HostConfig struct {
					Mounts []struct{ Source, Target string }
				}
			}
			_ = json.NewDecoder(r.Body).Decode(&body)
			for _, m := range body.HostConfig.Mounts {
				bound = append(bound, m.Source+":"+m.Target)
			}
			w.WriteHeader(http.StatusCreated)
			_, _ = fmt.Fprint(w, `{"Id":"abc"}`)
		}
	})
	out, code := wharf(t, h, "create", "--use-api-socket", "busybox")
	want := strings.TrimPrefix(os.Getenv("WHARF_HOST"), "unix://") + ":/var/run/docker.sock"
	if code != 0 || len(bound) != 1 || bound[0] != want {
		t.Errorf("exit %d, bound %v, want %s: %s", code, bound, want, out)
	}
	out, code = wharf(t, nil, "-H", "tcp://127.0.0.1:1", "create", "--use-api-socket", "busybox")
	if code == 0 || !strings.Contains(out, "not reached by a unix socket") {
		t.Errorf("exit %d: %s", code, out)
	}
}

// What only Windows, a swarm or an experimental dockerd has is not in the help.
func TestHelpHidesUseless(t *testing.T) {
	clean(t)
	for cmd, gone := range map[string]string{"run": "--cpu-count", "create": "--io-maxiops", "start": "--checkpoint", "volume create": "--sharing", "volume": "update "} {
		if out, code := wharf(t, nil, append(strings.Fields(cmd), "--help")...); code != 0 || strings.Contains(out, gone) {
			t.Errorf("%s --help, exit %d, shows %s", cmd, code, gone)
		}
	}
	if out, _ := wharf(t, nil, "run", "--help"); !strings.Contains(out, "--use-api-socket") || !strings.Contains(out, "--umask") {
		t.Errorf("run --help lost too much")
	}
}
