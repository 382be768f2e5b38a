package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// shelf is a `wharf registry` in the background.
type shelf struct {
	s    *scene
	dir  string
	addr string
}

func newShelf(s *scene, options ...string) *shelf {
	s.Helper()
	sh := &shelf{s: s, dir: s.TempDir()}
	sh.addr = sh.ok(append([]string{"serve", "--detach", "--addr", "127.0.0.1:0"}, options...)...)
	s.Cleanup(func() {
		if r := sh.run("stop"); r.Code != 0 {
			s.Errorf("%s", r)
		}
	})
	return sh
}

func (sh *shelf) run(args ...string) result {
	return sh.s.d.command(commandLimit, nil, "env", append([]string{"WHARF_REGISTRY_DIR=" + sh.dir, tools.wharf, "registry"}, args...)...)
}

func (sh *shelf) ok(args ...string) string {
	sh.s.Helper()
	r := sh.run(args...)
	if r.Code != 0 {
		sh.s.Fatalf("%s", r)
	}
	return r.out()
}

// gauge stands before a registry: it counts what is sent to it, and disturbs.
type gauge struct {
	addr  string
	sent  atomic.Int64 // bytes of uploads
	posts atomic.Int64 // uploads begun
	limit atomic.Int64 // that many requests more are answered 429 with Retry-After
	fail  atomic.Int64 // that many requests more are answered 500
	cut   atomic.Int64 // that many downloads of a blob more end in the middle
	upcut atomic.Int64 // that many uploads more break off after two megabytes
	stall atomic.Bool  // downloads stop after two megabytes until this ends
	gets  atomic.Int64 // downloads of blobs begun
	got   atomic.Int64 // bytes of them
}

// stalled is a download that goes on when it may.
type stalled struct {
	http.ResponseWriter
	g   *gauge
	n   int
	ctx context.Context
}

func (w *stalled) Write(b []byte) (int, error) {
	for w.n += len(b); w.n > 2<<20 && w.g.stall.Load(); time.Sleep(10 * time.Millisecond) {
		if w.ctx.Err() != nil {
			panic(http.ErrAbortHandler)
		}
	}
	n, err := w.ResponseWriter.Write(b)
	w.g.got.Add(int64(n))
	return n, err
}

// broken ends a body early, as a connection does that is cut.
type broken struct {
	io.ReadCloser
	left int64
}

func (b *broken) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, io.ErrUnexpectedEOF
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

type counted struct {
	io.ReadCloser
	n *atomic.Int64
}

func (c counted) Read(b []byte) (int, error) {
	n, err := c.ReadCloser.Read(b)
	c.n.Add(int64(n))
	return n, err
}

func newGauge(s *scene, to string) *gauge {
	g := &gauge{}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: to})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case g.limit.Add(-1) >= 0:
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
			return
		case g.fail.Add(-1) >= 0:
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
			g.gets.Add(1)
			w = &stalled{w, g, 0, r.Context()}
		}
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") && g.cut.Add(-1) >= 0 {
			w = &halved{ResponseWriter: w}
		}
		if strings.Contains(r.URL.Path, "/blobs/uploads/") {
			r.Body = counted{r.Body, &g.sent}
			if r.ContentLength > 2<<20 && g.upcut.Add(-1) >= 0 {
				r.Body = &broken{r.Body, 2 << 20}
			}
			if r.Method == http.MethodPost {
				g.posts.Add(1)
			}
		}
		proxy.ServeHTTP(w, r)
	}))
	s.Cleanup(srv.Close)
	g.addr = strings.TrimPrefix(srv.URL, "http://")
	return g
}

// halved breaks the connection after a kilobyte.
type halved struct {
	http.ResponseWriter
	n int
}

func (h *halved) Write(b []byte) (int, error) {
	if h.n += len(b); h.n > 1024 {
		_, _ = h.ResponseWriter.Write(b[:min(len(b), 1024)])
		panic(http.ErrAbortHandler)
	}
	return h.ResponseWriter.Write(b)
}

