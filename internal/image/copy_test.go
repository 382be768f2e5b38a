package image

import (
	"context"
	"io"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"wharf/internal/model"
)

// carry copies an image as the client does, and returns what was sent.
func carry(ctx context.Context, from, to *Store, ref, as string, ps ...ocispec.Platform) (int64, error) {
	img, err := from.Content(ctx, ref, ps)
	if err != nil {
		return 0, err
	}
	if as != "" {
		img.Name = as
	}
	begun, err := to.BeginCopy(ctx, img.Blobs)
	if err != nil {
		return 0, err
	}
	var sent int64
	for _, b := range begun.Missing {
		r, n, err := from.ReadBlob(ctx, b.Digest, b.Offset)
		if err != nil {
			return sent, err
		}
		err = to.WriteBlob(ctx, begun.ID, b, r)
		_ = r.Close()
		if err != nil {
			return sent, err
		}
		sent += n
	}
	img.Blobs = nil
	return sent, to.CommitCopy(ctx, begun.ID, img, nil)
}

func TestCopy(t *testing.T) {
	ctx := t.Context()
	one, two := open(t, t.TempDir()), open(t, t.TempDir())
	one.load(t, layered(t).dockerTar(t, "app:1"))
	sent, err := carry(ctx, one.Store, two.Store, "app:1", "")
	if err != nil || sent == 0 {
		t.Fatal(sent, err)
	}
	a, err := one.Resolve(ctx, "app:1", nil)
	must(t, err)
	b, err := two.Resolve(ctx, "app:1", nil)
	if err != nil || a.ID != b.ID {
		t.Fatal(a.ID, b.ID, err)
	}
	must(t, two.Prepare(ctx, model.NewID(), b))
	if sent, err = carry(ctx, one.Store, two.Store, a.ID.String(), "other:2"); err != nil || sent != 0 {
		t.Errorf("again: %d bytes, %v", sent, err)
	}
	must(t, two.gc.run(two.ctx(ctx)))
	if _, err := two.Resolve(ctx, "other:2", nil); err != nil {
		t.Error(err)
	}
	if _, err := carry(ctx, one.Store, two.Store, "none:1", ""); !errdefs.IsNotFound(err) {
		t.Errorf("what is not there: %v", err)
	}
	if _, err := carry(ctx, one.Store, two.Store, "app:1", "Bad::Name"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a bad name: %v", err)
	}
}

func TestCopyPlatform(t *testing.T) {
	ctx := t.Context()
	amd, arm := ocispec.Platform{OS: "linux", Architecture: "amd64"}, ocispec.Platform{OS: "linux", Architecture: "arm64"}
	one, two := open(t, t.TempDir()), open(t, t.TempDir())
	one.load(t, attested(t))
	if _, err := carry(ctx, one.Store, two.Store, "att:1", "", amd); err != nil {
		t.Fatal(err)
	}
	if got, err := two.Attestations(ctx, "att:1", &amd, nil, true); err != nil || len(got) != 2 {
		t.Errorf("its statements: %v %v", got, err)
	}
	if _, err := two.Content(ctx, "att:1", []ocispec.Platform{arm}); err == nil {
		t.Error("the other platform came too")
	}
	if _, err := carry(ctx, one.Store, two.Store, "att:1", "", arm, ocispec.Platform{OS: "linux", Architecture: "s390x"}); !errdefs.IsNotFound(err) {
		t.Errorf("a platform that is not there: %v", err)
	}
	sent, err := carry(ctx, one.Store, two.Store, "att:1", "", arm)
	if err != nil || sent == 0 {
		t.Errorf("the other platform later: %d %v", sent, err)
	}
	if _, err := two.Content(ctx, "att:1", []ocispec.Platform{arm}); err != nil {
		t.Error(err)
	}
}

// TestCopyBroken is a sender that breaks off, lies, and comes back.
func TestCopyBroken(t *testing.T) {
	ctx := t.Context()
	ts := open(t, t.TempDir())
	const abc = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" // of "abc"
	begin := func() (string, model.ImageBlob) {
		t.Helper()
		c, err := ts.BeginCopy(ctx, []model.ImageBlob{{Digest: abc, Size: 3}})
		must(t, err)
		if len(c.Missing) == 0 {
			return c.ID, model.ImageBlob{}
		}
		return c.ID, c.Missing[0]
	}
	write := func(id string, offset int64, text string) error {
		return ts.WriteBlob(ctx, id, model.ImageBlob{Digest: abc, Size: 3, Offset: offset}, strings.NewReader(text))
	}
	id, _ := begin()
	if err := write(id, 0, "a"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("too short: %v", err)
	}
	id, b := begin()
	if b.Offset != 1 {
		t.Errorf("it goes on at %d", b.Offset)
	}
	if err := write(id, 0, "abc"); !errdefs.IsConflict(err) {
		t.Errorf("another offset: %v", err)
	}
	if err := write(id, 1, "xx"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("other content: %v", err)
	}
	must(t, write(id, 0, "abc"))
	must(t, write(id, 0, "abc")) // somebody else brought it
	r, n, err := ts.ReadBlob(ctx, abc, 1)
	must(t, err)
	text, _ := io.ReadAll(r)
	must(t, r.Close())
	if n != 2 || string(text) != "bc" {
		t.Errorf("%d %q", n, text)
	}
	if _, _, err := ts.ReadBlob(ctx, abc, 4); !errdefs.IsInvalidArgument(err) {
		t.Errorf("beyond its end: %v", err)
	}
	if _, _, err := ts.ReadBlob(ctx, "sha256:x", 0); !errdefs.IsInvalidArgument(err) {
		t.Errorf("no digest: %v", err)
	}
	if err := ts.CommitCopy(ctx, id, model.ImageContent{Name: "x:1", Target: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: abc, Size: 3}}, nil); err == nil {
		t.Error("three letters are an image")
	}
	must(t, ts.EndCopy(ctx, id))
	if err := ts.EndCopy(ctx, id); !errdefs.IsNotFound(err) {
		t.Errorf("ended twice: %v", err)
	}
	if err := write(id, 0, "abc"); !errdefs.IsNotFound(err) {
		t.Errorf("written after its end: %v", err)
	}
}
