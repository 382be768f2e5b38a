package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"wharf/internal/model"
)

// mounts holds the roots of stopped containers that somebody looks into. One
// mount serves all who ask for the same container in the same mode.
type mounts struct {
	dir string

	mu     sync.Mutex // guards active; held while mounting
	active map[mountKey]*mounted
}

type mountKey struct {
	id       model.ID
	readOnly bool
}

type mounted struct {
	dir  string
	refs int
}

func (m *mounts) init(dir string) { m.dir, m.active = dir, map[mountKey]*mounted{} }

// Mount implements lifecycle's images. Who asks for a read-only mount sees the
// layers as they are, and cannot write; the release may be called again.
func (s *Store) Mount(ctx context.Context, id model.ID, readOnly bool) (string, func() error, error) {
	r, err := s.Rootfs(ctx, id)
	if err != nil {
		return "", nil, err
	}
	key := mountKey{id, readOnly}
	m := &s.mounts
	m.mu.Lock()
	defer m.mu.Unlock()
	at := m.active[key]
	if at == nil {
		dir, err := m.mount(key, r)
		if err != nil {
			return "", nil, fmt.Errorf("mount container %s: %w", id.Short(), err)
		}
		at = &mounted{dir: dir}
		m.active[key] = at
	}
	at.refs++
	return at.dir, sync.OnceValue(func() error { return m.release(key, at) }), nil
}

// mount makes the overlay. Read-only: the writable layer is the topmost lower
// one, so that this mount and a writable one do not meet in the work directory.
func (m *mounts) mount(key mountKey, r model.Rootfs) (string, error) {
	name := string(key.id) + ".rw"
	opts := []string{"lowerdir=" + strings.Join(r.Lower, ":"), "upperdir=" + r.Upper, "workdir=" + r.Work}
	if key.readOnly {
		name = string(key.id) + ".ro"
		opts = []string{"ro", "lowerdir=" + strings.Join(append([]string{r.Upper}, r.Lower...), ":")}
	}
	dir := filepath.Join(m.dir, name)
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return "", err
	}
	// No redirects and no metadata-only copies, whatever the kernel's default:
	// Changes and Commit read the upper directory as it is.
	opts = append(opts, "redirect_dir=nofollow", "metacopy=off", "nodev", "nosuid", "noexec")
	if err := mount.All([]mount.Mount{{Type: "overlay", Source: "overlay", Options: opts}}, dir); err != nil {
		os.Remove(dir)
		return "", err
	}
	return dir, nil
}

func (m *mounts) release(key mountKey, at *mounted) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if at.refs--; at.refs > 0 || m.active[key] != at {
		return nil
	}
	delete(m.active, key)
	return detach(at.dir)
}

// drop ends a container's mounts, whoever still looks.
func (m *mounts) drop(id model.ID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, ro := range []bool{false, true} {
		if at := m.active[mountKey{id, ro}]; at != nil {
			delete(m.active, mountKey{id, ro})
			_ = detach(at.dir)
		}
	}
}

func detach(dir string) error {
	if err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// sweep unmounts what an earlier process left.
func (m *mounts) sweep() error {
	es, err := os.ReadDir(m.dir)
	if err != nil || len(es) == 0 {
		return err
	}
	ms, err := mountinfo.GetMounts(mountinfo.PrefixFilter(m.dir))
	if err != nil {
		return err
	}
	for i := len(ms) - 1; i >= 0; i-- {
		if ms[i].Mountpoint != m.dir {
			if err := detach(ms[i].Mountpoint); err != nil {
				return err
			}
		}
	}
	for _, e := range es {
		if err := m.remove(filepath.Join(m.dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// remove takes a mount point away, and what lies in it where nothing is mounted
// any more: a copy of a running daemon's data root has the files of the mount.
func (m *mounts) remove(dir string) error {
	err := os.Remove(dir)
	if err == nil || errors.Is(err, os.ErrNotExist) {
		return nil
	}
	var in, above unix.Stat_t
	if unix.Lstat(dir, &in) != nil || unix.Lstat(m.dir, &above) != nil || in.Dev != above.Dev {
		return err // what cannot be unmounted must not be emptied
	}
	return os.RemoveAll(dir)
}

func (m *mounts) close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var errs []error
	for k, at := range m.active {
		delete(m.active, k)
		errs = append(errs, detach(at.dir))
	}
	return errors.Join(errs...)
}
