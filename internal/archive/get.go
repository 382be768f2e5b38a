package archive

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"

	"wharf/internal/model"
)

// Get streams a file or a directory and everything below it, under the last
// component of path as Docker names it. The caller closes the reader.
func (*Archive) Get(ctx context.Context, root model.Root, p string) (io.ReadCloser, container.PathStat, error) {
	t, err := openTree(root)
	if err != nil {
		return nil, container.PathStat{}, err
	}
	pl, err := t.find(p)
	if err != nil {
		t.close()
		return nil, container.PathStat{}, err
	}
	fd, st, err := pl.stat()
	if err != nil {
		pl.close()
		t.close()
		return nil, container.PathStat{}, notThere(p, err)
	}
	info := t.pathStat(pl, st, p)
	w := newWalk(ctx, t, false)
	return stream(ctx, func(out io.Writer) error {
		defer t.close()
		defer pl.close()
		defer unix.Close(fd)
		w.tar = tar.NewWriter(out)
		if err := w.entry(fd, pl.name, path.Clean("/"+p)); err != nil {
			return err
		}
		return w.tar.Close()
	}), info, nil
}

// Export streams the whole root without what is mounted in it.
func (*Archive) Export(ctx context.Context, root model.Root) (io.ReadCloser, error) {
	t, err := openTree(root)
	if err != nil {
		return nil, err
	}
	w := newWalk(ctx, t, true)
	return stream(ctx, func(out io.Writer) error {
		defer t.close()
		w.tar = tar.NewWriter(out)
		if err := w.children(t.fd, "", "/"); err != nil {
			return err
		}
		return w.tar.Close()
	}), nil
}

// reader is the near end of a stream.
type reader struct {
	*io.PipeReader
	stop func() bool
	wg   sync.WaitGroup
}

// stream runs write in a goroutine and hands out what it writes.
func stream(ctx context.Context, write func(io.Writer) error) io.ReadCloser {
	pr, pw := io.Pipe()
	r := &reader{PipeReader: pr}
	r.stop = context.AfterFunc(ctx, func() { _ = pw.CloseWithError(context.Cause(ctx)) })
	r.wg.Go(func() { _ = pw.CloseWithError(write(pw)) })
	return r
}

// Close ends the copying and waits until nothing is open any more.
func (r *reader) Close() error {
	r.stop()
	err := r.PipeReader.Close()
	r.wg.Wait()
	return err
}

// walk writes a tree as tar.
type walk struct {
	ctx    context.Context
	tree   *tree
	oneFS  bool // leave out what is mounted
	tar    *tar.Writer
	raw    io.Writer        // behind tar: files may be written without their holes; or nil
	links  map[inode]string // first name of files with several
	buf    []byte
	parent uint64 // mount that the directory being read is on
}

type inode struct{ dev, ino uint64 }

func newWalk(ctx context.Context, t *tree, oneFS bool) *walk {
	return &walk{ctx: ctx, tree: t, oneFS: oneFS, links: map[inode]string{}, buf: make([]byte, 128<<10), parent: t.mnt}
}

// entry writes what fd (O_PATH) stands for under name, and what is below it.
// inside is its path in the container.
func (w *walk) entry(fd int, name, inside string) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return w.wrap(inside, err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFSOCK {
		return nil // tar has no sockets
	}
	h, err := w.header(fd, &st, name)
	if err != nil {
		return w.wrap(inside, err)
	}
	mounted, skip, err := w.boundary(fd, &st, inside)
	if err != nil {
		return w.wrap(inside, err)
	}
	switch {
	case h.Typeflag == tar.TypeReg && skip:
		h.Size = 0 // a file that something is mounted on: only the mount point is ours
	case h.Typeflag == tar.TypeReg && st.Nlink > 1:
		id := inode{st.Dev, st.Ino}
		if first, ok := w.links[id]; ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
		} else {
			w.links[id] = h.Name
		}
	}
	if h.Typeflag == tar.TypeReg && h.Size > 0 {
		return w.file(fd, h, inside)
	}
	if err := w.tar.WriteHeader(h); err != nil {
		return w.wrap(inside, err)
	}
	if h.Typeflag != tar.TypeDir || skip {
		return nil
	}
	above := w.parent
	w.parent = mounted
	defer func() { w.parent = above }()
	return w.children(fd, strings.TrimSuffix(name, "/")+"/", inside)
}

