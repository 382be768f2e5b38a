package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// signing runs the CLI with a key's password at hand.
func (s *scene) signing(args ...string) result {
	return s.d.command(commandLimit, nil, "env", append([]string{"COSIGN_PASSWORD=secret", tools.wharf, "image"}, args...)...)
}

// reload writes a file and has the daemon read its configuration again.
func (s *scene) reload(file, text string) {
	s.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		s.Fatal(err)
	}
	s.d.mu.Lock()
	pid := s.d.cmd.Process.Pid
	s.d.mu.Unlock()
	before := strings.Count(s.d.log(1<<20), "configuration reloaded")
	if err := syscall.Kill(pid, syscall.SIGHUP); err != nil {
		s.Fatal(err)
	}
	for end := time.Now().Add(busy); strings.Count(s.d.log(1<<20), "configuration reloaded") == before; {
		if time.Now().After(end) {
			s.Fatal("the daemon did not read its configuration again")
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// TestTrust: what must be signed is pulled, run and built upon only when it
// is, whoever pulls it.
func TestTrust(t *testing.T) {
	dir := t.TempDir()
	policy := filepath.Join(dir, "trust.json")
	if err := os.WriteFile(policy, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := ownDaemon(t, "--bridge", "none", "--trust-policy", policy)
	sh := newShelf(s)
	for _, name := range []string{"me", "other"} {
		if r := s.signing("keygen", filepath.Join(dir, name)); r.Code != 0 {
			t.Fatal(r)
		}
	}
	key, public := filepath.Join(dir, "me.key"), filepath.Join(dir, "me.pub")
	app, twin, free := sh.addr+"/prod/app:1", sh.addr+"/prod/twin:1", sh.addr+"/free:1"
	grown(s, "busybox", twin, "twin")
	grown(s, "busybox", app, "app")
	s.ok("tag", app, free)
	for _, ref := range []string{app, twin, free} {
		s.ok("push", ref)
		s.ok("rmi", ref)
	}
	s.reload(policy, fmt.Sprintf(`{"repositories": {"%s/prod": {"images": "signed", "keys": ["me.pub"]}, "%s/never": {"images": "refuse"}}}`, sh.addr, sh.addr))
	s.ok("pull", free)
	s.fails(1, "is not signed: the trust policy "+policy, "pull", app)
	s.fails(125, "is not signed", "run", "--rm", "--network", "none", app, "true")
	onto := func(ref string) result {
		return s.wharf("build", "--network", "none", "-q", buildContext(t, map[string]string{"Dockerfile": "FROM " + ref + "\nCOPY Dockerfile /x\n"}))
	}
	if r := onto(app); r.Code == 0 || !strings.Contains(r.Stderr, "is not signed: the trust policy") {
		t.Errorf("a build upon an unsigned image: %s", r)
	}
	if r := s.signing("verify", "--key", public, app); r.Code == 0 || !strings.Contains(r.Stderr, "is not signed") {
		t.Errorf("%s", r)
	}
	if r := s.signing("sign", "--key", filepath.Join(dir, "other.key"), app); r.Code != 0 {
		t.Fatal(r)
	}
	s.fails(1, "by none of the keys that count", "pull", app)
	r := s.signing("sign", "--key", key, "-a", "by=test", app)
	if r.Code != 0 {
		t.Fatal(r)
	}
	s.contains("sign", r.Stdout, "Signed "+sh.addr+"/prod/app@sha256:")
	s.contains("verify", s.signing("verify", "--key", public, app).Stdout, "as "+sh.addr+"/prod/app: by=test")
	s.contains("verify by policy", s.signing("verify", app).Stdout, "me.pub (key ")
	if r := onto(app); r.Code != 0 {
		t.Errorf("a build upon a signed image: %s", r)
	}
	s.contains("pull", s.ok("pull", app), "Signature verified: sha256:")
	s.contains("inspect", s.wharf("image", "inspect", "-f", "{{json .Identity}}", app).Stdout, "signed by key ")
	if r := onto(twin); r.Code == 0 || !strings.Contains(r.Stderr, "is not signed") {
		t.Errorf("a build upon the unsigned twin: %s", r)
	}
	// Without a registry there are no signatures.
	archive := filepath.Join(dir, "app.tar")
	s.ok("save", "-o", archive, app)
	s.ok("tag", app, sh.addr+"/never/x:1")
	s.ok("push", sh.addr+"/never/x:1")
	s.fails(1, "load of "+app+" is refused", "load", "-i", archive)
	if r := s.wharf("image", "copy", "--as", twin, app, "unix://"+s.d.socket()); r.Code == 0 || !strings.Contains(r.Stderr, "copy of "+twin+" is refused") {
		t.Errorf("%s", r)
	}
	s.fails(1, "takes no images of "+sh.addr+"/never", "pull", sh.addr+"/never/x:1")
}

// TestAttestations: what a build attests goes with the image to a registry and
// back, and is shown.
func TestAttestations(t *testing.T) {
	s := newScene(t)
	sh := newShelf(s)
	ref := sh.addr + "/attested:1"
	dir := buildContext(t, map[string]string{"Dockerfile": "FROM busybox\nCOPY Dockerfile /x\n"})
	if r := s.wharf("build", "--network", "none", "-q", "--provenance=mode=max", "-t", ref, dir); r.Code != 0 {
		t.Fatal(r)
	}
	s.Cleanup(func() { s.docker("rmi", "-f", ref) })
	show := func() string { return s.wharf("image", "inspect", "--attestations", ref).Stdout }
	s.contains("built", show(), "provenance (SLSA ", "built by https://")
	s.ok("push", ref)
	s.ok("rmi", ref)
	s.ok("pull", ref)
	s.contains("pulled", show(), "provenance (SLSA ", "built by https://")
	s.contains("whole", s.wharf("image", "inspect", "--attestations", "--format", "json", ref).Stdout, `"PredicateType":"https://slsa.dev/provenance/`, `"predicate":{`)
	s.contains("none", s.wharf("image", "inspect", "--attestations", "busybox").Stdout, "none")
}
