package registry

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// client speaks to a registry in this process.
type client struct {
	t    *testing.T
	s    *Server
	base string
}

func serve(t *testing.T, root string) *client {
	t.Helper()
	s, err := New(t.Context(), Options{Root: root, Addr: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(s.Handler())
	t.Cleanup(func() {
		srv.Close()
		_ = s.Close()
	})
	return &client{t, s, srv.URL}
}

func (c *client) do(method, path, typ string, body []byte, want int) (http.Header, []byte) {
	c.t.Helper()
	req, err := http.NewRequest(method, c.base+path, bytes.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	req.Header.Set("Content-Type", typ)
	req.Header["Accept"] = []string{ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != want {
		c.t.Errorf("%s %s: %s %s, want %d", method, path, resp.Status, b, want)
	}
	return resp.Header, b
}

func (c *client) blob(repo string, b []byte, d digest.Digest) ocispec.Descriptor {
	c.t.Helper()
	h, _ := c.do(http.MethodPost, "/v2/"+repo+"/blobs/uploads/", "", nil, 202)
	to, err := url.Parse(h.Get("Location"))
	if err != nil {
		c.t.Fatal(err)
	}
	q := to.Query()
	q.Set("digest", d.String())
	c.do(http.MethodPut, to.Path+"?"+q.Encode(), "application/octet-stream", b, 201)
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: d, Size: int64(len(b))}
}

// image pushes an image of one layer; ref "" is by digest.
func (c *client) image(repo, ref, text string, algo digest.Algorithm, subject *ocispec.Descriptor) ocispec.Descriptor {
	c.t.Helper()
	cfg := c.blob(repo, []byte("{}"), digest.FromString("{}"))
	cfg.MediaType = "application/x.test"
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: cfg, Subject: subject,
		Layers: []ocispec.Descriptor{c.blob(repo, []byte(text), algo.FromString(text))}}
	m.SchemaVersion = 2
	b, _ := json.Marshal(m)
	d := algo.FromBytes(b)
	if ref == "" {
		ref = d.String()
	}
	h, _ := c.do(http.MethodPut, "/v2/"+repo+"/manifests/"+ref, m.MediaType, b, 201)
	if subject != nil && h.Get("OCI-Subject") != subject.Digest.String() {
		c.t.Errorf("OCI-Subject %q", h.Get("OCI-Subject"))
	}
	return ocispec.Descriptor{MediaType: m.MediaType, Digest: d, Size: int64(len(b))}
}

func (c *client) collect(o GCOptions, want string) {
	c.t.Helper()
	rep, err := collect(c.t.Context(), c.s.opts.Root, o)
	if got := fmt.Sprintf("%d manifests %d links %d blobs", rep.Manifests, rep.Links, rep.Blobs); err != nil || got != want {
		c.t.Errorf("collected %s, want %s: %v", got, want, err)
	}
}

func (c *client) referrers(repo string, d digest.Digest, query string) []ocispec.Descriptor {
	c.t.Helper()
	var idx ocispec.Index
	_, b := c.do(http.MethodGet, "/v2/"+repo+"/referrers/"+d.String()+query, "", nil, 200)
	if err := json.Unmarshal(b, &idx); err != nil {
		c.t.Fatal(err)
	}
	return idx.Manifests
}

func TestReferrers(t *testing.T) {
	root := t.TempDir()
	c := serve(t, root)
	img := c.image("a/b", "v1", "layer", digest.SHA256, nil)
	sig := c.image("a/b", "", "signature", digest.SHA256, &img)
	got := c.referrers("a/b", img.Digest, "")
	if len(got) != 1 || got[0].Digest != sig.Digest || got[0].Size != sig.Size || got[0].ArtifactType != "application/x.test" {
		t.Errorf("%+v", got)
	}
	if n := len(c.referrers("a/b", img.Digest, "?artifactType=other")); n != 0 {
		t.Errorf("%d of another type", n)
	}
	if n := len(c.referrers("other", img.Digest, "")); n != 0 {
		t.Errorf("%d in another repository", n)
	}
	c.do(http.MethodGet, "/v2/a/b/referrers/nonsense", "", nil, 400)
	c.do(http.MethodGet, "/v2/../x/referrers/"+img.Digest.String(), "", nil, 404)
	// The list is made anew for a directory that has none.
	if err := os.RemoveAll(filepath.Join(root, "referrers")); err != nil {
		t.Fatal(err)
	}
	if err := c.s.buildReferrers(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := len(c.referrers("a/b", img.Digest, "")); n != 1 {
		t.Errorf("%d after the list was made anew", n)
	}
	c.do(http.MethodDelete, "/v2/a/b/manifests/"+sig.Digest.String(), "", nil, 202)
	if n := len(c.referrers("a/b", img.Digest, "")); n != 0 {
		t.Errorf("%d after it was deleted", n)
	}
}

func TestCollect(t *testing.T) {
	c := serve(t, t.TempDir())
	img := c.image("x", "v1", "one", digest.SHA256, nil)
	sig := c.image("x", "", "about one", digest.SHA256, &img)
	long := c.image("x", "", "in sha512", digest.SHA512, nil)
	c.collect(GCOptions{}, "0 manifests 0 links 0 blobs")
	c.do(http.MethodGet, "/v2/x/manifests/"+long.Digest.String(), "", nil, 200)
	h, _ := c.do(http.MethodHead, "/v2/x/blobs/"+digest.SHA512.FromString("in sha512").String(), "", nil, 200)
	if !strings.HasPrefix(h.Get("Docker-Content-Digest"), "sha512:") {
		t.Errorf("asked by sha512, answered %q", h.Get("Docker-Content-Digest"))
	}
	c.blob("x", []byte("of no manifest"), digest.FromString("of no manifest"))
	c.collect(GCOptions{Grace: time.Hour}, "0 manifests 0 links 0 blobs")
	c.collect(GCOptions{}, "0 manifests 1 links 1 blobs")
	// Untagged: the signature stays with its image.
	c.collect(GCOptions{Untagged: true, Grace: time.Hour}, "0 manifests 0 links 0 blobs")
	c.collect(GCOptions{Untagged: true}, "1 manifests 2 links 2 blobs")
	c.do(http.MethodGet, "/v2/x/manifests/"+sig.Digest.String(), "", nil, 200)
	c.do(http.MethodGet, "/v2/x/manifests/"+long.Digest.String(), "", nil, 404)
	kept := c.image("x", "", "of an index", digest.SHA512, nil)
	b, _ := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": ocispec.MediaTypeImageIndex, "manifests": []ocispec.Descriptor{kept}})
	c.do(http.MethodPut, "/v2/x/manifests/all", ocispec.MediaTypeImageIndex, b, 201)
	c.collect(GCOptions{Untagged: true}, "0 manifests 0 links 0 blobs")
	c.do(http.MethodGet, "/v2/x/manifests/"+kept.Digest.String(), "", nil, 200)
	c.do(http.MethodDelete, "/v2/x/manifests/all", "", nil, 202)
	c.collect(GCOptions{Untagged: true}, "2 manifests 2 links 3 blobs")
	c.do(http.MethodDelete, "/v2/x/manifests/v1", "", nil, 202)
	c.collect(GCOptions{Untagged: true}, "2 manifests 3 links 5 blobs")
}

// A signature under cosign's tag goes with its image: one that was deleted and
// one that this collection takes; one of an image that was never here stays.
func TestCollectSignatures(t *testing.T) {
	c := serve(t, t.TempDir())
	tag := func(d digest.Digest, suffix string) string { return "sha256-" + d.Encoded() + suffix }
	img := c.image("x", "v1", "one", digest.SHA256, nil)
	sig := c.image("x", tag(img.Digest, ".sig"), "signs one", digest.SHA256, nil)
	c.image("x", tag(img.Digest, ".att"), "tells of one", digest.SHA256, nil)
	apart := tag(digest.FromString("in another registry"), ".sig")
	c.image("x", apart, "signs another", digest.SHA256, nil)
	c.image("sigs", tag(img.Digest, ".sig"), "signs one, kept apart", digest.SHA256, nil)
	c.collect(GCOptions{Untagged: true}, "0 manifests 0 links 0 blobs")
	c.do(http.MethodDelete, "/v2/x/manifests/v1", "", nil, 202)
	c.collect(GCOptions{}, "0 manifests 0 links 0 blobs")
	c.collect(GCOptions{Untagged: true, DryRun: true}, "3 manifests 3 links 6 blobs")
	c.do(http.MethodGet, "/v2/x/manifests/"+tag(img.Digest, ".sig"), "", nil, 200)
	c.do(http.MethodDelete, "/v2/x/manifests/"+img.Digest.String(), "", nil, 202)
	c.collect(GCOptions{}, "2 manifests 3 links 6 blobs")
	c.do(http.MethodGet, "/v2/x/manifests/"+tag(img.Digest, ".sig"), "", nil, 404)
	c.do(http.MethodGet, "/v2/x/manifests/"+sig.Digest.String(), "", nil, 404)
	two := c.image("x", "v2", "two", digest.SHA256, nil)
	c.image("x", tag(two.Digest, ".sig"), "signs two", digest.SHA256, nil)
	c.do(http.MethodDelete, "/v2/x/manifests/v2", "", nil, 202)
	c.collect(GCOptions{Untagged: true}, "2 manifests 2 links 4 blobs")
	_, b := c.do(http.MethodGet, "/v2/x/tags/list", "", nil, 200)
	if want := `{"name":"x","tags":["` + apart + `"]}`; strings.TrimSpace(string(b)) != want {
		t.Errorf("tags %s, want %s", b, want)
	}
	c.do(http.MethodGet, "/v2/sigs/manifests/"+tag(img.Digest, ".sig"), "", nil, 200)
}

func TestRefusals(t *testing.T) {
	dir := t.TempDir()
	for text, o := range map[string]Options{
		"not an absolute path":                {Root: "x", Addr: "127.0.0.1:0"},
		"go together":                         {Root: dir, Addr: "127.0.0.1:0", TLSCert: "x"},
		"want HOST:PORT":                      {Root: dir, Addr: "5000"},
		"can be reached from other hosts":     {Root: dir, Addr: ":5000"},
		"which needs TLS":                     {Root: dir, Addr: "127.0.0.1:0", ClientCA: "x"},
		"no such file":                        {Root: dir, Addr: "127.0.0.1:0", Htpasswd: filepath.Join(dir, "none")},
		"0.0.0.0:1 can be reached from other": {Root: dir, Addr: "0.0.0.0:1", Htpasswd: "/etc/passwd"}, // passwords in the clear
	} {
		if _, err := New(t.Context(), o); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("want %q, got %v", text, err)
		}
	}
	serve(t, dir)
	if _, err := New(t.Context(), Options{Root: dir, Addr: "127.0.0.1:0"}); err == nil || !strings.Contains(err.Error(), "served by another process") {
		t.Errorf("a second server: %v", err)
	}
}
