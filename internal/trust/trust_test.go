package trust

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// pair is without a password: deriving a key from one takes its time.
func pair(t testing.TB) (*PrivateKey, []PublicKey, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	k, err := ReadPrivateKey(pem.EncodeToMemory(&pem.Block{Type: pemPKCS8, Bytes: der}), "test.key", nil)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	public := pem.EncodeToMemory(&pem.Block{Type: pemPublic, Bytes: spki})
	keys, err := PublicKeys(public, "test.pub")
	if err != nil {
		t.Fatal(err)
	}
	if k.ID != keys[0].ID {
		t.Errorf("ids %s and %s", k.ID, keys[0].ID)
	}
	return k, keys, public
}

func TestKeys(t *testing.T) {
	private, public, err := Generate([]byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ReadPrivateKey(private, "k", func() ([]byte, error) { return []byte("wrong"), nil }); err == nil || !strings.Contains(err.Error(), "password is wrong") {
		t.Errorf("wrong password: %v", err)
	}
	k, err := ReadPrivateKey(private, "k", func() ([]byte, error) { return []byte("secret"), nil })
	if err != nil {
		t.Fatal(err)
	}
	if keys, err := PublicKeys(public, "k"); err != nil || keys[0].ID != k.ID {
		t.Errorf("the pair: %v %v", keys, err)
	}
	if _, err := ReadPrivateKey(public, "k", nil); err == nil || !strings.Contains(err.Error(), "public key") {
		t.Errorf("public for private: %v", err)
	}
	if _, err := PublicKeys(private, "k"); err == nil || !strings.Contains(err.Error(), "private key") {
		t.Errorf("private for public: %v", err)
	}
	if _, err := PublicKeys([]byte("x"), "k"); err == nil {
		t.Error("no key is no error")
	}
}

func signed(t testing.TB, k *PrivateKey, repo string, d digest.Digest) Signature {
	t.Helper()
	p, err := Payload(repo, d, map[string]string{"who": "me"})
	if err != nil {
		t.Fatal(err)
	}
	sig, err := k.Sign(p)
	if err != nil {
		t.Fatal(err)
	}
	return Signature{Format: FormatSimple, Payload: p, Sig: sig}
}

func bundled(t testing.TB, k *PrivateKey, typ string, d digest.Digest) Signature {
	t.Helper()
	body := fmt.Sprintf(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":%q}}],"predicateType":%q}`, d.Encoded(), typ)
	sig, err := k.Sign(preAuthenticated(inTotoType, []byte(body)))
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(map[string]any{"mediaType": BundlePrefix + ".v0.3+json", "dsseEnvelope": map[string]any{
		"payload": []byte(body), "payloadType": inTotoType, "signatures": []any{map[string]any{"sig": sig}}}})
	if err != nil {
		t.Fatal(err)
	}
	return Signature{Format: FormatBundle, Payload: text}
}

func TestCheck(t *testing.T) {
	k, keys, _ := pair(t)
	_, others, _ := pair(t)
	d, e := digest.FromString("image"), digest.FromString("other")
	want := Want{Digest: d, Repository: "docker.io/library/app"}
	bent := signed(t, k, "docker.io/library/app", d)
	bent.Payload = []byte(strings.Replace(string(bent.Payload), "me", "ma", 1))
	for name, c := range map[string]struct {
		s     Signature
		keys  []PublicKey
		other bool
		good  bool
	}{
		"good":             {signed(t, k, "docker.io/library/app", d), keys, false, true},
		"cosign's Hub":     {signed(t, k, "index.docker.io/library/app:1", d), append(others, keys...), false, true},
		"other key":        {signed(t, k, "docker.io/library/app", d), others, false, false},
		"other digest":     {signed(t, k, "docker.io/library/app", e), keys, true, false},
		"other repository": {signed(t, k, "docker.io/library/ape", d), keys, true, false},
		"bent":             {bent, keys, false, false},
		"bundle":           {bundled(t, k, cosignSigned, d), keys, true, false}, // names no repository
		"bundle, digest":   {bundled(t, k, cosignSigned, e), keys, true, false},
		"attestation":      {bundled(t, k, "https://slsa.dev/provenance/v1", d), keys, true, false},
		"bundle, key":      {bundled(t, k, cosignSigned, d), others, false, false},
		"no bundle":        {Signature{Format: FormatBundle, Payload: []byte("{}")}, keys, true, false},
	} {
		v, err := CheckAll([]Signature{c.s}, want, c.keys)
		if (err == nil) != c.good || errors.Is(err, ErrOther) != c.other {
			t.Errorf("%s: %v", name, err)
		}
		if c.good && (len(v) != 1 || v[0].Key.ID != keys[0].ID) {
			t.Errorf("%s: %+v", name, v)
		}
	}
	if _, err := CheckAll([]Signature{signed(t, k, "elsewhere/app", d)}, Want{Digest: d}, keys); err != nil {
		t.Errorf("any repository: %v", err)
	}
	if _, err := CheckAll([]Signature{bundled(t, k, cosignSigned, d)}, Want{Digest: d}, keys); err != nil {
		t.Errorf("bundle, any repository: %v", err)
	}
}

func TestPolicy(t *testing.T) {
	dir := t.TempDir()
	_, _, public := pair(t)
	if err := os.WriteFile(filepath.Join(dir, "prod.pub"), public, 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "trust.json")
	write := func(text string) (*Policy, error) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return ReadPolicy(file)
	}
	p, err := write(`{"default": {"images": "refuse"}, "repositories": {
		"registry.example": {"images": "accept"}, "registry.example/prod": {"images": "signed", "keys": ["prod.pub"]},
		"docker.io/library": {"images": "signed", "keys": ["prod.pub"], "identity": "any"}}}`)
	if err != nil {
		t.Fatal(err)
	}
	for repo, want := range map[string]Demand{
		"registry.example/prod": Signed, "registry.example/prod/app": Signed, "registry.example/production": Accept,
		"registry.example/x": Accept, "docker.io/library/debian": Signed, "docker.io/me/x": Refuse, "registry.example:5000/prod": Refuse,
	} {
		if got := p.For(repo).Demand; got != want {
			t.Errorf("%s: %s, want %s", repo, got, want)
		}
	}
	if !p.For("docker.io/library/x").AnyRepository || p.Archives() || p.Idle() {
		t.Errorf("%+v", p)
	}
	var none *Policy
	if none.For("x").Demand != Accept || !none.Archives() || !none.Idle() {
		t.Error("no policy refuses something")
	}
	for text, want := range map[string]string{
		`{"repositories": {"debian": {"images": "accept"}}}`:                               "begin with the registry",
		`{"repositories": {"docker.io/library/debian:12": {"images": "accept"}}}`:          "no name of a repository",
		`{"repositories": {"a.b": {"images": "signed"}}}`:                                  "no keys are named",
		`{"repositories": {"a.b": {"images": "signed", "keys": ["none.pub"]}}}`:            "no such file",
		`{"repositories": {"a.b": {"images": "maybe"}}}`:                                   "want accept, signed or refuse",
		`{"repositories": {"a.b": {"images": "accept"}, "a.b/": {"images": "accept"}}}`:    "two rules",
		`{"repositories": {"a.b": {"images": "accept", "keys": ["prod.pub"]}}}`:            "only",
		`{"repositories": {"a.b": {"images": "signed", "keys": ["x"], "identity": "no"}}}`: "identity",
		`{"defaults": {}}`:      "unknown field",
		`{"archives": "maybe"}`: "accept or refuse",
	} {
		if _, err := write(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

func FuzzCheck(f *testing.F) {
	k, keys, _ := pair(f)
	d := digest.FromString("image")
	f.Add(signed(f, k, "a.b/c", d).Payload)
	f.Add(bundled(f, k, cosignSigned, d).Payload)
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := Check(Signature{Format: FormatBundle, Payload: b}, Want{Digest: digest.FromString("never signed")}, keys); err == nil {
			t.Error("accepted")
		}
		_, _ = checkPayload(b, Want{Digest: d})
		_, _ = checkStatement(b, d)
	})
}

func FuzzPolicy(f *testing.F) {
	_, _, public := pair(f)
	f.Add([]byte(`{"default": {"images": "refuse"}, "repositories": {"a.b/c": {"images": "signed", "keys": ["x"]}}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := parsePolicy(b, func(string) ([]byte, error) { return public, nil }); err == nil {
			p.For("a.b/c")
		}
	})
}
