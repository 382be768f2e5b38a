package image

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"wharf/internal/model"
)

// attested is an index of an image and two statements about it, and of one
// for another platform without any.
func attested(t *testing.T) []byte {
	blobs := map[digest.Digest][]byte{}
	put := func(mt string, b []byte) ocispec.Descriptor {
		d := ocispec.Descriptor{MediaType: mt, Digest: digest.FromBytes(b), Size: int64(len(b))}
		blobs[d.Digest] = b
		return d
	}
	img := layered(t).ociBlobs(t, blobs)
	arm := testImage{platform: "arm64", layers: [][]byte{tarOf(t, file{name: "arm", body: "x"})}}.ociBlobs(t, blobs)
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: put(ocispec.MediaTypeImageConfig, []byte("{}"))}
	m.SchemaVersion = 2
	for _, kind := range []string{"https://slsa.dev/provenance/v0.2", "https://spdx.dev/Document"} {
		l := put("application/vnd.in-toto+json", []byte(`{"predicateType":"`+kind+`"}`))
		l.Annotations = map[string]string{"in-toto.io/predicate-type": kind}
		m.Layers = append(m.Layers, l)
	}
	b, _ := json.Marshal(m)
	att := put(ocispec.MediaTypeImageManifest, b)
	att.Platform = &ocispec.Platform{OS: "unknown", Architecture: "unknown"}
	att.Annotations = map[string]string{attestation: attestedKind, attestedDigest: img.Digest.String()}
	idx := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{img, arm, att}}
	idx.SchemaVersion = 2
	b, _ = json.Marshal(idx)
	return ociTar(t, blobs, put(ocispec.MediaTypeImageIndex, b), "att:1")
}

func TestAttestations(t *testing.T) {
	ts := open(t, t.TempDir())
	ctx := t.Context()
	ts.load(t, attested(t))
	amd := &ocispec.Platform{OS: "linux", Architecture: "amd64"}
	got, err := ts.Attestations(ctx, "att:1", amd, nil, false)
	if err != nil || len(got) != 2 || got[0].Statement != nil || got[0].Descriptor.Digest == "" {
		t.Fatalf("%+v %v", got, err)
	}
	got, err = ts.Attestations(ctx, "att:1", amd, []string{"https://spdx.dev/Document", "x"}, true)
	if err != nil || len(got) != 1 || got[0].Statement == nil || !strings.Contains(string(*got[0].Statement), "spdx") {
		t.Errorf("%+v %v", got, err)
	}
	got, err = ts.Attestations(ctx, "att:1", &ocispec.Platform{OS: "linux", Architecture: "arm64"}, nil, true)
	if err != nil || got == nil || len(got) != 0 {
		t.Errorf("none: %+v %v", got, err)
	}
	for ref, p := range map[string]*ocispec.Platform{"att:1": {OS: "linux", Architecture: "s390x"}, "nope": nil} {
		if _, err := ts.Attestations(ctx, ref, p, nil, false); !errdefs.IsNotFound(err) {
			t.Errorf("%s: %v", ref, err)
		}
	}
}

// Statements go with their image: to a registry and back, into archives, to
// other engines.
func TestAttestationsTravel(t *testing.T) {
	f := newFakeRegistry()
	host, ctx := f.serve(t), t.Context()
	amd := &ocispec.Platform{OS: "linux", Architecture: "amd64"}
	check := func(st *testStore, ref string) {
		t.Helper()
		got, err := st.Attestations(ctx, ref, amd, nil, true)
		if err != nil || len(got) != 2 || got[1].Statement == nil {
			t.Errorf("%s: %+v %v", ref, got, err)
		}
	}
	one, two, three := open(t, t.TempDir()), open(t, t.TempDir()), open(t, t.TempDir())
	one.load(t, attested(t))
	ref := host + "/att:1"
	must(t, one.Tag(ctx, "att:1", ref))
	must(t, one.Push(ctx, ref, nil, nil, nil))
	must(t, two.Pull(ctx, ref, amd, nil, nil))
	must(t, two.gc.run(two.ctx(ctx)))
	check(two, ref)
	var archive bytes.Buffer
	must(t, two.Save(ctx, []string{ref}, nil, &archive))
	three.load(t, archive.Bytes())
	check(three, ref)
	img, err := two.Content(ctx, ref, nil)
	must(t, err)
	four := open(t, t.TempDir())
	begun, err := four.BeginCopy(ctx, img.Blobs)
	must(t, err)
	for _, b := range begun.Missing {
		r, _, err := two.ReadBlob(ctx, b.Digest, 0)
		must(t, err)
		must(t, four.WriteBlob(ctx, begun.ID, b, r))
		must(t, r.Close())
	}
	must(t, four.CommitCopy(ctx, begun.ID, img, nil))
	check(four, ref)
	archive.Reset()
	must(t, one.Save(ctx, []string{"att:1"}, []ocispec.Platform{*amd, {OS: "linux", Architecture: "arm64"}}, &archive))
	five := open(t, t.TempDir())
	five.load(t, archive.Bytes())
	check(five, "att:1")
}

