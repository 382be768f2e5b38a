package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestImages(t *testing.T) {
	s := newScene(t)
	s.contains("list", s.ok("images"), "busybox", "debian", "bookworm")
	id := s.inspect("busybox", "{{.Id}}")
	s.equal("by id", s.inspect(strings.TrimPrefix(id, "sha256:")[:12], "{{.Id}}"), id)
	s.equal("by reference", s.ok("images", "-q", "--no-trunc", "busybox:latest"), id)
	s.equal("by filter", s.ok("images", "-q", "--no-trunc", "--filter", "reference=alp*"), id)
	s.contains("history", s.ok("history", "--no-trunc", "debian:bookworm"), "mkimage")
	tag := "tagged:" + s.name("x")
	s.ok("tag", "busybox", tag)
	s.equal("tagged", s.inspect(tag, "{{.Id}}"), id)
	s.contains("untag", s.ok("rmi", tag), "Untagged: "+tag)
	s.fails(1, "No such image: "+tag, "rmi", tag)
	s.fails(1, "No such image: nonesuch", "tag", "nonesuch", "a:b")
	s.fails(1, "", "tag", "busybox", "Upper:case")
	s.equal("config", s.inspect("rich", "{{.Config.Entrypoint}} {{.Config.Cmd}} {{.Config.User}} {{.Config.StopSignal}} {{index .Config.Labels \"org.example.kind\"}}"), "[/entry] [one two] user SIGUSR1 rich")
}

func TestRemoveUsedImage(t *testing.T) {
	s := newScene(t)
	base := s.idle()
	ref := "used:" + s.name("x")
	s.ok("exec", base, "touch", "/own")
	s.ok("commit", base, ref)
	id := s.ok("create", ref, "true")
	image := s.inspect(ref, "{{.Id}}")
	s.fails(1, "being used by", "rmi", image)
	s.ok("rm", id)
	s.contains("deleted", s.ok("rmi", ref), "Deleted: sha256:")
}

func TestSaveLoad(t *testing.T) {
	s := newScene(t)
	dir := t.TempDir()
	base := s.idle()
	s.ok("exec", base, "touch", "/marker")
	ref := "saved:" + s.name("x")
	s.ok("commit", base, ref)
	id := s.inspect(ref, "{{.Id}}")
	file := filepath.Join(dir, "saved.tar")
	s.ok("save", "-o", file, ref)
	s.ok("rmi", ref)
	s.contains("load", s.ok("load", "-i", file), "Loaded image: "+ref)
	s.equal("same id", s.inspect(ref, "{{.Id}}"), id)
	s.ok("run", "--rm", ref, "test", "-e", "/marker")
	s.ok("rmi", ref)
	s.fails(1, "", "load", "-i", "/etc/passwd")
	s.fails(1, "No such image", "save", "-o", file, "nonesuch:1")
}

// TestSkopeo exchanges archives with another tool, both ways.
func TestSkopeo(t *testing.T) {
	s := newScene(t)
	skopeo, err := exec.LookPath("skopeo")
	if err != nil {
		t.Skip("skopeo is not installed: bash test/setup.sh test")
	}
	dir := t.TempDir()
	run := func(args ...string) {
		t.Helper()
		if r := s.d.command(commandLimit, nil, skopeo, append([]string{"--insecure-policy"}, args...)...); r.Code != 0 {
			t.Fatal(r)
		}
	}
	file := filepath.Join(dir, "ours.tar")
	s.ok("save", "-o", file, "debian:bookworm")
	run("copy", "docker-archive:"+file, "oci:"+dir+"/layout:debian")
	theirs := filepath.Join(dir, "theirs.tar")
	ref := "skopeo:" + s.name("x")
	t.Cleanup(func() { s.docker("rmi", "-f", ref) })
	run("copy", "oci:"+dir+"/layout:debian", "docker-archive:"+theirs+":"+ref)
	s.contains("load", s.ok("load", "-i", theirs), ref)
	s.contains("runs", s.ok("run", "--rm", ref, "cat", "/etc/os-release"), "Debian")
	oci := filepath.Join(dir, "oci.tar")
	run("copy", "oci:"+dir+"/layout:debian", "oci-archive:"+oci+":"+ref+"-oci")
	t.Cleanup(func() { s.docker("rmi", "-f", ref+"-oci") })
	s.ok("load", "-i", oci)
}

