package image

import (
	"context"
	"errors"
	"io"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"wharf/internal/model"
)

// errDigest: the registry sent something else than was asked for.
var errDigest = errors.New("the registry sent wrong content")

// fetchDocument gets an index, manifest or configuration of at most limit
// bytes into the content store.
func (s *Store) fetchDocument(ctx context.Context, f remotes.Fetcher, desc ocispec.Descriptor, limit int64) ([]byte, error) {
	if err := s.hold(ctx, desc.Digest); err == nil {
		return readBlob(ctx, s.cs, desc, limit)
	} else if !errdefs.IsNotFound(err) {
		return nil, err
	}
	if desc.Size > limit {
		return nil, model.Refuse(errdefs.ErrInvalidArgument, "%s has %d bytes, more than the %d allowed", desc.Digest, desc.Size, limit)
	}
	var b []byte
	err := retry(ctx, nil, func() (bool, error) {
		rc, err := f.Fetch(ctx, desc)
		if err != nil {
			return false, err
		}
		defer rc.Close()
		b, err = io.ReadAll(io.LimitReader(rc, limit+1))
		return false, err
	})
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, model.Refuse(errdefs.ErrInvalidArgument, "%s has more than the %d bytes allowed", desc.Digest, limit)
	}
	if got := desc.Digest.Algorithm().FromBytes(b); got != desc.Digest {
		return nil, model.Refuse(errdefs.ErrDataLoss, "%w: %s instead of %s", errDigest, got, desc.Digest)
	}
	_, err = s.writeBytes(ctx, b, desc.MediaType)
	return b, err
}

// fetchLayer gets a blob into the content store, going on where an earlier
// attempt (of this or a former process) ended.
func (s *Store) fetchLayer(ctx context.Context, f remotes.Fetcher, desc ocispec.Descriptor, labels map[string]string, tell func(n int64), waiting func(int)) error {
	return retry(ctx, waiting, func() (bool, error) {
		before, now, err := s.fetchOnce(ctx, f, desc, labels, tell)
		return now > before, err
	})
}

func (s *Store) fetchOnce(ctx context.Context, f remotes.Fetcher, desc ocispec.Descriptor, labels map[string]string, tell func(int64)) (before, now int64, err error) {
	ref := "fetch-" + desc.Digest.String()
	// Two pulls of one blob: the second waits here, then finds it there.
	w, err := content.OpenWriter(withoutLease(ctx), s.cs, content.WithRef(ref), content.WithDescriptor(desc))
	if errdefs.IsAlreadyExists(err) {
		return 0, 0, s.holdFetched(ctx, desc.Digest)
	}
	if err != nil {
		return 0, 0, err
	}
	defer w.Close()
	st, err := w.Status()
	if err != nil {
		return 0, 0, err
	}
	before, now = st.Offset, st.Offset
	tell(now)
	if now < desc.Size {
		n, err := copyFrom(ctx, f, desc, now, w, tell)
		now += n
		if err != nil {
			return before, now, err
		}
	}
	err = w.Commit(ctx, desc.Size, desc.Digest, content.WithLabels(labels))
	switch {
	case errdefs.IsAlreadyExists(err):
		return before, now, s.holdFetched(ctx, desc.Digest)
	case err != nil && w.Digest() != desc.Digest:
		// What is there is worth nothing: begin anew next time.
		_ = s.cs.Abort(context.WithoutCancel(ctx), ref)
		if before > 0 {
			return before, before, model.Refuse(errdefs.ErrUnavailable, "digest of the resumed download is wrong")
		}
		return before, now, model.Refuse(errdefs.ErrDataLoss, "%w: %s instead of %s", errDigest, w.Digest(), desc.Digest)
	}
	return before, now, err
}

// copyFrom copies the blob from offset on.
func copyFrom(ctx context.Context, f remotes.Fetcher, desc ocispec.Descriptor, offset int64, w io.Writer, tell func(int64)) (int64, error) {
	rc, err := f.Fetch(ctx, desc)
	if err != nil {
		return 0, err
	}
	defer rc.Close()
	if offset > 0 {
		sk, ok := rc.(io.Seeker)
		if !ok {
			return 0, model.Refuse(errdefs.ErrNotImplemented, "download cannot be resumed")
		}
		if _, err := sk.Seek(offset, io.SeekStart); err != nil {
			return 0, err
		}
	}
	m := &meter{r: rc, tell: func(n int64) { tell(offset + n) }}
	n, err := io.Copy(w, io.LimitReader(m, desc.Size-offset))
	if err == nil && offset+n < desc.Size {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// holdFetched holds a blob that another pull brought. That the collector took
// it meanwhile is a reason to try again.
func (s *Store) holdFetched(ctx context.Context, d digest.Digest) error {
	err := s.hold(ctx, d)
	if errdefs.IsNotFound(err) {
		return model.Refuse(errdefs.ErrUnavailable, "blob %s was collected", d)
	}
	return err
}
