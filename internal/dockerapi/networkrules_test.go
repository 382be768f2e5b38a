package dockerapi

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"wharf/internal/model"
)

type fakeLimits struct{ got model.NetworkRulesChange }

func (f *fakeLimits) NetworkRules(_ context.Context, ref string) (*model.NetworkLimits, error) {
	if ref != "web" {
		return nil, errdefs.ErrNotFound.WithMessage("No such container: " + ref)
	}
	return &model.NetworkLimits{Name: ref, Egress: "allow"}, nil
}

func (f *fakeLimits) SetNetworkRules(ctx context.Context, ref string, ch model.NetworkRulesChange) (*model.NetworkLimits, error) {
	f.got = ch
	return f.NetworkRules(ctx, ref)
}

func TestNetworkRules(t *testing.T) {
	f := &fakeLimits{}
	h := New(Options{NetworkLimits: f})
	for _, c := range []struct {
		method, path, body string
		code               int
		want               string
	}{
		{"GET", "/wharf/v1/containers/web/network-rules", "", 200, `"Egress":"allow"`},
		{"GET", "/wharf/v1/containers/none/network-rules", "", 404, "No such container: none"},
		{"POST", "/wharf/v1/containers/web/network-rules", `{"Set":[{"Direction":"egress","Verdict":"deny","Target":"*"}],"BandwidthIn":"none"}`, 200, `"Name":"web"`},
		{"POST", "/wharf/v1/containers/web/network-rules", `{"Set":7}`, 400, "message"},
		{"DELETE", "/wharf/v1/containers/web/network-rules", "", 405, "GET and POST"},
	} {
		r := httptest.NewRequest(c.method, c.path, strings.NewReader(c.body))
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != c.code || !strings.Contains(w.Body.String(), c.want) {
			t.Errorf("%s %s: %d %s", c.method, c.path, w.Code, w.Body)
		}
		if c.code < 300 && !json.Valid(w.Body.Bytes()) {
			t.Error("no JSON")
		}
	}
	if f.got.Set == nil || *f.got.BandwidthIn != "none" {
		t.Errorf("%+v", f.got)
	}
	w := httptest.NewRecorder()
	New(Options{}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/wharf/v1/containers/web/network-rules", nil))
	if w.Code != 404 {
		t.Error("without a lifecycle:", w.Code)
	}
}
