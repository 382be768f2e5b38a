package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/containerd/errdefs"
)

// baseName is the small image that comes with wharf, so that the first
// container needs no network.
const baseName = "wharf/base"

// EnsureBase loads the archive of wharf/base from path at the first start.
// When it was there once it is never loaded again: a user who removed it does
// not get it back. No archive is no error.
func (s *Store) EnsureBase(ctx context.Context, path string) error {
	mark := s.path("base")
	if _, err := os.Lstat(mark); err == nil {
		return nil
	}
	_, err := s.find(ctx, baseName)
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	if err != nil {
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("image %s: %w", baseName, err)
		}
		defer f.Close()
		if err := s.load(ctx, f, nil, "", nil); err != nil {
			return fmt.Errorf("image %s from %s: %w", baseName, path, err)
		}
	}
	f, err := os.OpenFile(mark, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}
