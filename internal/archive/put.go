package archive

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/zstd"
	"github.com/xi2/xz"
	"golang.org/x/sys/unix"

	"wharf/internal/model"
)

// Put unpacks a tar (plain, gzip, bzip2, xz or zstd) into the directory path. It
// stops at the first entry that cannot be made; those before it stay, as with
// tar(1).
func (*Archive) Put(ctx context.Context, root model.Root, p string, o model.PutOptions, in io.Reader) (err error) {
	t, err := openTree(root)
	if err != nil {
		return err
	}
	defer t.close()
	if err := t.directory(p); err != nil {
		return err
	}
	plain, err := decompress(in)
	if err != nil {
		return err
	}
	defer plain.Close()
	u := &unpack{ctx: ctx, tree: t, dest: path.Clean("/" + p), opts: o, parent: -1, buf: make([]byte, 128<<10)}
	if o.CopyUIDGID && o.User != "" {
		if u.uid, u.gid, err = t.user(o.User); err != nil {
			return err
		}
		u.owned = true
	}
	return asOwner(t.ids, func() error {
		defer u.leave()
		return errors.Join(u.all(tar.NewReader(plain)), u.dirTimes(), u.topTime())
	})
}

// directory makes sure that p is a directory to unpack into.
func (t *tree) directory(p string) error {
	fd, err := t.at(path.Clean("/"+p), unix.O_PATH)
	if err != nil {
		return notThere(p, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return notThere(p, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return model.Refuse(errdefs.ErrInvalidArgument, "extraction point is not a directory: %s", p)
	}
	return nil
}

// decompress looks at the first bytes.
func decompress(in io.Reader) (io.ReadCloser, error) {
	b := bufio.NewReaderSize(in, 64<<10)
	head, err := b.Peek(6)
	if err != nil && err != io.EOF {
		return nil, fmt.Errorf("read the archive: %w", err)
	}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(b)
		if err != nil {
			return nil, model.Refuse(errdefs.ErrInvalidArgument, "gzip: %w", err)
		}
		return z, nil
	case bytes.HasPrefix(head, []byte("BZh")):
		return io.NopCloser(bzip2.NewReader(b)), nil
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(b, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(256<<20))
		if err != nil {
			return nil, model.Refuse(errdefs.ErrInvalidArgument, "zstd: %w", err)
		}
		return z.IOReadCloser(), nil
	case bytes.HasPrefix(head, []byte("\xfd7zXZ\x00")):
		z, err := xz.NewReader(b, 64<<20) // what xz -9 asks for
		if err != nil {
			return nil, model.Refuse(errdefs.ErrInvalidArgument, "%w", err)
		}
		return io.NopCloser(z), nil
	}
	return io.NopCloser(b), nil
}

// unpack is one Put.
type unpack struct {
	ctx  context.Context
	tree *tree
	dest string
	opts model.PutOptions

	owned    bool // everything belongs to uid and gid
	uid, gid int

	parent     int // descriptor of parentName, kept for the next entry; -1: none
	parentName string
	dirs       []dirTime
	topAt      time.Time // the destination's own, with opts.Top
	buf        []byte
}

// dirTime is a directory whose time is set when nothing more comes into it.
type dirTime struct {
	name string
	at   time.Time
}

func (u *unpack) all(r *tar.Reader) error {
	for {
		if err := u.ctx.Err(); err != nil {
			return err
		}
		h, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return broken(err)
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		if err := u.entry(h, r); err != nil {
			return fmt.Errorf("unpack %q: %w", shorten(h.Name), err)
		}
	}
}

// broken explains why a tar cannot be read.
func broken(err error) error {
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return model.Refuse(errdefs.ErrInvalidArgument, "the archive ends in the middle: %w", err)
	case errors.Is(err, tar.ErrHeader), errors.Is(err, tar.ErrFieldTooLong):
		return model.Refuse(errdefs.ErrInvalidArgument, "this is not a valid tar archive: %w", err)
	case errors.Is(err, xz.ErrData), errors.Is(err, xz.ErrBuf), errors.Is(err, xz.ErrOptions), errors.Is(err, xz.ErrMemlimit), errors.Is(err, xz.ErrUnsupportedCheck):
		return model.Refuse(errdefs.ErrInvalidArgument, "read the archive: %w", err)
	}
	return fmt.Errorf("read the archive: %w", err)
}

func shorten(name string) string {
	if len(name) > 200 {
		return name[:200] + "..."
	}
	return name
}

