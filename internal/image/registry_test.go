package image

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/registry"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"wharf/internal/model"
)

func quick(t testing.TB) {
	old := firstWait
	firstWait = 10 * time.Millisecond
	t.Cleanup(func() { firstWait = old })
}

func TestPushPull(t *testing.T) {
	f := newFakeRegistry()
	host := f.serve(t)
	ts := open(t, t.TempDir())
	ctx := t.Context()
	ts.load(t, layered(t).dockerTar(t, "busybox:test"))
	ref := host + "/team/busybox:v1"
	must(t, ts.Tag(ctx, "busybox:test", ref))
	var m messages
	must(t, ts.Push(ctx, ref, nil, nil, m.add))
	out := m.text()
	img, _ := ts.Resolve(ctx, ref, nil)
	for _, want := range []string{"The push refers to repository [" + host + "/team/busybox]", ": Preparing", ": Pushing", ": Pushed", "v1: digest: " + img.ID.String() + " size: "} {
		if !strings.Contains(out, want) {
			t.Errorf("push did not say %q:\n%s", want, out)
		}
	}
	m = nil
	must(t, ts.Push(ctx, ref, nil, nil, m.add))
	if !strings.Contains(m.text(), "Layer already exists") {
		t.Errorf("second push:\n%s", m.text())
	}
	// Another repository of the same registry: blobs are mounted.
	m = nil
	must(t, ts.Tag(ctx, ref, host+"/team/other:v1"))
	must(t, ts.Push(ctx, host+"/team/other:v1", nil, nil, m.add))
	if !strings.Contains(m.text(), "Mounted from team/busybox") {
		t.Errorf("push to another repository:\n%s", m.text())
	}
	two := open(t, t.TempDir())
	m = nil
	must(t, two.Pull(ctx, ref, nil, nil, m.add))
	out = m.text()
	for _, want := range []string{"v1: Pulling from team/busybox", ": Pulling fs layer", ": Download complete", ": Pull complete", "Digest: " + img.ID.String(), "Status: Downloaded newer image for " + ref} {
		if !strings.Contains(out, want) {
			t.Errorf("pull did not say %q:\n%s", want, out)
		}
	}
	got, err := two.Resolve(ctx, ref, nil)
	if err != nil || got.ID != img.ID {
		t.Fatalf("%v %v", got.ID, err)
	}
	must(t, two.Prepare(ctx, model.NewID(), got))
	m = nil
	must(t, two.Pull(ctx, ref, nil, nil, m.add))
	if !strings.Contains(m.text(), "Status: Image is up to date for "+ref) {
		t.Errorf("second pull:\n%s", m.text())
	}
	m = nil
	must(t, two.Pull(ctx, host+"/team/busybox@"+img.ID.String(), nil, nil, m.add))
	must(t, two.Tag(ctx, ref, host+"/team/busybox:v2"))
	must(t, two.Push(ctx, host+"/team/busybox", nil, nil, nil)) // all tags
	three := open(t, t.TempDir())
	must(t, three.Pull(ctx, host+"/team/busybox", nil, nil, nil))
	list, err := three.List(ctx, false, false, false, nil)
	if err != nil || len(list) != 1 || len(list[0].RepoTags) != 2 {
		t.Errorf("all tags: %+v %v", list, err)
	}
	d, err := ts.Distribution(ctx, ref, nil)
	if err != nil || d.Descriptor.Digest != img.ID || len(d.Platforms) != 1 {
		t.Errorf("%+v %v", d, err)
	}
	err = ts.Pull(ctx, host+"/team/busybox:nope", nil, nil, nil)
	if !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "manifest unknown") {
		t.Error(err)
	}
	if err := ts.Push(ctx, host+"/team/x:none", nil, nil, nil); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
}

func TestPullPlatforms(t *testing.T) {
	f := newFakeRegistry()
	host := f.serve(t)
	ts := open(t, t.TempDir())
	ctx := t.Context()
	blobs := map[digest.Digest][]byte{}
	amd := layered(t)
	amd.platform = "amd64"
	arm := testImage{platform: "arm64", gzip: true, layers: [][]byte{tarOf(t, file{name: "arm", body: "x"})}}
	idx := ociIndex(t, blobs, arm, amd)
	ref := host + "/multi:1"
	ts.load(t, ociTar(t, blobs, idx, ref))
	must(t, ts.Push(ctx, ref, nil, nil, nil))
	two := open(t, t.TempDir())
	must(t, two.Pull(ctx, ref, nil, nil, nil))
	img, err := two.Resolve(ctx, ref, nil)
	if err != nil || img.ID != idx.Digest {
		t.Fatalf("%v %v", img.ID, err)
	}
	if _, err := two.Resolve(ctx, ref, &ocispec.Platform{OS: "linux", Architecture: "arm64"}); !errdefs.IsNotFound(err) {
		t.Errorf("the other platform was pulled too: %v", err)
	}
	// Only one platform is here: its manifest is pushed instead of the index.
	var m messages
	must(t, two.Tag(ctx, ref, host+"/part:1"))
	must(t, two.Push(ctx, host+"/part:1", nil, nil, m.add))
	if !strings.Contains(m.text(), "digest: "+img.Manifest.Digest.String()) {
		t.Errorf("%s", m.text())
	}
	must(t, two.Pull(ctx, ref, &ocispec.Platform{OS: "linux", Architecture: "arm64"}, nil, nil))
	if _, err := two.Resolve(ctx, ref, &ocispec.Platform{OS: "linux", Architecture: "arm64"}); err != nil {
		t.Error(err)
	}
	err = two.Pull(ctx, ref, &ocispec.Platform{OS: "linux", Architecture: "s390x"}, nil, nil)
	if !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "no matching manifest for linux/s390x in the manifest list entries") {
		t.Error(err)
	}
	out, err := two.Remove(ctx, ref, false, false, []ocispec.Platform{{OS: "linux", Architecture: "arm64"}})
	if err != nil || len(out) != 1 {
		t.Errorf("%+v %v", out, err)
	}
	if _, err := two.Resolve(ctx, ref, &ocispec.Platform{OS: "linux", Architecture: "arm64"}); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
}

