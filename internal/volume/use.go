package volume

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/volume"
	"golang.org/x/sys/unix"

	"wharf/internal/model"
)

// Use makes sure that m's volume exists and is mounted, holds it for the
// container and returns the directory to bind: the volume's, or that of
// m.Subpath in it. Doing it again is no error.
func (r *Room) Use(ctx context.Context, id model.ID, m model.Mount) (string, error) {
	labels := maps.Clone(m.Labels)
	if m.Anonymous {
		if labels == nil {
			labels = map[string]string{}
		}
		labels[labelAnonymous] = ""
	}
	if m.Name == "" {
		return "", model.Refuse(errdefs.ErrInvalidArgument, "volume at %s has no name", m.Destination)
	}
	had := r.holds(m.Name, id)
	v, err := r.create(volume.CreateRequest{Name: m.Name, Driver: m.Driver, DriverOpts: m.DriverOptions, Labels: labels}, id)
	if err != nil {
		return "", err
	}
	v.busy.Lock()
	defer v.busy.Unlock()
	dir := v.data()
	if err = v.mount(ctx); err == nil && m.Subpath != "" && !v.rec.block() {
		dir, err = v.subpath(m.Subpath)
	}
	if err != nil {
		if !had {
			r.mu.Lock()
			delete(v.users, id)
			r.mu.Unlock()
		}
		return "", fmt.Errorf("volume %s: %w", m.Name, err)
	}
	return dir, nil
}

func (r *Room) holds(name string, id model.ID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	v := r.vols[name]
	if v == nil {
		return false
	}
	_, ok := v.users[id]
	return ok
}

// Unuse lets go of every volume held for id. With remove the anonymous ones
// that nobody holds any more are removed.
func (r *Room) Unuse(ctx context.Context, id model.ID, mounts []model.Mount, remove bool) error {
	var errs []error
	anonymous := map[string]bool{}
	for _, m := range mounts {
		if m.Type == "volume" && m.Anonymous {
			anonymous[m.Name] = true
		}
	}
	for _, v := range r.release(id) {
		errs = append(errs, r.idle(v))
	}
	for name := range anonymous {
		if !remove {
			break
		}
		// Another container may hold it (--volumes-from) or it is gone already.
		err := r.remove(name, id, func(v *vol) bool { return len(v.users) == 0 })
		if err != nil && !errdefs.IsNotFound(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, ctx.Err())...)
}

// release takes id off all volumes and returns those that it was on.
func (r *Room) release(id model.ID) []*vol {
	r.mu.Lock()
	defer r.mu.Unlock()
	var had []*vol
	for _, v := range r.vols {
		if v.machine == id {
			v.machine = ""
		}
		if _, ok := v.users[id]; ok {
			delete(v.users, id)
			had = append(had, v)
		}
	}
	return had
}

// idle unmounts a volume that nobody uses.
func (r *Room) idle(v *vol) error {
	v.busy.Lock()
	defer v.busy.Unlock()
	r.mu.Lock()
	used := len(v.users) > 0
	r.mu.Unlock()
	if used {
		return nil
	}
	return v.unmount()
}

// Restore says after a restart of the daemon which volumes a container has.
// One that is gone is an error that names it; the others are held all the
// same.
func (r *Room) Restore(ctx context.Context, id model.ID, mounts []model.Mount) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	for _, m := range mounts {
		if m.Type != "volume" {
			continue
		}
		v, err := r.find(m.Name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		v.hold(id)
	}
	return errors.Join(append(errs, ctx.Err())...)
}

// Sweep unmounts what an earlier daemon mounted and no container has. Call it
// after Restore for every container.
func (r *Room) Sweep(ctx context.Context) error {
	r.mu.Lock()
	all := make([]*vol, 0, len(r.vols))
	for _, v := range r.vols {
		all = append(all, v)
	}
	r.mu.Unlock()
	var errs []error
	for _, v := range all {
		errs = append(errs, r.idle(v))
	}
	return errors.Join(append(errs, ctx.Err())...)
}

