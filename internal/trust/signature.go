package trust

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Media types and names of the formats.
const (
	SimpleSigning      = "application/vnd.dev.cosign.simplesigning.v1+json"
	SignatureKey       = "dev.cosignproject.cosign/signature" // annotation of a layer: base64
	CosignArtifact     = "application/vnd.dev.cosign.artifact.sig.v1+json"
	BundlePrefix       = "application/vnd.dev.sigstore.bundle"
	payloadType        = "cosign container image signature"
	payloadTypeAtomic  = "atomic container signature"
	inTotoType         = "application/vnd.in-toto+json"
	cosignSigned       = "https://sigstore.dev/cosign/sign/v1"
	hubName, hubCosign = "docker.io/", "index.docker.io/"
)

// FormatSimple and FormatBundle name where a signature stood.
const (
	FormatSimple = "simplesigning-v1"
	FormatBundle = "bundle-v0.3"
)

// ErrOther marks a good signature that is about another image or repository.
var ErrOther = errors.New("another image")

// other is an ErrOther with its own words.
type other string

func otherf(format string, args ...any) error { return other(fmt.Sprintf(format, args...)) }

func (o other) Error() string        { return string(o) }
func (o other) Is(target error) bool { return target == ErrOther }

// payload is what simple signing signs.
type payload struct {
	Critical struct {
		Identity struct {
			Reference string `json:"docker-reference"`
		} `json:"identity"`
		Image struct {
			Digest digest.Digest `json:"docker-manifest-digest"`
		} `json:"image"`
		Type string `json:"type"`
	} `json:"critical"`
	Optional map[string]any `json:"optional"`
}

// Payload is what is to be signed for the manifest d of a repository.
// Annotations are the signer's own words about it.
func Payload(repository string, d digest.Digest, annotations map[string]string) ([]byte, error) {
	var p payload
	p.Critical.Identity.Reference = repository
	p.Critical.Image.Digest = d
	p.Critical.Type = payloadType
	for k, v := range annotations {
		if p.Optional == nil {
			p.Optional = map[string]any{}
		}
		p.Optional[k] = v
	}
	return json.Marshal(p)
}

// Signature is one that was found with an image: simple signing has Payload
// and Sig, a bundle has its text as Payload.
type Signature struct {
	Format  string
	Payload []byte
	Sig     []byte
}

// Verified is what a good signature says.
type Verified struct {
	Key         PublicKey
	Format      string
	Repository  string         // "" where the format has none
	Annotations map[string]any // the signer's own words
}

// Want is the image that signatures are held against.
type Want struct {
	Digest digest.Digest
	// Repository as the signature must have it; "" takes any. A bundle names
	// none, so it counts only with "".
	Repository string
}

// Check verifies a signature by any of the keys. A good one about something
// else is ErrOther.
func Check(s Signature, w Want, keys []PublicKey) (Verified, error) {
	if s.Format == FormatBundle {
		return checkBundle(s, w, keys)
	}
	err := errSignature
	for _, k := range keys {
		if err = k.verify(s.Payload, s.Sig); err != nil {
			continue
		}
		v, err := checkPayload(s.Payload, w)
		v.Key = k
		return v, err
	}
	return Verified{}, err
}

func checkPayload(b []byte, w Want) (Verified, error) {
	var p payload
	if err := json.Unmarshal(b, &p); err != nil {
		return Verified{}, fmt.Errorf("the signed text is no simple signing payload: %w", err)
	}
	v := Verified{Format: FormatSimple, Repository: p.Critical.Identity.Reference, Annotations: p.Optional}
	switch {
	case p.Critical.Type != payloadType && p.Critical.Type != payloadTypeAtomic:
		return v, otherf("the signed text is a %q", p.Critical.Type)
	case p.Critical.Image.Digest != w.Digest:
		return v, otherf("the signature is for %s", p.Critical.Image.Digest)
	case w.Repository != "" && !SameRepository(v.Repository, w.Repository):
		return v, otherf("the signature is for the repository %s", v.Repository)
	}
	return v, nil
}

// SameRepository compares names as signers write them: with or without a tag
// or digest, Docker Hub as docker.io or index.docker.io.
func SameRepository(a, b string) bool { return bare(a) == bare(b) }

func bare(name string) string {
	name, _, _ = strings.Cut(name, "@")
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		name = name[:i]
	}
	if rest, ok := strings.CutPrefix(name, hubCosign); ok {
		name = hubName + rest
	}
	return name
}

// CheckAll looks for a good signature among all. The error says for the best
// of them what is wrong; errors.Is(err, ErrOther) when the keys made it.
func CheckAll(sigs []Signature, w Want, keys []PublicKey) ([]Verified, error) {
	var good []Verified
	var worst, other error
	for _, s := range sigs {
		v, err := Check(s, w, keys)
		switch {
		case err == nil:
			good = append(good, v)
		case errors.Is(err, ErrOther):
			other = err
		default:
			worst = err
		}
	}
	if len(good) > 0 {
		return good, nil
	}
	if other != nil {
		return nil, other
	}
	return nil, worst
}

// About is the digest that a simple signing payload is about.
func About(b []byte) (digest.Digest, error) {
	var p payload
	if err := json.Unmarshal(b, &p); err != nil {
		return "", fmt.Errorf("no simple signing payload: %w", err)
	}
	return p.Critical.Image.Digest, p.Critical.Image.Digest.Validate()
}
