package dockerapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/moby/moby/api/types/jsonstream"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/client"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"wharf/internal/model"
)

type fakeImages struct {
	Images
	pull func(ctx context.Context, ref string, p *ocispec.Platform, auth *registry.AuthConfig, send model.Progress) error
	save func(w io.Writer) error
	load func(tar io.Reader, quiet bool, send model.Progress) error
	tag  func(ref, target string) error
	from string // the URL of the last Download
	root string // what the last Import was made of
}

func (f *fakeImages) Download(_ context.Context, url string) (io.ReadCloser, error) {
	if f.from = url; strings.HasSuffix(url, "/none") {
		return nil, errNotFoundTest
	}
	return io.NopCloser(strings.NewReader("tar of " + url)), nil
}
func (f *fakeImages) Import(_ context.Context, tar io.Reader, repo, tag, message string, _ []string, _ *ocispec.Platform, _ model.Progress) error {
	b, err := io.ReadAll(tar)
	f.root = string(b) + " as " + repo + ":" + tag + ", " + message
	return err
}

func (f *fakeImages) Pull(ctx context.Context, ref string, p *ocispec.Platform, auth *registry.AuthConfig, send model.Progress) error {
	return f.pull(ctx, ref, p, auth, send)
}
func (f *fakeImages) Save(_ context.Context, _ []string, _ []ocispec.Platform, w io.Writer) error {
	return f.save(w)
}
func (f *fakeImages) Load(_ context.Context, tar io.Reader, _ []ocispec.Platform, quiet bool, send model.Progress) error {
	return f.load(tar, quiet, send)
}
func (f *fakeImages) Tag(_ context.Context, ref, target string) error { return f.tag(ref, target) }