// grown makes an image on top of another with one file more.
func grown(s *scene, from, ref, file string) {
	s.Helper()
	id := s.ok("create", from, "true")
	src := filepath.Join(s.TempDir(), file)
	if err := os.WriteFile(src, []byte(file), 0o644); err != nil {
		s.Fatal(err)
	}
	s.ok("cp", src, id+":/"+file)
	s.ok("commit", id, ref)
	s.ok("rm", id)
	s.Cleanup(func() { s.docker("rmi", "-f", ref) })
}

func TestRegistryPushPull(t *testing.T) {
	s := newScene(t)
	sh := newShelf(s)
	g := newGauge(s, sh.addr)
	s.contains("status", sh.ok("status"), sh.addr, "default")
	one, two := g.addr+"/app:1", g.addr+"/app:2"
	grown(s, "busybox", one, "first")
	s.ok("push", one)
	whole := g.sent.Load()
	grown(s, one, two, "second")
	s.ok("push", two)
	small := g.sent.Load() - whole
	if whole < 500_000 || small == 0 || small > 8192 {
		t.Errorf("the first push sent %d bytes, the second, with one file more, %d", whole, small)
	}
	// The same layers in another repository are mounted, not sent.
	other := g.addr + "/other/name:1"
	s.ok("tag", two, other)
	before := g.sent.Load()
	s.contains("push to another repository", s.ok("push", other), "Mounted from app")
	if n := g.sent.Load() - before; n > 4096 {
		t.Errorf("the push to another repository sent %d bytes", n)
	}
	// Pulls go on after cut connections and wait when they are told to.
	id := s.inspect(two, "{{.Id}}")
	s.ok("rmi", one, two, other)
	g.cut.Store(2)
	g.limit.Store(2)
	g.fail.Store(1)
	s.ok("pull", two)
	s.equal("id", s.inspect(two, "{{.Id}}"), id)
	s.equal("runs", s.ok("run", "--rm", two, "cat", "/second"), "second")
	s.contains("list", s.ok("pull", "-a", g.addr+"/app"), "1: Pulling", "2: Pulling")
	s.fails(1, "manifest unknown", "pull", g.addr+"/app:none")
	s.ok("rmi", one, two)
}

// noisy makes an image with a layer of eight megabytes that none compresses.
func noisy(s *scene, ref string) {
	s.Helper()
	id := s.ok("create", "--network", "none", "busybox", "true")
	noise := make([]byte, 8<<20)
	_, _ = rand.Read(noise)
	file := filepath.Join(s.TempDir(), "noise")
	if err := os.WriteFile(file, noise, 0o600); err != nil {
		s.Fatal(err)
	}
	s.ok("cp", file, id+":/noise")
	s.ok("commit", id, ref)
	s.ok("rm", id)
	s.Cleanup(func() { s.docker("rmi", "-f", ref) })
}

// TestRegistryPushResumes: an upload that is cut goes on where it ended.
func TestRegistryPushResumes(t *testing.T) {
	s := newScene(t)
	sh := newShelf(s)
	g := newGauge(s, sh.addr)
	ref := g.addr + "/big:1"
	noisy(s, ref)
	g.upcut.Store(3)
	g.fail.Store(1)
	s.ok("push", ref)
	// Eight megabytes and busybox; what was under way at a cut is sent again.
	if n := g.sent.Load(); n < 8<<20 || n > 12<<20 {
		t.Errorf("%d bytes were sent", n)
	}
	if g.upcut.Load() > 0 {
		t.Error("nothing was cut")
	}
	s.ok("rmi", ref)
	s.ok("pull", ref)
	s.equal("whole", s.ok("run", "--rm", "--network", "none", ref, "stat", "-c", "%s", "/noise"), fmt.Sprint(8<<20))
}

