package image

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// fakeRegistry keeps blobs and manifests in memory. It speaks just enough of
// the distribution protocol.
type fakeRegistry struct {
	mu        sync.Mutex
	blobs     map[string][]byte // repo@digest
	manifests map[string][]byte // repo@digest and repo:tag
	types     map[string]string // media type by digest
	requests  []string
	ranges    []string // Range headers seen

	user, password string // Basic, or for tokens when realm is set
	realm          string // token server
	refresh        string // identity token handed out and accepted
	cut            int64  // blobs end after so many bytes, once each
	wasCut         map[string]bool
	swap           string // digest for which other content is sent
	fail           int    // that many requests are answered 503

	parts   map[string][]byte // of uploads under way, by path
	cutUp   int64             // an upload's PATCH is cut after so many bytes, as often as
	cuts    int               // this says
	lost    bool              // uploads that were cut are forgotten
	noParts bool              // PATCH is refused
	patches []string          // Content-Range headers seen
	took    int64             // bytes of uploads
}

func newFakeRegistry() *fakeRegistry {
	return &fakeRegistry{blobs: map[string][]byte{}, manifests: map[string][]byte{}, types: map[string]string{}, wasCut: map[string]bool{}, parts: map[string][]byte{}}
}

var (
	reBlob     = regexp.MustCompile(`^/v2/(.+)/blobs/(sha256:[a-f0-9]+)$`)
	reUpload   = regexp.MustCompile(`^/v2/(.+)/blobs/uploads/(.*)$`)
	reManifest = regexp.MustCompile(`^/v2/(.+)/manifests/(.+)$`)
	reTags     = regexp.MustCompile(`^/v2/(.+)/tags/list$`)
)

