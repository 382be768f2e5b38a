package build

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/google/go-cmp/cmp"
	"github.com/moby/buildkit/client"
	bkexecutor "github.com/moby/buildkit/executor"
	gatewaypb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/sys/user"

	"wharf/internal/model"
)

func TestSolveOptions(t *testing.T) {
	v := "1"
	opt, err := solveOptions(model.BuildRequest{
		Target: "x", Tags: []string{"a", "b:c"}, Args: map[string]*string{"A": &v, "B": nil}, Labels: map[string]string{"l": "m"},
		Network: "none", NoCache: true, Pull: true, ShmSize: 5, CacheFrom: []string{"c"}, ExtraHosts: []string{"h=1.2.3.4"},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"filename": "Dockerfile", "target": "x", "build-arg:A": "1", "label:l": "m", "force-network-mode": "none",
		"no-cache": "", "image-resolve-mode": "pull", "shm-size": "5", "add-hosts": "h=1.2.3.4",
	}
	if d := cmp.Diff(want, opt.FrontendAttrs); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]client.ExportEntry{{Type: "moby", Attrs: map[string]string{"name": "docker.io/library/a:latest,docker.io/library/b:c"}}}, opt.Exports); d != "" {
		t.Error(d)
	}
	for name, q := range map[string]model.BuildRequest{
		"tag":         {Tags: []string{"A B"}},
		"output":      {Outputs: []model.BuildOutput{{Type: "local"}}},
		"two outputs": {Outputs: make([]model.BuildOutput, 2)},
	} {
		if _, err := solveOptions(q); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

func TestExtraHosts(t *testing.T) {
	r := &Room{opts: Options{HostGateway: "172.17.0.1"}}
	got, err := r.extraHosts([]string{"a:1.2.3.4", "b=::1", "c:host-gateway", "d:[::2]"})
	if d := cmp.Diff([]string{"a=1.2.3.4", "b=::1", "c=172.17.0.1", "d=::2"}, got); d != "" || err != nil {
		t.Error(d, err)
	}
	for _, bad := range []string{"a", ":1.2.3.4", "a:b"} {
		if _, err := r.extraHosts([]string{bad}); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	if _, err := (&Room{}).extraHosts([]string{"c:host-gateway"}); err == nil {
		t.Error("host-gateway without a network is taken")
	}
}

// TestStubs: what a start makes for its mounts goes, what a step made stays.
func TestStubs(t *testing.T) {
	upper, lower := t.TempDir(), t.TempDir()
	mk := func(root, name string, text *string) {
		t.Helper()
		at := filepath.Join(root, name)
		dir := filepath.Dir(at)
		if text == nil {
			dir = at
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if text != nil {
			if err := os.WriteFile(at, []byte(*text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	empty, full := "", "x"
	mk(lower, "etc", nil)
	mk(upper, "etc2/kept", &empty) // made by an earlier step
	s := newStubs(model.Rootfs{Upper: upper, Lower: []string{lower}}, []string{"/etc/hosts", "/etc/resolv.conf", "/proc", "/run/secrets/s", "/full", "/etc2/kept", "/link/x", "/"})
	mk(upper, "etc/hosts", &empty)
	mk(upper, "etc/resolv.conf", &full) // a step wrote there
	mk(upper, "proc", nil)
	mk(upper, "run/secrets/s", &empty)
	mk(upper, "run/mine", &full)
	mk(upper, "full/y", &full)
	outside := t.TempDir()
	mk(outside, "x", &empty)
	if err := os.Symlink(outside, filepath.Join(upper, "link")); err != nil {
		t.Fatal(err)
	}
	if err := s.clean(); err != nil {
		t.Fatal(err)
	}
	var got []string
	_ = filepath.WalkDir(upper, func(path string, e os.DirEntry, _ error) error {
		if !e.IsDir() {
			rel, _ := filepath.Rel(upper, path)
			got = append(got, rel)
		}
		return nil
	})
	slices.Sort(got)
	if d := cmp.Diff([]string{"etc/resolv.conf", "etc2/kept", "full/y", "link", "run/mine"}, got); d != "" {
		t.Error(d)
	}
	for _, gone := range []string{"proc", "run/secrets"} {
		if _, err := os.Lstat(filepath.Join(upper, gone)); err == nil {
			t.Errorf("%s is still there", gone)
		}
	}
	if _, err := os.Lstat(filepath.Join(outside, "x")); err != nil {
		t.Error("a link led out of the layer")
	}
}

// wrapped has BuildKit's shape: what is wrapped is a field called Mountable.
type inner struct{}

func (inner) Mount() ([]mount.Mount, func() error, error) {
	return []mount.Mount{{Type: "overlay", Options: []string{"lowerdir=/b:/a", "upperdir=/u", "workdir=/w"}}}, nil, nil
}

func (inner) IdentityMapping() *user.IdentityMapping { return nil }

type wrapper struct {
	Mountable bkexecutor.MountableRef
}

func (*wrapper) IdentityMapping() *user.IdentityMapping { return nil }

func (*wrapper) Mount() ([]mount.Mount, func() error, error) { panic("the wrapper was asked") }

func TestRawUnwraps(t *testing.T) {
	ms, _, err := raw(&wrapper{&wrapper{inner{}}}).Mount()
	if err != nil || ms[0].Type != "overlay" {
		t.Errorf("%v %v", ms, err)
	}
}

func TestMountOf(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink("/etc", filepath.Join(dir, "out")); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		bm   bkexecutor.Mount
		ms   mount.Mount
		want model.Mount
	}{
		"cache": {bkexecutor.Mount{Dest: "c/"}, mount.Mount{Type: "bind", Source: dir, Options: []string{"rbind", "rw"}},
			model.Mount{Type: "bind", Source: dir, Destination: "/c"}},
		"link": {bkexecutor.Mount{Dest: "/c", Selector: "/out"}, mount.Mount{Type: "bind", Source: dir, Options: []string{"ro"}},
			model.Mount{Type: "bind", Source: dir, Subpath: "out", Destination: "/c", ReadOnly: true}}, // for the runtime to resolve
		"climbing": {bkexecutor.Mount{Dest: "/c", Selector: "../../x"}, mount.Mount{Type: "bind", Source: dir},
			model.Mount{Type: "bind", Source: dir, Subpath: "x", Destination: "/c"}},
		"image": {bkexecutor.Mount{Dest: "/i", Selector: "x/../y", Readonly: true}, mount.Mount{Type: "overlay", Options: []string{"lowerdir=/b:/a"}},
			model.Mount{Type: "image", Lower: []string{"/b", "/a"}, Subpath: "y", Destination: "/i", ReadOnly: true}},
		"rw bind": {bkexecutor.Mount{Dest: "/i"}, mount.Mount{Type: "overlay", Options: []string{"lowerdir=/b:/a", "upperdir=/u", "workdir=/w"}},
			model.Mount{Type: "image", Lower: []string{"/b", "/a"}, Upper: "/u", Work: "/w", Destination: "/i"}},
		"read-only view of a writable one": {bkexecutor.Mount{Dest: "/i", Readonly: true}, mount.Mount{Type: "overlay", Options: []string{"lowerdir=/b", "upperdir=/u", "workdir=/w"}},
			model.Mount{Type: "image", Lower: []string{"/u", "/b"}, Destination: "/i", ReadOnly: true}},
	} {
		c.want.Propagation, c.want.Recursive = "rprivate", true
		got, err := mountOf(c.bm, []mount.Mount{c.ms})
		if d := cmp.Diff(c.want, got); d != "" || err != nil {
			t.Errorf("%s: %v %s", name, err, d)
		}
	}
	if _, err := mountOf(bkexecutor.Mount{}, []mount.Mount{{Type: "nfs"}}); err == nil {
		t.Error("any file system is taken")
	}
}

func TestHostConfig(t *testing.T) {
	x := &executor{}
	if _, err := x.hostConfig(bkexecutor.Meta{SecurityMode: pb.SecurityMode_INSECURE}); err == nil {
		t.Error("insecure is allowed")
	}
	hc, err := (&executor{insecure: true}).hostConfig(bkexecutor.Meta{
		SecurityMode: pb.SecurityMode_INSECURE, NetMode: pb.NetMode_NONE, Ulimit: []*pb.Ulimit{{Name: "nofile", Soft: 1, Hard: 2}},
	})
	if err != nil || !hc.Privileged || hc.NetworkMode != "none" || hc.Ulimits[0].Hard != 2 {
		t.Errorf("%+v %v", hc, err)
	}
	if _, err := x.hostConfig(bkexecutor.Meta{NetMode: 99}); err == nil {
		t.Error("any network is taken")
	}
}

func TestStream(t *testing.T) {
	var got []string
	s := newStream(model.BuildRequest{Tags: []string{"a"}}, func(m any) {
		switch m := m.(type) {
		case streamMessage:
			got = append(got, m.Stream)
		case failure:
			got = append(got, m.Error)
		}
	})
	began := time.Now()
	v := &client.Vertex{Digest: "sha256:a", Name: "[x 2/3] RUN false", Started: &began}
	s.status(&client.SolveStatus{Vertexes: []*client.Vertex{{Digest: "sha256:b", Name: "[internal] load"}, v}})
	s.status(&client.SolveStatus{Vertexes: []*client.Vertex{v}, Logs: []*client.VertexLog{{Data: []byte("out\n")}}})
	if err := s.failed(&gatewaypb.ExitError{ExitCode: 3}); err != nil {
		t.Error(err)
	}
	s.done("sha256:0123456789abcdef")
	if d := cmp.Diff([]string{"Step 2/3 [x] : RUN false\n", "out\n", "The command '/bin/sh -c false' returned a non-zero code: 3",
		"Successfully built 0123456789ab\n", "Successfully tagged a:latest\n"}, got); d != "" {
		t.Error(d)
	}
	if s.failed(os.ErrNotExist) == nil {
		t.Error("an error was lost")
	}
}

func TestDockerfileFrontend(t *testing.T) {
	for ref, want := range map[string]bool{
		"docker/dockerfile:1": true, "docker.io/docker/dockerfile@sha256:" + strings.Repeat("0", 64): true, "docker/dockerfile-upstream:master": true,
		"docker/dockerfile-x": false, "example.org/docker/dockerfile:1": false, "": false,
	} {
		if isDockerfile(ref) != want {
			t.Errorf("%q: %v", ref, !want)
		}
	}
}

func TestUppers(t *testing.T) {
	var u uppers
	give, err := u.take(context.Background(), "/a")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := u.take(ctx, "/a"); err == nil {
		t.Error("two have it")
	}
	_ = give()
	if _, err := u.take(context.Background(), "/a"); err != nil {
		t.Error(err)
	}
}

// TestChainNames: BuildKit's name of a layer and the image room's are one.
func TestChainNames(t *testing.T) {
	chain := "sha256:" + strings.Repeat("ab", 32)
	theirs := layerName(chain)
	if theirs == chain || chainName(theirs) != chain {
		t.Errorf("%s is %s there and %s back", chain, theirs, chainName(theirs))
	}
	for _, same := range []string{"", "abc", "sha256:ab", "extract-x " + chain, "buildkit-layer-snapshot-v1-x"} {
		if chainName(same) != same || layerName(same) != same {
			t.Errorf("%q becomes %q and %q", same, chainName(same), layerName(same))
		}
	}
	if r := chainResource(leases.Resource{ID: theirs, Type: "content"}); r.ID != theirs {
		t.Error("a blob's name is changed")
	}
	if r := chainResource(leases.Resource{ID: theirs, Type: "snapshots/overlayfs"}); r.ID != chain {
		t.Error("a lease holds another layer")
	}
}
