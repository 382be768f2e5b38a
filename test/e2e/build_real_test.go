package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A Go program, built and tested by Debian's Go in the image, into an image
// that has nothing else.
func TestBuildReal(t *testing.T) {
	s := newScene(t)
	if err := s.d.load("golang"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.d.docker("rmi", "-f", "golang:bookworm") })
	dir := filepath.Join(t.TempDir(), "src")
	if out, err := exec.Command("cp", "-r", "testdata/goprogram", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	ref := s.image("go")
	build := func() result {
		return s.d.command(5*time.Minute, nil, tools.wharf, "build", "--progress", "plain", "-t", ref, "--build-arg", "VERSION="+s.label, dir)
	}
	first := build()
	s.built(first)
	if strings.Contains(first.Stderr, "extracting") {
		t.Errorf("a base image that is here was unpacked again: %s", first.Stderr)
	}
	run := func() string {
		r := s.d.command(commandLimit, strings.NewReader("the quay the crane"), tools.docker, "run", "--rm", "-i", ref)
		return strings.TrimSpace(s.built(r))
	}
	s.equal("the program", run(), s.label+` {"crane":1,"quay":1,"the":2}`)
	s.equal("its layer", strings.Join(s.layer(ref), " "), "goprogram")
	var size int64
	if _, err := fmt.Sscan(s.inspect(ref, "{{.Size}}"), &size); err != nil || size > 12<<20 {
		t.Errorf("the image has %d bytes", size)
	}
	// Only what the change touches is done again.
	if err := os.WriteFile(filepath.Join(dir, "words/more.go"), []byte("package words\n\nfunc init() { extra = \"!\" }\n\nvar extra string\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	r := build()
	s.built(r)
	s.contains("second build", r.Stderr, "CACHED", "COPY . .")
	s.equal("the program", run(), s.label+` {"crane":1,"quay":1,"the":2}`)
}

// Packages of Debian, installed by apt in a step, from a repository that only
// the host's network reaches.
func TestBuildApt(t *testing.T) {
	s := newScene(t)
	srv := httptest.NewServer(http.FileServer(http.Dir(filepath.Join(tools.images, "debs"))))
	t.Cleanup(srv.Close)
	dir := buildContext(t, map[string]string{"Dockerfile": `FROM debian:bookworm
ARG REPO
RUN --mount=type=cache,id=` + s.label + `,target=/var/cache/apt,sharing=locked --mount=type=tmpfs,target=/var/lib/apt/lists <<EOF
set -e
rm -rf /etc/apt/sources.list /etc/apt/sources.list.d/*
echo "deb [trusted=yes] $REPO ./" >/etc/apt/sources.list
apt-get update
apt-get install -y --no-install-recommends jq
EOF
CMD ["sh", "-c", "echo '{\"a\": [1, 2]}' | jq -c .a"]
`})
	ref := s.image("apt")
	r := s.d.wharf("build", "--progress", "plain", "--network", "host", "--allow", "network.host", "-t", ref, "--build-arg", "REPO="+srv.URL, dir)
	s.built(r)
	s.contains("apt", r.Stderr, "Setting up jq")
	s.equal("jq", s.ok("run", "--rm", ref), "[1,2]")
	s.contains("dpkg knows it", s.ok("run", "--rm", ref, "dpkg", "-s", "jq"), "install ok installed")
	for _, name := range s.layer(ref) {
		if strings.HasSuffix(name, ".deb") || strings.HasPrefix(name, "var/lib/apt/lists/") || strings.HasPrefix(name, "proc") {
			t.Errorf("%s is in the layer", name)
		}
	}
}

// A secret is seen by the step that asks for it, and by nobody afterwards.
func TestBuildSecret(t *testing.T) {
	s := newScene(t)
	secret := "s3cr3t" + s.label
	dir := buildContext(t, map[string]string{"key": secret, ".dockerignore": "key\n", "Dockerfile": `FROM busybox
RUN --mount=type=secret,id=key,mode=0400 --mount=type=secret,id=key,env=KEY --mount=type=cache,target=/c \
	test "$(cat /run/secrets/key)" = "$KEY" && echo "$KEY" | wc -c >/length && cp /run/secrets/key /dev/shm/
RUN test ! -e /run/secrets/key && test -z "$KEY" && test ! -e /dev/shm/key
COPY . /ctx/
`})
	ref := s.image("secret")
	r := s.d.wharf("build", "--progress", "plain", "--secret", "id=key,src="+filepath.Join(dir, "key"), "--provenance", "mode=max", "-t", ref, dir)
	s.built(r)
	s.equal("what the step made", s.ok("run", "--rm", ref, "cat", "/length"), fmt.Sprint(len(secret)+1))
	c := s.name("secret")
	s.ok("create", "--name", c, ref)
	for what, text := range map[string]string{
		"its files": s.ok("export", c), "the image": s.ok("save", ref), "the history": s.ok("history", "--no-trunc", ref),
		"the configuration": s.ok("inspect", ref), "the progress": r.Stderr, "the daemon's log": s.d.log(1 << 20),
	} {
		if strings.Contains(text, secret) {
			t.Errorf("the secret is in %s", what)
		}
	}
	s.ok("rm", c)
}

// The layers of a built image are the build's own, linked, and stay when its
// cache goes.
func TestBuildRunsAtOnce(t *testing.T) {
	s := ownDaemon(t)
	dir := buildContext(t, map[string]string{"f": "x", "Dockerfile": `FROM busybox
RUN true
RUN mkdir /a /b && echo 1 >/a/1 && echo 2 >/a/2 && echo 3 >/b/3 && chmod 1777 /b && chown 5:6 /b
RUN rm /a/1 && rm -r /b && mkdir /b && chown 7:8 /b && echo 4 >/b/4
COPY f /b/
`})
	s.built(s.d.wharf("build", "-q", "-t", "at-once", dir))
	look := []string{"run", "--rm", "at-once", "sh", "-c", "ls /a /b; stat -c '%u:%g %a' /b; stat -c %h /b/4"}
	want := "/a:\n2\n\n/b:\n4\nf\n7:8 755\n"
	links := "2" // the other one is the cache's
	if onMachines {
		links = "1" // the image is a disk
	}
	s.equal("files", s.ok(look...), want+links)
	if err := errors.Join(s.d.emptyTrash(), eventually(10*time.Second, s.d.fsck)); err != nil {
		t.Error(err)
	}
	s.ok("builder", "prune", "-af")
	s.equal("without the cache", s.ok(look...), want+"1")
	s.ok("rmi", "at-once")
	if err := errors.Join(s.d.emptyTrash(), eventually(10*time.Second, s.d.fsck)); err != nil {
		t.Error(err)
	}
}
