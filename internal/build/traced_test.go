package build

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	bkexecutor "github.com/moby/buildkit/executor"
	gatewaypb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/moby/api/types/events"

	"wharf/internal/model"
)

func TestUploads(t *testing.T) {
	u := &uploads{next: http.DefaultTransport}
	ctx := t.Context()
	done := make(chan error, 1)
	go func() { done <- u.offer(ctx, "a", strings.NewReader("text"), time.Minute) }()
	req, _ := http.NewRequestWithContext(ctx, http.MethodGet, uploadURL("a"), nil)
	resp, err := u.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err := <-done; string(b) != "text" || err != nil {
		t.Errorf("%q %v", b, err)
	}
	if err := u.offer(ctx, "b", strings.NewReader(""), time.Millisecond); err == nil || !strings.Contains(err.Error(), `"b"`) {
		t.Errorf("nobody asked: %v", err)
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := u.RoundTrip(req.WithContext(gone)); err == nil {
		t.Error("an upload without a body")
	}
	if len(u.slots) != 0 {
		t.Errorf("left: %v", u.slots)
	}
}

func TestIgnored(t *testing.T) {
	for text, want := range map[string]string{
		"":                               "",
		"Dockerfile\n":                   "", // that one is at the top
		"sub\n.dockerignore\n":           "sub/Dockerfile .dockerignore",
		"**\n!sub/Dockerfile\n":          ".dockerignore",
		"[":                              "",
		"*\n# comment\n!.dockerignore\n": "sub/Dockerfile",
	} {
		if got := strings.Join(ignored([]byte(text), "sub/Dockerfile"), " "); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

func TestNetworkOf(t *testing.T) {
	for _, c := range [][3]string{{"mine", "", ""}, {"mine", "/a;b", "/a;b"}, {"", "/a", "/a"}} {
		text := c[1]
		if c[0] != "" {
			text = onNetwork(c[0], c[1])
		}
		if n, g := networkOf(text); n != c[0] || g != c[2] {
			t.Errorf("%q: %q %q", text, n, g)
		}
	}
	x := &executor{}
	hc, err := x.hostConfig(bkexecutor.Meta{CgroupParent: onNetwork("mine", "/p")})
	if err != nil || hc.NetworkMode != "mine" || hc.CgroupParent != "/p" {
		t.Errorf("%+v %v", hc, err)
	}
	hc, err = x.hostConfig(bkexecutor.Meta{CgroupParent: onNetwork("mine", ""), NetMode: pb.NetMode_NONE})
	if err != nil || hc.NetworkMode != "none" {
		t.Errorf("RUN --network=none: %+v %v", hc, err)
	}
}

func TestTracedExports(t *testing.T) {
	out := func(kind string) []model.BuildOutput {
		return []model.BuildOutput{{Type: kind, Attrs: map[string]string{"a": "b"}}}
	}
	for name, c := range map[string]struct {
		q    model.BuildRequest
		kind string
		want map[string]string
	}{
		"image":    {model.BuildRequest{Tags: []string{"x"}}, "moby", map[string]string{"name": "docker.io/library/x:latest"}},
		"local":    {model.BuildRequest{Session: "s", Tags: []string{"x"}, Outputs: out("local")}, "local", map[string]string{"a": "b"}},
		"registry": {model.BuildRequest{Tags: []string{"r:1/x"}, Outputs: out("registry")}, "image", map[string]string{"a": "b", "push": "true", "name": "r:1/x:latest"}},
	} {
		got, err := tracedExports(c.q)
		if err != nil || got[0].Type != c.kind || cmp.Diff(c.want, got[0].Attrs) != "" {
			t.Errorf("%s: %+v %v", name, got, err)
		}
	}
	for name, q := range map[string]model.BuildRequest{
		"nobody to write it": {Outputs: out("tar")}, "unknown": {Session: "s", Outputs: out("x")}, "two": {Outputs: append(out("tar"), out("tar")...)},
		"tag": {Tags: []string{"X"}},
	} {
		if _, err := tracedExports(q); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	if got, err := tracedExports(model.BuildRequest{Outputs: out("cacheonly")}); err != nil || len(got) != 0 {
		t.Errorf("cacheonly: %v %v", got, err)
	}
}

func TestIsPAX(t *testing.T) {
	head := func(h tar.Header) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()[:512]
	}
	if !isPAX(head(tar.Header{Name: "a", Format: tar.FormatPAX, ModTime: time.Unix(1, 5)})) {
		t.Error("a PAX header is not known")
	}
	if isPAX(head(tar.Header{Name: "a", Format: tar.FormatUSTAR})) || isPAX([]byte("FROM scratch\n")) {
		t.Error("all is PAX")
	}
}

func TestBlamed(t *testing.T) {
	if err := blamed(errors.New("failed to solve: dockerfile parse error on line 2: x")); !cerrdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
	if err := blamed(errors.New("failed to do request")); cerrdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
}

func TestEvents(t *testing.T) {
	var got []string
	r := &Room{opts: Options{Publish: func(typ events.Type, action events.Action, id string, attrs map[string]string) {
		got = append(got, fmt.Sprint(typ, action, id, attrs))
	}}}
	r.made("sha256:a")
	r.pruned(5)
	(&Room{}).pruned(5) // nobody listens
	if d := cmp.Diff([]string{"imagecreatesha256:amap[name:sha256:a]", "builderprunemap[reclaimed:5]"}, got); d != "" {
		t.Error(d)
	}
}

func TestFailedStart(t *testing.T) {
	var got string
	s := newStream(model.BuildRequest{}, func(m any) { got = m.(failure).Error })
	s.last = `["/x"]`
	err := fmt.Errorf("process \"/x\" did not complete successfully: %w", &gatewaypb.ExitError{ExitCode: 126, Err: errors.New("exec format error")})
	if s.failed(err) != nil || got != `The command '["/x"]' returned a non-zero code: 126: exec format error` {
		t.Error(got)
	}
}
