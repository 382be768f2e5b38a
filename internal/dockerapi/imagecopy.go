package dockerapi

import (
	"context"
	"io"
	"net/http"
	"strconv"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"wharf/internal/model"
)

// ImageCopies moves images between engines without a registry: the endpoints
// below /wharf/v1/copy. The client reads from one engine and writes to the
// other; only it reaches both.
type ImageCopies interface {
	Content(ctx context.Context, ref string, ps []ocispec.Platform) (model.ImageContent, error)
	ReadBlob(ctx context.Context, d digest.Digest, offset int64) (io.ReadCloser, int64, error)
	BeginCopy(ctx context.Context, blobs []model.ImageBlob) (model.ImageCopy, error)
	WriteBlob(ctx context.Context, id string, b model.ImageBlob, r io.Reader) error
	CommitCopy(ctx context.Context, id string, img model.ImageContent, p model.Progress) error
	EndCopy(ctx context.Context, id string) error
}

// copyMux are the routes of ImageCopies.
func (s *server) copyMux() *http.ServeMux {
	return s.ownMux(map[string]handler{
		"GET /wharf/v1/copy/content":             s.copyContent,
		"GET /wharf/v1/copy/blobs/{digest}":      s.copyRead,
		"POST /wharf/v1/copy":                    s.copyBegin,
		"PUT /wharf/v1/copy/{id}/blobs/{digest}": s.copyWrite,
		"POST /wharf/v1/copy/{id}/commit":        s.copyCommit,
		"DELETE /wharf/v1/copy/{id}":             s.copyEnd,
	})
}

// ownMux serves endpoints of ours.
func (s *server) ownMux(routes map[string]handler) *http.ServeMux {
	mux := http.NewServeMux()
	for pattern, h := range routes {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			rep, ok := w.(*reply)
			if !ok {
				rep = &reply{ResponseWriter: w}
			}
			c := &call{w: rep, r: r, v: newest, name: r.PathValue("id"), q: r.URL.Query(), log: s.Log}
			if err := h(c); err != nil {
				s.fail(rep, r, err)
			}
		})
	}
	return mux
}

func (s *server) copyContent(c *call) error {
	ps, err := c.platformsJSON("platform", 0, 0)
	if err != nil {
		return err
	}
	img, err := s.ImageCopies.Content(c.ctx(), c.get("image"), ps)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, img)
}

// bytesOf reads a count of bytes of the query; absent is 0.
func (c *call) bytesOf(key string) (int64, error) {
	text := c.get(key)
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 {
		return 0, invalid("%s: %q is no count of bytes", key, text)
	}
	return n, nil
}

func (s *server) copyRead(c *call) error {
	offset, err := c.bytesOf("offset")
	if err != nil {
		return err
	}
	r, n, err := s.ImageCopies.ReadBlob(c.ctx(), digest.Digest(c.r.PathValue("digest")), offset)
	if err != nil {
		return err
	}
	defer r.Close()
	c.w.Header().Set("Content-Type", "application/octet-stream")
	c.w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
	_, err = io.Copy(c.w, r)
	return err
}

func (s *server) copyBegin(c *call) error {
	var q struct{ Blobs []model.ImageBlob }
	if err := c.body(&q); err != nil {
		return err
	}
	begun, err := s.ImageCopies.BeginCopy(c.ctx(), q.Blobs)
	if err != nil {
		return err
	}
	return c.json(http.StatusCreated, begun)
}

func (s *server) copyWrite(c *call) error {
	size, err := c.bytesOf("size")
	if err != nil {
		return err
	}
	offset, err := c.bytesOf("offset")
	if err != nil {
		return err
	}
	b := model.ImageBlob{Digest: digest.Digest(c.r.PathValue("digest")), Size: size, Offset: offset}
	if err := s.ImageCopies.WriteBlob(c.ctx(), c.name, b, c.r.Body); err != nil {
		return err
	}
	return c.done(http.StatusNoContent)
}

func (s *server) copyCommit(c *call) error {
	var img model.ImageContent
	if err := c.body(&img); err != nil {
		return err
	}
	if err := s.ImageCopies.CommitCopy(c.ctx(), c.name, img, nil); err != nil {
		return err
	}
	return c.done(http.StatusNoContent)
}

func (s *server) copyEnd(c *call) error {
	if err := s.ImageCopies.EndCopy(c.ctx(), c.name); err != nil {
		return err
	}
	return c.done(http.StatusNoContent)
}
