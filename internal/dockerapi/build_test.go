package dockerapi

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/build"

	"wharf/internal/model"
)

// fakeBuilds notes what it was asked.
type fakeBuilds struct {
	Builds
	request model.BuildRequest
	prune   model.BuildPrune
}

func (f *fakeBuilds) Build(_ context.Context, r model.BuildRequest, _ io.Reader, _ model.Progress) error {
	f.request = r
	return nil
}

func (f *fakeBuilds) Prune(_ context.Context, p model.BuildPrune) (*build.CachePruneReport, error) {
	f.prune = p
	return &build.CachePruneReport{}, nil
}

func TestBuildRequest(t *testing.T) {
	f := &fakeBuilds{}
	h := New(Options{Builds: f, Log: quiet()})
	r := httptest.NewRequest("POST", `/build?t=a&t=b:c&dockerfile=D&nocache=1&memory=5&buildargs={"A":"1","B":null}&labels={"l":"m"}&cachefrom=["x"]&extrahosts=h:1.2.3.4`, nil)
	r.Header.Set("X-Registry-Config", "eyJyZWciOnsidXNlcm5hbWUiOiJ1In19") // {"reg":{"username":"u"}}
	if w := serve(h, r); w.Code != http.StatusOK {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	got := f.request
	if !slices.Equal(got.Tags, []string{"a", "b:c"}) || got.Dockerfile != "D" || !got.NoCache || got.Memory != 5 || *got.Args["A"] != "1" ||
		got.Labels["l"] != "m" || got.CacheFrom[0] != "x" || got.ExtraHosts[0] != "h:1.2.3.4" || got.Auth["reg"].Username != "u" {
		t.Errorf("%+v", got)
	}
	for _, q := range []string{"memory=x", "buildargs=x", "isolation=hyperv"} {
		if w := serve(h, httptest.NewRequest("POST", "/build?"+q, nil)); w.Code != http.StatusBadRequest {
			t.Errorf("%s: %d %s", q, w.Code, w.Body)
		}
	}
}

func TestBuildPrune(t *testing.T) {
	f := &fakeBuilds{}
	h := New(Options{Builds: f, Log: quiet()})
	w := serve(h, httptest.NewRequest("POST", `/build/prune?all=1&reserved-space=1k&filters={"id":["x"],"inuse":["false"],"type":["regular"]}`, nil))
	if w.Code != http.StatusOK {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	slices.Sort(f.prune.Filters)
	if d := cmp.Diff([]string{"id~=x", "inuse!=true", "type==regular"}, f.prune.Filters); d != "" || !f.prune.All || f.prune.Reserved != 1024 {
		t.Errorf("%+v %s", f.prune, d)
	}
	for _, q := range []string{`filters={"nonesuch":["x"]}`, `filters={"until":["soon"]}`, "max-used-space=x"} {
		if w := serve(h, httptest.NewRequest("POST", "/build/prune?"+q, nil)); w.Code != http.StatusBadRequest {
			t.Errorf("%s: %d %s", q, w.Code, w.Body)
		}
	}
}
