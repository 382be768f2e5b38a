package image

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	dconfig "github.com/containerd/containerd/v2/core/remotes/docker/config"
	rerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/registry"

	"wharf/internal/model"
)

// dockerHub is where docker.io really is.
const dockerHub = "registry-1.docker.io"

// headerTimeout is how long a registry may think before it answers.
const headerTimeout = 60 * time.Second

// remote is a connection to one reference's registry, with its credentials.
type remote struct {
	ref      reference.Named
	resolver remotes.Resolver
	tracker  docker.StatusTracker
	hosts    docker.RegistryHosts
}

func (s *Store) remote(ctx context.Context, ref reference.Named, auth *registry.AuthConfig) (*remote, error) {
	tracker := docker.NewInMemoryTracker()
	hosts, err := s.hosts(ctx, reference.Domain(ref), auth)
	if err != nil {
		return nil, err
	}
	r := docker.NewResolver(docker.ResolverOptions{
		Hosts: hosts, Tracker: tracker, Headers: http.Header{"User-Agent": {s.opts.UserAgent}},
	})
	return &remote{ref, r, tracker, hosts}, nil
}

// hosts says how to speak to a registry. Loopback and insecure registries are
// asked over TLS without verification first, then over plain http; all others
// only over verified TLS. Credentials go to the registry itself, not to its
// mirrors.
func (s *Store) hosts(ctx context.Context, domain string, auth *registry.AuthConfig) (docker.RegistryHosts, error) {
	user, secret, err := credentials(auth)
	if err != nil {
		return nil, err
	}
	home := domain
	if domain == "docker.io" || domain == "index.docker.io" {
		home = dockerHub
	}
	o := dconfig.HostOptions{
		Credentials: func(host string) (string, string, error) {
			if host != home {
				return "", "", nil
			}
			return user, secret, nil
		},
		UpdateClient: s.updateClient,
	}
	if s.opts.CertsDir != "" {
		o.HostDir = dconfig.HostDirFromRoot(s.opts.CertsDir)
		if dir, err := o.HostDir(domain); err == nil {
			if err := checkCerts(dir); err != nil {
				return nil, fmt.Errorf("registry %s: %w", domain, err)
			}
		}
	}
	if s.insecure(domain) {
		o.DefaultTLS = &tls.Config{InsecureSkipVerify: true} //nolint:gosec // asked for, or loopback
		o.DefaultScheme = "http"
	}
	hs, err := dconfig.ConfigureHosts(ctx, o)(domain)
	if err != nil {
		return nil, fmt.Errorf("registry %s: %w", domain, err)
	}
	if domain == "docker.io" {
		hs = append(s.mirrors(), hs...)
	}
	one := &sync.Mutex{}
	for i := range hs {
		if hs[i].Client != nil && hs[i].Client.Transport != nil {
			hs[i].Client.Transport = patient{hs[i].Client.Transport}
		}
		if auth != nil && auth.RegistryToken != "" && hs[i].Host == home {
			hs[i].Authorizer = bearer(auth.RegistryToken)
		} else if hs[i].Authorizer != nil {
			hs[i].Authorizer = inTurn{hs[i].Authorizer, one}
		}
	}
	// The same hosts for every question of this operation: tokens and
	// connections are used again.
	return func(string) ([]docker.RegistryHost, error) { return slices.Clone(hs), nil }, nil
}

// inTurn asks for one token at a time: containerd's authorizer has a data race
// between the goroutine that fetches a token and those that wait for it.
type inTurn struct {
	docker.Authorizer
	mu *sync.Mutex
}

func (a inTurn) Authorize(ctx context.Context, r *http.Request) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.Authorizer.Authorize(ctx, r)
}

func (s *Store) updateClient(c *http.Client) error {
	if t, ok := c.Transport.(*http.Transport); ok {
		t.ResponseHeaderTimeout = headerTimeout
	}
	return nil
}

// mirrors are the configured ones of docker.io.
func (s *Store) mirrors() []docker.RegistryHost {
	var hs []docker.RegistryHost
	for _, m := range s.settings.Load().mirrors {
		u, err := url.Parse(m)
		if err != nil || u.Host == "" {
			s.log.Warn("mirror is not a URL; it is not used", "mirror", m)
			continue
		}
		tr := docker.DefaultHTTPTransport(&tls.Config{InsecureSkipVerify: s.insecure(u.Host)}) //nolint:gosec // asked for
		client := &http.Client{Transport: tr}
		_ = s.updateClient(client)
		hs = append(hs, docker.RegistryHost{
			Client: client, Authorizer: docker.NewDockerAuthorizer(docker.WithAuthClient(client)),
			Host: u.Host, Scheme: u.Scheme, Path: strings.TrimSuffix(u.Path, "/") + "/v2",
			Capabilities: docker.HostCapabilityPull | docker.HostCapabilityResolve,
		})
	}
	return hs
}