func TestPullResumes(t *testing.T) {
	quick(t)
	f := newFakeRegistry()
	host := f.serve(t)
	ts := open(t, t.TempDir())
	ctx := t.Context()
	ref := host + "/big:1"
	ts.load(t, layered(t).dockerTar(t, ref))
	must(t, ts.Push(ctx, ref, nil, nil, nil))
	f.cut = 300_000
	root := t.TempDir()
	two := open(t, root)
	// The first pull is cut and cancelled by its client; a restart; the second
	// goes on from there.
	cctx, cancel := context.WithCancel(ctx)
	err := two.Pull(cctx, ref, nil, nil, func(v any) {
		if len(f.wasCutNow()) > 0 {
			cancel()
		}
	})
	cancel()
	if err == nil {
		t.Log("the pull was faster than its cancellation")
	}
	must(t, two.Collect(ctx))
	must(t, two.Store.Close())
	two = open(t, root)
	must(t, two.Collect(ctx))
	must(t, two.Pull(ctx, ref, nil, nil, nil))
	if len(f.ranges) == 0 {
		t.Error("nothing was resumed")
	}
	for _, r := range f.ranges {
		if r == "bytes=0-" {
			t.Errorf("range %s", r)
		}
	}
	img, err := two.Resolve(ctx, ref, nil)
	must(t, err)
	must(t, two.Prepare(ctx, model.NewID(), img))
}

func (f *fakeRegistry) wasCutNow() map[string]bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.wasCut
}

func TestPullFaults(t *testing.T) {
	quick(t)
	f := newFakeRegistry()
	host := f.serve(t)
	ts := open(t, t.TempDir())
	ctx := t.Context()
	ref := host + "/x:1"
	ts.load(t, layered(t).dockerTar(t, ref))
	f.fail = 2
	must(t, ts.Push(ctx, ref, nil, nil, nil))
	two := open(t, t.TempDir())
	f.fail = 2
	must(t, two.Pull(ctx, ref, nil, nil, nil))
	// A registry that lies.
	three := open(t, t.TempDir())
	for k := range f.blobs {
		if len(f.blobs[k]) > 100_000 {
			_, f.swap, _ = strings.Cut(k, "@")
		}
	}
	err := three.Pull(ctx, ref, nil, nil, nil)
	if err == nil || !strings.Contains(err.Error(), "wrong content") {
		t.Errorf("swapped layer: %v", err)
	}
	if _, err := three.Resolve(ctx, ref, nil); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	f.swap = ""
	must(t, three.Pull(ctx, ref, nil, nil, nil))
}

func TestAuth(t *testing.T) {
	quick(t)
	for _, c := range []struct {
		name string
		with func(*fakeRegistry, string)
		auth *registry.AuthConfig
		ok   bool
	}{
		{"basic", nil, &registry.AuthConfig{Username: "u", Password: "p"}, true},
		{"basic encoded", nil, &registry.AuthConfig{Auth: base64.StdEncoding.EncodeToString([]byte("u:p"))}, true},
		{"basic wrong", nil, &registry.AuthConfig{Username: "u", Password: "x"}, false},
		{"basic none", nil, nil, false},
		{"token", tokens, &registry.AuthConfig{Username: "u", Password: "p"}, true},
		{"token wrong", tokens, &registry.AuthConfig{Username: "u", Password: "x"}, false},
		{"identity token", tokens, &registry.AuthConfig{IdentityToken: "again"}, true},
		{"registry token", tokens, &registry.AuthConfig{RegistryToken: "good"}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFakeRegistry()
			host := f.serve(t)
			f.user, f.password = "u", "p"
			if c.with != nil {
				c.with(f, host)
			}
			ts := open(t, t.TempDir())
			ctx := t.Context()
			ref := host + "/x:1"
			ts.load(t, testImage{layers: [][]byte{tarOf(t, file{name: "f", body: "x"})}}.dockerTar(t, ref))
			err := ts.Push(ctx, ref, nil, c.auth, nil)
			if (err == nil) != c.ok {
				t.Fatalf("push: %v", err)
			}
			if !c.ok {
				if !strings.Contains(err.Error(), "denied") {
					t.Errorf("push: %v", err)
				}
				err = ts.Pull(ctx, ref, nil, c.auth, nil)
				if !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "pull access denied") {
					t.Errorf("pull: %v", err)
				}
			} else {
				must(t, ts.Pull(ctx, ref, nil, c.auth, nil))
				must(t, ts.Pull(ctx, host+"/x", nil, c.auth, nil))
			}
			if c.auth == nil {
				return
			}
			a := *c.auth
			a.ServerAddress = host
			status, token, err := ts.Login(ctx, a)
			if c.ok && (err != nil || status != "Login Succeeded" || (c.with != nil && a.RegistryToken == "" && token != "again")) {
				t.Errorf("login: %q %q %v", status, token, err)
			}
			if !c.ok && (!errdefs.IsUnauthorized(err) || !strings.Contains(err.Error(), "unauthorized: incorrect username or password")) {
				t.Errorf("login: %v", err)
			}
		})
	}
}

