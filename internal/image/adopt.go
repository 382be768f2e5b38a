package image

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"wharf/internal/model"
)

// Adopt makes the layers of an image that was just built ready to run, in the
// background, from directories that have the same content: the build's own
// snapshots. Files are linked, not copied, so that both need the disk once; a
// layer's file is never written to. Whoever wants to run the image meanwhile
// waits. What cannot be adopted is unpacked at the first run, as after any
// load. free is called when dirs are no longer needed.
func (s *Store) Adopt(target ocispec.Descriptor, dirs map[digest.Digest]string, free func()) error {
	ctx := s.ctx(context.Background())
	v, err := s.variant(ctx, target, nil)
	if err != nil || v.config.chain() == "" {
		free()
		return err
	}
	unlock, err := s.chains.lock(ctx, adopting(v.config.chain()))
	if err != nil {
		free()
		return err
	}
	s.trash.wg.Go(func() {
		defer free()
		defer unlock()
		if err := s.adopt(ctx, v, dirs); err != nil {
			s.log.WarnContext(ctx, "layers of a built image are not taken over; its first run unpacks them", "image", target.Digest, "err", err)
		}
	})
	return nil
}

// adopting is the key of a lock that is held while a chain is adopted.
func adopting(chain digest.Digest) string { return "adopt " + chain.String() }

func (s *Store) adopt(ctx context.Context, v variant, dirs map[digest.Digest]string) error {
	ctx, done, err := s.lease(ctx, "adopt")
	if err != nil {
		return err
	}
	defer done()
	c := v.config
	for i, chain := range c.chains {
		if err := s.holdChain(ctx, chain); err == nil {
			continue
		} else if !errdefs.IsNotFound(err) {
			return err
		}
		dir, ok := dirs[c.RootFS.DiffIDs[i]]
		if !ok {
			return fmt.Errorf("layer %d is nowhere unpacked", i)
		}
		parent := ""
		if i > 0 {
			parent = c.chains[i-1].String()
		}
		if err := s.adoptLayer(ctx, chain.String(), parent, dir); err != nil {
			return err
		}
	}
	if err := s.addLabels(ctx, v.manifest.Config.Digest, map[string]string{labelSnapshot: c.chain().String()}); err != nil {
		return err
	}
	s.unpacked(c.chain())
	return s.ledger.settle()
}

func (s *Store) adoptLayer(ctx context.Context, chain, parent, dir string) (err error) {
	unlock, err := s.chains.lock(ctx, chain)
	if err != nil {
		return err
	}
	defer unlock()
	key := "adopt-" + string(model.NewID())
	ms, err := s.snaps.Prepare(ctx, key, "")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = s.snaps.Remove(context.WithoutCancel(ctx), key)
			s.gc.later()
		}
	}()
	if len(ms) != 1 || ms[0].Source == "" {
		return model.Refuse(errdefs.ErrInternal, "snapshotter gave no directory to link to")
	}
	if err := linkTree(dir, ms[0].Source); err != nil {
		return err
	}
	if err := s.syncer.sync(ms[0].Source); err != nil {
		return err
	}
	err = s.snaps.Commit(ctx, chain, key, snapshots.WithParent(parent))
	if errdefs.IsAlreadyExists(err) {
		_ = s.snaps.Remove(ctx, key)
		return nil
	}
	return err
}

// linkTree makes in the empty directory to what is in from: its directories
// anew, with all their attributes, and links to all else. Nobody may change
// from meanwhile.
func linkTree(from, to string) error {
	var made []string // outer ones first
	err := filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if !e.IsDir() {
			return os.Link(path, filepath.Join(to, rel))
		}
		made = append(made, rel)
		if rel == "." {
			return nil
		}
		return os.Mkdir(filepath.Join(to, rel), 0o700)
	})
	if err != nil {
		return err
	}
	for i := len(made) - 1; i >= 0; i-- { // times last, when nothing is added any more
		if err := copyDirAttributes(filepath.Join(from, made[i]), filepath.Join(to, made[i])); err != nil {
			return err
		}
	}
	return nil
}

// copyDirAttributes gives one directory owner, mode, extended attributes and
// times of another, and what hides the directories below.
func copyDirAttributes(from, to string) error {
	v := make([]byte, 8)
	if n, err := unix.Lgetxattr(from, xattrOpaque, v); err == nil {
		if err := unix.Lsetxattr(to, xattrOpaque, v[:n], 0); err != nil {
			return err
		}
	}
	return copyDirInfo(from, to)
}