// insecure: the registry may be spoken to without verified TLS.
func (s *Store) insecure(domain string) bool {
	host := domain
	if h, _, err := net.SplitHostPort(domain); err == nil {
		host = h
	}
	host = strings.Trim(host, "[]")
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	if err == nil && ip.IsLoopback() {
		return true
	}
	for _, r := range s.settings.Load().insecure {
		if p, perr := netip.ParsePrefix(r); perr == nil && err == nil && p.Contains(ip) {
			return true
		}
		if r == domain || r == host {
			return true
		}
	}
	return false
}

// credentials reads Docker's forms. An empty user with a secret means an
// identity token.
func credentials(a *registry.AuthConfig) (user, secret string, err error) {
	switch {
	case a == nil:
		return "", "", nil
	case a.IdentityToken != "":
		return "", a.IdentityToken, nil
	case a.Username == "" && a.Auth != "":
		b, err := base64.StdEncoding.DecodeString(a.Auth)
		u, p, ok := strings.Cut(string(b), ":")
		if err != nil || !ok {
			return "", "", model.Refuse(errdefs.ErrInvalidArgument, "credentials for %s cannot be read", a.ServerAddress)
		}
		return u, strings.Trim(p, "\x00"), nil
	}
	return a.Username, a.Password, nil
}

// bearer sends a token that the client got by itself.
type bearer string

func (b bearer) Authorize(_ context.Context, r *http.Request) error {
	r.Header.Set("Authorization", "Bearer "+string(b))
	return nil
}

func (b bearer) AddResponses(context.Context, []*http.Response) error {
	return model.Refuse(errdefs.ErrUnauthenticated, "the registry refused the token")
}

// refused: the registry wants other credentials, or none will do.
func refused(err error) bool {
	var st rerrors.ErrUnexpectedStatus
	if errors.As(err, &st) && (st.StatusCode == http.StatusUnauthorized || st.StatusCode == http.StatusForbidden) {
		return true
	}
	return errors.Is(err, docker.ErrInvalidAuthorization) || errdefs.IsUnauthorized(err)
}

// registryError puts what a registry answered into Docker's words.
func registryError(ref reference.Named, err error) error {
	var st rerrors.ErrUnexpectedStatus
	switch {
	case refused(err):
		return &registryRefusal{fmt.Sprintf("pull access denied for %s, repository does not exist or may require 'docker login': denied: requested access to the resource is denied", reference.FamiliarName(ref)), err, errdefs.ErrNotFound}
	case errors.As(err, &st) && st.StatusCode == http.StatusTooManyRequests:
		return &registryRefusal{"toomanyrequests: " + err.Error(), err, errdefs.ErrUnavailable}
	}
	return err
}

// resolveError is registryError for the question whether an image is there.
func resolveError(ref reference.Named, err error) error {
	var st rerrors.ErrUnexpectedStatus
	if errdefs.IsNotFound(err) || (errors.As(err, &st) && st.StatusCode == http.StatusNotFound) {
		return &registryRefusal{fmt.Sprintf("manifest for %s not found: manifest unknown: manifest unknown", reference.FamiliarString(ref)), err, errdefs.ErrNotFound}
	}
	return registryError(ref, err)
}

// registryRefusal says text; the cause is for logs.
type registryRefusal struct {
	text  string
	cause error
	kind  error
}

func (e *registryRefusal) Error() string   { return e.text }
func (e *registryRefusal) Unwrap() []error { return []error{e.kind, e.cause} }

// lasting tells failures that another try does not mend.
func lasting(ctx context.Context, err error) bool {
	var st rerrors.ErrUnexpectedStatus
	if errors.As(err, &st) {
		return st.StatusCode < 500 && st.StatusCode != http.StatusRequestTimeout && st.StatusCode != http.StatusTooManyRequests
	}
	var cert *tls.CertificateVerificationError
	return ctx.Err() != nil || errors.Is(err, docker.ErrInvalidAuthorization) || errors.Is(err, errDigest) || errors.As(err, &cert) ||
		errdefs.IsNotFound(err) || errdefs.IsInvalidArgument(err) || errdefs.IsNotImplemented(err) || errdefs.IsUnauthorized(err) || errdefs.IsPermissionDenied(err)
}

// tries is how often a transfer is begun, and firstWait the pause before the
// second time; it doubles. Progress starts the count again.
const tries = 5

var firstWait = 500 * time.Millisecond

// retry runs fn until it succeeds, fails lastingly, or has failed too often in
// a row. fn reports whether it made progress.
func retry(ctx context.Context, waiting func(seconds int), fn func() (progress bool, err error)) error {
	wait := firstWait
	for n := 1; ; n++ {
		progress, err := fn()
		if err == nil || lasting(ctx, err) {
			return err
		}
		if progress {
			n, wait = 1, firstWait
		}
		if n >= tries {
			return err
		}
		if waiting != nil {
			waiting(int((wait + time.Second - 1) / time.Second))
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
		wait *= 2
	}
}