// boundary says on which mount fd is and whether its content is left out: the
// kernel's file systems, /dev, and for an export every mount.
func (w *walk) boundary(fd int, st *unix.Stat_t, inside string) (mount uint64, skip bool, err error) {
	mount = w.parent
	typ := st.Mode & unix.S_IFMT
	if typ != unix.S_IFDIR && !(w.oneFS && typ == unix.S_IFREG) {
		return mount, false, nil
	}
	if mount, err = mountID(fd); err != nil || mount == w.parent {
		return mount, false, err
	}
	if w.oneFS {
		return mount, true, nil
	}
	return mount, inside == "/dev" || typ == unix.S_IFDIR && kernelFS(fd), nil
}

// children writes the entries of a directory in the order of their names.
func (w *walk) children(dir int, prefix, inside string) error {
	fd, err := unix.Openat(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return w.wrap(inside, err)
	}
	f := os.NewFile(uintptr(fd), inside)
	names, err := f.Readdirnames(-1)
	_ = f.Close()
	if err != nil {
		return w.wrap(inside, err)
	}
	slices.Sort(names)
	for _, n := range names {
		child, err := openHere(dir, n)
		if errors.Is(err, unix.ENOENT) {
			continue // gone meanwhile
		}
		if err != nil {
			return w.wrap(path.Join(inside, n), err)
		}
		err = w.entry(child, prefix+n, path.Join(inside, n))
		_ = unix.Close(child)
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *walk) wrap(p string, err error) error {
	if err == nil || errors.Is(err, io.ErrClosedPipe) {
		return err
	}
	return fmt.Errorf("archive %s: %w", p, err)
}

// header describes fd's inode.
func (w *walk) header(fd int, st *unix.Stat_t, name string) (*tar.Header, error) {
	h := &tar.Header{
		Name: name, Mode: int64(st.Mode & 0o7777), Format: tar.FormatPAX,
		Uid: out(w.tree.ids, st.Uid), Gid: out(w.tree.ids, st.Gid), ModTime: time.Unix(st.Mtim.Unix()),
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		h.Typeflag, h.Size = tar.TypeReg, st.Size
	case unix.S_IFDIR:
		h.Typeflag, h.Name = tar.TypeDir, strings.TrimSuffix(name, "/")+"/"
	case unix.S_IFLNK:
		target, err := readlinkFD(fd)
		if err != nil {
			return nil, err
		}
		h.Typeflag, h.Linkname = tar.TypeSymlink, target
		return h, nil
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	case unix.S_IFCHR, unix.S_IFBLK:
		h.Typeflag = tar.TypeChar
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			h.Typeflag = tar.TypeBlock
		}
		h.Devmajor, h.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	}
	return h, w.xattrs(fd, h)
}

// file writes a regular file: exactly as many bytes as its header says, also
// when it grows or shrinks meanwhile.
func (w *walk) file(fd int, h *tar.Header, inside string) error {
	r, err := reopen(fd, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return w.wrap(inside, err)
	}
	f := os.NewFile(uintptr(r), inside)
	defer f.Close()
	if w.raw != nil {
		var st unix.Stat_t
		if err := unix.Fstat(r, &st); err != nil {
			return w.wrap(inside, err)
		}
		if all := extents(r, &st); all != nil && st.Size == h.Size {
			return w.sparse(r, h, all, inside)
		}
	}
	if err := w.tar.WriteHeader(h); err != nil {
		return w.wrap(inside, err)
	}
	left := h.Size
	for left > 0 {
		if err := w.ctx.Err(); err != nil {
			return err
		}
		n, err := f.Read(w.buf[:min(left, int64(len(w.buf)))])
		if err == io.EOF { // it shrank: tar(1) fills up with zeros too
			n = int(min(left, int64(len(w.buf))))
			clear(w.buf[:n])
		} else if err != nil {
			return w.wrap(inside, err)
		}
		if _, err := w.tar.Write(w.buf[:n]); err != nil {
			return w.wrap(inside, err)
		}
		left -= int64(n)
	}
	return nil
}
