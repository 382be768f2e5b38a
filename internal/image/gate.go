package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	rerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"wharf/internal/model"
	"wharf/internal/trust"
)

// gated puts the policy between BuildKit and registries. BuildKit pulls by
// itself, with its session's credentials; so its manifests are looked at as
// they come by.
func (s *Store) gated(domain string, hs []docker.RegistryHost) []docker.RegistryHost {
	if s.policy.Load().Idle() {
		return hs
	}
	for i := range hs {
		if hs[i].Client == nil {
			hs[i].Client = http.DefaultClient
		}
		c := *hs[i].Client
		if c.Transport == nil {
			c.Transport = http.DefaultTransport
		}
		c.Transport = &gate{s: s, domain: domain, base: hs[i].Path + "/", next: c.Transport}
		hs[i].Client = &c
	}
	return hs
}

// gate lets manifests pass that the policy accepts: those that are signed
// where it wants that, and what they list.
type gate struct {
	s      *Store
	domain string // of the references
	base   string // "/v2/"
	next   http.RoundTripper
}

// vouched remembers what was accepted: repository@digest.
type vouched struct {
	mu  sync.Mutex
	set map[string]bool
}

// maxVouched bounds the memory; beyond it signatures are looked up again.
const maxVouched = 10_000

func (v *vouched) clear() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.set = nil
}

func (v *vouched) has(repo string, d digest.Digest) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.set[repo+"@"+d.String()]
}

func (v *vouched) add(repo string, ds ...digest.Digest) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.set == nil || len(v.set)+len(ds) > maxVouched {
		v.set = map[string]bool{}
	}
	for _, d := range ds {
		v.set[repo+"@"+d.String()] = true
	}
}

func (g *gate) RoundTrip(r *http.Request) (*http.Response, error) {
	first := r // of a chain of redirections: it says what was asked for
	for first.Response != nil && first.Response.Request != nil {
		first = first.Response.Request
	}
	path, ref, ok := strings.Cut(strings.TrimPrefix(first.URL.Path, g.base), "/manifests/")
	if !ok || r.Method != http.MethodGet && r.Method != http.MethodHead {
		return g.next.RoundTrip(r)
	}
	n, err := reference.ParseNormalizedNamed(g.domain + "/" + path)
	if err != nil || g.s.policy.Load().For(n.Name()).Demand == trust.Accept || pushes(r) {
		return g.next.RoundTrip(r)
	}
	resp, err := g.next.RoundTrip(r)
	if err != nil || resp.StatusCode >= 300 {
		return resp, err
	}
	body, d, err := g.digest(resp, r.Method, ref)
	if err == nil && d != "" {
		err = g.check(first, n, d, body)
	}
	if err != nil {
		_ = resp.Body.Close()
		return nil, err
	}
	return resp, nil
}

// pushes: before a push BuildKit looks what the registry has. Nothing comes of
// it into this engine.
func pushes(r *http.Request) bool {
	return r.Method == http.MethodHead && slices.ContainsFunc(docker.GetTokenScopes(r.Context(), nil), func(s string) bool { return strings.Contains(s, "push") })
}

// digest is that of the manifest in an answer, with its text if it came. "":
// the answer to a HEAD does not say; the reader will ask for the text.
func (g *gate) digest(resp *http.Response, method, ref string) ([]byte, digest.Digest, error) {
	want, err := digest.Parse(ref)
	if method == http.MethodHead {
		if err == nil {
			return nil, want, nil
		}
		d, err := digest.Parse(resp.Header.Get("Docker-Content-Digest"))
		if err != nil {
			return nil, "", nil //nolint:nilerr // see above
		}
		return nil, d, nil
	}
	alg := digest.Canonical
	if err == nil {
		alg = want.Algorithm()
	}
	if resp.StatusCode != http.StatusOK {
		return nil, "", model.Refuse(errdefs.ErrPermissionDenied, "the registry answered %s: a part of a manifest cannot be held against the trust policy", resp.Status)
	}
	b, err := readAll(resp.Body, maxConfig, "manifest "+ref)
	if err != nil {
		return nil, "", err
	}
	_ = resp.Body.Close()
	resp.Body = io.NopCloser(bytes.NewReader(b))
	return b, alg.FromBytes(b), nil
}

// check asks for signatures with the request's own credentials.
func (g *gate) check(r *http.Request, n reference.Named, d digest.Digest, body []byte) error {
	s := g.s
	if !s.vouched.has(n.Name(), d) {
		ctx := s.ctx(r.Context())
		if _, err := s.accepted(ctx, n.Name(), d, g.getter(r, reference.Path(n))); err != nil {
			return err
		}
		s.vouched.add(n.Name(), d)
	}
	if body == nil {
		// BuildKit does not ask again for a list that is here.
		body, _ = readBlob(s.ctx(r.Context()), s.cs, ocispec.Descriptor{Digest: d}, maxManifest)
	}
	var idx struct {
		MediaType string               `json:"mediaType"`
		Manifests []ocispec.Descriptor `json:"manifests"`
	}
	if len(body) == 0 || json.Unmarshal(body, &idx) != nil || images.IsManifestType(idx.MediaType) {
		return nil
	}
	for _, m := range idx.Manifests {
		s.vouched.add(n.Name(), m.Digest)
	}
	return nil
}

// getter reads beside what r asked for.
func (g *gate) getter(r *http.Request, repo string) getter {
	client := &http.Client{Transport: g.next}
	return func(ctx context.Context, path, accept string, limit int64) (b []byte, err error) {
		u := url.URL{Scheme: r.URL.Scheme, Host: r.URL.Host, Path: g.base + repo + "/" + path}
		if ns := r.URL.Query().Get("ns"); ns != "" {
			u.RawQuery = url.Values{"ns": {ns}}.Encode()
		}
		err = retry(ctx, nil, func() (bool, error) {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
			if err != nil {
				return false, err
			}
			req.Header = r.Header.Clone()
			req.Header.Set("Accept", accept)
			resp, err := client.Do(req)
			if err != nil {
				return false, err
			}
			defer resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				return false, absent(rerrors.NewUnexpectedStatusErr(resp))
			}
			b, err = readAll(resp.Body, limit, path)
			return false, err
		})
		return b, err
	}
}

// absent makes a registry's 404 an ErrNotFound.
func absent(err error) error {
	var st rerrors.ErrUnexpectedStatus
	if errors.As(err, &st) && st.StatusCode == http.StatusNotFound {
		return model.Refuse(errdefs.ErrNotFound, "%w", err)
	}
	return err
}