func TestRegistryGC(t *testing.T) {
	s := newScene(t)
	sh := newShelf(s)
	ref := sh.addr + "/gone:1"
	grown(s, "busybox", ref, "gone")
	s.ok("push", ref)
	s.contains("nothing to collect", sh.ok("gc", "--grace", "0s"), "Removed 0 manifests, 0 links, 0 blobs")
	digest := s.inspect(ref, "{{.Id}}")
	req, _ := http.NewRequest(http.MethodDelete, "http://"+sh.addr+"/v2/gone/manifests/"+digest, nil)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	s.equal("delete", resp.Status, "202 Accepted")
	s.contains("young", sh.ok("gc"), "0 blobs")
	s.contains("dry", sh.ok("gc", "--grace", "0s", "--dry-run"), "Would remove 0 manifests, 3 links, 4 blobs")
	s.contains("gc while it serves", sh.ok("gc", "--grace", "0s"), "Removed 0 manifests, 3 links, 4 blobs")
	s.ok("push", ref)
	s.ok("rmi", ref)
	s.ok("pull", ref)
	// Two do not serve one directory; beyond loopback it wants to know.
	if r := sh.run("serve", "--name", "two", "--storage", filepath.Join(sh.dir, "default/data"), "--detach", "--addr", "127.0.0.1:0"); r.Code == 0 || !strings.Contains(r.Stderr, "is served by another process") {
		t.Errorf("%s", r)
	}
	if r := sh.run("serve", "--name", "three", "--detach", "--addr", "0.0.0.0:0"); r.Code == 0 || !strings.Contains(r.Stderr, "can be reached from other hosts") {
		t.Errorf("%s", r)
	}
}

