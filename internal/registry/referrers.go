package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxManifest is distribution's own limit.
const maxManifest = 4 << 20

// A name is what distribution's router takes; names are used as directories.
var (
	apiPath   = regexp.MustCompile(`^/v2/([a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*)/(manifests|referrers|blobs)/([^/]+)$`)
	emptyList = []ocispec.Descriptor{}
)

// manifestFields are those that a list of referrers repeats (distribution-spec, "Listing Referrers").
type manifestFields struct {
	MediaType    string              `json:"mediaType"`
	ArtifactType string              `json:"artifactType"`
	Config       *ocispec.Descriptor `json:"config"`
	Subject      *ocispec.Descriptor `json:"subject"`
	Annotations  map[string]string   `json:"annotations"`
}

// descriptor is the entry of manifest b in a list of referrers.
func (m manifestFields) descriptor(b []byte, typ string, d digest.Digest) ocispec.Descriptor {
	out := ocispec.Descriptor{MediaType: m.MediaType, Digest: d, Size: int64(len(b)), ArtifactType: m.ArtifactType, Annotations: m.Annotations}
	if out.MediaType == "" {
		out.MediaType = typ
	}
	if out.ArtifactType == "" && m.Config != nil {
		out.ArtifactType = m.Config.MediaType
	}
	return out
}

// referrers keeps the list of who names whom as subject, and answers it.
func (s *Server) referrers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m := apiPath.FindStringSubmatch(r.URL.Path)
		switch {
		case m == nil || m[2] == "blobs":
			next.ServeHTTP(w, r)
		case m[2] == "referrers":
			s.listReferrers(w, r, next, m[1], m[3])
		case r.Method == http.MethodPut:
			s.putManifest(w, r, next, m[1], m[3])
		case r.Method == http.MethodDelete:
			s.deleteManifest(w, r, next, m[1], m[3])
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// putManifest notes the subject of a manifest that was taken.
func (s *Server) putManifest(w http.ResponseWriter, r *http.Request, next http.Handler, repo, ref string) {
	b, err := io.ReadAll(io.LimitReader(r.Body, maxManifest+1))
	if err != nil {
		refuse(w, http.StatusBadRequest, "MANIFEST_INVALID", err.Error())
		return
	}
	if len(b) > maxManifest {
		refuse(w, http.StatusRequestEntityTooLarge, "MANIFEST_INVALID", fmt.Sprintf("the manifest has more than %d bytes", maxManifest))
		return
	}
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(b)), int64(len(b))
	var m manifestFields
	if json.Unmarshal(b, &m) != nil || m.Subject == nil {
		next.ServeHTTP(w, r)
		return
	}
	if err := m.Subject.Digest.Validate(); err != nil {
		refuse(w, http.StatusBadRequest, "MANIFEST_INVALID", fmt.Sprintf("subject %.120q: %v", m.Subject.Digest, err))
		return
	}
	rec := httptest.NewRecorder()
	next.ServeHTTP(rec, r)
	if rec.Code == http.StatusCreated {
		d := digest.Digest(ref)
		if d.Validate() != nil {
			d = digest.FromBytes(b)
		}
		if err := s.note(repo, m.Subject.Digest, m.descriptor(b, r.Header.Get("Content-Type"), d)); err != nil {
			s.log.ErrorContext(r.Context(), "referrer is not noted", "repository", repo, "err", err)
			refuse(w, http.StatusInternalServerError, "UNKNOWN", "the subject could not be noted")
			return
		}
		rec.Header().Set("OCI-Subject", m.Subject.Digest.String())
	}
	relay(w, rec)
}

// deleteManifest forgets the subject of a manifest that goes.
func (s *Server) deleteManifest(w http.ResponseWriter, r *http.Request, next http.Handler, repo, ref string) {
	d := digest.Digest(ref)
	var m manifestFields
	if d.Validate() == nil {
		if b, _, code := s.manifest(r, next, repo, d); code == http.StatusOK {
			_ = json.Unmarshal(b, &m) // not ours to judge any more
		}
	}
	rec := httptest.NewRecorder()
	next.ServeHTTP(rec, r)
	if rec.Code == http.StatusAccepted && m.Subject != nil && m.Subject.Digest.Validate() == nil {
		if err := os.Remove(filepath.Join(s.subject(repo, m.Subject.Digest), fileName(d))); err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.log.WarnContext(r.Context(), "a list of referrers keeps a deleted manifest until the next gc", "repository", repo, "digest", d, "err", err)
		}
	}
	relay(w, rec)
}

// manifest asks the handlers behind us, as the same user.
func (s *Server) manifest(r *http.Request, next http.Handler, repo string, d digest.Digest) (body []byte, typ string, code int) {
	in := r.Clone(r.Context())
	in.Method, in.Body, in.ContentLength = http.MethodGet, http.NoBody, 0
	in.URL.Path, in.URL.RawQuery = "/v2/"+repo+"/manifests/"+d.String(), ""
	in.Header["Accept"] = []string{ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex, "application/vnd.docker.distribution.manifest.v2+json", "application/vnd.docker.distribution.manifest.list.v2+json"}
	rec := httptest.NewRecorder()
	next.ServeHTTP(rec, in)
	return rec.Body.Bytes(), rec.Header().Get("Content-Type"), rec.Code
}

