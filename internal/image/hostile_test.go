package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"wharf/internal/model"
)

// waysIn are the ways by which an image of somebody else comes.
var waysIn = map[string]func(*testing.T, *testStore, testImage) error{
	"load": func(t *testing.T, ts *testStore, img testImage) error {
		return ts.Load(t.Context(), bytes.NewReader(img.dockerTar(t, "x:1")), nil, false, nil)
	},
	"copy": func(t *testing.T, ts *testStore, img testImage) error {
		ctx, blobs := t.Context(), map[digest.Digest][]byte{}
		target := img.ociBlobs(t, blobs)
		var list []model.ImageBlob
		for d, b := range blobs {
			list = append(list, model.ImageBlob{Digest: d, Size: int64(len(b))})
		}
		begun, err := ts.BeginCopy(ctx, list)
		must(t, err)
		for _, b := range begun.Missing {
			must(t, ts.WriteBlob(ctx, begun.ID, b, bytes.NewReader(blobs[b.Digest])))
		}
		return ts.CommitCopy(ctx, begun.ID, model.ImageContent{Name: "x:1", Target: target}, nil)
	},
	"pull": func(t *testing.T, ts *testStore, img testImage) error {
		f := newFakeRegistry()
		host, blobs := f.serve(t), map[digest.Digest][]byte{}
		target := img.ociBlobs(t, blobs)
		for d, b := range blobs {
			f.blobs["x@"+d.String()] = b
		}
		f.manifests["x:1"], f.manifests["x@"+target.Digest.String()] = blobs[target.Digest], blobs[target.Digest]
		f.types[target.Digest.String()] = target.MediaType
		return ts.Pull(t.Context(), host+"/x:1", nil, nil, func(any) {})
	},
}

// TestWaysIn: an honest image comes by each of them.
func TestWaysIn(t *testing.T) {
	for way, take := range waysIn {
		t.Run(way, func(t *testing.T) { must(t, take(t, open(t, t.TempDir()), layered(t))) })
	}
}

// Layers cannot reach out of their directory, whatever their names and links.
func TestHostileLayers(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "outside")
	must(t, os.WriteFile(outside, []byte("safe"), 0o644))
	for name, fs := range map[string][]file{
		"climbing":     {{name: "../../../../../../../../" + outside, body: "bad"}},
		"absolute":     {{name: outside, body: "bad"}},
		"through link": {{name: "l", kind: tar.TypeSymlink, link: filepath.Dir(outside)}, {name: "l/outside", body: "bad"}},
		"hard link":    {{name: "h", kind: tar.TypeLink, link: outside}, {name: "h", body: "bad"}},
		"its content":  {{name: "h", kind: tar.TypeLink, link: outside}},
		"white link":   {{name: "l", kind: tar.TypeSymlink, link: filepath.Dir(outside)}, {name: "l/.wh.outside"}},
		"opaque link":  {{name: "l", kind: tar.TypeSymlink, link: filepath.Dir(outside)}, {name: "l/.wh..wh..opq"}},
		"redirect":     {{name: "d", kind: tar.TypeDir, mode: 0o755, pax: map[string]string{"SCHILY.xattr.trusted.overlay.redirect": "/etc"}}},
	} {
		for way, take := range waysIn {
			t.Run(name+" by "+way, func(t *testing.T) {
				root := t.TempDir()
				err := take(t, open(t, root), testImage{layers: [][]byte{tarOf(t, fs...)}})
				b, rerr := os.ReadFile(outside)
				if rerr != nil || string(b) != "safe" {
					t.Fatalf("the file outside was touched: %q %v (%v)", b, rerr, err)
				}
				st, _ := os.Lstat(outside)
				if st.Mode().Perm() != 0o644 || st.Sys().(*syscall.Stat_t).Nlink != 1 {
					t.Error("mode or links outside changed")
				}
				must(t, filepath.WalkDir(root, func(p string, _ os.DirEntry, err error) error {
					if n, e := unix.Lgetxattr(p, "trusted.overlay.redirect", nil); e == nil {
						t.Errorf("%s has a redirection of %d bytes", p, n)
					}
					if errors.Is(err, os.ErrNotExist) {
						return nil // what was refused is swept meanwhile
					}
					return err
				}))
			})
		}
	}
}

// TestEndlessDocuments: a registry whose manifest does not end, or is called
// larger than any, is read up to the bound and not beyond.
func TestEndlessDocuments(t *testing.T) {
	ts, ctx := open(t, t.TempDir()), t.Context()
	const limit = 1 << 10
	for name, desc := range map[string]ocispec.Descriptor{
		"endless":    {Digest: digest.FromString("x"), Size: 10},
		"of no size": {Digest: digest.FromString("x")},
		"larger":     {Digest: digest.FromString("x"), Size: limit + 1},
	} {
		src := &endless{}
		f := remotes.FetcherFunc(func(context.Context, ocispec.Descriptor) (io.ReadCloser, error) { return src, nil })
		if _, err := ts.fetchDocument(ts.ctx(ctx), f, desc, limit); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "allowed") {
			t.Errorf("%s: %v", name, err)
		}
		if src.read > 2*limit {
			t.Errorf("%s: %d bytes were read, %d are allowed", name, src.read, limit)
		}
	}
}

// endless gives a megabyte, which a reader without a bound takes whole.
type endless struct{ read int }

func (e *endless) Read(b []byte) (int, error) {
	if e.read > 1<<20 {
		return 0, errors.New("nobody stopped")
	}
	e.read += len(b)
	return len(b), nil
}

func (e *endless) Close() error { return nil }
