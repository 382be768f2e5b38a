package image

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"math"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/cyphar/filepath-securejoin"
	"golang.org/x/sys/unix"

	"wharf/internal/model"
)

const (
	// cachedDirs is how many directories an extractor keeps open.
	cachedDirs = 128
	// earlyWrite is from what size on a file's way to the disk begins at once,
	// so that the sync of the layer finds little left to wait for.
	earlyWrite = 256 << 10
)

// extractor writes the entries of a layer below a directory. It works relative
// to descriptors of the entries' parents, which it opens with
// RESOLVE_IN_ROOT (openat2(2)) and keeps: a file costs six system calls,
// whatever its depth, and no symbolic link of the layer leads out.
type extractor struct {
	root string
	fd   int            // of root
	dirs map[string]int // descriptors by clean relative name
	buf  []byte
	late []lateDir // directories' times, after their entries

	ctx   context.Context // of the one unpacking that this is for
	holes int64           // bytes of sparse files so far
}

type lateDir struct {
	name string
	h    *tar.Header
}

func newExtractor(ctx context.Context, root string) (*extractor, error) {
	fd, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: root, Err: err}
	}
	return &extractor{ctx: ctx, root: root, fd: fd, dirs: map[string]int{}, buf: make([]byte, 256<<10)}, nil
}

func (x *extractor) close() {
	x.forget()
	unix.Close(x.fd)
}

// forget closes the cached directories: something was removed, and a name may
// lead elsewhere now.
func (x *extractor) forget() {
	for name, fd := range x.dirs {
		unix.Close(fd)
		delete(x.dirs, name)
	}
}

// dir is a descriptor of a directory below the root, made if it is missing. It
// stays the extractor's.
func (x *extractor) dir(name string) (int, error) {
	if name == "" || name == "." {
		return x.fd, nil
	}
	if fd, ok := x.dirs[name]; ok {
		return fd, nil
	}
	fd, err := x.open(name)
	if errors.Is(err, unix.ENOENT) {
		fd, err = x.make(name)
	}
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: name, Err: err}
	}
	if len(x.dirs) >= cachedDirs {
		x.forget()
	}
	x.dirs[name] = fd
	return fd, nil
}

func (x *extractor) open(name string) (int, error) {
	for {
		fd, err := unix.Openat2(x.fd, name, &unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS})
		if err != unix.EINTR && err != unix.EAGAIN {
			return fd, err
		}
	}
}

// make makes a directory that an archive passes through without an entry for
// it, perhaps behind a dangling link.
func (x *extractor) make(name string) (int, error) {
	p, err := securejoin.SecureJoin(x.root, name)
	if err != nil {
		return -1, err
	}
	if err := mkdirs(x.root, p); err != nil {
		return -1, err
	}
	return unix.Open(p, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}

// mkdirs makes p, which is below root and free of links, with mode 0755
// whatever the umask.
func mkdirs(root, p string) error {
	if p == root {
		return nil
	}
	if err := mkdirs(root, filepath.Dir(p)); err != nil {
		return err
	}
	if err := unix.Mkdir(p, 0o755); errors.Is(err, unix.EEXIST) {
		return nil
	} else if err != nil {
		return err
	}
	return unix.Chmod(p, 0o755)
}

// entry writes one entry under its clean relative name.
func (x *extractor) entry(name string, h *tar.Header, r io.Reader) error {
	dir, base := path.Split(name)
	at, err := x.dir(path.Clean(dir))
	if err == nil {
		err = x.write(at, name, base, h, r)
	}
	if err != nil && !errdefs.IsInvalidArgument(err) {
		return &os.PathError{Op: "unpack", Path: name, Err: err}
	}
	return err
}

func (x *extractor) write(at int, name, base string, h *tar.Header, r io.Reader) (err error) {
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse, '\x00':
		return x.file(at, base, h, r)
	case tar.TypeDir:
		err = x.mkdir(at, base)
		x.late = append(x.late, lateDir{name, h})
	case tar.TypeSymlink:
		err = x.replace(at, base, func() error { return unix.Symlinkat(h.Linkname, at, base) })
	case tar.TypeLink:
		err = x.link(at, base, h.Linkname)
	case tar.TypeFifo, tar.TypeChar, tar.TypeBlock:
		err = x.node(at, base, h)
	case tar.TypeXGlobalHeader:
		return nil
	default:
		return model.Refuse(errdefs.ErrInvalidArgument, "archive entry %.200q has type %q, which no layer has", name, h.Typeflag)
	}
	if err != nil {
		return err
	}
	return x.info(at, base, h)
}

