package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"wharf/internal/model"
)

// base is what a writable layer stands on.
type base struct {
	manifest digest.Digest // "" for a container without an image
	chain    digest.Digest // "" without layers
}

// lower is an unpacked chain: its directories, topmost first, and owner and
// mode of its "/".
type lower struct {
	dirs     []string
	uid, gid uint32
	mode     uint32
}

// idName is what may stand below containers/: never a path.
var idName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$`)

func (s *Store) containerDir(id model.ID) (string, error) {
	if !idName.MatchString(string(id)) {
		return "", model.Refuse(errdefs.ErrInvalidArgument, "container id %q", id)
	}
	return s.path("containers", string(id)), nil
}

// base reads the link that Prepare made.
func (s *Store) base(id model.ID) (base, error) {
	text, err := os.Readlink(s.path("containers", string(id), "base"))
	if err != nil {
		return base{}, err
	}
	m, c, ok := strings.Cut(text, "/")
	if !ok {
		return base{}, model.Refuse(errdefs.ErrDataLoss, "container %s: base %q cannot be read", id, text)
	}
	return base{digest.Digest(m), digest.Digest(c)}, nil
}

// Prepare implements lifecycle's images: a few directories and a symbolic
// link, no database write and no fsync. It is as durable as the next fsync on
// the same file system, which is that of the container's record.
func (s *Store) Prepare(ctx context.Context, id model.ID, img model.Image) error {
	ctx = s.ctx(ctx)
	dir, err := s.containerDir(id)
	if err != nil {
		return err
	}
	err = s.prepare(ctx, dir, img)
	if errors.Is(err, errNotUnpacked) {
		if err := s.ensureUnpacked(ctx, img); err != nil {
			return fmt.Errorf("prepare container %s: %w", id.Short(), err)
		}
		err = s.prepare(ctx, dir, img)
	}
	if err != nil {
		return fmt.Errorf("prepare container %s: %w", id.Short(), err)
	}
	s.auto.note(time.Now(), img.ID, img.Manifest.Digest)
	return nil
}

// errNotUnpacked: the chain has no snapshot.
var errNotUnpacked = errors.New("image is not unpacked")

// prepare keeps the collector out: from the look at the layers until the link
// that makes them a root.
func (s *Store) prepare(ctx context.Context, dir string, img model.Image) error {
	s.gc.mu.RLock()
	defer s.gc.mu.RUnlock()
	low, err := s.lower(ctx, img.ChainID)
	if errdefs.IsNotFound(err) {
		return errNotUnpacked
	}
	if err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	text := img.Manifest.Digest.String() + "/" + img.ChainID.String()
	if err := os.Symlink(text, filepath.Join(dir, "base")); err != nil {
		if !errors.Is(err, fs.ErrExist) {
			return err
		}
		if have, err := os.Readlink(filepath.Join(dir, "base")); err != nil || have != text {
			return model.Refuse(errdefs.ErrAlreadyExists, "it has a writable layer on another image (%s)", have)
		}
	}
	upper := filepath.Join(dir, "upper")
	if err := mkdirAs(upper, low); err != nil {
		return err
	}
	// overlayfs makes "work" inside; nobody else enters.
	if err := os.Mkdir(filepath.Join(dir, "work"), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// mkdirAs makes dir with the owner and mode of the image's "/": the upper
// directory is what the container sees as its root directory.
func mkdirAs(dir string, low lower) error {
	if err := unix.Mkdir(dir, low.mode); err != nil {
		if errors.Is(err, unix.EEXIST) {
			return nil
		}
		return &fs.PathError{Op: "mkdir", Path: dir, Err: err}
	}
	if low.uid != 0 || low.gid != 0 {
		if err := os.Chown(dir, int(low.uid), int(low.gid)); err != nil {
			return err
		}
	}
	return unix.Chmod(dir, low.mode) // past the umask
}

// lower finds the directories of a chain. ErrNotFound: it is not unpacked.
func (s *Store) lower(ctx context.Context, chain digest.Digest) (lower, error) {
	if chain == "" {
		return lower{dirs: []string{s.path("empty")}, mode: 0o755}, nil
	}
	s.mu.Lock()
	low, ok := s.lowers[chain]
	s.mu.Unlock()
	if ok {
		return low, nil
	}
	for key := chain.String(); key != ""; {
		info, err := s.snaps.Stat(ctx, key)
		if err != nil {
			return lower{}, err
		}
		dir := info.Labels["containerd.io/snapshot/overlay.upperdir"]
		if dir == "" {
			return lower{}, model.Refuse(errdefs.ErrDataLoss, "layer %s has no directory", key)
		}
		low.dirs = append(low.dirs, dir)
		key = info.Parent
	}
	var st unix.Stat_t
	if err := unix.Stat(low.dirs[0], &st); err != nil {
		return lower{}, fmt.Errorf("layer %s: %w", chain, err)
	}
	low.uid, low.gid, low.mode = st.Uid, st.Gid, st.Mode&0o7777
	s.mu.Lock()
	s.lowers[chain] = low
	s.mu.Unlock()
	return low, nil
}

// pinPrefix begins the names of links, beside base, to the images that a
// container mounts. Their texts are as base's.
const pinPrefix = "pin-"

// Pin implements lifecycle's images. Doing it twice is no error.
func (s *Store) Pin(ctx context.Context, id model.ID, imgs ...model.Image) error {
	ctx = s.ctx(ctx)
	dir, err := s.containerDir(id)
	if err != nil {
		return err
	}
	for _, img := range imgs {
		err := s.pin(ctx, dir, img)
		if errors.Is(err, errNotUnpacked) {
			if err = s.ensureUnpacked(ctx, img); err == nil {
				err = s.pin(ctx, dir, img)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// pin keeps the collector out, as prepare does.
func (s *Store) pin(ctx context.Context, dir string, img model.Image) error {
	s.gc.mu.RLock()
	defer s.gc.mu.RUnlock()
	if _, err := s.lower(ctx, img.ChainID); errdefs.IsNotFound(err) {
		return errNotUnpacked
	} else if err != nil {
		return err
	}
	text := img.Manifest.Digest.String() + "/" + img.ChainID.String()
	err := os.Symlink(text, filepath.Join(dir, pinPrefix+digest.FromString(text).Encoded()[:16]))
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// Layers implements lifecycle's images.
func (s *Store) Layers(ctx context.Context, img model.Image) ([]string, error) {
	ctx = s.ctx(ctx)
	low, err := s.lower(ctx, img.ChainID)
	if errdefs.IsNotFound(err) {
		if err = s.ensureUnpacked(ctx, img); err == nil {
			low, err = s.lower(ctx, img.ChainID)
		}
	}
	return low.dirs, err
}

// bases are what a container's own layer and its mounts stand on.
func (s *Store) bases(id model.ID) []base {
	var out []base
	es, _ := os.ReadDir(s.path("containers", string(id)))
	for _, e := range es {
		if e.Name() != "base" && !strings.HasPrefix(e.Name(), pinPrefix) {
			continue
		}
		text, err := os.Readlink(s.path("containers", string(id), e.Name()))
		if m, c, ok := strings.Cut(text, "/"); ok && err == nil {
			out = append(out, base{digest.Digest(m), digest.Digest(c)})
		}
	}
	return out
}

// Rootfs implements lifecycle's images.
func (s *Store) Rootfs(ctx context.Context, id model.ID) (model.Rootfs, error) {
	dir, err := s.containerDir(id)
	if err != nil {
		return model.Rootfs{}, err
	}
	b, err := s.base(id)
	if errors.Is(err, fs.ErrNotExist) {
		return model.Rootfs{}, model.Refuse(errdefs.ErrNotFound, "container %s has no writable layer", id.Short())
	}
	if err != nil {
		return model.Rootfs{}, err
	}
	low, err := s.lower(s.ctx(ctx), b.chain)
	if errdefs.IsNotFound(err) {
		// The layers went with a damaged disk; its blobs may still be here.
		var desc ocispec.Descriptor
		if desc, err = s.manifestDesc(s.ctx(ctx), b.manifest); err == nil {
			err = s.ensureUnpacked(ctx, model.Image{Manifest: desc, ChainID: b.chain})
		}
		if err == nil {
			low, err = s.lower(s.ctx(ctx), b.chain)
		}
	}
	if err != nil {
		return model.Rootfs{}, fmt.Errorf("container %s: layers of its image: %w", id.Short(), err)
	}
	return model.Rootfs{Lower: low.dirs, Upper: filepath.Join(dir, "upper"), Work: filepath.Join(dir, "work")}, nil
}

// manifestDesc makes the descriptor of a manifest that only its digest is
// known of.
func (s *Store) manifestDesc(ctx context.Context, d digest.Digest) (ocispec.Descriptor, error) {
	b, err := readBlob(ctx, s.cs, ocispec.Descriptor{Digest: d}, maxManifest)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return ocispec.Descriptor{MediaType: guessType(b), Digest: d, Size: int64(len(b))}, nil
}

// Discard implements lifecycle's images. The layer is out of the way when it
// returns; its files are removed in the background.
func (s *Store) Discard(_ context.Context, id model.ID) error {
	dir, err := s.containerDir(id)
	if err != nil {
		return err
	}
	s.mounts.drop(id)
	s.mu.Lock()
	delete(s.usages, id)
	s.mu.Unlock()
	if err := s.trash.put(dir); err != nil {
		return fmt.Errorf("discard container %s: %w", id.Short(), err)
	}
	return nil
}

// Prepared implements lifecycle's images.
func (s *Store) Prepared(context.Context) ([]model.ID, error) { return s.preparedIDs() }
