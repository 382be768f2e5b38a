package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// buildContext makes a directory of files.
func buildContext(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		at := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// classic runs `docker build` through POST /build.
func (s *scene) classic(stdin io.Reader, args ...string) result {
	return s.d.command(commandLimit, stdin, "/usr/bin/env", append([]string{"DOCKER_BUILDKIT=0", tools.docker, "build"}, args...)...)
}

func (s *scene) built(r result) string {
	s.Helper()
	if r.Code != 0 {
		s.Fatalf("%s", r)
	}
	return r.Stdout
}

// image is a name of the scene's own, removed at its end.
func (s *scene) image(suffix string) string {
	ref := s.name(suffix)
	s.Cleanup(func() { s.d.docker("rmi", "-f", ref) })
	return ref
}

// layer lists what the last layer of an image has.
func (s *scene) layer(ref string) []string {
	s.Helper()
	files := map[string][]byte{}
	saved := tar.NewReader(strings.NewReader(s.ok("save", ref) + strings.Repeat("\x00", 1024)))
	for {
		h, err := saved.Next()
		if err != nil {
			break
		}
		files[h.Name], _ = io.ReadAll(saved)
	}
	var m []struct{ Layers []string }
	if err := json.Unmarshal(files["manifest.json"], &m); err != nil {
		s.Fatalf("manifest.json of %s: %v", ref, err)
	}
	var r io.Reader = bytes.NewReader(files[m[0].Layers[len(m[0].Layers)-1]])
	if z, err := gzip.NewReader(r); err == nil {
		r = z
	} else {
		r = bytes.NewReader(files[m[0].Layers[len(m[0].Layers)-1]])
	}
	var names []string
	for layer := tar.NewReader(r); ; {
		h, err := layer.Next()
		if err != nil {
			break
		}
		names = append(names, strings.Trim(h.Name, "/"))
	}
	slices.Sort(names)
	return names
}

const stages = `FROM busybox AS base
ARG WHO=nobody
LABEL stage=base
RUN echo "hello $WHO" > /greeting
FROM base AS files
COPY . /in/
RUN find /in/a -type f > /list && test ! -e /in/ignored
FROM scratch
COPY --from=files /list /greeting /
COPY --from=busybox /bin/busybox /bin/busybox
CMD ["/bin/busybox", "cat", "/greeting", "/list"]
`

func TestBuildClassic(t *testing.T) {
	s := newScene(t)
	dir := buildContext(t, map[string]string{"Dockerfile": stages, "a/b": "x", "ignored": "no", ".dockerignore": "ignored\nDockerfile\n.dockerignore\n"})
	ref, iid := s.image("multi"), filepath.Join(dir, "..", "iid")
	out := s.built(s.classic(nil, "-t", ref, "--build-arg", "WHO="+s.label, "--label", "a=b", "--iidfile", iid, dir))
	id := s.inspect(ref, "{{.Id}}")
	s.contains("stream", out, "Step 2/2 [base] : RUN", "Successfully built "+strings.TrimPrefix(id, "sha256:")[:12], "Successfully tagged "+ref+":latest")
	b, _ := os.ReadFile(iid)
	s.equal("iidfile", string(b), id)
	s.equal("labels", s.inspect(ref, "{{json .Config.Labels}}"), `{"a":"b"}`)
	s.equal("runs", s.ok("run", "--rm", ref), "hello "+s.label+"\n/in/a/b")

	again := s.classic(nil, "-q", "-t", ref, "--build-arg", "WHO="+s.label, "--label", "a=b", dir)
	s.equal("second build", strings.TrimSpace(s.built(again)), id)
	s.contains("cache", s.built(s.classic(nil, "-t", ref, "--build-arg", "WHO="+s.label, "--label", "a=b", dir)), "Using cache")

	base := s.image("base")
	s.built(s.classic(nil, "-q", "--target", "base", "-t", base, dir))
	s.equal("label of a stage", s.inspect(base, "{{json .Config.Labels}}"), `{"stage":"base"}`)
	s.equal("a layer has what the step did", strings.Join(s.layer(base), " "), "greeting")
	s.contains("history", s.ok("history", "--no-trunc", base), "hello $WHO")
}

func TestBuildClassicFails(t *testing.T) {
	s := newScene(t)
	r := s.classic(strings.NewReader("FROM busybox\nRUN echo "+s.label+"; exit 7\n"), "-")
	if r.Code != 7 || !strings.Contains(r.Stderr, "returned a non-zero code: 7") || !strings.Contains(r.Stdout, s.label) {
		t.Errorf("failing RUN: %s", r)
	}
	for text, want := range map[string]string{
		"FROM busybox\nRUN [\"/nonesuch\"]\n":  "nonesuch",
		"FROM busybox\nNONESUCH x\n":           "unknown instruction: NONESUCH",
		"":                                     "empty",
		"FROM busybox\nCOPY nonesuch /\n":      "nonesuch",
		"FROM 127.0.0.1:1/no/such:image\n":     "127.0.0.1:1/no/such",
		"FROM busybox\nRUN --network=x true\n": "x",
	} {
		if r := s.classic(strings.NewReader(text), "-"); r.Code == 0 || !strings.Contains(r.Stderr, want) {
			t.Errorf("%q: %s", text, r)
		}
	}
	if r := s.classic(strings.NewReader("FROM busybox\nRUN true\n"), "--no-cache", "--network", "nonesuch", "-"); r.Code == 0 || !strings.Contains(r.Stderr, "network nonesuch not found") {
		t.Errorf("network: %s", r)
	}
	if r := s.classic(strings.NewReader("FROM busybox\n"), "--squash", "-"); r.Code == 0 {
		t.Errorf("squash: %s", r)
	}
}

// A step has a container's isolation and network.
func TestBuildSurroundings(t *testing.T) {
	s := newScene(t)
	run := func(command string, args ...string) string {
		t.Helper()
		return s.built(s.classic(strings.NewReader("FROM busybox\nRUN "+command+"\n"), append(append([]string{"--no-cache"}, args...), "-")...))
	}
	s.contains("isolation", run("cat /proc/self/uid_map /proc/self/status"), " 65536", "Seccomp:\t2", "CapEff:\t00000000a80425fb")
	s.contains("default network", run("ip -o link"), "eth0")
	if out := run("ip -o link", "--network", "none"); strings.Contains(out, "eth0") {
		t.Errorf("--network none: %s", out)
	}
	s.ok("network", "create", s.label)
	s.Cleanup(func() { s.d.docker("network", "rm", s.label) })
	named := s.running("--network", s.label, "--name", s.name("peer"), "--network-alias", "peer", "busybox", "sleep", "1000")
	s.contains("network by name", run("nslookup peer 127.0.0.11; cat /etc/resolv.conf", "--network", s.label),
		s.inspect(named, "{{(index .NetworkSettings.Networks \""+s.label+"\").IPAddress}}"))
	s.contains("host network", run("ip -o link", "--network", "host"), "wharf0")
	s.contains("hosts", run("cat /etc/hosts", "--add-host", "one:1.2.3.4", "--add-host", "up:host-gateway"), "1.2.3.4\tone", "172.17.0.1\tup")
}

// wharf build speaks BuildKit's API by /grpc and /session.
func TestBuildKit(t *testing.T) {
	s := newScene(t)
	dir := buildContext(t, map[string]string{
		"Dockerfile": "# syntax=docker/dockerfile:1\nFROM busybox AS one\nARG N=1\nRUN --mount=type=secret,id=key cp /run/secrets/key /dev/shm/ && wc -c < /dev/shm/key > /size\n" +
			"RUN --mount=type=cache,target=/cache,id=" + s.label + " date +%s%N >> /cache/n; wc -l < /cache/n > /runs\n" +
			"RUN --mount=type=tmpfs,target=/t --mount=type=bind,target=/ctx,rw touch /t/x /ctx/y\n" +
			"RUN <<EOF\necho here > /doc\nEOF\nFROM one\nCOPY --link data /data\n",
		"data": "data", "key": "s3cr3t-" + s.label,
	})
	ref, meta := s.image("kit"), filepath.Join(dir, "..", "meta")
	build := func(args ...string) result {
		return s.d.wharf(append([]string{"build", "--progress", "plain", "--secret", "id=key,src=" + dir + "/key", "-t", ref, "--metadata-file", meta}, append(args, dir)...)...)
	}
	r := build()
	s.built(r)
	s.contains("progress", r.Stderr, "RUN <<EOF", "naming to")
	s.equal("what steps made", s.ok("run", "--rm", ref, "cat", "/size", "/runs", "/doc", "/data"), fmt.Sprintf("%d\n1\nhere\ndata", len("s3cr3t-"+s.label)))
	s.built(build("--build-arg", "N=2"))
	s.equal("cache mount", s.ok("run", "--rm", ref, "cat", "/runs"), "2")
	all := s.ok("save", ref) + s.ok("history", "--no-trunc", ref) + r.Stderr + s.d.log(1<<20)
	if strings.Contains(all, "s3cr3t-"+s.label) {
		t.Error("the secret is in the image or in a log")
	}
	b, _ := os.ReadFile(meta)
	s.contains("metadata", string(b), s.inspect(ref, "{{.Id}}"))

	for what, c := range map[string]struct {
		args []string
		want string
	}{
		"failing step":   {[]string{"--build-arg", "X=1", "-f", "-"}, "exit code: 3"},
		"check":          {[]string{"--check", "-f", "-"}, "exit"},
		"unknown output": {[]string{"-o", "type=nonesuch"}, "type nonesuch is not there"},
		"network":        {[]string{"--network", "nonesuch", "-f", "-"}, "network nonesuch not found"},
	} {
		r := s.d.command(commandLimit, strings.NewReader("from busybox AS x\nFROM x\nRUN exit 3\n"), tools.wharf, append(append([]string{"build", "--progress", "plain"}, c.args...), dir)...)
		if r.Code == 0 || !strings.Contains(r.Stderr+r.Stdout, c.want) {
			t.Errorf("%s: %s", what, r)
		}
	}
}

// Layers of COPY --link are the build's own as well: linked, not unpacked.
func TestBuildLinked(t *testing.T) {
	s := newScene(t)
	ref := s.image("linked")
	dir := buildContext(t, map[string]string{"a": s.label, "b": "b",
		"Dockerfile": "FROM busybox AS base\nRUN mkdir -p /opt/x && echo old >/opt/x/old\nFROM base\n" +
			"COPY --link a /opt/x/a\nCOPY --link b /b\nRUN rm /b /opt/x/old && echo run >/run1\nCOPY --link b /last\n"})
	s.built(s.d.wharf("build", "-q", "-t", ref, dir))
	s.equal("files", s.ok("run", "--rm", ref, "sh", "-c", "cat /opt/x/* /run1 /last; ls /b /opt/x/old 2>/dev/null; true"), s.label+"run\nb")
	if !onMachines { // which have layers as images
		s.equal("files with one link", s.ok("run", "--rm", ref, "sh", "-c", "stat -c '%h %n' /opt/x/a /run1 /last | grep '^1 '; true"), "")
	}
}

func TestBuildOutputs(t *testing.T) {
	s := newScene(t)
	dir := buildContext(t, map[string]string{"Dockerfile": "FROM scratch\nCOPY data /d/\n", "data": s.label})
	out := filepath.Join(t.TempDir(), "out")
	s.built(s.d.wharf("build", "-q", "-o", out, dir))
	b, _ := os.ReadFile(filepath.Join(out, "d/data"))
	s.equal("local", string(b), s.label)
	ref := s.image("oci")
	for _, kind := range []string{"oci", "docker"} {
		file := filepath.Join(out, kind)
		s.built(s.d.wharf("build", "-q", "-t", ref, "-o", "type="+kind+",dest="+file, dir))
		s.contains(kind, s.ok("load", "-i", file), ref)
	}
	cache := filepath.Join(out, "cache")
	s.built(s.d.wharf("build", "-q", "--cache-to", "type=local,dest="+cache, dir))
	s.built(s.d.wharf("build", "-q", "--cache-from", "type=local,src="+cache, "--provenance", "mode=max", "-t", ref, dir))
	s.contains("provenance", s.ok("save", ref), "https://slsa.dev/provenance")
}

// A client that is killed ends its build and leaves nothing.
func TestBuildClientKilled(t *testing.T) {
	s := newScene(t)
	for _, name := range []string{"classic", "kit"} {
		ref := s.image(name)
		dir := buildContext(t, map[string]string{"Dockerfile": "FROM busybox\nRUN echo " + s.label + name + "; sleep 987; true\n"})
		cmd := exec.Command(tools.wharf, "build", "-t", ref, dir)
		if name == "classic" {
			cmd = exec.Command("/usr/bin/env", "DOCKER_BUILDKIT=0", tools.docker, "build", "-t", ref, dir)
		}
		cmd.Env = s.d.env()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if err := eventually(20*time.Second, func() error { return stepOf(s.label+name, true) }); err != nil {
			t.Error(err)
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if err := eventually(20*time.Second, func() error { return stepOf(s.label+name, false) }); err != nil {
			t.Error(err)
		}
		s.fails(1, "No such", "inspect", ref)
	}
}

// stepOf looks for the process of a step.
func stepOf(word string, want bool) error {
	found := false
	for _, cmdline := range processes() {
		if strings.HasPrefix(cmdline, "/bin/sh -c") && strings.Contains(cmdline, word) {
			found = true
		}
	}
	if found != want {
		return fmt.Errorf("the step %s runs: %v, want %v", word, found, want)
	}
	return nil
}

// A daemon killed while a step runs leaves no half image, no mount, nothing
// for fsck to find, and the next build works.
func TestBuildDaemonKilled(t *testing.T) {
	s := ownDaemon(t)
	dir := buildContext(t, map[string]string{"Dockerfile": "FROM busybox\nRUN touch /before\nCOPY Dockerfile /\nRUN --mount=type=cache,target=/c touch /c/x; echo " + s.label + "; sleep 986; true\n"})
	cmd := exec.Command(tools.wharf, "build", "-t", "half", dir)
	cmd.Env = s.d.env()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := eventually(20*time.Second, func() error { return stepOf(s.label, true) }); err != nil {
		t.Error(err)
	}
	if err := s.d.kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Process.Signal(syscall.SIGTERM)
	_ = cmd.Wait()
	if err := s.d.start(); err != nil {
		t.Fatal(err)
	}
	if err := eventually(20*time.Second, func() error { return stepOf(s.label, false) }); err != nil {
		t.Error(err)
	}
	if err := eventually(5*time.Second, s.d.fsck); err != nil {
		t.Errorf("after kill -9: %v", err)
	}
	s.fails(1, "No such", "inspect", "half")
	r := s.d.command(commandLimit, strings.NewReader("FROM busybox\nRUN touch /before\n"), tools.wharf, "build", "-t", "whole", "--progress", "plain", "-")
	s.built(r)
	s.contains("what was done is still known", r.Stderr, "CACHED")
	s.ok("run", "--rm", "whole", "test", "-e", "/before")

	s.contains("cache", s.ok("system", "df"), "Build Cache")
	s.contains("prune", s.ok("builder", "prune", "-af"), "Total reclaimed space")
	s.ok("run", "--rm", "whole", "test", "-e", "/before")
}

func TestBuildCancel(t *testing.T) {
	s := newScene(t)
	id := s.label
	var body bytes.Buffer
	w := tar.NewWriter(&body)
	text := "FROM busybox\nRUN echo " + s.label + "; sleep 985; true\n"
	_ = w.WriteHeader(&tar.Header{Name: "Dockerfile", Mode: 0o644, Size: int64(len(text))})
	_, _ = io.WriteString(w, text)
	_ = w.Close()
	done := make(chan error, 1)
	go func() {
		c := s.d.http()
		c.Timeout = commandLimit
		resp, err := c.Post("http://wharf/v1.44/build?buildid="+id, "application/x-tar", &body)
		if err == nil {
			_, err = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
		done <- err
	}()
	if err := eventually(20*time.Second, func() error { return stepOf(s.label, true) }); err != nil {
		t.Error(err)
	}
	for want, q := range map[int]string{http.StatusNotFound: "nonesuch", http.StatusOK: id} {
		resp, err := s.d.http().Post("http://wharf/v1.44/build/cancel?id="+q, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("cancel %s: %s", q, resp.Status)
		}
	}
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(busy):
		t.Error("the build goes on")
	}
	if err := eventually(10*time.Second, func() error { return stepOf(s.label, false) }); err != nil {
		t.Error(err)
	}
}