// replace calls do, again after removing what is in its way.
func (x *extractor) replace(at int, base string, do func() error) error {
	err := do()
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	if err := x.remove(at, base); err != nil {
		return err
	}
	return do()
}

// remove removes a name. Cached directories may have gone with it, but for the
// one that the caller works in.
func (x *extractor) remove(at int, base string) error {
	for name, fd := range x.dirs {
		if fd != at {
			unix.Close(fd)
			delete(x.dirs, name)
		}
	}
	err := unix.Unlinkat(at, base, 0)
	if errors.Is(err, unix.EISDIR) {
		return os.RemoveAll(procPath(at, base))
	}
	return err
}

// procPath names an entry of an open directory for calls that take no
// descriptor.
func procPath(at int, base string) string { return "/proc/self/fd/" + strconv.Itoa(at) + "/" + base }

// mkdir makes a directory; one that is there is taken.
func (x *extractor) mkdir(at int, base string) error {
	return x.replaceUnlessDir(at, base, func() error { return unix.Mkdirat(at, base, 0o755) })
}

func (x *extractor) replaceUnlessDir(at int, base string, do func() error) error {
	err := do()
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(at, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil || st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return err
	}
	if err := x.remove(at, base); err != nil {
		return err
	}
	return do()
}

// link makes a hard link to what an earlier entry made. A link to a symbolic
// link is one to the link itself.
func (x *extractor) link(at int, base, target string) error {
	target = strings.TrimPrefix(path.Clean("/"+target), "/")
	dir, last := path.Split(target)
	from, err := x.open(path.Clean("./" + dir))
	if err != nil {
		return err
	}
	defer unix.Close(from)
	return x.replace(at, base, func() error { return unix.Linkat(from, last, at, base, 0) })
}

func (x *extractor) node(at int, base string, h *tar.Header) error {
	if h.Devmajor < 0 || h.Devmajor > math.MaxUint32 || h.Devminor < 0 || h.Devminor > math.MaxUint32 {
		return model.Refuse(errdefs.ErrInvalidArgument, "device number %d:%d of %.200q is out of range", h.Devmajor, h.Devminor, base)
	}
	kind := map[byte]uint32{tar.TypeFifo: unix.S_IFIFO, tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK}[h.Typeflag]
	dev := unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))
	return x.replace(at, base, func() error { return unix.Mknodat(at, base, kind|uint32(h.Mode&0o777), int(dev)) })
}

