package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"wharf/internal/image/erofs"
	"wharf/internal/model"
)

// Instances with a kernel of their own get disks instead of directories:
//
//	disks/<chain id>.erofs   all layers of a chain, merged, read-only; made at
//	                         the first use, or before it (disksoon.go), and
//	                         shared by all who use it
//	containers/<id>/disk     a sparse ext4 image, the writable layer
//
// The merged tree is what a container would see as its root: whiteouts and
// opaque directories are worked in, by the kernel's overlayfs.

// Disks implements lifecycle's images: Rootfs for instances that have disks.
func (s *Store) Disks(ctx context.Context, id model.ID) (model.Rootfs, error) {
	r, err := s.Rootfs(ctx, id)
	if err != nil {
		return r, err
	}
	b, err := s.base(id)
	if err != nil {
		return r, err
	}
	if r.Disk, err = s.chainDisk(ctx, b.chain, r.Lower); err != nil {
		return r, fmt.Errorf("disk of the image of %s: %w", id.Short(), err)
	}
	r.Writable = s.path("containers", string(id), "disk")
	if err := s.writableDisk(ctx, r.Writable); err != nil {
		return r, fmt.Errorf("writable disk of %s: %w", id.Short(), err)
	}
	return r, nil
}

// Disk implements lifecycle's images: an image's EROFS, for a mount of it.
func (s *Store) Disk(ctx context.Context, img model.Image) (string, error) {
	lower, err := s.Layers(ctx, img)
	if err != nil {
		return "", err
	}
	at, err := s.chainDisk(ctx, img.ChainID, lower)
	if err != nil {
		return "", fmt.Errorf("disk of the image: %w", err)
	}
	return at, nil
}

// diskName is where a chain's disk is.
func (s *Store) diskName(chain digest.Digest) string {
	name := "empty"
	if chain != "" {
		name = chain.Encoded()
	}
	return s.path("disks", name+".erofs")
}

// chainDisk makes the image of a chain, once.
func (s *Store) chainDisk(ctx context.Context, chain digest.Digest, dirs []string) (string, error) {
	at := s.diskName(chain)
	if _, err := os.Stat(at); err == nil {
		return at, nil
	}
	if err := s.disks.one.Acquire(ctx, 1); err != nil {
		return "", err
	}
	defer s.disks.one.Release(1)
	if _, err := os.Stat(at); err == nil {
		return at, nil
	}
	if err := os.MkdirAll(filepath.Dir(at), 0o700); err != nil {
		return "", err
	}
	dir, done := dirs[0], func() error { return nil }
	if len(dirs) > 1 {
		var err error
		if dir, done, err = s.merged(at, dirs); err != nil {
			return "", err
		}
	}
	err := writeDisk(ctx, dir, at)
	return at, errors.Join(err, done())
}

// merged mounts the layers read-only.
func (s *Store) merged(at string, dirs []string) (string, func() error, error) {
	dir := filepath.Join(s.mounts.dir, filepath.Base(at))
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", nil, err
	}
	if err := mountLayers(dir, dirs); err != nil {
		_ = os.Remove(dir)
		return "", nil, err
	}
	return dir, func() error { return detach(dir) }, nil
}

// newDisk begins the names of files that are being written.
const newDisk = "new-"

// writeDisk writes the tree below dir as an EROFS image, whole or not at all.
func writeDisk(ctx context.Context, dir, at string) (err error) {
	f, err := os.CreateTemp(filepath.Dir(at), newDisk)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	if err = erofs.Write(ctx, f, dir); err == nil {
		err = f.Chmod(0o600)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), at)
}

// pruneDisks removes the disks of chains that are gone. Who still has one open
// keeps it.
func (s *Store) pruneDisks(ctx context.Context) {
	es, _ := os.ReadDir(s.path("disks"))
	for _, e := range es {
		chain, ok := isDisk(e.Name())
		if !ok {
			continue
		}
		if _, err := s.snaps.Stat(ctx, chain.String()); errdefs.IsNotFound(err) {
			_ = os.Remove(s.path("disks", e.Name()))
		}
	}
}

// blocksOf is what a sparse file takes, 0 when it is not there.
func blocksOf(path string) int64 {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return 0
	}
	return st.Blocks * 512
}
