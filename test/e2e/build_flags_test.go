package e2e

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// wharfBuild builds a Dockerfile from stdin.
func (s *scene) wharfBuild(text string, args ...string) result {
	return s.d.command(commandLimit, strings.NewReader(text), tools.wharf, append(append([]string{"build", "--progress", "plain"}, args...), "-")...)
}

// Results and caches go to a registry and come from there.
func TestBuildRegistry(t *testing.T) {
	s := newScene(t)
	sh := newShelf(s)
	text := "FROM busybox AS a\nRUN echo " + s.label + " > /a\nFROM busybox\nCOPY --from=a /a /b\nRUN cat /b\n"
	ref, cache := sh.addr+"/b:1", sh.addr+"/cache"
	meta := filepath.Join(t.TempDir(), "meta")
	s.built(s.wharfBuild(text, "-t", ref, "--push", "--cache-to", "type=registry,ref="+cache+",mode=max", "--metadata-file", meta))
	var m map[string]any
	b, _ := os.ReadFile(meta)
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	s.equal("metadata", m["image.name"].(string), ref)
	s.ok("pull", ref)
	s.Cleanup(func() { s.d.docker("rmi", "-f", ref) })
	s.equal("what was pushed", s.ok("run", "--rm", ref, "cat", "/b"), s.label)

	r := s.wharfBuild(text, "--no-cache-filter", "a", "--cache-from", cache)
	s.built(r)
	s.contains("cache of a registry", r.Stderr, "importing cache manifest from "+cache)
}

// Keys and sockets of SSH reach a step.
func TestBuildSSH(t *testing.T) {
	s := newScene(t)
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	text := "FROM busybox\nRUN --mount=type=ssh,required test -S $SSH_AUTH_SOCK && echo agent " + s.label + "\n"
	r := s.wharfBuild(text, "--ssh", "default="+file, "--no-cache")
	s.built(r)
	s.contains("socket", r.Stderr, "agent "+s.label)
	if r := s.wharfBuild(text, "--no-cache"); r.Code == 0 || !strings.Contains(r.Stderr, "ssh") {
		t.Errorf("without an agent: %s", r)
	}
}