// listReferrers answers GET /v2/<name>/referrers/<digest>: an index, empty
// where there are none.
func (s *Server) listReferrers(w http.ResponseWriter, r *http.Request, next http.Handler, repo, ref string) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		refuse(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "referrers are listed with GET")
		return
	}
	base := r.Clone(r.Context()) // who may come in is decided in one place
	base.Method, base.URL.Path, base.URL.RawQuery = http.MethodGet, "/v2/", ""
	rec := httptest.NewRecorder()
	if next.ServeHTTP(rec, base); rec.Code != http.StatusOK {
		relay(w, rec)
		return
	}
	d := digest.Digest(ref)
	if err := d.Validate(); err != nil {
		refuse(w, http.StatusBadRequest, "DIGEST_INVALID", fmt.Sprintf("%.120q: %v", ref, err))
		return
	}
	list, err := s.noted(repo, d)
	if err != nil {
		s.log.ErrorContext(r.Context(), "referrers cannot be read", "repository", repo, "err", err)
		refuse(w, http.StatusInternalServerError, "UNKNOWN", "the list of referrers cannot be read")
		return
	}
	want := r.URL.Query().Get("artifactType")
	idx := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: emptyList}
	for _, e := range list {
		if want == "" || e.ArtifactType == want {
			idx.Manifests = append(idx.Manifests, e)
		}
	}
	b, err := json.Marshal(idx)
	if err != nil {
		refuse(w, http.StatusInternalServerError, "UNKNOWN", err.Error())
		return
	}
	w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
	if want != "" {
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	w.Header().Set("Content-Length", fmt.Sprint(len(b)))
	if r.Method == http.MethodGet {
		_, _ = w.Write(b)
	}
}

// subject is the directory of what names d.
func (s *Server) subject(repo string, d digest.Digest) string {
	return filepath.Join(s.opts.Root, "referrers", filepath.FromSlash(repo), "_subjects", d.Algorithm().String(), d.Encoded())
}

func fileName(d digest.Digest) string { return strings.Replace(d.String(), ":", "-", 1) }

// note writes one entry, whole or not at all.
func (s *Server) note(repo string, subject digest.Digest, e ocispec.Descriptor) error {
	dir := s.subject(repo, subject)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	b, err := json.Marshal(e)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) //nolint:errcheck // renamed by then
	if _, err := f.Write(b); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), filepath.Join(dir, fileName(e.Digest)))
}

// noted reads the entries of a subject, in the order of their digests.
func (s *Server) noted(repo string, subject digest.Digest) ([]ocispec.Descriptor, error) {
	dir := s.subject(repo, subject)
	es, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var out []ocispec.Descriptor
	for _, e := range es {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		var d ocispec.Descriptor
		if err == nil {
			err = json.Unmarshal(b, &d)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", e.Name(), err)
		}
		if s.has(repo, d.Digest) {
			out = append(out, d)
		}
	}
	slices.SortFunc(out, func(a, b ocispec.Descriptor) int { return strings.Compare(a.Digest.String(), b.Digest.String()) })
	return out, nil
}

// has: the repository has the manifest.
func (s *Server) has(repo string, d digest.Digest) bool {
	_, err := linked(s.opts.Root, repo, manifestLinks, d)
	return err == nil
}

// buildReferrers makes the lists for a directory that another registry filled.
func (s *Server) buildReferrers(ctx context.Context) error {
	dir := filepath.Join(s.opts.Root, "referrers")
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	st, err := openStore(ctx, s.opts.Root)
	if err != nil {
		return err
	}
	err = st.manifests(ctx, func(repo string, d digest.Digest, typ string, b []byte) error {
		var m manifestFields
		if json.Unmarshal(b, &m) != nil || m.Subject == nil || m.Subject.Digest.Validate() != nil {
			return nil
		}
		return s.note(repo, m.Subject.Digest, m.descriptor(b, typ, d))
	})
	if err != nil {
		return fmt.Errorf("list referrers of %s: %w", s.opts.Root, err)
	}
	return os.MkdirAll(dir, 0o700)
}

// refuse answers in the specification's form.
func refuse(w http.ResponseWriter, code int, kind, text string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	type e struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	_ = json.NewEncoder(w).Encode(map[string][]e{"errors": {{kind, text}}})
}

// relay passes a recorded answer on.
func relay(w http.ResponseWriter, rec *httptest.ResponseRecorder) {
	for k, v := range rec.Header() {
		w.Header()[k] = v
	}
	w.WriteHeader(rec.Code)
	_, _ = w.Write(rec.Body.Bytes())
}
