package image

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"wharf/internal/model"
	"wharf/internal/trust"
)

// signer has a key and the policy that wants it for one repository.
type signer struct {
	key    *trust.PrivateKey
	public string
}

func newSigner(t *testing.T) signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	k, err := trust.ReadPrivateKey(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), "k", nil)
	must(t, err)
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	must(t, err)
	return signer{k, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}))}
}

func (s signer) policy(t *testing.T, prefix, rest string) *trust.Policy {
	t.Helper()
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "k.pub"), []byte(s.public), 0o600))
	file := filepath.Join(dir, "trust.json")
	must(t, os.WriteFile(file, []byte(`{"repositories": {"`+prefix+`": {"images": "signed", "keys": ["k.pub"]`+rest+`}}}`), 0o600))
	p, err := trust.ReadPolicy(file)
	must(t, err)
	return p
}

// sign signs what ref means at its registry, as repository ("": its own).
func (s signer) sign(t *testing.T, st *Store, ref, repository string) model.RemoteImage {
	t.Helper()
	img, err := st.RemoteImage(t.Context(), ref, nil)
	must(t, err)
	if repository == "" {
		repository = img.Repository
	}
	p, err := trust.Payload(repository, img.Digest, nil)
	must(t, err)
	sig, err := s.key.Sign(p)
	must(t, err)
	must(t, st.AddSignature(t.Context(), img.Name, model.ImageSignature{Payload: p, Signature: sig}, nil))
	return img
}

func wantRefusal(t *testing.T, what string, err error, text string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), text) {
		t.Errorf("%s: %v, want %q", what, err, text)
	}
}

func TestTrust(t *testing.T) {
	f := newFakeRegistry()
	host := f.serve(t)
	ts, ctx := open(t, t.TempDir()), t.Context()
	ts.load(t, layered(t).dockerTar(t, "busybox:test"))
	good, bad, plain := host+"/prod/app:1", host+"/prod/other:1", host+"/test/app:1"
	for _, ref := range []string{good, bad, plain} {
		must(t, ts.Tag(ctx, "busybox:test", ref))
		must(t, ts.Push(ctx, ref, nil, nil, nil))
	}
	me, other := newSigner(t), newSigner(t)
	two := open(t, t.TempDir())
	two.SetTrust(me.policy(t, host+"/prod", ""))
	must(t, two.Pull(ctx, plain, nil, nil, nil))
	err := two.Pull(ctx, good, nil, nil, nil)
	wantRefusal(t, "unsigned", err, "is not signed: the trust policy ")
	wantRefusal(t, "unsigned", err, "k.pub")
	if !errdefs.IsPermissionDenied(err) {
		t.Errorf("kind of %v", err)
	}
	other.sign(t, two.Store, good, "")
	wantRefusal(t, "wrong key", two.Pull(ctx, good, nil, nil, nil), "by none of the keys that count (1 signatures)")
	me.sign(t, two.Store, good, "registry.example/other")
	wantRefusal(t, "other repository", two.Pull(ctx, good, nil, nil, nil), "registry.example/other")
	img := me.sign(t, two.Store, good, "")
	var m messages
	must(t, two.Pull(ctx, good, nil, nil, m.add))
	if !strings.Contains(m.text(), "Signature verified: "+img.Digest.String()+" by k.pub (key "+me.key.ID+")") {
		t.Errorf("the pull says:\n%s", m.text())
	}
	must(t, two.Pull(ctx, img.Name, nil, nil, nil)) // by digest
	insp, err := two.Inspect(ctx, good, nil, false)
	must(t, err)
	if insp.Identity == nil || len(insp.Identity.Signature) != 1 || !strings.Contains(insp.Identity.Signature[0].Name, me.key.ID) {
		t.Errorf("identity: %+v", insp.Identity)
	}
	v, err := two.Verify(ctx, good, model.ImageKeys{}, nil) // with the policy's keys
	must(t, err)
	if len(v.Signatures) != 1 || v.Signatures[0].Key != me.key.ID || v.Signatures[0].KeyFile != "k.pub" || v.Digest != img.Digest {
		t.Errorf("verified: %+v", v)
	}
	v, err = two.Verify(ctx, good, model.ImageKeys{Keys: other.public + me.public, AnyRepository: true}, nil)
	must(t, err)
	if len(v.Signatures) != 3 {
		t.Errorf("by both keys: %+v", v)
	}
	_, err = two.Verify(ctx, bad, model.ImageKeys{Keys: me.public}, nil)
	wantRefusal(t, "verify", err, "is not signed")
	_, err = two.Verify(ctx, plain, model.ImageKeys{}, nil)
	wantRefusal(t, "verify without a key", err, "no key is given")
	// Another image under the same tag: what was signed stays signed, by digest only.
	ts.load(t, layered(t).dockerTar(t, "busybox:test"))
	must(t, ts.Import(ctx, bytes.NewReader(make([]byte, 1024)), host+"/prod/app", "1", "", nil, nil, nil))
	must(t, ts.Push(ctx, good, nil, nil, nil))
	wantRefusal(t, "moved tag", two.Pull(ctx, good, nil, nil, nil), "is not signed")
	must(t, two.Pull(ctx, img.Name, nil, nil, nil))
}