func tokens(f *fakeRegistry, host string) { f.realm, f.refresh = "http://"+host+"/token", "again" }

// A registry with TLS is trusted by the CA in certs.d, and not without.
func TestTLS(t *testing.T) {
	quick(t)
	f := newFakeRegistry()
	srv := httptest.NewUnstartedServer(f)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	srv.Listener = l
	srv.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	host := strings.TrimPrefix(srv.URL, "https://")
	certs := t.TempDir()
	ts := open(t, t.TempDir(), func(o *Options) { o.CertsDir = certs })
	ctx := t.Context()
	ref := host + "/x:1"
	ts.load(t, testImage{layers: [][]byte{tarOf(t, file{name: "f", body: "x"})}}.dockerTar(t, ref))
	must(t, ts.Push(ctx, ref, nil, nil, nil)) // loopback needs no CA
	dir := filepath.Join(certs, host)
	must(t, os.Mkdir(dir, 0o755))
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	must(t, os.WriteFile(filepath.Join(dir, "ca.crt"), ca, 0o644))
	must(t, ts.Pull(ctx, ref, nil, nil, nil))
	if !ts.insecure("127.9.9.9:5000") || !ts.insecure("localhost") || !ts.insecure("[::1]:5000") || ts.insecure("registry.example:5000") || ts.insecure("10.0.0.1") {
		t.Error("which registries are insecure")
	}
	ts.Reconfigure([]string{"10.0.0.0/8", "registry.example:5000"}, nil, 0, 0)
	if !ts.insecure("registry.example:5000") || !ts.insecure("10.1.2.3:80") {
		t.Error("configured insecure registries")
	}
}

// Debian's registry, as a user would run it.
func TestDebianRegistry(t *testing.T) {
	bin, err := exec.LookPath("docker-registry")
	if err != nil { // where test/setup.sh unpacks it
		bin, _ = filepath.Abs("../../.cache/peers/docker-registry/usr/bin/docker-registry")
		if _, err := os.Stat(bin); err != nil {
			t.Skip("docker-registry is missing: bash test/setup.sh test, or apt-get install docker-registry")
		}
	}
	// Not a port that the kernel gives to others until the registry has it.
	var host string
	for port := 12000 + os.Getpid()%6000; ; port++ {
		if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			host = l.Addr().String()
			l.Close()
			break
		}
	}
	d := t.TempDir()
	conf := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: %s}\n", d, host)
	must(t, os.WriteFile(filepath.Join(d, "config.yml"), []byte(conf), 0o644))
	cmd := exec.Command(bin, "serve", filepath.Join(d, "config.yml"))
	must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for range 1200 {
		if c, err := net.Dial("tcp", host); err == nil {
			c.Close()
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	ts := open(t, t.TempDir())
	ctx := t.Context()
	blobs := map[digest.Digest][]byte{}
	arm := testImage{platform: "arm64", layers: [][]byte{tarOf(t, file{name: "arm", body: "x"})}}
	amd := layered(t)
	amd.platform = "amd64"
	ts.load(t, ociTar(t, blobs, ociIndex(t, blobs, amd, arm), host+"/index:1"))
	ts.load(t, layered(t).dockerTar(t, host+"/docker:1"))
	for _, ref := range []string{host + "/index:1", host + "/docker:1"} {
		must(t, ts.Push(ctx, ref, nil, nil, nil))
		two := open(t, t.TempDir())
		must(t, two.Pull(ctx, ref, nil, nil, nil))
		a, err := ts.Resolve(ctx, ref, nil)
		must(t, err)
		b, err := two.Resolve(ctx, ref, nil)
		if err != nil || a.ID != b.ID {
			t.Errorf("%s: %v %v %v", ref, a.ID, b.ID, err)
		}
		must(t, two.Prepare(ctx, model.NewID(), b))
	}
	if _, err := exec.LookPath("skopeo"); err == nil {
		out, err := exec.Command("skopeo", "inspect", "--tls-verify=false", "docker://"+host+"/docker:1").CombinedOutput()
		if err != nil || !strings.Contains(string(out), "sha256") {
			t.Errorf("skopeo: %v\n%s", err, out)
		}
	}
}
