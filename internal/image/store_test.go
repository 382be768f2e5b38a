package image

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/registry"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"wharf/internal/model"
)

// layered is an image of three layers that change each other's files.
func layered(t testing.TB) testImage {
	return testImage{
		gzip: true,
		config: ocispec.Image{Author: "test", Config: ocispec.ImageConfig{
			Env: []string{"A=1"}, Cmd: []string{"/bin/sh"}, ExposedPorts: map[string]struct{}{"80/tcp": {}}, Labels: map[string]string{"team": "blue"},
		}},
		layers: [][]byte{
			busyboxLayer(t),
			tarOf(t, file{name: "etc/motd", body: "hi"}, file{name: "gone/file", body: "x"}, file{name: "d/old", body: "old"}),
			tarOf(t, file{name: ".wh.gone"}, file{name: "d/.wh..wh..opq"}, file{name: "d/new", body: "new", uid: 7}),
		},
	}
}

func TestSkeleton(t *testing.T) {
	ts := open(t, t.TempDir())
	ctx := t.Context()
	if got, want := ts.load(t, layered(t).dockerTar(t, "busybox:test")), "Loaded image: busybox:test\n"; got != want {
		t.Fatalf("load said %q, want %q", got, want)
	}
	img, err := ts.Resolve(ctx, "busybox:test", nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"/bin/sh"}, img.Config.Cmd); diff != "" {
		t.Error(diff)
	}
	for _, ref := range []string{"docker.io/library/busybox:test", img.ID.String(), img.ID.Encoded()[:7], "busybox@" + img.ID.String()} {
		if again, err := ts.Resolve(ctx, ref, nil); err != nil || again.ID != img.ID {
			t.Errorf("resolve %s: %v %v", ref, again.ID, err)
		}
	}
	_, err = ts.Resolve(ctx, "nothere", nil)
	if !errdefs.IsNotFound(err) || err.Error() != "No such image: nothere:latest" {
		t.Errorf("missing image: %v", err)
	}
	id := model.NewID()
	for range 2 {
		if err := ts.Prepare(ctx, id, img); err != nil {
			t.Fatal(err)
		}
	}
	r, err := ts.Rootfs(ctx, id)
	if err != nil || len(r.Lower) != 3 {
		t.Fatalf("rootfs %+v %v", r, err)
	}
	root, release, err := ts.Mount(ctx, id, false)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	for name, want := range map[string]bool{"bin/busybox": true, "etc/motd": true, "gone": false, "d/old": false, "d/new": true} {
		if exists(root, name) != want {
			t.Errorf("%s: there = %v, want %v", name, !want, want)
		}
	}
	// etc has no entry in the second layer: it keeps what the first one says.
	if st, err := os.Stat(filepath.Join(root, "etc")); err != nil || st.Mode().Perm() != 0o750 {
		t.Errorf("etc: %v %v", st.Mode(), err)
	}
	if err := release(); err != nil {
		t.Error(err)
	}
	if err := ts.Discard(ctx, id); err != nil {
		t.Fatal(err)
	}
	if _, err := ts.Rootfs(ctx, id); !errdefs.IsNotFound(err) {
		t.Errorf("rootfs after discard: %v", err)
	}
	list, err := ts.List(ctx, false, true, true, nil)
	if err != nil || len(list) != 1 || list[0].RepoTags[0] != "busybox:test" || list[0].Size == 0 {
		t.Errorf("list %+v %v", list, err)
	}
	ins, err := ts.Inspect(ctx, "busybox:test", nil, true)
	if err != nil || len(ins.RootFS.Layers) != 3 || ins.Author != "test" || len(ins.Manifests) != 1 {
		t.Errorf("inspect %+v %v", ins, err)
	}
}

// The contracts that the store keeps, as their users wrote them down.
var (
	_ interface {
		Resolve(context.Context, string, *ocispec.Platform) (model.Image, error)
		Prepare(context.Context, model.ID, model.Image) error
		Rootfs(context.Context, model.ID) (model.Rootfs, error)
		Discard(context.Context, model.ID) error
		Prepared(context.Context) ([]model.ID, error)
		Mount(context.Context, model.ID, bool) (string, func() error, error)
		Changes(context.Context, model.ID) ([]container.FilesystemChange, error)
		Usage(context.Context, model.ID) (int64, int64, error)
		Commit(context.Context, model.ID, model.Image, *ocispec.Image, *container.Config, string, string, string) (digest.Digest, error)
	} = (*Store)(nil)
	_ interface {
		List(context.Context, bool, bool, bool, model.Filters) ([]image.Summary, error)
		Inspect(context.Context, string, *ocispec.Platform, bool) (*image.InspectResponse, error)
		History(context.Context, string, *ocispec.Platform) ([]image.HistoryResponseItem, error)
		Tag(context.Context, string, string) error
		Remove(context.Context, string, bool, bool, []ocispec.Platform) ([]image.DeleteResponse, error)
		Prune(context.Context, model.Filters) (image.PruneReport, error)
		Load(context.Context, io.Reader, []ocispec.Platform, bool, model.Progress) error
		Save(context.Context, []string, []ocispec.Platform, io.Writer) error
		Import(context.Context, io.Reader, string, string, string, []string, *ocispec.Platform, model.Progress) error
		Pull(context.Context, string, *ocispec.Platform, *registry.AuthConfig, model.Progress) error
		Push(context.Context, string, *ocispec.Platform, *registry.AuthConfig, model.Progress) error
		Distribution(context.Context, string, *registry.AuthConfig) (registry.DistributionInspect, error)
		Login(context.Context, registry.AuthConfig) (string, string, error)
		DiskUsage(context.Context, bool) (*image.DiskUsage, error)
	} = (*Store)(nil)
)