func TestTrustArchives(t *testing.T) {
	me, ts, ctx := newSigner(t), open(t, t.TempDir()), t.Context()
	ts.SetTrust(me.policy(t, "docker.io/prod", ""))
	tar := layered(t).dockerTar(t, "prod/app:1")
	wantRefusal(t, "load", ts.Load(ctx, bytes.NewReader(tar), nil, true, nil), "load of prod/app:1 is refused")
	wantRefusal(t, "import", ts.Import(ctx, bytes.NewReader(make([]byte, 1024)), "prod/app", "1", "", nil, nil, nil), "import of prod/app:1 is refused")
	ts.load(t, layered(t).dockerTar(t, "app:1"))
	ts.SetTrust(nil)
	must(t, ts.Load(ctx, bytes.NewReader(tar), nil, true, nil))
}

// TestGate is a build's puller before the policy.
func TestGate(t *testing.T) {
	f := newFakeRegistry()
	host := f.serve(t)
	ts, ctx := open(t, t.TempDir()), t.Context()
	ts.load(t, layered(t).dockerTar(t, "busybox:test"))
	me := newSigner(t)
	for _, ref := range []string{host + "/prod/app:1", host + "/prod/bad:1", host + "/free/app:1"} {
		must(t, ts.Tag(ctx, "busybox:test", ref))
		must(t, ts.Push(ctx, ref, nil, nil, nil))
	}
	img := me.sign(t, ts.Store, host+"/prod/app:1", "")
	child := img.Digest
	idx, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": ocispec.MediaTypeImageIndex, "manifests": []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageManifest, Digest: child, Size: 1}}})
	must(t, err)
	req, err := http.NewRequest(http.MethodPut, "http://"+host+"/v2/prod/list/manifests/1", bytes.NewReader(idx))
	must(t, err)
	req.Header.Set("Content-Type", ocispec.MediaTypeImageIndex)
	resp, err := http.DefaultClient.Do(req)
	must(t, err)
	must(t, resp.Body.Close())
	f.mu.Lock()
	f.manifests["prod/list@"+child.String()] = f.manifests["prod/app@"+child.String()]
	f.mu.Unlock()
	ts.SetTrust(me.policy(t, host+"/prod", ""))
	hs, err := ts.RegistryHosts()(host)
	must(t, err)
	ask := func(method, path string) error {
		req, err := http.NewRequest(method, "http://"+host+"/v2/"+path, nil)
		must(t, err)
		resp, err := hs[len(hs)-1].Client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if _, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusOK {
			t.Errorf("%s %s: %s %v", method, path, resp.Status, err)
		}
		return nil
	}
	must(t, ask(http.MethodGet, "prod/app/manifests/1"))
	must(t, ask(http.MethodHead, "prod/app/manifests/1"))
	must(t, ask(http.MethodGet, "prod/app/manifests/"+child.String()))
	must(t, ask(http.MethodGet, "free/app/manifests/1"))
	wantRefusal(t, "unsigned", ask(http.MethodGet, "prod/bad/manifests/1"), "is not signed")
	wantRefusal(t, "unsigned, asked by HEAD", ask(http.MethodHead, "prod/bad/manifests/1"), "is not signed")
	wantRefusal(t, "a list's image before the list", ask(http.MethodGet, "prod/list/manifests/"+child.String()), "is not signed")
	wantRefusal(t, "unsigned list", ask(http.MethodGet, "prod/list/manifests/1"), "is not signed")
	open := ts.policy.Load()
	ts.SetTrust(nil)
	me.sign(t, ts.Store, host+"/prod/list:1", "")
	ts.SetTrust(open)
	must(t, ask(http.MethodGet, "prod/list/manifests/1"))
	must(t, ask(http.MethodGet, "prod/list/manifests/"+child.String()))
}