func TestRegistryLogin(t *testing.T) {
	s := newScene(t)
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	users := filepath.Join(t.TempDir(), "users")
	if err := os.WriteFile(users, []byte("jo:"+string(hash)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	sh := newShelf(s, "--htpasswd", users)
	ref := sh.addr + "/x:1"
	s.ok("tag", "busybox", ref)
	t.Cleanup(func() { s.docker("rmi", ref) })
	s.fails(1, "push access denied", "push", ref)
	r := s.dockerIn("wrong", "login", "-u", "jo", "--password-stdin", sh.addr)
	if r.Code == 0 || !strings.Contains(r.Stderr, "unauthorized") {
		t.Errorf("%s", r)
	}
	s.contains("login", s.dockerIn("secret", "login", "-u", "jo", "--password-stdin", sh.addr).Stdout, "Login Succeeded")
	s.ok("push", ref)
	s.ok("logout", sh.addr)
	s.fails(1, "pull access denied", "pull", ref)
	s.helped(sh.addr, ref)
	w := s.d.command(commandLimit, strings.NewReader("secret"), tools.wharf, "login", "-u", "jo", "--password-stdin", sh.addr)
	s.contains("wharf login", w.Stdout, "Login Succeeded")
	if r := s.wharf("pull", ref); r.Code != 0 {
		t.Errorf("%s", r)
	}
	s.ok("logout", sh.addr)
}

// helped logs in with a credential helper: the password is with it, not in the
// configuration.
func (s *scene) helped(addr, ref string) {
	s.Helper()
	dir := s.TempDir()
	const helper = `#!/bin/sh
case $1 in
store) cat >"$KEPT" ;;
get) grep -q "$(cat)" "$KEPT" 2>/dev/null && cat "$KEPT" || { echo "credentials not found in native keychain"; exit 1; } ;;
erase) rm -f "$KEPT" ;;
list) echo '{}' ;;
esac
`
	kept := filepath.Join(dir, "kept")
	for file, text := range map[string]string{"docker-credential-test": helper, "config.json": `{"credsStore": "test"}`} {
		if err := writeProgram(filepath.Join(dir, file), text); err != nil {
			s.Fatal(err)
		}
	}
	run := func(stdin string, args ...string) result {
		env := []string{"DOCKER_CONFIG=" + dir, "KEPT=" + kept, "PATH=" + dir + ":" + os.Getenv("PATH"), tools.wharf}
		return s.d.command(commandLimit, strings.NewReader(stdin), "env", append(env, args...)...)
	}
	s.contains("login by helper", run("secret", "login", "-u", "jo", "--password-stdin", addr).Stdout, "Login Succeeded")
	if b, err := os.ReadFile(kept); err != nil || !strings.Contains(string(b), "secret") {
		s.Errorf("the helper keeps %q, %v", b, err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "config.json")); err != nil || strings.Contains(string(b), "secret") {
		s.Errorf("config.json: %s %v", b, err)
	}
	if r := run("", "pull", ref); r.Code != 0 {
		s.Errorf("%s", r)
	}
	if r := run("", "logout", addr); r.Code != 0 {
		s.Errorf("%s", r)
	}
	if r := run("", "pull", ref); r.Code == 0 {
		s.Errorf("after logout: %s", r)
	}
}

// authority makes certificates.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func (a *authority) issue(dir, name string, tmpl *x509.Certificate) (certFile, keyFile string) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	tmpl.SerialNumber, tmpl.Subject = big.NewInt(time.Now().UnixNano()), pkix.Name{CommonName: name}
	tmpl.NotBefore, tmpl.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = tmpl, key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	if a.cert == nil {
		a.key = key
		a.cert, _ = x509.ParseCertificate(der)
	}
	kb, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(dir, name+".cert"), filepath.Join(dir, name+".key")
	for f, b := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "EC PRIVATE KEY", Bytes: kb}} {
		if err := os.WriteFile(f, pem.EncodeToMemory(b), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	return certFile, keyFile
}

// TestRegistryTLS: the registry is known by its CA, and knows its clients; a
// hosts.toml names a mirror.
func TestRegistryTLS(t *testing.T) {
	dir, certs := t.TempDir(), t.TempDir()
	s := ownDaemon(t, "--bridge", "none", "--certs-dir", certs)
	ca := &authority{t: t}
	caFile, _ := ca.issue(dir, "ca", &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	cert, key := ca.issue(dir, "server", &x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	sh := newShelf(s, "--tls-cert", cert, "--tls-key", key, "--client-ca", caFile)
	ref := sh.addr + "/x:1"
	s.ok("tag", "busybox", ref)
	if r := s.docker("push", ref); r.Code == 0 {
		t.Error("a push without a client certificate came through")
	}
	own := filepath.Join(certs, sh.addr)
	if err := os.Mkdir(own, 0o755); err != nil {
		t.Fatal(err)
	}
	ca.issue(own, "client", &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	copyFile(t, caFile, filepath.Join(own, "ca.crt"))
	s.ok("push", ref)
	mirrored := filepath.Join(certs, "registry.invalid")
	if err := os.Mkdir(mirrored, 0o755); err != nil {
		t.Fatal(err)
	}
	toml := fmt.Sprintf("server = %q\n[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n  ca = %q\n  client = [[%q, %q]]\n",
		"https://registry.invalid", "https://"+sh.addr, caFile, filepath.Join(own, "client.cert"), filepath.Join(own, "client.key"))
	if err := os.WriteFile(filepath.Join(mirrored, "hosts.toml"), []byte(toml), 0o600); err != nil {
		t.Fatal(err)
	}
	s.ok("pull", "registry.invalid/x:1")
	s.equal("same image", s.inspect("registry.invalid/x:1", "{{.Id}}"), s.inspect(ref, "{{.Id}}"))
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, b, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestRegistryManifests: lists of platforms are made with docker manifest and
// pulled whole.
func TestRegistryManifests(t *testing.T) {
	s := newScene(t)
	sh := newShelf(s)
	amd, arm, list := sh.addr+"/multi:amd64", sh.addr+"/multi:other", sh.addr+"/multi:all"
	grown(s, "busybox", amd, "amd")
	grown(s, "busybox", arm, "arm")
	s.ok("push", amd)
	s.ok("push", arm)
	s.ok("manifest", "create", "--insecure", list, amd, arm)
	s.ok("manifest", "annotate", "--arch", "riscv64", list, arm)
	s.contains("push", s.ok("manifest", "push", "--insecure", list), "sha256:")
	s.contains("inspect", s.ok("manifest", "inspect", "--insecure", list), "riscv64", "amd64")
	s.ok("pull", list)
	s.equal("this platform's", s.ok("run", "--rm", list, "cat", "/amd"), "amd")
	s.ok("rmi", list)
}
