package image

import (
	"bytes"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A blob may be written again while the collector has removed its record but
// not yet its bytes, and after a crash left part of it.
func TestWriteAgain(t *testing.T) {
	b := bytes.Repeat([]byte("manifest "), 100)
	ref := "write-" + digest.FromBytes(b).Encoded()
	for name, before := range map[string]func(*testing.T, *testStore){
		"record removed": func(t *testing.T, ts *testStore) {
			ctx := ts.ctx(t.Context())
			d, err := ts.writeBytes(ctx, b, "x")
			must(t, err)
			must(t, ts.cs.Delete(ctx, d.Digest))
		},
		"half an ingest": func(t *testing.T, ts *testStore) {
			ctx := ts.ctx(t.Context())
			w, err := content.OpenWriter(ctx, ts.cs, content.WithRef(ref), content.WithDescriptor(ocispec.Descriptor{Size: int64(len(b))}))
			must(t, err)
			_, err = w.Write(b[:100])
			must(t, err)
			must(t, w.Close())
		},
	} {
		t.Run(name, func(t *testing.T) {
			ts := open(t, t.TempDir())
			before(t, ts)
			d, err := ts.writeBytes(ts.ctx(t.Context()), b, "x")
			must(t, err)
			got, err := readBlob(ts.ctx(t.Context()), ts.cs, d, 1<<20)
			if err != nil || !bytes.Equal(got, b) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
}