func (f *fakeRegistry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests = append(f.requests, r.Method+" "+r.URL.Path)
	if f.fail > 0 {
		f.fail--
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	if r.URL.Path == "/token" {
		f.token(w, r)
		return
	}
	if !f.authorized(w, r) {
		return
	}
	p := r.URL.Path
	switch {
	case p == "/v2/":
	case reTags.MatchString(p):
		f.tags(w, reTags.FindStringSubmatch(p)[1])
	case reUpload.MatchString(p):
		f.upload(w, r, reUpload.FindStringSubmatch(p)[1])
	case reBlob.MatchString(p):
		m := reBlob.FindStringSubmatch(p)
		f.blob(w, r, m[1], m[2])
	case reManifest.MatchString(p):
		m := reManifest.FindStringSubmatch(p)
		f.manifest(w, r, m[1], m[2])
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

func (f *fakeRegistry) authorized(w http.ResponseWriter, r *http.Request) bool {
	if f.user == "" {
		return true
	}
	got := r.Header.Get("Authorization")
	if f.realm != "" {
		if got == "Bearer good" {
			return true
		}
		w.Header().Set("WWW-Authenticate", `Bearer realm="`+f.realm+`",service="test"`)
	} else {
		if u, p, ok := r.BasicAuth(); ok && u == f.user && p == f.password {
			return true
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
	}
	w.WriteHeader(http.StatusUnauthorized)
	return false
}

func (f *fakeRegistry) token(w http.ResponseWriter, r *http.Request) {
	_ = r.ParseForm()
	ok := r.Form.Get("username") == f.user && r.Form.Get("password") == f.password
	ok = ok || (f.refresh != "" && r.Form.Get("refresh_token") == f.refresh)
	if !ok {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"access_token": "good", "token": "good", "refresh_token": f.refresh, "expires_in": 300})
}

func (f *fakeRegistry) tags(w http.ResponseWriter, repo string) {
	var tags []string
	for k := range f.manifests {
		if t, ok := strings.CutPrefix(k, repo+":"); ok && !strings.Contains(t, ":") {
			tags = append(tags, t)
		}
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"name": repo, "tags": tags})
}

func (f *fakeRegistry) upload(w http.ResponseWriter, r *http.Request, repo string) {
	q := r.URL.Query()
	switch r.Method {
	case http.MethodPost:
		if b, ok := f.blobs[q.Get("from")+"@"+q.Get("mount")]; ok {
			f.blobs[repo+"@"+q.Get("mount")] = b
			w.WriteHeader(http.StatusCreated)
			return
		}
		w.Header().Set("Location", "/v2/"+repo+"/blobs/uploads/"+strconv.Itoa(len(f.requests)))
		w.WriteHeader(http.StatusAccepted)
	case http.MethodGet, http.MethodPatch:
		f.uploadPart(w, r)
	case http.MethodPut:
		b, _ := io.ReadAll(r.Body)
		f.took += int64(len(b))
		b = append(f.parts[r.URL.Path], b...)
		if digest.FromBytes(b).String() != q.Get("digest") {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		f.blobs[repo+"@"+q.Get("digest")] = b
		w.WriteHeader(http.StatusCreated)
	}
}

// uploadPart takes a part of a blob, or says how much there is.
func (f *fakeRegistry) uploadPart(w http.ResponseWriter, r *http.Request) {
	switch {
	case f.noParts:
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	case f.lost && r.Method == http.MethodGet:
		w.WriteHeader(http.StatusNotFound)
		return
	case r.Method == http.MethodPatch:
		f.patches = append(f.patches, r.Header.Get("Content-Range"))
		if f.cuts > 0 {
			f.cuts--
			b, _ := io.ReadAll(io.LimitReader(r.Body, f.cutUp))
			f.parts[r.URL.Path], f.took = append(f.parts[r.URL.Path], b...), f.took+int64(len(b))
			panic(http.ErrAbortHandler)
		}
		b, _ := io.ReadAll(r.Body)
		f.parts[r.URL.Path], f.took = append(f.parts[r.URL.Path], b...), f.took+int64(len(b))
	}
	w.Header().Set("Location", r.URL.Path)
	w.Header().Set("Range", "0-"+strconv.Itoa(max(0, len(f.parts[r.URL.Path])-1)))
	w.WriteHeader(http.StatusNoContent)
}

func (f *fakeRegistry) blob(w http.ResponseWriter, r *http.Request, repo, dgst string) {
	b, ok := f.blobs[repo+"@"+dgst]
	if !ok {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	if f.swap == dgst {
		b = bytes.Repeat([]byte("x"), len(b))
	}
	if rg := r.Header.Get("Range"); rg != "" {
		f.ranges = append(f.ranges, rg)
	}
	if f.cut > 0 && int64(len(b)) > f.cut && !f.wasCut[dgst] {
		f.wasCut[dgst] = true
		w.Header().Set("Content-Length", strconv.Itoa(len(b)))
		_, _ = w.Write(b[:f.cut])
		panic(http.ErrAbortHandler)
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
}

func (f *fakeRegistry) manifest(w http.ResponseWriter, r *http.Request, repo, ref string) {
	sep := ":"
	if strings.HasPrefix(ref, "sha256:") {
		sep = "@"
	}
	if r.Method == http.MethodPut {
		b, _ := io.ReadAll(r.Body)
		d := digest.FromBytes(b).String()
		f.manifests[repo+sep+ref], f.manifests[repo+"@"+d] = b, b
		f.types[d] = r.Header.Get("Content-Type")
		w.Header().Set("Docker-Content-Digest", d)
		w.WriteHeader(http.StatusCreated)
		return
	}
	b, ok := f.manifests[repo+sep+ref]
	if !ok {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	d := digest.FromBytes(b).String()
	w.Header().Set("Content-Type", f.types[d])
	w.Header().Set("Docker-Content-Digest", d)
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	if r.Method == http.MethodGet {
		_, _ = w.Write(b)
	}
}

// serve starts the registry and returns its host:port.
func (f *fakeRegistry) serve(t testing.TB) string {
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}
