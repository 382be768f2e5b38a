package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	rerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"wharf/internal/model"
)

// oneRequest is the largest blob that is sent in the request that ends its
// upload: beginning again costs less there than asking how far it came.
const oneRequest = 1 << 20

// upload sends one blob. Unlike containerd's pusher it goes on where a
// connection broke: the registry says how much it has (OCI distribution,
// "pushing a blob in chunks").
type upload struct {
	p    *pusher
	h    docker.RegistryHost
	repo string
	desc ocispec.Descriptor
	ra   content.ReaderAt
	tell func(int64)

	at      *url.URL // of this upload; nil: not begun
	offset  int64    // what the registry has of it
	resumed bool
}

// errWhole: the registry takes no parts; the blob is to be sent as a whole, by
// containerd's pusher.
var errWhole = errors.New("the registry takes a blob only whole")

// errThere: the registry has the blob already.
var errThere error = &alreadyThere{}

// sendBlob sends a blob unless the registry has it, and returns the repository
// that it was mounted from, if it was.
func (p *pusher) sendBlob(ctx context.Context, desc ocispec.Descriptor, ra content.ReaderAt, tell func(int64)) (mounted string, err error) {
	h, err := p.r.pushHost()
	if err != nil {
		return "", err
	}
	repo := p.repo
	u := &upload{p: p, h: h, repo: repo, desc: desc, ra: ra, tell: tell}
	ctx = docker.WithScope(ctx, "repository:"+repo+":pull,push")
	err = retry(ctx, nil, func() (bool, error) {
		before := u.offset
		var err error
		mounted, err = u.attempt(ctx)
		return u.offset > before, err
	})
	return mounted, err
}

// pushHost is the registry itself.
func (r *remote) pushHost() (docker.RegistryHost, error) {
	hs, err := r.hosts(reference.Domain(r.ref))
	if err != nil {
		return docker.RegistryHost{}, err
	}
	for _, h := range hs {
		if h.Capabilities.Has(docker.HostCapabilityPush) {
			return h, nil
		}
	}
	return docker.RegistryHost{}, model.Refuse(errdefs.ErrFailedPrecondition, "no host of %s takes pushes: see capabilities in its hosts.toml", reference.Domain(r.ref))
}

func (u *upload) attempt(ctx context.Context) (mounted string, err error) {
	if u.at != nil {
		if err := u.ask(ctx); err != nil {
			return "", err
		}
	}
	if u.at == nil {
		u.offset = 0
		if err := u.exists(ctx); err != nil {
			return "", err
		}
		if mounted, err = u.begin(ctx); err != nil || u.at == nil {
			return mounted, err
		}
	}
	if u.desc.Size <= oneRequest {
		return "", u.end(ctx, u.part(0))
	}
	if u.offset < u.desc.Size {
		if err := u.patch(ctx); err != nil {
			return "", err
		}
	}
	return "", u.end(ctx, nil)
}

func (u *upload) url(path string) *url.URL {
	return &url.URL{Scheme: u.h.Scheme, Host: u.h.Host, Path: u.h.Path + "/" + u.repo + "/blobs/" + path}
}

func (u *upload) exists(ctx context.Context) error {
	resp, err := u.do(ctx, http.MethodHead, u.url(u.desc.Digest.String()), nil, nil)
	if err != nil {
		return err
	}
	_ = resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusOK:
		return errThere
	case resp.StatusCode == http.StatusNotFound:
		return nil
	}
	return rerrors.NewUnexpectedStatusErr(resp)
}

// begin opens the upload, or has the registry mount the blob from a repository
// where it is known to be.
func (u *upload) begin(ctx context.Context) (mounted string, err error) {
	loc := u.url("uploads/")
	if from := mountFrom(u.repo, u.desc.Annotations[u.p.from]); from != "" {
		loc.RawQuery = url.Values{"mount": {u.desc.Digest.String()}, "from": {from}}.Encode()
		resp, err := u.do(docker.ContextWithAppendPullRepositoryScope(ctx, from), http.MethodPost, loc, nil, nil)
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		switch resp.StatusCode {
		case http.StatusCreated:
			return from, nil
		case http.StatusAccepted:
			return "", u.moved(resp)
		case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusBadRequest:
			loc.RawQuery = "" // who may not read the other repository sends it
		default:
			return "", rerrors.NewUnexpectedStatusErr(resp)
		}
	}
	resp, err := u.do(ctx, http.MethodPost, loc, nil, nil)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusCreated:
		return "", errThere
	case http.StatusAccepted:
		return "", u.moved(resp)
	}
	return "", rerrors.NewUnexpectedStatusErr(resp)
}

// mountFrom chooses, among the repositories that a blob is in, the nearest.
func mountFrom(repo, known string) string {
	best, most := "", -1
	for r := range strings.SplitSeq(known, ",") {
		if r == "" || r == repo {
			continue
		}
		n := 0
		for n < len(r) && n < len(repo) && r[n] == repo[n] {
			n++
		}
		if n > most {
			best, most = r, n
		}
	}
	return best
}