// file writes a regular file.
func (x *extractor) file(at int, base string, h *tar.Header, r io.Reader) (err error) {
	fd := -1
	err = x.replace(at, base, func() (err error) {
		fd, err = unix.Openat(at, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		return err
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	copy := x.copy
	if isSparse(h) {
		if x.holes += h.Size; x.holes > maxSparse || x.holes < 0 {
			return model.Refuse(errdefs.ErrInvalidArgument, "sparse files of more than %d bytes in one layer are not unpacked", int64(maxSparse))
		}
		copy = x.sparse
	}
	if err := copy(fd, r); err != nil {
		return err
	}
	if h.Size >= earlyWrite {
		_ = unix.SyncFileRange(fd, 0, 0, unix.SYNC_FILE_RANGE_WRITE) // a hint
	}
	if err := unix.Fchown(fd, h.Uid, h.Gid); err != nil {
		return err
	}
	if err := setXattrs(h, true, func(key string, v []byte) error { return unix.Fsetxattr(fd, key, v, 0) }); err != nil {
		return err
	}
	if err := unix.Fchmod(fd, uint32(h.Mode&0o7777)); err != nil { // after the owner, whose change takes setuid away
		return err
	}
	return unix.UtimesNanoAt(fd, "", times(h), unix.AT_EMPTY_PATH)
}

// copy writes what r has.
func (x *extractor) copy(fd int, r io.Reader) error {
	for {
		n, err := r.Read(x.buf)
		for b := x.buf[:n]; len(b) > 0; {
			m, err := unix.Write(fd, b)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil {
				return err
			}
			b = b[m:]
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// info sets owner, attributes, mode and, but for directories, times of what is
// no regular file.
func (x *extractor) info(at int, base string, h *tar.Header) error {
	if err := unix.Fchownat(at, base, h.Uid, h.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(at, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	kind := st.Mode & unix.S_IFMT // of a hard link it is the other name's
	plain := kind == unix.S_IFREG || kind == unix.S_IFDIR
	if err := setXattrs(h, plain, func(key string, v []byte) error { return unix.Lsetxattr(procPath(at, base), key, v, 0) }); err != nil {
		return err
	}
	if kind != unix.S_IFLNK {
		if err := unix.Fchmodat(at, base, uint32(h.Mode&0o7777), 0); err != nil {
			return err
		}
	}
	if h.Typeflag == tar.TypeDir {
		return nil
	}
	return unix.UtimesNanoAt(at, base, times(h), unix.AT_SYMLINK_NOFOLLOW)
}

// setXattrs sets the attributes that a header carries. What the file system
// has no room for, or what only files and directories can have, is left out.
func setXattrs(h *tar.Header, plain bool, set func(key string, v []byte) error) error {
	for k, v := range h.PAXRecords {
		key, ok := strings.CutPrefix(k, paxXattr)
		if !ok || strings.HasPrefix(key, "trusted.") {
			continue
		}
		err := set(key, []byte(v))
		if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EPERM) && strings.HasPrefix(key, "user.") && !plain {
			continue
		}
		if err != nil {
			return &os.PathError{Op: "setxattr " + key, Path: h.Name, Err: err}
		}
	}
	return nil
}

// times are access and modification time of a header, or 1970 where no file
// can have them.
func times(h *tar.Header) []unix.Timespec {
	m := bounded(h.ModTime)
	a := m
	if h.AccessTime.After(h.ModTime) {
		a = bounded(h.AccessTime)
	}
	return []unix.Timespec{a, m}
}

func bounded(t time.Time) unix.Timespec {
	if t.Before(time.Unix(0, 0)) || t.After(time.Unix(0, math.MaxInt64)) {
		return unix.Timespec{}
	}
	return unix.NsecToTimespec(t.UnixNano())
}

// whiteout makes what overlayfs has for .wh.NAME and for an opaque directory.
// hidden is what the former hides. A name that the same layer also brings is
// that of the new file, in whichever order they come.
func (x *extractor) whiteout(name string) (hidden string, handled bool, err error) {
	dir, base := path.Split(name)
	gone, ok := strings.CutPrefix(base, whiteoutPrefix)
	if !ok {
		return "", false, nil
	}
	if gone == "" || gone == "." || gone == ".." {
		return "", true, model.Refuse(errdefs.ErrInvalidArgument, "whiteout %.200q names nothing", name)
	}
	at, err := x.dir(path.Clean(dir))
	if err != nil {
		return "", true, err
	}
	if base == whiteoutOpaque {
		return "", true, unix.Setxattr(procPath(at, "."), xattrOpaque, []byte{'y'}, 0)
	}
	err = unix.Mknodat(at, gone, unix.S_IFCHR, 0)
	if errors.Is(err, unix.EEXIST) {
		err = nil
	}
	return dir + gone, true, err
}

// opaque hides what layers below have in a directory, if name is one.
func (x *extractor) opaque(name string) error {
	dir, base := path.Split(name)
	at, err := x.dir(path.Clean(dir))
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(at, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil
	}
	return unix.Lsetxattr(procPath(at, base), xattrOpaque, []byte{'y'}, 0)
}

// finish sets the directories' times, which their entries have changed.
func (x *extractor) finish() error {
	for _, d := range x.late {
		fd, err := x.open(d.name)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
			continue // a later entry replaced it
		}
		if err == nil {
			err = unix.UtimesNanoAt(fd, "", times(d.h), unix.AT_EMPTY_PATH)
			unix.Close(fd)
		}
		if err != nil {
			return &os.PathError{Op: "utimensat", Path: d.name, Err: err}
		}
	}
	return nil
}