// contained makes a name of a tar relative to the directory that is unpacked
// into. Leading slashes do not count; a name that climbs out is refused.
func contained(name string) (string, error) {
	if strings.ContainsRune(name, 0) {
		return "", model.Refuse(errdefs.ErrInvalidArgument, "the name holds a zero byte")
	}
	clean := path.Clean(strings.TrimLeft(name, "/"))
	if clean == ".." || strings.HasPrefix(clean, "../") {
		return "", model.Refuse(errdefs.ErrInvalidArgument, "the name %q leads out of the destination", shorten(name))
	}
	return clean, nil
}

// entry makes one file.
func (u *unpack) entry(h *tar.Header, r io.Reader) error {
	name, err := contained(h.Name)
	if err != nil {
		return err
	}
	if name == "." {
		return u.top(h) // the destination itself stays as it is
	}
	full := path.Join(u.dest, name)
	if err := u.enter(path.Dir(full)); err != nil {
		return err
	}
	base := path.Base(full)
	if err := u.makeRoom(base, h); err != nil {
		return err
	}
	if err := u.create(base, full, h, r); err != nil {
		return err
	}
	if h.Typeflag == tar.TypeLink {
		return nil // it shares the first name's attributes
	}
	if h.Typeflag == tar.TypeDir {
		u.dirs = append(u.dirs, dirTime{full, h.ModTime})
	}
	return u.attributes(base, h)
}

// enter opens the directory that an entry goes into and makes it if the tar
// did not say so before.
func (u *unpack) enter(dir string) error {
	if u.parent >= 0 && u.parentName == dir {
		return nil
	}
	u.leave()
	fd, err := u.tree.at(dir, unix.O_PATH|unix.O_DIRECTORY)
	if err == unix.ENOENT {
		fd, err = u.mkdirs(dir)
	}
	if err != nil {
		return notThere(dir, err)
	}
	if kernelFS(fd) {
		_ = unix.Close(fd)
		return model.Refuse(errdefs.ErrPermissionDenied, "%s is on a file system of the kernel", dir)
	}
	u.parent, u.parentName = fd, dir
	return nil
}

func (u *unpack) leave() {
	if u.parent >= 0 {
		_ = unix.Close(u.parent)
		u.parent = -1
	}
}

// mkdirs makes the missing parts of a path, for the container's root.
func (u *unpack) mkdirs(dir string) (int, error) {
	at := "/"
	for _, c := range strings.Split(strings.Trim(dir, "/"), "/") {
		next := path.Join(at, c)
		fd, err := u.tree.at(next, unix.O_PATH|unix.O_DIRECTORY)
		if err == unix.ENOENT {
			err = u.mkdir(at, c)
		} else if err == nil {
			err = unix.Close(fd)
		}
		if err != nil {
			return -1, err
		}
		at = next
	}
	return u.tree.at(dir, unix.O_PATH|unix.O_DIRECTORY)
}

