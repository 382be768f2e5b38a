package image

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"wharf/internal/model"
)

// ingest writes a blob of known size and, unless "", known digest.
func (s *Store) ingest(ctx context.Context, ref string, r io.Reader, size int64, want digest.Digest) (_ digest.Digest, fresh bool, err error) {
	w, err := content.OpenWriter(ctx, s.cs, content.WithRef(ref), content.WithDescriptor(ocispec.Descriptor{Digest: want, Size: size}))
	if errdefs.IsAlreadyExists(err) {
		return want, false, nil
	}
	if err != nil {
		return "", false, err
	}
	defer func() {
		w.Close()
		if err != nil {
			_ = s.cs.Abort(context.WithoutCancel(ctx), ref)
		}
	}()
	if err := beginAnew(w); err != nil {
		return "", false, err
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r}, make([]byte, 128<<10))
	if err != nil {
		return "", false, err
	}
	if n != size {
		return "", false, fmt.Errorf("%d of %d bytes: %w", n, size, io.ErrUnexpectedEOF)
	}
	got := w.Digest()
	if want != "" && got != want {
		return "", false, model.Refuse(errdefs.ErrInvalidArgument, "its digest is %s, not %s", got, want)
	}
	err = w.Commit(ctx, size, want)
	if errdefs.IsAlreadyExists(err) {
		return got, false, nil
	}
	return got, true, err
}

// beginAnew empties a writer that does not start at 0: an ingest of this name
// was left by a crash, or the content is still on disk because the collector
// has removed only its record so far. Writing would append.
func beginAnew(w content.Writer) error {
	st, err := w.Status()
	if err != nil || st.Offset == 0 {
		return err
	}
	return w.Truncate(0)
}

// writeJSON stores a small document and refers it to its children.
func (s *Store) writeJSON(ctx context.Context, v any, mediaType string) (ocispec.Descriptor, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return s.writeBytes(ctx, b, mediaType)
}

func (s *Store) writeBytes(ctx context.Context, b []byte, mediaType string) (ocispec.Descriptor, error) {
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	_, fresh, err := s.ingest(ctx, "write-"+d.Digest.Encoded(), bytes.NewReader(b), d.Size, d.Digest)
	if err == nil && !fresh {
		err = s.hold(ctx, d.Digest)
	}
	return d, err
}
