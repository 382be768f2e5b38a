package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"wharf/internal/inroot"
	"wharf/internal/model"
	"wharf/internal/undo"
)

// CopyUp fills an empty volume, or the empty directory m.Subpath of it, with
// what the image has at m's destination, and gives it that directory's owner
// and mode. A directory with anything in it, a subpath that is none yet, and
// an image without that directory are left alone. A copy that a crash cut off
// is done again.
func (r *Room) CopyUp(ctx context.Context, m model.Mount, root string) error {
	v, err := r.get(m.Name)
	if err != nil {
		return err
	}
	if v.rec.block() { // its machine fills it
		return nil
	}
	v.busy.Lock()
	defer v.busy.Unlock()
	if err := v.copyUp(ctx, m, root); err != nil {
		return fmt.Errorf("copy the image's %s up into volume %s: %w", m.Destination, m.Name, err)
	}
	return nil
}

func (v *vol) copyUp(ctx context.Context, m model.Mount, root string) (err error) {
	marker := filepath.Join(v.dir, "copying")
	if err := v.copyAgain(marker); err != nil {
		return err
	}
	sub := path.Clean(m.Subpath) // "." for the whole volume
	dst, err := v.beneath(sub, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		if m.Subpath != "" { // Use says what is wrong with it when the container starts
			return nil
		}
		return err
	}
	defer unix.Close(dst)
	if names, err := readNames(dst); err != nil || len(names) > 0 {
		return err
	}
	src, err := inroot.Open(root, m.Destination)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(src)
	if err := os.WriteFile(marker, []byte(sub), 0o600); err != nil {
		return err
	}
	var u undo.Stack
	defer u.OnError(&err)
	u.Push(func() error { return errors.Join(emptyAt(dst), os.Remove(marker)) })
	if err := (&copier{ctx: ctx}).copyTree(src, dst); err != nil {
		return err
	}
	return os.Remove(marker)
}

// copyAgain empties what a crash left half copied: the directory that the
// marker names.
func (v *vol) copyAgain(marker string) error {
	sub, err := os.ReadFile(marker)
	if err != nil {
		return nil //nolint:nilerr // no marker, nothing half copied
	}
	dir, err := v.beneath(path.Clean(string(sub)), unix.O_RDONLY|unix.O_DIRECTORY)
	if err == nil {
		defer unix.Close(dir)
		err = emptyAt(dir)
	} else if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		err = nil
	}
	return errors.Join(err, os.Remove(marker))
}

// emptyAt is empty for the directory that fd is open on.
func emptyAt(fd int) error { return empty("/proc/self/fd/" + strconv.Itoa(fd)) }

// empty removes what is in a directory, not the directory.
func empty(dir string) error {
	names, err := readDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, n := range names {
		errs = append(errs, os.RemoveAll(filepath.Join(dir, n)))
	}
	return errors.Join(errs...)
}

func readDir(dir string) ([]string, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	names, err := f.Readdirnames(-1)
	return names, errors.Join(err, f.Close())
}

// readNames lists the directory that fd is open on, in order.
func readNames(fd int) ([]string, error) {
	again, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(again), "directory")
	names, err := f.Readdirnames(-1)
	slices.Sort(names)
	return names, errors.Join(err, f.Close())
}
