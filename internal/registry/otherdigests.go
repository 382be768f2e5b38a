package registry

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
)

// repositoryDir is a repository's directory in distribution's layout.
func repositoryDir(root, repo string) string {
	return filepath.Join(root, "docker/registry/v2/repositories", filepath.FromSlash(repo))
}

// The two places where a repository links what it has.
const (
	layerLinks    = "_layers"
	manifestLinks = "_manifests/revisions"
)

// otherDigests makes content whole that goes by a digest other than sha256.
// distribution keeps all content under sha256 and a link from the digest it
// was sent with; it makes that link for uploads only, and answers with the
// wrong name.
func (s *Server) otherDigests(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m := apiPath.FindStringSubmatch(r.URL.Path)
		q := r.URL.Query()
		d := digest.Digest(q.Get("digest"))
		mount := digest.Digest(q.Get("mount"))
		if m != nil && m[2] != "referrers" {
			d = digest.Digest(m[3])
		}
		switch {
		case other(mount) && r.Method == http.MethodPost:
			s.mountOther(w, r, next, mount)
		case !other(d):
			next.ServeHTTP(w, r)
		case m != nil && m[2] == "manifests" && r.Method == http.MethodPut:
			s.putOther(w, r, next, m[1], d)
		default:
			next.ServeHTTP(&renamed{ResponseWriter: w, d: d}, r)
		}
	})
}

// other: a good digest that is not the storage's own kind.
func other(d digest.Digest) bool {
	return d != "" && d.Validate() == nil && d.Algorithm() != digest.Canonical
}

// renamed answers with the digest that was asked for.
type renamed struct {
	http.ResponseWriter
	d     digest.Digest
	begun bool
}

func (w *renamed) WriteHeader(code int) {
	w.begun = true
	h := w.Header()
	if was := h.Get("Docker-Content-Digest"); was != "" && code < 300 {
		h.Set("Docker-Content-Digest", w.d.String())
		if l := h.Get("Location"); l != "" {
			h.Set("Location", strings.Replace(l, was, w.d.String(), 1))
		}
	}
	w.ResponseWriter.WriteHeader(code)
}

// Write comes without WriteHeader where the code is 200.
func (w *renamed) Write(b []byte) (int, error) {
	if !w.begun {
		w.WriteHeader(http.StatusOK)
	}
	return w.ResponseWriter.Write(b)
}

// putOther takes a manifest under its sha256 and links the other digest to it.
func (s *Server) putOther(w http.ResponseWriter, r *http.Request, next http.Handler, repo string, d digest.Digest) {
	b, err := io.ReadAll(io.LimitReader(r.Body, maxManifest+1))
	if err != nil || len(b) > maxManifest {
		refuse(w, http.StatusRequestEntityTooLarge, "MANIFEST_INVALID", fmt.Sprintf("the manifest cannot be read, or has more than %d bytes", maxManifest))
		return
	}
	if d.Algorithm().FromBytes(b) != d {
		refuse(w, http.StatusBadRequest, "DIGEST_INVALID", "the manifest's digest is "+d.Algorithm().FromBytes(b).String())
		return
	}
	in := r.Clone(r.Context())
	in.Body, in.ContentLength = io.NopCloser(bytes.NewReader(b)), int64(len(b))
	in.URL.Path = "/v2/" + repo + "/manifests/" + digest.FromBytes(b).String()
	aw := &renamed{ResponseWriter: w, d: d}
	next.ServeHTTP(&linking{aw, func() error { return link(s.opts.Root, repo, manifestLinks, d, digest.FromBytes(b)) }}, in)
}

// mountOther mounts a blob from another repository, and links it under the
// digest by which it was asked for.
func (s *Server) mountOther(w http.ResponseWriter, r *http.Request, next http.Handler, d digest.Digest) {
	q := r.URL.Query()
	from := apiPath.FindStringSubmatch("/v2/" + q.Get("from") + "/blobs/x")
	to := apiPath.FindStringSubmatch(strings.TrimSuffix(r.URL.Path, "uploads/") + "x")
	if from == nil || to == nil {
		next.ServeHTTP(w, r) // becomes an upload
		return
	}
	real, err := linked(s.opts.Root, from[1], layerLinks, d)
	if err != nil {
		next.ServeHTTP(w, r)
		return
	}
	in := r.Clone(r.Context())
	q.Set("mount", real.String())
	in.URL.RawQuery = q.Encode()
	next.ServeHTTP(&linking{&renamed{ResponseWriter: w, d: d}, func() error { return link(s.opts.Root, to[1], layerLinks, d, real) }}, in)
}

// linking makes a link before it says that something was created.
type linking struct {
	*renamed
	make func() error
}

func (w *linking) WriteHeader(code int) {
	if code == http.StatusCreated {
		if err := w.make(); err != nil {
			code = http.StatusInternalServerError
		}
	}
	w.renamed.WriteHeader(code)
}

// link points from digest d of a repository to the storage's own.
func link(root, repo, kind string, d, real digest.Digest) error {
	dir := filepath.Join(repositoryDir(root, repo), kind, d.Algorithm().String(), d.Encoded())
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	tmp := filepath.Join(dir, ".link")
	return errors.Join(os.WriteFile(tmp, []byte(real), 0o666), os.Rename(tmp, filepath.Join(dir, "link"))) //nolint:gosec // modes as distribution's, under its umask
}

// linked is the digest under which the storage keeps what a repository calls d.
func linked(root, repo, kind string, d digest.Digest) (digest.Digest, error) {
	b, err := os.ReadFile(filepath.Join(repositoryDir(root, repo), kind, d.Algorithm().String(), d.Encoded(), "link"))
	if err != nil {
		return "", err
	}
	real := digest.Digest(strings.TrimSpace(string(b)))
	return real, real.Validate()
}
