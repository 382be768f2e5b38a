package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	rerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/registry"

	"wharf/internal/model"
)

// hubIndex answers searches on Docker Hub.
const hubIndex = "index.docker.io"

// maxSearch bounds what a registry may answer.
const maxSearch = 4 << 20

// Search implements dockerapi.Images. It is an interface of its own that
// Docker Hub and some private registries have beside a registry's
// (/v1/search). A term may begin with a registry's host, as a name does.
func (s *Store) Search(ctx context.Context, term string, limit int, f model.Filters, auth *registry.AuthConfig) ([]registry.SearchResult, error) {
	keep, err := searchFilter(f)
	if err != nil {
		return nil, err
	}
	domain, query := searchHost(term)
	hosts, err := s.hosts(ctx, domain, auth)
	if err != nil {
		return nil, err
	}
	hs, err := hosts(domain)
	if err != nil {
		return nil, err
	}
	answer, err := s.searchOn(ctx, hs, query, limit)
	if err != nil {
		return nil, searchError(domain, err)
	}
	out := []registry.SearchResult{}
	for _, r := range answer.Results {
		r.IsAutomated = false // deprecated: Docker no longer says it
		if keep(r) {
			out = append(out, r)
		}
	}
	return out, nil
}

// searchHost takes a registry's host off a term. "library/" is how official
// images are filed, not what they are found by.
func searchHost(term string) (domain, query string) {
	host, rest, ok := strings.Cut(term, "/")
	if !ok || !strings.ContainsAny(host, ".:") && host != "localhost" {
		return hubIndex, strings.TrimPrefix(term, "library/")
	}
	if host == "docker.io" || host == hubIndex {
		return hubIndex, strings.TrimPrefix(rest, "library/")
	}
	return host, rest
}

func (s *Store) searchOn(ctx context.Context, hs []docker.RegistryHost, query string, limit int) (registry.SearchResults, error) {
	var out registry.SearchResults
	var last error
	for _, h := range hs {
		if h.Host == dockerHub {
			h.Host = hubIndex
		}
		q := url.Values{"q": {query}}
		if limit > 0 {
			q.Set("n", strconv.Itoa(limit))
		}
		u := &url.URL{Scheme: h.Scheme, Host: h.Host, Path: "/v1/search", RawQuery: q.Encode()}
		resp, err := ask(ctx, h, u.String(), s.opts.UserAgent)
		if err != nil {
			last = err
			continue
		}
		err = json.NewDecoder(io.LimitReader(resp.Body, maxSearch)).Decode(&out)
		resp.Body.Close()
		if err != nil {
			return out, fmt.Errorf("its answer is not what a search gives: %w", err)
		}
		return out, nil
	}
	if last == nil {
		last = errors.New("no host to ask")
	}
	return out, last
}

// searchError says which registry could not be asked and why.
func searchError(domain string, err error) error {
	var st rerrors.ErrUnexpectedStatus
	switch {
	case refused(err):
		return &registryRefusal{"search on " + domain + ": access denied; use 'docker login'", err, errdefs.ErrUnauthenticated}
	case errors.As(err, &st) && st.StatusCode == http.StatusNotFound:
		return &registryRefusal{"search on " + domain + ": this registry has no search (/v1/search); Docker Hub and some private registries do", err, errdefs.ErrNotFound}
	case errors.As(err, &st):
		return &registryRefusal{fmt.Sprintf("search on %s: unexpected status code %d", domain, st.StatusCode), err, errdefs.ErrUnavailable}
	}
	return &registryRefusal{"search on " + domain + ": " + err.Error(), err, errdefs.ErrUnavailable}
}

// searchFilter reads is-official, is-automated and stars.
func searchFilter(f model.Filters) (func(registry.SearchResult) bool, error) {
	bad := func(key, v string) error {
		return model.Refuse(errdefs.ErrInvalidArgument, "invalid filter '%s=%s'", key, v)
	}
	var official *bool
	stars, none := 0, false
	for key, values := range f {
		for v := range values {
			b, boolErr := strconv.ParseBool(v)
			n, numErr := strconv.Atoi(v)
			switch key {
			case "is-official", "is-automated":
				if boolErr != nil {
					return nil, bad(key, v)
				}
				if key == "is-official" {
					official = &b
				} else {
					none = none || b // nothing is called automated any more
				}
			case "stars":
				if numErr != nil {
					return nil, bad(key, v)
				}
				stars = max(stars, n)
			default:
				return nil, model.Refuse(errdefs.ErrInvalidArgument, "invalid filter '%s'", key)
			}
		}
	}
	return func(r registry.SearchResult) bool {
		return !none && r.StarCount >= stars && (official == nil || *official == r.IsOfficial)
	}, nil
}