func (u *unpack) mkdir(dir, base string) error {
	fd, err := u.tree.at(dir, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if kernelFS(fd) {
		return unix.EPERM
	}
	if err := unix.Mkdirat(fd, base, 0o755); err != nil {
		return err
	}
	root := int(in(u.tree.ids, 0))
	if u.owned {
		return unix.Fchownat(fd, base, int(in(u.tree.ids, u.uid)), int(in(u.tree.ids, u.gid)), unix.AT_SYMLINK_NOFOLLOW)
	}
	return unix.Fchownat(fd, base, root, root, unix.AT_SYMLINK_NOFOLLOW)
}

// makeRoom removes what is in the way of an entry. A directory stays for a
// directory.
func (u *unpack) makeRoom(base string, h *tar.Header) error {
	var st unix.Stat_t
	err := unix.Fstatat(u.parent, base, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return notThere(base, err)
	}
	isDir, toDir := st.Mode&unix.S_IFMT == unix.S_IFDIR, h.Typeflag == tar.TypeDir
	if u.opts.NoOverwriteDirNonDir && isDir && !toDir {
		return model.Refuse(errdefs.ErrInvalidArgument, "cannot overwrite directory %q with non-directory %q", path.Join(u.parentName, base), u.dest)
	}
	if u.opts.NoOverwriteDirNonDir && !isDir && toDir {
		return model.Refuse(errdefs.ErrInvalidArgument, "cannot overwrite non-directory %q with directory %q", path.Join(u.parentName, base), u.dest)
	}
	if isDir && toDir {
		return nil
	}
	err = removeAll(u.ctx, u.parent, base)
	if errors.Is(err, unix.EBUSY) && st.Mode&unix.S_IFMT == unix.S_IFREG && isRegular(h) {
		return nil // something is mounted on it (/etc/hosts): write into it
	}
	if err != nil {
		return notThere(path.Join(u.parentName, base), err)
	}
	return nil
}

func isRegular(h *tar.Header) bool {
	return h.Typeflag == tar.TypeReg || h.Typeflag == tar.TypeGNUSparse
}

// create makes the inode and its content.
func (u *unpack) create(base, full string, h *tar.Header, r io.Reader) error {
	var err error
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse:
		return u.file(base, h, r)
	case tar.TypeDir:
		if err = unix.Mkdirat(u.parent, base, 0o700); err == unix.EEXIST {
			err = nil
		}
	case tar.TypeSymlink:
		err = unix.Symlinkat(h.Linkname, u.parent, base)
	case tar.TypeLink:
		return u.link(base, h)
	case tar.TypeFifo:
		err = unix.Mknodat(u.parent, base, unix.S_IFIFO|0o600, 0)
	case tar.TypeChar, tar.TypeBlock:
		if u.opts.NoDevices || u.tree.ids.Mapped() {
			return model.Refuse(errdefs.ErrPermissionDenied, "a container with a user namespace of its own cannot be given device nodes by copying; use --device")
		}
		mode := uint32(unix.S_IFCHR)
		if h.Typeflag == tar.TypeBlock {
			mode = unix.S_IFBLK
		}
		err = unix.Mknodat(u.parent, base, mode|0o600, int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))))
	default:
		return model.Refuse(errdefs.ErrNotImplemented, "tar entry type %q is not supported", h.Typeflag)
	}
	if err != nil {
		return notThere(full, err)
	}
	return nil
}

// link makes a hard link to a name of the same archive.
func (u *unpack) link(base string, h *tar.Header) error {
	target, err := contained(h.Linkname)
	if err != nil {
		return fmt.Errorf("hard link: %w", err)
	}
	full := path.Join(u.dest, target)
	dir, err := u.tree.at(path.Dir(full), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return notThere(full, err)
	}
	defer unix.Close(dir)
	if err := unix.Linkat(dir, path.Base(full), u.parent, base, 0); err != nil {
		return notThere(full, err)
	}
	return nil
}

// file writes a regular file; stretches of zeros become holes.
func (u *unpack) file(base string, h *tar.Header, r io.Reader) (err error) {
	if h.Size > maxSparse && isSparse(h) {
		return model.Refuse(errdefs.ErrInvalidArgument, "a sparse file of %d bytes: more than %d are not unpacked", h.Size, int64(maxSparse))
	}
	flags := unix.O_WRONLY | unix.O_NOFOLLOW | unix.O_CLOEXEC | unix.O_NONBLOCK
	fd, err := unix.Openat(u.parent, base, flags|unix.O_CREAT|unix.O_EXCL, 0o600)
	if err == unix.EEXIST { // makeRoom left a mount point
		fd, err = unix.Openat(u.parent, base, flags|unix.O_TRUNC, 0)
	}
	if err != nil {
		return notThere(base, err)
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	left, at, hole := h.Size, int64(0), false
	for left > 0 {
		if err := u.ctx.Err(); err != nil {
			return err
		}
		n, err := io.ReadFull(r, u.buf[:min(left, int64(len(u.buf)))])
		if err != nil {
			return broken(cutOff(err))
		}
		if hole = allZero(u.buf[:n]); !hole {
			if err := writeAt(fd, u.buf[:n], at); err != nil {
				return fmt.Errorf("write: %w", err)
			}
		}
		at += int64(n)
		left -= int64(n)
	}
	if hole {
		return unix.Ftruncate(fd, at)
	}
	return nil
}

// maxSparse bounds the files whose holes the tar does not carry: a kilobyte
// could otherwise keep the daemon busy for ever with zeros.
const maxSparse = 1 << 40

// isSparse reports whether a header is one of GNU tar's for sparse files, old
// or PAX.
func isSparse(h *tar.Header) bool {
	for k := range h.PAXRecords {
		if strings.HasPrefix(k, "GNU.sparse.") {
			return true
		}
	}
	return h.Typeflag == tar.TypeGNUSparse
}

func cutOff(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

func writeAt(fd int, b []byte, at int64) error {
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

func allZero(b []byte) bool {
	return len(b) >= 4096 && b[0] == 0 && bytes.Equal(b[1:], b[:len(b)-1])
}
