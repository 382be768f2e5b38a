package e2e

import (
	"archive/tar"
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
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

// What is made and pruned is told; a context as Python writes it is one; what
// is wrong with a request is a 400.
func TestBuildEvents(t *testing.T) {
	s := newScene(t)
	since := time.Now()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	text := "FROM busybox\nLABEL a=" + s.label + "\n"
	_ = w.WriteHeader(&tar.Header{Name: "Dockerfile", Mode: 0o644, Size: int64(len(text)), Format: tar.FormatPAX, ModTime: time.Unix(1, 5)})
	_, _ = io.WriteString(w, text)
	_ = w.Close()
	ref := s.image("pax")
	resp, err := s.d.http().Post("http://wharf/v1.44/build?t="+ref, "application/x-tar", &b)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	s.ok("builder", "prune", "-f", "--filter", "id=nonesuch")
	told := s.ok("events", "--since", since.Format(time.RFC3339Nano), "--until", time.Now().Format(time.RFC3339Nano), "--format", "{{.Type}} {{.Action}} {{.Actor.ID}}")
	s.contains("events", told, "image create "+s.inspect(ref, "{{.Id}}"), "builder prune")
	for q, text := range map[string]string{"platform=foobar": "FROM scratch\n", "t=X": "FROM scratch\n", "nocache=1": "NONESUCH\n"} {
		resp, err := s.d.http().Post("http://wharf/v1.44/build?"+q, "application/x-tar", tarOf(map[string]string{"Dockerfile": text}))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		s.equal(q, resp.Status, "400 Bad Request")
	}
}
