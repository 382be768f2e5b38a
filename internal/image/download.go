package image

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/containerd/errdefs"

	"wharf/internal/model"
)

// Download implements dockerapi.Images: what a client wants imported may lie
// at a URL. The daemon fetches it, by the proxy that its environment names; a
// server's refusal keeps its meaning (404 is "not found").
func (s *Store) Download(ctx context.Context, from string) (io.ReadCloser, error) {
	if !strings.Contains(from, "://") {
		from = "http://" + from
	}
	u, err := url.Parse(from)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, model.Refuse(errdefs.ErrInvalidArgument, "invalid source %q: it must be - or an http or https URL", from)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, model.Refuse(errdefs.ErrInvalidArgument, "invalid source %q: %w", from, err)
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.ResponseHeaderTimeout = headerTimeout
	t.DisableKeepAlives = true // one file, then nothing
	resp, err := (&http.Client{Transport: t}).Do(req)
	if err != nil {
		return nil, model.Refuse(errdefs.ErrUnavailable, "download %s: %w", u.Redacted(), err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp.Body, nil
	}
	_ = resp.Body.Close()
	return nil, model.Refuse(downloadKind(resp.StatusCode), "download %s: the server answers %s", u.Redacted(), resp.Status)
}

func downloadKind(status int) error {
	switch {
	case status == http.StatusNotFound:
		return errdefs.ErrNotFound
	case status == http.StatusUnauthorized:
		return errdefs.ErrUnauthenticated
	case status == http.StatusForbidden:
		return errdefs.ErrPermissionDenied
	case status >= 400 && status < 500:
		return errdefs.ErrInvalidArgument
	}
	return fmt.Errorf("%w: status %d", errdefs.ErrUnknown, status)
}