// registry starts Debian's docker-registry on loopback, in this test run's
// network namespace.
func registry(t *testing.T) string {
	t.Helper()
	bin, err := exec.LookPath("docker-registry")
	if err != nil {
		bin, _ = filepath.Abs("../../.cache/peers/docker-registry/usr/bin/docker-registry")
		if _, err := os.Stat(bin); err != nil {
			t.Skip("docker-registry is not there: bash test/setup.sh test")
		}
	}
	dir := t.TempDir()
	addr := freeAddress(t)
	config := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage:\n  filesystem: {rootdirectory: %s}\n  delete: {enabled: true}\nhttp: {addr: \"%s\"}\n", dir, addr)
	file := filepath.Join(dir, "config.yml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin, "serve", file)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if err := eventually(10*time.Second, func() error {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
		}
		return err
	}); err != nil {
		t.Fatalf("docker-registry: %v", err)
	}
	return addr
}

var ports atomic.Int32

// freeAddress is one on loopback for a server that is started later: its port
// is not of those that the kernel gives out to others meanwhile, nor of those
// of our name servers.
func freeAddress(t *testing.T) string {
	t.Helper()
	for range 3000 {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 16000+ports.Add(1)))
		if err == nil {
			l.Close()
			return l.Addr().String()
		}
	}
	t.Fatal("no port is free")
	return ""
}

func TestPushPull(t *testing.T) {
	s := newScene(t)
	addr := registry(t)
	for _, image := range []string{"busybox", "debian:bookworm"} {
		ref := addr + "/team/" + strings.ReplaceAll(image, ":", "-") + ":" + s.name("x")
		s.ok("tag", image, ref)
		id := s.inspect(ref, "{{.Id}}")
		s.contains("push", s.ok("push", ref), "digest: sha256:")
		s.ok("rmi", ref)
		s.contains("pull", s.ok("pull", ref), "Status:")
		s.equal("same image", s.inspect(ref, "{{.Id}}"), id)
		s.contains("pull again", s.ok("pull", ref), "up to date")
		digest := s.inspect(ref, "{{index .RepoDigests 0}}")
		s.contains("digest", digest, "@sha256:")
		s.ok("run", "--rm", ref, "true")
		s.ok("rmi", ref)
	}
	// run pulls what is missing.
	ref := addr + "/team/busybox:" + s.name("x")
	if r := s.docker("run", "--rm", ref, "echo", "pulled"); r.out() != "pulled" {
		t.Errorf("run of a missing image: %s", r)
	}
	s.docker("rmi", ref)
	s.fails(1, "", "pull", addr+"/team/nonesuch:1")
	s.fails(1, "", "push", addr+"/never/tagged:1")
	s.fails(1, "", "pull", "127.0.0.1:1/nobody/there:1")
}

func TestPruneImages(t *testing.T) {
	s := ownDaemon(t)
	base := s.idle()
	s.ok("exec", base, "touch", "/x")
	id := s.ok("commit", base)
	s.contains("dangling is listed", s.ok("images", "-q", "--no-trunc", "--filter", "dangling=true"), id)
	s.contains("pruned", s.ok("image", "prune", "-f"), "Total reclaimed space")
	s.equal("gone", s.ok("images", "-q", "--filter", "dangling=true"), "")
	s.ok("inspect", "busybox")
	s.ok("image", "prune", "-af")
	s.ok("inspect", base)
}
