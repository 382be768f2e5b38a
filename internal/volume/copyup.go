package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

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
	src, err := openIn(root, m.Destination)
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
	c := &copier{ctx: ctx, links: map[[2]uint64]string{}, top: dst}
	if err := c.children(src, dst, ""); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(src, &st); err != nil {
		return err
	}
	if err := attributes(src, dst, &st); err != nil {
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

// openIn opens a directory inside root; no symlink leads out.
func openIn(root, p string) (int, error) {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: root, Err: err}
	}
	defer unix.Close(dir)
	return unix.Openat2(dir, "./"+strings.TrimLeft(p, "/"), &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
}

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

// copier copies a tree on descriptors.
type copier struct {
	ctx   context.Context
	top   int                  // the tree's destination
	links map[[2]uint64]string // first copy of files with several names, relative to top
}

func (c *copier) children(src, dst int, rel string) error {
	names, err := readNames(src)
	if err != nil {
		return fmt.Errorf("read %s: %w", rel, err)
	}
	for _, n := range names {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		if err := c.one(src, dst, n, filepath.Join(rel, n)); err != nil {
			return fmt.Errorf("%s: %w", filepath.Join(rel, n), err)
		}
	}
	return nil
}

// one copies a single name.
func (c *copier) one(src, dst int, name, rel string) error {
	in, err := unix.Openat(src, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(in)
	var st unix.Stat_t
	if err := unix.Fstat(in, &st); err != nil {
		return err
	}
	typ := st.Mode & unix.S_IFMT
	if typ != unix.S_IFDIR && st.Nlink > 1 {
		k := [2]uint64{uint64(st.Dev), st.Ino}
		if first, ok := c.links[k]; ok {
			return unix.Linkat(c.top, first, dst, name, 0)
		}
		c.links[k] = rel
	}
	switch typ {
	case unix.S_IFDIR:
		return c.dir(in, dst, name, rel, &st)
	case unix.S_IFREG:
		err = copyFile(in, dst, name)
	case unix.S_IFLNK:
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(in, "", buf)
		if err != nil {
			return err
		}
		if err := unix.Symlinkat(string(buf[:n]), dst, name); err != nil {
			return err
		}
		return errors.Join(unix.Fchownat(dst, name, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW),
			unix.UtimesNanoAt(dst, name, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW))
	case unix.S_IFSOCK:
		return nil // a socket means nothing without who listens
	default:
		err = unix.Mknodat(dst, name, st.Mode, int(st.Rdev))
	}
	if err != nil {
		return err
	}
	out, err := unix.Openat(dst, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(out)
	return attributes(in, out, &st)
}

func (c *copier) dir(in, dst int, name, rel string, st *unix.Stat_t) error {
	if err := unix.Mkdirat(dst, name, 0o700); err != nil {
		return err
	}
	out, err := unix.Openat(dst, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(out)
	if err := c.children(in, out, rel); err != nil {
		return err
	}
	return attributes(in, out, st)
}

func procPath(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

// copyFile copies content: shared blocks where the file system can, else in
// the kernel.
func copyFile(in, dst int, name string) error {
	src, err := os.Open(procPath(in))
	if err != nil {
		return err
	}
	defer src.Close()
	fd, err := unix.Openat(dst, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	out := os.NewFile(uintptr(fd), name)
	if unix.IoctlFileClone(fd, int(src.Fd())) == nil {
		return out.Close()
	}
	_, err = out.ReadFrom(src) // copy_file_range(2), or read and write
	return errors.Join(err, out.Close())
}

// attributes gives the copy the original's owner, mode, extended attributes
// and times, in an order in which none undoes another.
func attributes(in, out int, st *unix.Stat_t) error {
	p := procPath(out)
	if err := unix.Chown(p, int(st.Uid), int(st.Gid)); err != nil {
		return fmt.Errorf("chown: %w", err)
	}
	if err := unix.Chmod(p, st.Mode&0o7777); err != nil {
		return fmt.Errorf("chmod: %w", err)
	}
	if err := copyXattrs(procPath(in), p); err != nil {
		return err
	}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{st.Atim, st.Mtim}, 0); err != nil {
		return fmt.Errorf("set time: %w", err)
	}
	return nil
}

// copyXattrs copies what belongs to the content; the rest is the file
// system's own.
func copyXattrs(from, to string) error {
	size, err := unix.Listxattr(from, nil)
	if err != nil || size == 0 {
		if errors.Is(err, unix.ENOTSUP) {
			err = nil
		}
		return err
	}
	list := make([]byte, size)
	if size, err = unix.Listxattr(from, list); err != nil {
		return err
	}
	for _, name := range strings.Split(string(list[:size]), "\x00") {
		if name != "security.capability" && !strings.HasPrefix(name, "user.") {
			continue
		}
		val := make([]byte, 65536)
		n, err := unix.Getxattr(from, name, val)
		if err != nil {
			return fmt.Errorf("read attribute %s: %w", name, err)
		}
		if err := unix.Setxattr(to, name, val[:n], 0); err != nil && !(errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.ENOTSUP)) {
			return fmt.Errorf("set attribute %s: %w", name, err)
		}
	}
	return nil
}