// mount mounts a volume with options unless it is. Call with busy held.
func (v *vol) mount(ctx context.Context) error {
	if !v.rec.elsewhere() {
		return nil
	}
	is, err := mounted(v.data())
	if err != nil || is {
		return err
	}
	return mountOn(ctx, v.rec.Options, v.data())
}

// unmount undoes mount and subpath; nothing mounted is no error. Call with
// busy held.
func (v *vol) unmount() error {
	subs, err := os.ReadDir(filepath.Join(v.dir, "sub"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, s := range subs {
		p := filepath.Join(v.dir, "sub", s.Name())
		if err := unmountAt(p); err != nil {
			return err
		}
		if err := os.Remove(p); err != nil {
			return err
		}
	}
	if !v.rec.elsewhere() {
		return nil
	}
	return unmountAt(v.data())
}

func unmountAt(p string) error {
	is, err := mounted(p)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !is {
		return nil
	}
	if err != nil {
		return err
	}
	if err := unix.Unmount(p, unix.UMOUNT_NOFOLLOW); err == unix.EBUSY {
		err = unix.Unmount(p, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH) // an exec or a copy is still in it
		if err == nil {
			return nil
		}
		return &os.PathError{Op: "unmount", Path: p, Err: err}
	} else if err != nil {
		return &os.PathError{Op: "unmount", Path: p, Err: err}
	}
	return nil
}

// subpath opens a path inside the volume, where no symlink leads out, and
// mounts what it found under a name of its own: a container that has the
// whole volume could exchange the path for a symlink to the host's root
// between our look and the mount. Call with busy held.
func (v *vol) subpath(sub string) (string, error) {
	clean := path.Clean(sub)
	if path.IsAbs(sub) || clean == ".." || strings.HasPrefix(clean, "../") {
		return "", model.Refuse(errdefs.ErrInvalidArgument, "subpath %q must be a relative path within the volume", sub)
	}
	fd, err := v.beneath(clean, unix.O_PATH)
	switch {
	case errors.Is(err, unix.EXDEV):
		return "", model.Refuse(errdefs.ErrInvalidArgument, "subpath %q: path concatenation escapes the base directory (a symbolic link leads out of the volume)", sub)
	case errors.Is(err, unix.ENOENT):
		return "", model.Refuse(errdefs.ErrNotFound, "cannot access path %q: %w", sub, err)
	case err != nil:
		return "", model.Refuse(errdefs.ErrInvalidArgument, "cannot access path %q: %w", sub, err)
	}
	defer unix.Close(fd)
	sum := sha256.Sum256([]byte(clean))
	at := filepath.Join(v.dir, "sub", hex.EncodeToString(sum[:8]))
	if is, err := mounted(at); err == nil && is {
		return at, nil
	}
	if err := mountPoint(fd, at); err != nil {
		return "", err
	}
	tree, err := unix.OpenTree(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return "", fmt.Errorf("subpath %q: open_tree: %w", sub, err)
	}
	defer unix.Close(tree)
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return "", fmt.Errorf("subpath %q: move_mount: %w", sub, err)
	}
	return at, nil
}

// beneath opens a path inside the volume. A symlink that leads out, and an
// absolute one, is EXDEV.
func (v *vol) beneath(clean string, flags uint64) (int, error) {
	root, err := unix.Open(v.data(), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: v.data(), Err: err}
	}
	defer unix.Close(root)
	return unix.Openat2(root, clean, &unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS})
}

// mountPoint makes at of the same kind as fd: a directory or a file.
func mountPoint(fd int, at string) error {
	if err := os.MkdirAll(filepath.Dir(at), 0o700); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	_ = os.Remove(at) // of an earlier use, perhaps of the other kind
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return os.Mkdir(at, 0o700)
	}
	f, err := os.OpenFile(at, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}