func TestPull(t *testing.T) {
	f := &fakeImages{}
	h := New(Options{Images: f, Log: quiet()})
	var ref string
	var auth *registry.AuthConfig
	f.pull = func(_ context.Context, r string, p *ocispec.Platform, a *registry.AuthConfig, send model.Progress) error {
		ref, auth = r, a
		var wg sync.WaitGroup
		for i := range 10 { // layers report at the same time
			wg.Go(func() { send(jsonstream.Message{ID: fmt.Sprint(i), Status: "Downloading"}) })
		}
		wg.Wait()
		return errors.New("disk full")
	}
	r := httptest.NewRequest("POST", "/images/create?fromImage=reg:5000/a/b&tag=v1&platform=linux/arm64", nil)
	r.Header.Set("X-Registry-Auth", "eyJ1c2VybmFtZSI6InUiLCJwYXNzd29yZCI6InAifQ==")
	w := serve(h, r)
	if w.Code != 200 || w.Header().Get("Content-Type") != "application/json" {
		t.Errorf("%d %v", w.Code, w.Header())
	}
	if ref != "reg:5000/a/b:v1" || auth == nil || auth.Username != "u" {
		t.Errorf("ref %q, auth %v", ref, auth)
	}
	lines := strings.Split(strings.TrimSpace(w.Body.String()), "\n")
	if len(lines) != 11 || lines[10] != `{"errorDetail":{"message":"disk full"},"error":"disk full"}` {
		t.Errorf("%s", w.Body)
	}

	f.pull = func(context.Context, string, *ocispec.Platform, *registry.AuthConfig, model.Progress) error {
		return errNotFoundTest
	}
	if w := postJSON(h, "/images/create?fromImage=a&tag=b", ""); w.Code != 404 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	for path, want := range map[string]int{
		"/images/create?fromSrc=http://x/none":                  404,
		"/images/create":                                        400,
		"/images/create?fromImage=a&tag=b&platform=no/such/x/y": 400,
		"/images/create?fromSrc=-&repo=UPPER":                   400,
	} {
		if w := postJSON(h, path, ""); w.Code != want {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
}

func TestImportFromURL(t *testing.T) {
	f := &fakeImages{}
	h := New(Options{Images: f, Log: quiet()})
	for src, want := range map[string]string{
		"http://x/y.tar": "tar of http://x/y.tar as a:b, Imported from http://x/y.tar",
		"-":              "body as a:b, Imported from -",
	} {
		w := postJSON(h, "/images/create?repo=a&tag=b&fromSrc="+src, "body")
		if w.Code != 200 || f.root != want {
			t.Errorf("%s: %d %q", src, w.Code, f.root)
		}
	}
}

// A pull ends when its client leaves.
func TestPullClientLeaves(t *testing.T) {
	began, ended := make(chan struct{}), make(chan struct{})
	path := listen(t, New(Options{Log: quiet(), Images: &fakeImages{
		pull: func(ctx context.Context, _ string, _ *ocispec.Platform, _ *registry.AuthConfig, send model.Progress) error {
			send(jsonstream.Message{Status: "x"})
			close(began)
			<-ctx.Done()
			close(ended)
			return ctx.Err()
		},
	}}))
	c := newClient(t, path)
	ctx, cancel := context.WithCancel(context.Background())
	rc, err := c.ImagePull(ctx, "busybox", client.ImagePullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, "pull began", began)
	cancel()
	_ = rc.Close()
	waitFor(t, "pull ended", ended)
	noLeak(t)
}

// Half an archive must not look like a whole one.
func TestSaveFails(t *testing.T) {
	f := &fakeImages{}
	path := listen(t, New(Options{Log: quiet(), Images: f}))
	c := newClient(t, path)

	f.save = func(io.Writer) error { return errNotFoundTest }
	if _, err := c.ImageSave(context.Background(), []string{"x"}); err == nil || !strings.Contains(err.Error(), "No such") {
		t.Errorf("err %v", err)
	}
	f.save = func(w io.Writer) error {
		_, _ = w.Write(make([]byte, 1<<20))
		return errTest
	}
	rc, err := c.ImageSave(context.Background(), []string{"x"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, rc); err == nil {
		t.Error("a cut archive read without error")
	}
	_ = rc.Close()
}

func TestLoad(t *testing.T) {
	f := &fakeImages{load: func(tar io.Reader, quiet bool, send model.Progress) error {
		raw, err := io.ReadAll(tar)
		send(jsonstream.Message{Stream: fmt.Sprintf("Loaded image: %d bytes, quiet %v\n", len(raw), quiet)})
		return err
	}}
	h := New(Options{Images: f, Log: quiet()})
	r := httptest.NewRequest("POST", "/v1.40/images/load?quiet=0", strings.NewReader("12345"))
	r.Header.Set("Content-Type", "application/x-tar")
	if w := serve(h, r); w.Code != 200 || !strings.Contains(w.Body.String(), "5 bytes, quiet false") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	f.load = func(io.Reader, bool, model.Progress) error { return errTest }
	r = httptest.NewRequest("POST", "/images/load", strings.NewReader("junk"))
	if w := serve(h, r); w.Code != 200 || !strings.Contains(w.Body.String(), `{"errorDetail":{"message":"test"}`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestTag(t *testing.T) {
	var ref, target string
	h := New(Options{Log: quiet(), Images: &fakeImages{tag: func(r, to string) error { ref, target = r, to; return nil }}})
	for path, want := range map[string]struct {
		code        int
		ref, target string
	}{
		"/images/a/b/tag?repo=c&tag=d":                           {201, "a/b", "c:d"},
		"/images/a/tag?repo=localhost:5000/c":                    {201, "a", "localhost:5000/c:latest"},
		"/images/a/tag?repo=c:e":                                 {201, "a", "c:e"},
		"/images/a/tag":                                          {400, "", ""},
		"/images/a/tag?repo=sha256&tag=x":                        {400, "", ""},
		"/images/a/tag?repo=-bad":                                {400, "", ""},
		"/images/a/tag?repo=c@sha256:" + strings.Repeat("0", 64): {400, "", ""},
	} {
		ref, target = "", ""
		if w := postJSON(h, path, ""); w.Code != want.code || ref != want.ref || target != want.target {
			t.Errorf("%s: %d, %q -> %q", path, w.Code, ref, target)
		}
	}
}

func TestAbsent(t *testing.T) {
	h := New(Options{Log: quiet()})
	for _, c := range []struct {
		method, path string
		code         int
		text         string
	}{
		{"GET", "/plugins", 200, ""},
		{"GET", "/swarm", 503, "This node is not a swarm manager"},
		{"GET", "/services", 503, "This node is not a swarm manager"},
		{"POST", "/swarm/init", 501, "swarm mode"},
		{"POST", "/swarm/leave", 503, "not part of a swarm"},
		{"POST", "/build", 501, "build room"},
		{"POST", "/build/prune", 501, "build room"},
		{"POST", "/session", 501, "build room"},
		{"GET", "/images/search", 501, "image room"},
		{"GET", "/containers/x/checkpoints", 501, "checkpoint"},
	} {
		w := serve(h, httptest.NewRequest(c.method, c.path, nil))
		if w.Code != c.code || c.text != "" && !strings.Contains(message(t, w), c.text) {
			t.Errorf("%s %s: %d %s", c.method, c.path, w.Code, w.Body)
		}
	}
	if w := serve(h, httptest.NewRequest(http.MethodOptions, "/containers/json", nil)); w.Code != 200 {
		t.Errorf("OPTIONS: %d", w.Code)
	}
}
