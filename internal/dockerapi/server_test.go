package dockerapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"wharf/internal/model"
)

var errNotFoundTest = errdefs.ErrNotFound.WithMessage("No such container: x")

func serve(h http.Handler, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func get(h http.Handler, path string) *httptest.ResponseRecorder {
	return serve(h, httptest.NewRequest("GET", path, nil))
}

func postJSON(h http.Handler, path, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("POST", path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	return serve(h, r)
}

func message(t *testing.T, w *httptest.ResponseRecorder) string {
	t.Helper()
	var e struct{ Message string }
	if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil {
		t.Fatalf("%d %q: %v", w.Code, w.Body, err)
	}
	return e.Message
}

func TestPing(t *testing.T) {
	h := New(Options{Version: "0.1"})
	for _, method := range []string{"GET", "HEAD"} {
		w := serve(h, httptest.NewRequest(method, "/_ping", nil))
		if w.Code != 200 || w.Header().Get("Api-Version") != MaxAPIVersion || w.Header().Get("Ostype") != "linux" ||
			w.Header().Get("Docker-Experimental") != "false" || w.Header().Get("Swarm") != "inactive" {
			t.Errorf("%s: %d %v", method, w.Code, w.Header())
		}
		if _, there := w.Header()["Builder-Version"]; there {
			t.Error("Builder-Version though there is no builder")
		}
		if want := map[string]string{"GET": "OK", "HEAD": ""}[method]; w.Body.String() != want {
			t.Errorf("%s: body %q", method, w.Body)
		}
	}
}

func TestVersions(t *testing.T) {
	h := New(Options{})
	for path, want := range map[string]struct {
		code int
		text string
	}{
		"/v1.24/_ping":  {200, ""},
		"/v1.56/_ping":  {200, ""},
		"/_ping":        {200, ""},
		"/v1.99/_ping":  {400, "client version 1.99 is too new. Maximum supported API version is 1.56"},
		"/v2.0/_ping":   {400, "client version 2.0 is too new. Maximum supported API version is 1.56"},
		"/v1.25/nosuch": {404, "page not found"},
		"/nosuch":       {404, "page not found"},
		"/v1.40":        {404, "page not found"},
		"/":             {404, "page not found"},
		"/v1.x/_ping":   {404, "page not found"},
		"/v1..5/_ping":  {400, `API version "1..5": want a form like v1.56`},
	} {
		w := get(h, path)
		if w.Code != want.code {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		} else if want.text != "" && message(t, w) != want.text {
			t.Errorf("%s: %q", path, w.Body)
		}
	}
	// So old a client shows the answer as it is.
	w := get(h, "/v1.12/_ping")
	if w.Code != 400 || !strings.HasPrefix(w.Body.String(), "client version 1.12 is too old. Minimum supported API version is 1.24") {
		t.Errorf("%d %q", w.Code, w.Body)
	}
}

func TestStatus(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{
		{errNotFoundTest, 404},
		{fmt.Errorf("x: %w", errdefs.ErrInvalidArgument), 400},
		{fmt.Errorf("x: %w", errdefs.ErrConflict), 409},
		{fmt.Errorf("x: %w", errdefs.ErrAlreadyExists), 409},
		{fmt.Errorf("x: %w", errdefs.ErrUnavailable), 503},
		{fmt.Errorf("x: %w", errdefs.ErrPermissionDenied), 403},
		{fmt.Errorf("x: %w", errdefs.ErrUnauthenticated), 401},
		{fmt.Errorf("x: %w", errdefs.ErrNotModified), 304},
		{fmt.Errorf("x: %w", errdefs.ErrNotImplemented), 501},
		{fmt.Errorf("x: %w", errdefs.ErrFailedPrecondition), 400},
		{fmt.Errorf("x: %w", errdefs.ErrInternal), 500},
		{errTest, 500},
		{context.DeadlineExceeded, 500},
		{errors.Join(errTest, errNotFoundTest), 404},
	} {
		if got := status(c.err); got != c.want {
			t.Errorf("%v: %d, want %d", c.err, got, c.want)
		}
	}
}

func TestErrorAnswers(t *testing.T) {
	f := &fakeContainers{}
	h := New(Options{Containers: f, Log: quiet()})
	f.start = func(string) error { return errNotFoundTest }
	if w := postJSON(h, "/v1.40/containers/x/start", ""); w.Code != 404 || message(t, w) != "No such container: x" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	f.start = func(string) error { return fmt.Errorf("running: %w", errdefs.ErrNotModified) }
	if w := postJSON(h, "/containers/x/start", ""); w.Code != 304 || w.Body.Len() != 0 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	f.start = func(ref string) error { panic(ref) }
	if w := postJSON(h, "/containers/x/start", ""); w.Code != 500 || !strings.Contains(message(t, w), "internal error") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := get(h, "/images/json"); w.Code != 501 || !strings.Contains(message(t, w), "image room") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := get(h, "/containers/json?filters=nonsense"); w.Code != 400 || !strings.Contains(message(t, w), "invalid filter") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := get(h, "/containers/json?limit=x"); w.Code != 400 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// A web page must not reach a daemon on loopback.
func TestCrossOrigin(t *testing.T) {
	h := New(Options{Log: quiet(), Containers: &fakeContainers{start: func(string) error { return nil }}})
	r := httptest.NewRequest("POST", "/containers/x/start", nil)
	r.Header.Set("Origin", "http://evil.example")
	if w := serve(h, r); w.Code != 403 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := serve(h, httptest.NewRequest("POST", "/containers/x/start", nil)); w.Code != 204 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestBody(t *testing.T) {
	f := &fakeContainers{create: func(model.CreateRequest) (container.CreateResponse, error) {
		return container.CreateResponse{ID: "i"}, nil
	}}
	h := New(Options{Containers: f, Log: quiet()})
	for _, c := range []struct {
		name, kind, body string
		code             int
		text             string
	}{
		{"whole", "application/json", `{"Image":"x"}`, 201, ""},
		{"with charset", "application/json; charset=utf-8", `{"Image":"x"}`, 201, ""},
		{"other type", "text/plain", `{}`, 400, "unsupported Content-Type header (text/plain)"},
		{"no type", "", `{}`, 400, "malformed Content-Type"},
		{"empty", "application/json", "", 400, "invalid JSON: EOF"},
		{"cut", "application/json", `{"Image":`, 400, "invalid JSON: EOF"},
		{"trailing", "application/json", `{"Image":"x"} {}`, 400, "unexpected content after JSON"},
		{"null", "application/json", "null", 400, "config cannot be empty"},
		{"only host config", "application/json", `{"HostConfig":{}}`, 400, "config cannot be empty"},
		{"nulls inside", "application/json", `{"Image":"x","HostConfig":null,"NetworkingConfig":{"EndpointsConfig":{"n":null}}}`, 201, ""},
		{"wrong type", "application/json", `{"Image":5}`, 400, "invalid JSON"},
		{"too large", "application/json", `{"Image":"` + strings.Repeat("x", maxJSON) + `"}`, 413, "larger than 4 MiB"},
		{"deep", "application/json", strings.Repeat("[", 100000), 400, "invalid JSON"},
	} {
		r := httptest.NewRequest("POST", "/containers/create", strings.NewReader(c.body))
		if c.kind != "" {
			r.Header.Set("Content-Type", c.kind)
		}
		w := serve(h, r)
		if w.Code != c.code || c.text != "" && !strings.Contains(message(t, w), c.text) {
			t.Errorf("%s: %d %.200s", c.name, w.Code, w.Body)
		}
	}
}

func TestRoutes(t *testing.T) {
	rs := compile((&server{}).table())
	for _, c := range []struct{ method, path, want, name string }{
		{"GET", "/containers/json", "/containers/json", ""},
		{"GET", "/containers/json/json", "/containers/{}/json", "json"},
		{"GET", "/containers//a/json", "/containers/{}/json", "a"},
		{"GET", "/containers/a/attach/ws", "/containers/{}/attach/ws", "a"},
		{"POST", "/containers/create", "/containers/create", ""},
		{"DELETE", "/containers/a", "/containers/{}", "a"},
		{"GET", "/images/reg:5000/a/b/json", "/images/{}/json", "reg:5000/a/b"},
		{"GET", "/images/a/get", "/images/{}/get", "a"},
		{"GET", "/images/get", "/images/get", ""},
		{"DELETE", "/images/a/b:c", "/images/{}", "a/b:c"},
		{"POST", "/images/a/b/push", "/images/{}/push", "a/b"},
		{"GET", "/distribution/docker.io/library/x/json", "/distribution/{}/json", "docker.io/library/x"},
		{"GET", "/networks/n", "/networks/{}", "n"},
		{"GET", "/networks/", "/networks", ""},
		{"PATCH", "/networks/n", "", ""},
		{"GET", "/images//json", "/images/json", ""},
	} {
		r, name, ok := rs.find(c.method, c.path)
		if !ok {
			if c.want != "" {
				t.Errorf("%s %s: not found", c.method, c.path)
			}
			continue
		}
		if r.path != c.want || name != c.name {
			t.Errorf("%s %s: %s with %q", c.method, c.path, r.path, name)
		}
	}
}

// What skopeo 1.9 asks with the version that it has built in.
func TestOldImages(t *testing.T) {
	for path, want := range map[string]version{"/v1.22/images/get": oldest, "/v1.23/images/load": oldest, "/v1.22/containers/json": 0, "/v1.21/images/get": 0} {
		rest, v, err := splitVersion(path)
		if v != want || (err == nil) != (want != 0) || err == nil && rest != path[6:] {
			t.Errorf("%s: %s %d %v", path, rest, v, err)
		}
	}
}
