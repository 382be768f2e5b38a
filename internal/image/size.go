package image

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"wharf/internal/model"
)

// usage is what a writable layer took when it was last walked.
type usage struct {
	rw int64
	at time.Time
}

// usageAge is how long a walk's answer holds. `docker ps -s` walks every
// container; clients poll it.
const usageAge = 5 * time.Second

// Usage implements lifecycle's images. rw may be a few seconds old.
func (s *Store) Usage(ctx context.Context, id model.ID) (rw, root int64, err error) {
	r, err := s.Rootfs(ctx, id)
	if err != nil {
		return 0, 0, err
	}
	b, err := s.base(id)
	if err != nil {
		return 0, 0, err
	}
	image, err := s.chainSize(s.ctx(ctx), b.chain)
	if err != nil {
		return 0, 0, err
	}
	s.mu.Lock()
	u, ok := s.usages[id]
	s.mu.Unlock()
	if !ok || time.Since(u.at) > usageAge {
		n, err := diskUsage(ctx, r.Upper)
		if err != nil {
			return 0, 0, err
		}
		n += blocksOf(s.path("containers", string(id), "disk"))
		u = usage{n, time.Now()}
		s.mu.Lock()
		s.usages[id] = u
		s.mu.Unlock()
	}
	return u.rw, u.rw + image, nil
}

// diskUsage adds up the blocks below dir, hard links once.
func diskUsage(ctx context.Context, dir string) (int64, error) {
	var n int64
	seen := map[uint64]bool{}
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // the container is alive
		}
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if p == dir {
			return nil // made by us
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok || (st.Nlink > 1 && !e.IsDir() && seen[st.Ino]) {
			return nil
		}
		seen[st.Ino] = true
		n += st.Blocks * 512
		return nil
	})
	return n, err
}

// chainSize is what the unpacked layers of a chain take on disk.
func (s *Store) chainSize(ctx context.Context, chain digest.Digest) (int64, error) {
	var n int64
	for key := chain.String(); key != ""; {
		u, err := s.snaps.Usage(ctx, key)
		if err != nil {
			return 0, err
		}
		info, err := s.snaps.Stat(ctx, key)
		if err != nil {
			return 0, err
		}
		n += u.Size
		key = info.Parent
	}
	return n, nil
}

// layerSize is what one unpacked layer takes, 0 when it is not unpacked.
func (s *Store) layerSize(ctx context.Context, chain digest.Digest) int64 {
	u, err := s.snaps.Usage(ctx, chain.String())
	if err != nil {
		return 0
	}
	return u.Size
}

// parts are the pieces of disk that an image holds: blobs by digest and
// unpacked layers by chain id.
func (s *Store) parts(ctx context.Context, target ocispec.Descriptor) (map[digest.Digest]int64, error) {
	parts := map[digest.Digest]int64{}
	err := s.addParts(ctx, target, parts, 4)
	return parts, err
}

func (s *Store) addParts(ctx context.Context, desc ocispec.Descriptor, parts map[digest.Digest]int64, depth int) error {
	info, err := s.cs.Info(ctx, desc.Digest)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil || depth == 0 {
		return err
	}
	parts[desc.Digest] = info.Size
	if !isDocument(desc.MediaType) {
		return nil
	}
	d, err := readDocument(ctx, s.cs, desc)
	if err != nil {
		return err
	}
	for _, c := range d.children() {
		if err := s.addParts(ctx, c, parts, depth-1); err != nil {
			return err
		}
	}
	if len(d.Manifests) > 0 || !isImage(desc) {
		return nil
	}
	c, err := readConfig(ctx, s.cs, d)
	if err != nil {
		return nil // an artifact, or a platform that is not here
	}
	for _, ch := range c.chains {
		if n := s.layerSize(ctx, ch); n > 0 {
			// A chain id and a blob digest never meet but for a single
			// uncompressed layer, whose chain id is its digest.
			parts["chain "+ch] = n
		}
	}
	return nil
}

func sum(parts map[digest.Digest]int64) int64 {
	var n int64
	for _, v := range parts {
		n += v
	}
	return n
}
