package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	rerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/registry"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"wharf/internal/model"
)

// maxTags bounds a repository's list of tags.
const maxTags = 100_000

// ask sends a GET to a registry, and again with credentials when it asks for
// them. The caller closes the body.
func ask(ctx context.Context, h docker.RegistryHost, u, agent string, accept ...string) (*http.Response, error) {
	var asked []*http.Response
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
		if err != nil {
			return nil, err
		}
		req.Header = h.Header.Clone()
		if req.Header == nil {
			req.Header = http.Header{}
		}
		req.Header.Set("User-Agent", agent)
		if len(accept) > 0 {
			req.Header.Set("Accept", strings.Join(accept, ", "))
		}
		if h.Authorizer != nil {
			if err := h.Authorizer.Authorize(ctx, req); err != nil {
				return nil, err
			}
		}
		resp, err := h.Client.Do(req)
		if err != nil {
			return nil, err
		}
		if resp.StatusCode == http.StatusOK {
			return resp, nil
		}
		err = rerrors.NewUnexpectedStatusErr(resp)
		resp.Body.Close()
		if resp.StatusCode != http.StatusUnauthorized || h.Authorizer == nil || len(asked) == 2 {
			return nil, err
		}
		asked = append(asked, resp)
		if e := h.Authorizer.AddResponses(ctx, asked); e != nil {
			return nil, errors.Join(e, err)
		}
	}
}

// listTags follows the pages of /v2/NAME/tags/list.
func listTags(ctx context.Context, h docker.RegistryHost, repo, agent string) ([]string, error) {
	ctx = docker.WithScope(ctx, "repository:"+repo+":pull")
	base := &url.URL{Scheme: h.Scheme, Host: h.Host, Path: h.Path + "/" + repo + "/tags/list"}
	var tags []string
	for next := base; next != nil; {
		resp, err := ask(ctx, h, next.String(), agent)
		if err != nil {
			return nil, err
		}
		var page struct{ Tags []string }
		err = json.NewDecoder(io.LimitReader(resp.Body, maxArchiveJSON)).Decode(&page)
		link := resp.Header.Get("Link")
		resp.Body.Close()
		if err != nil {
			return nil, fmt.Errorf("list of tags of %s: %w", repo, err)
		}
		tags = append(tags, page.Tags...)
		if len(tags) > maxTags || len(page.Tags) == 0 {
			break
		}
		next = nextPage(base, link)
	}
	return tags, nil
}

// nextPage reads a Link header; it leads to the same host only.
func nextPage(base *url.URL, link string) *url.URL {
	target, rel, ok := strings.Cut(link, ";")
	if !ok || !strings.Contains(rel, `rel="next"`) {
		return nil
	}
	u, err := base.Parse(strings.Trim(strings.TrimSpace(target), "<>"))
	if err != nil || u.Host != base.Host || u.Scheme != base.Scheme {
		return nil
	}
	return u
}

// Distribution implements dockerapi.Images.
func (s *Store) Distribution(ctx context.Context, ref string, auth *registry.AuthConfig) (registry.DistributionInspect, error) {
	var out registry.DistributionInspect
	n, err := parseRef(ref)
	if err != nil {
		return out, err
	}
	ctx, done, err := s.lease(ctx, "inspect")
	if err != nil {
		return out, err
	}
	defer s.gc.later()
	defer done()
	r, err := s.remote(ctx, n, auth)
	if err != nil {
		return out, err
	}
	desc, f, err := r.resolve(ctx)
	if err != nil {
		return out, resolveError(n, err)
	}
	out.Descriptor = desc
	b, err := s.fetchDocument(ctx, f, desc, maxManifest)
	if err != nil {
		return out, registryError(n, err)
	}
	d, err := parseDocument(b, desc)
	if err != nil {
		return out, err
	}
	if images.IsIndexType(desc.MediaType) {
		for _, m := range d.Manifests {
			if m.Platform != nil && isImage(m) {
				out.Platforms = append(out.Platforms, *m.Platform)
			}
		}
		return out, nil
	}
	if b, err = s.fetchDocument(ctx, f, d.Config, maxConfig); err != nil {
		return out, registryError(n, err)
	}
	var p ocispec.Platform
	if err := json.Unmarshal(b, &p); err == nil && p.OS != "" {
		out.Platforms = append(out.Platforms, p)
	}
	return out, nil
}

// Login implements dockerapi.Images: the registry's /v2/ must answer with
// these credentials. The token is an identity token, where the registry gives
// one.
func (s *Store) Login(ctx context.Context, auth registry.AuthConfig) (status, token string, err error) {
	ctx = s.ctx(ctx)
	domain := loginDomain(auth.ServerAddress)
	if _, err := reference.ParseNormalizedNamed(domain + "/x"); err != nil {
		return "", "", model.Refuse(errdefs.ErrInvalidArgument, "registry address %q: %w", auth.ServerAddress, err)
	}
	hosts, err := s.hosts(ctx, domain, &auth)
	if err != nil {
		return "", "", err
	}
	hs, err := hosts(domain)
	if err != nil {
		return "", "", err
	}
	h := hs[len(hs)-1] // the registry itself, after its mirrors
	if auth.RegistryToken == "" {
		user, secret, err := credentials(&auth)
		if err != nil {
			return "", "", err
		}
		h.Authorizer = docker.NewDockerAuthorizer(docker.WithAuthClient(h.Client),
			docker.WithAuthCreds(func(string) (string, string, error) { return user, secret, nil }),
			docker.WithFetchRefreshToken(func(_ context.Context, t string, _ *http.Request) { token = t }))
	}
	u := h.Scheme + "://" + h.Host + h.Path + "/"
	resp, err := ask(ctx, h, u, s.opts.UserAgent)
	if err != nil {
		return "", "", loginError(u, err)
	}
	resp.Body.Close()
	return "Login Succeeded", token, nil
}

// loginDomain is the registry in what a client sends: a URL, a host, or the
// old address of Docker Hub.
func loginDomain(addr string) string {
	addr = strings.TrimPrefix(strings.TrimPrefix(addr, "https://"), "http://")
	addr, _, _ = strings.Cut(addr, "/")
	switch addr {
	case "", "index.docker.io", dockerHub:
		return "docker.io"
	}
	return addr
}

func loginError(u string, err error) error {
	var st rerrors.ErrUnexpectedStatus
	if errors.Is(err, docker.ErrInvalidAuthorization) || (errors.As(err, &st) && (st.StatusCode == http.StatusUnauthorized || st.StatusCode == http.StatusForbidden)) {
		return &registryRefusal{fmt.Sprintf("Get %q: unauthorized: incorrect username or password", u), err, errdefs.ErrUnauthenticated}
	}
	return fmt.Errorf("login attempt to %s: %w", u, err)
}