// Where an image came from is known after a pull, whatever it is called.
func TestIdentity(t *testing.T) {
	f := newFakeRegistry()
	host := f.serve(t)
	ts := open(t, t.TempDir())
	ctx := t.Context()
	ts.load(t, layered(t).dockerTar(t, "busybox:test"))
	if got, err := ts.Inspect(ctx, "busybox:test", nil, false); err != nil || got.Identity != nil {
		t.Errorf("loaded: %+v %v", got.Identity, err)
	}
	ref := host + "/team/busybox:v1"
	must(t, ts.Tag(ctx, "busybox:test", ref))
	must(t, ts.Push(ctx, ref, nil, nil, func(any) {}))
	two := open(t, t.TempDir())
	must(t, two.Pull(ctx, ref, nil, nil, func(any) {}))
	must(t, two.Tag(ctx, ref, "mine:1"))
	got, err := two.Inspect(ctx, "mine:1", nil, true)
	want := host + "/team/busybox"
	if err != nil || got.Identity == nil || got.Identity.Pull[0].Repository != want || got.Manifests[0].ImageData.Identity == nil {
		t.Errorf("pulled: %+v %v, want %s", got.Identity, err, want)
	}
}

func TestSearch(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch q := r.URL.Query(); {
		case r.URL.Path != "/v1/search":
			w.WriteHeader(http.StatusNotFound)
		case q.Get("q") == "html":
			_, _ = w.Write([]byte("<html>"))
		case q.Get("q") == "down":
			w.WriteHeader(http.StatusTeapot)
		case q.Get("q") == "web" && q.Get("n") == "7":
			_, _ = w.Write([]byte(`{"query":"web","num_results":3,"results":[{"name":"web","star_count":9,"is_official":true,"is_automated":true},{"name":"a/web","star_count":4},{"name":"b/web"}]}`))
		}
	}))
	defer srv.Close()
	host := strings.TrimPrefix(srv.URL, "http://")
	ts := open(t, t.TempDir())
	ctx := t.Context()
	for _, c := range []struct {
		filter model.Filters
		want   int
	}{
		{nil, 3}, {model.Filters{"stars": {"4": true}}, 2}, {model.Filters{"is-official": {"true": true}}, 1}, {model.Filters{"is-official": {"false": true}}, 2},
		{model.Filters{"is-automated": {"true": true}}, 0}, {model.Filters{"stars": {"x": true}}, -1}, {model.Filters{"colour": {"x": true}}, -1},
	} {
		got, err := ts.Search(ctx, host+"/web", 7, c.filter, nil)
		if c.want < 0 {
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("%v: %v", c.filter, err)
			}
			continue
		}
		if err != nil || len(got) != c.want || len(got) == 3 && got[0].IsAutomated {
			t.Errorf("%v: %+v %v", c.filter, got, err)
		}
	}
	for term, want := range map[string]string{"html": "not what a search gives", "down": "unexpected status code 418"} {
		if _, err := ts.Search(ctx, host+"/"+term, 0, nil, nil); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), host) {
			t.Errorf("%s: %v", term, err)
		}
	}
	plain := newFakeRegistry().serve(t)
	if _, err := ts.Search(ctx, plain+"/web", 0, nil, nil); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "has no search") {
		t.Errorf("a registry without: %v", err)
	}
	for term, want := range map[string][2]string{
		"web": {hubIndex, "web"}, "library/web": {hubIndex, "web"}, "me/web": {hubIndex, "me/web"}, "docker.io/me/web": {hubIndex, "me/web"},
		"localhost/web": {"localhost", "web"}, "r.example:5000/a/b": {"r.example:5000", "a/b"},
	} {
		if d, q := searchHost(term); d != want[0] || q != want[1] {
			t.Errorf("%s: %s %s", term, d, q)
		}
	}
}