// moved takes over where the next request of this upload goes.
func (u *upload) moved(resp *http.Response) error {
	loc, err := resp.Location()
	if err != nil {
		return fmt.Errorf("the registry does not say where the upload is: %w", err)
	}
	if loc.Scheme != "https" && u.h.Scheme == "https" && resp.Request.URL.Scheme == "https" {
		return model.Refuse(errdefs.ErrPermissionDenied, "the registry wants the upload at %s, without TLS", loc.Host)
	}
	u.at = loc
	return nil
}

// ask asks how much has arrived. An upload that is not known any more, or of
// which nothing arrived, is begun anew.
func (u *upload) ask(ctx context.Context) error {
	resp, err := u.do(ctx, http.MethodGet, u.at, nil, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	have, ok := received(resp.Header.Get("Range"))
	if resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests {
		return rerrors.NewUnexpectedStatusErr(resp)
	}
	if resp.StatusCode/100 != 2 || !ok || have > u.desc.Size || u.desc.Size <= oneRequest {
		u.at = nil
		return nil
	}
	u.offset, u.resumed = have, true
	if resp.Header.Get("Location") != "" {
		return u.moved(resp)
	}
	return nil
}

// received reads "0-99" as 100 bytes. "0-0" means nothing with some
// registries, and one byte with others.
func received(text string) (int64, bool) {
	text = strings.TrimPrefix(text, "bytes=")
	first, last, ok := strings.Cut(text, "-")
	n, err := strconv.ParseInt(last, 10, 64)
	return n + 1, ok && err == nil && first == "0" && n > 0
}

// patch sends what is missing.
func (u *upload) patch(ctx context.Context) error {
	h := http.Header{}
	if u.offset > 0 {
		h.Set("Content-Range", fmt.Sprintf("%d-%d", u.offset, u.desc.Size-1))
	}
	resp, err := u.do(ctx, http.MethodPatch, u.at, u.part(u.offset), h)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	switch code := resp.StatusCode; {
	case code/100 == 2:
		u.offset = u.desc.Size
		return u.moved(resp)
	case code == http.StatusRequestedRangeNotSatisfiable, code == http.StatusNotFound && u.offset > 0:
		u.at = nil // begun anew
		return model.Refuse(errdefs.ErrUnavailable, "the registry does not go on with the upload: %w", errors.New(resp.Status))
	case code == http.StatusBadRequest, code == http.StatusNotFound, code == http.StatusMethodNotAllowed, code == http.StatusNotImplemented, code == http.StatusUnsupportedMediaType:
		return errWhole
	}
	return rerrors.NewUnexpectedStatusErr(resp)
}

// end says what the upload was, with the whole of a small blob.
func (u *upload) end(ctx context.Context, body *part) error {
	loc := *u.at
	q := loc.Query()
	q.Set("digest", u.desc.Digest.String())
	loc.RawQuery = q.Encode()
	resp, err := u.do(ctx, http.MethodPut, &loc, body, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode/100 == 2:
		return nil
	case u.resumed && resp.StatusCode/100 == 4:
		u.at, u.resumed = nil, false // what came before the cut was not what was sent
		return model.Refuse(errdefs.ErrUnavailable, "the registry does not take the resumed upload: %w", errors.New(resp.Status))
	}
	return rerrors.NewUnexpectedStatusErr(resp)
}

// part is the blob from an offset on; it can be read again for a request that
// is repeated.
type part struct {
	u      *upload
	offset int64
}

func (u *upload) part(offset int64) *part { return &part{u, offset} }

func (b *part) open() (io.ReadCloser, error) {
	r := &pushReader{SectionReader: io.NewSectionReader(b.u.ra, b.offset, b.u.desc.Size-b.offset)}
	r.tell = func(n int64) { b.u.tell(b.offset + n) }
	return io.NopCloser(r), nil
}

// do sends a request, and again with credentials when the registry asks. They
// go to the registry only, not to another host that an upload is sent to.
func (u *upload) do(ctx context.Context, method string, loc *url.URL, body *part, h http.Header) (*http.Response, error) {
	var asked []*http.Response
	for {
		req, err := http.NewRequestWithContext(ctx, method, loc.String(), nil)
		if err != nil {
			return nil, err
		}
		for k, v := range u.h.Header {
			req.Header[k] = v
		}
		for k, v := range h {
			req.Header[k] = v
		}
		req.Header.Set("User-Agent", u.p.s.opts.UserAgent)
		if body != nil {
			req.Header.Set("Content-Type", "application/octet-stream")
			req.GetBody, req.ContentLength = body.open, u.desc.Size-body.offset
			req.Body, _ = body.open()
			if req.ContentLength == 0 {
				req.Body = http.NoBody
			}
		}
		ours := u.h.Authorizer != nil && loc.Host == u.h.Host
		if ours {
			if err := u.h.Authorizer.Authorize(ctx, req); err != nil {
				return nil, err
			}
		}
		resp, err := u.h.Client.Do(req)
		if err != nil {
			return nil, err
		}
		if resp.StatusCode != http.StatusUnauthorized || !ours || len(asked) == 2 {
			return resp, nil
		}
		_ = resp.Body.Close()
		asked = append(asked, resp)
		if err := u.h.Authorizer.AddResponses(ctx, asked); err != nil {
			return nil, errors.Join(err, rerrors.NewUnexpectedStatusErr(resp))
		}
	}
}
