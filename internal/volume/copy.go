package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// copier copies a tree on descriptors: content (shared blocks where the file
// system can), holes, hard links, owners, modes, attributes and times.
type copier struct {
	ctx   context.Context
	top   int                  // the tree's destination
	links map[[2]uint64]string // first copy of files with several names, relative to top

	// whole copies every attribute that is not the kernel's own, for a copy
	// that stays on this host; else only what belongs to the content.
	whole bool
	count func(bytes int64) // called for what was copied; may be nil
}

// copyTree copies what is in the directory src, and its attributes, into the
// empty directory dst.
func (c *copier) copyTree(src, dst int) error {
	c.top, c.links = dst, map[[2]uint64]string{}
	if err := c.children(src, dst, ""); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(src, &st); err != nil {
		return err
	}
	return c.attributes(src, dst, &st)
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

// one copies a single name. What is gone by now is left out: the tree may be
// in use.
func (c *copier) one(src, dst int, name, rel string) error {
	in, err := unix.Openat(src, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT {
		return nil
	}
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
		err = c.file(in, dst, name)
	case unix.S_IFLNK:
		return symlink(in, dst, name, &st)
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
	return c.attributes(in, out, &st)
}

func symlink(in, dst int, name string, st *unix.Stat_t) error {
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
	return c.attributes(in, out, st)
}

func procPath(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

// file copies content: shared blocks where the file system can, else the
// stretches that are no holes.
func (c *copier) file(in, dst int, name string) (err error) {
	src, err := unix.Open(procPath(in), unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer unix.Close(src)
	out, err := unix.Openat(dst, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(out)) }()
	var st unix.Stat_t
	if err := unix.Fstat(src, &st); err != nil {
		return err
	}
	if unix.IoctlFileClone(out, src) == nil {
		c.add(st.Size)
		return nil
	}
	for at := int64(0); at < st.Size; {
		data, err := unix.Seek(src, at, unix.SEEK_DATA)
		if err == unix.ENXIO { // only a hole is left
			break
		}
		end := st.Size
		if err != nil { // a file system that knows no holes
			data = at
		} else if hole, err := unix.Seek(src, data, unix.SEEK_HOLE); err == nil {
			end = min(hole, st.Size)
		}
		if err := c.stretch(src, out, data, end); err != nil {
			return err
		}
		at = end
	}
	return unix.Ftruncate(out, st.Size)
}

// chunk is how much is copied between two looks at the context.
const chunk = 16 << 20

// stretch copies the bytes from at to end.
func (c *copier) stretch(src, out int, at, end int64) error {
	inKernel := true
	var buf []byte
	for at < end {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		var n int
		var err error
		if inKernel {
			from, to := at, at
			n, err = unix.CopyFileRange(src, &from, out, &to, int(min(end-at, chunk)), 0)
			if err == unix.EXDEV || err == unix.EINVAL || err == unix.ENOSYS || err == unix.EOPNOTSUPP || err == nil && n == 0 {
				inKernel = false // other file systems; or one that lies about its sizes
				buf = make([]byte, 256<<10)
				continue
			}
		} else {
			n, err = unix.Pread(src, buf[:min(end-at, int64(len(buf)))], at)
			if err == nil && n == 0 {
				return nil // it shrank meanwhile
			}
			if err == nil {
				err = writeAll(out, buf[:n], at)
			}
		}
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		at += int64(n)
		c.add(int64(n))
	}
	return nil
}

func writeAll(fd int, b []byte, at int64) error {
	for len(b) > 0 {
		n, err := unix.Pwrite(fd, b, at)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		b, at = b[n:], at+int64(n)
	}
	return nil
}

func (c *copier) add(n int64) {
	if c.count != nil {
		c.count(n)
	}
}

// attributes gives the copy the original's owner, mode, extended attributes
// and times, in an order in which none undoes another.
func (c *copier) attributes(in, out int, st *unix.Stat_t) error {
	p := procPath(out)
	if err := unix.Chown(p, int(st.Uid), int(st.Gid)); err != nil {
		return fmt.Errorf("chown: %w", err)
	}
	if err := unix.Chmod(p, st.Mode&0o7777); err != nil {
		return fmt.Errorf("chmod: %w", err)
	}
	if err := copyXattrs(procPath(in), p, c.whole); err != nil {
		return err
	}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{st.Atim, st.Mtim}, 0); err != nil {
		return fmt.Errorf("set time: %w", err)
	}
	return nil
}

// copyXattrs copies what belongs to the content, or with whole also access
// lists and trusted attributes; the rest is the kernel's own.
func copyXattrs(from, to string, whole bool) error {
	size, err := unix.Listxattr(from, nil)
	if err != nil || size == 0 {
		if errors.Is(err, unix.ENOTSUP) {
			err = nil
		}
		return err
	}
	list := make([]byte, size+1024)
	if size, err = unix.Listxattr(from, list); err != nil {
		return err
	}
	for _, name := range strings.Split(string(list[:size]), "\x00") {
		if !carried(name, whole) {
			continue
		}
		val := make([]byte, math.MaxUint16+1) // XATTR_SIZE_MAX
		n, err := unix.Getxattr(from, name, val)
		if errors.Is(err, unix.ENODATA) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read attribute %s: %w", name, err)
		}
		if err := unix.Setxattr(to, name, val[:n], 0); err != nil && !(errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.ENOTSUP)) {
			return fmt.Errorf("set attribute %s: %w", name, err)
		}
	}
	return nil
}

func carried(name string, whole bool) bool {
	if name == "security.capability" || strings.HasPrefix(name, "user.") {
		return true
	}
	return whole && (strings.HasPrefix(name, "system.posix_acl_") || strings.HasPrefix(name, "trusted.") && !strings.HasPrefix(name, "trusted.overlay."))
}
