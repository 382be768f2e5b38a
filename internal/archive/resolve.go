package archive

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"wharf/internal/model"
)

// tree is an open root.
type tree struct {
	fd   int
	ids  model.IDRange
	mnt  uint64 // mount that the root is on
	name string // of the root itself
}

func openTree(r model.Root) (*tree, error) {
	fd, err := unix.Open(r.Dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open root: %w", &os.PathError{Op: "open", Path: r.Dir, Err: err})
	}
	t := &tree{fd: fd, ids: r.IDs, name: cmp.Or(r.Name, "/")}
	if t.mnt, err = mountID(fd); err != nil {
		return nil, errors.Join(fmt.Errorf("open root %s: %w", r.Dir, err), unix.Close(fd))
	}
	return t, nil
}

func (t *tree) close() { _ = unix.Close(t.fd) }

// at opens name inside the root; no name leads out of it.
func (t *tree) at(name string, flags int) (int, error) {
	how := &unix.OpenHow{
		Flags:   uint64(flags | unix.O_CLOEXEC),
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	}
	if name = strings.TrimLeft(name, "/"); name == "" {
		name = "."
	}
	for {
		fd, err := unix.Openat2(t.fd, name, how)
		// EAGAIN: something was renamed while the kernel looked at "..".
		if err != unix.EINTR && err != unix.EAGAIN {
			return fd, err
		}
	}
}

// place is a name that was resolved up to its last component.
type place struct {
	parent int    // O_PATH descriptor of the directory
	base   string // the last component, or "." for the directory itself
	name   string // as Docker names it: the last component of what was asked for
}

func (p place) close() { _ = unix.Close(p.parent) }

// find resolves a path as `docker cp` understands it: symlinks are followed
// up to the last component, and there too when the path ends with a slash or
// a dot.
func (t *tree) find(p string) (place, error) {
	clean := path.Clean("/" + p)
	dir, base := path.Split(clean)
	follow := clean == "/" || strings.HasSuffix(p, "/") || strings.HasSuffix(p, "/.") || p == "."
	name := base
	switch {
	case strings.HasSuffix("/"+strings.TrimRight(p, "/"), "/."): // also "./"
		name = "."
	case clean == "/":
		name = t.name
	}
	if follow {
		dir, base = clean, "."
	}
	fd, err := t.at(dir, unix.O_PATH|unix.O_DIRECTORY)
	if errors.Is(err, unix.ENOTDIR) && follow && t.isThere(clean) {
		return place{}, model.Refuse(errdefs.ErrInvalidArgument, "%s: not a directory", p)
	}
	if err != nil {
		return place{}, notThere(p, err)
	}
	return place{parent: fd, base: base, name: name}, nil
}

// isThere reports whether anything at all has this clean path.
func (t *tree) isThere(clean string) bool {
	fd, err := t.at(clean, unix.O_PATH)
	if err != nil {
		return false
	}
	_ = unix.Close(fd)
	return true
}

// open opens the place itself, not following a symlink. The descriptor is for
// looking (O_PATH); reading goes through reopen.
func (p place) open() (int, error) { return openHere(p.parent, p.base) }

func openHere(dir int, base string) (int, error) {
	return unix.Openat(dir, base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}

// reopen opens what an O_PATH descriptor stands for, and nothing else.
func reopen(fd, flags int) (int, error) {
	return unix.Open(procPath(fd), flags|unix.O_CLOEXEC, 0)
}

func procPath(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

// notThere is Docker's answer for a path that does not lead anywhere.
func notThere(p string, err error) error {
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return model.Refuse(errdefs.ErrNotFound, "Could not find the file %s in container", p) //nolint:staticcheck // Docker's text
	case errors.Is(err, unix.ELOOP):
		return model.Refuse(errdefs.ErrInvalidArgument, "%s: too many symbolic links", p)
	case errors.Is(err, unix.ENAMETOOLONG):
		return model.Refuse(errdefs.ErrInvalidArgument, "a name of %d bytes is too long", len(p))
	case errors.Is(err, unix.EINVAL) && strings.ContainsRune(p, 0):
		return model.Refuse(errdefs.ErrInvalidArgument, "%q holds a zero byte", p)
	case errors.Is(err, unix.EROFS):
		return model.Refuse(errdefs.ErrPermissionDenied, "%s: container rootfs is marked read-only, or the mount there is", p)
	}
	return &fs.PathError{Op: "archive", Path: p, Err: err}
}

// mountID tells mounts apart (statx(2), STATX_MNT_ID); kernels before 5.8
// have the device instead, which is nearly as good.
func mountID(fd int) (uint64, error) {
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &st); err != nil {
		return 0, err
	}
	if st.Mask&unix.STATX_MNT_ID != 0 {
		return st.Mnt_id, nil
	}
	return unix.Mkdev(st.Dev_major, st.Dev_minor), nil
}

// kernelFS reports whether a directory belongs to the kernel rather than to
// the container.
func kernelFS(fd int) bool {
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		return false
	}
	switch uint32(st.Type) {
	case unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.CGROUP_SUPER_MAGIC, unix.CGROUP2_SUPER_MAGIC,
		unix.DEVPTS_SUPER_MAGIC, unix.DEBUGFS_MAGIC, unix.TRACEFS_MAGIC, unix.SECURITYFS_MAGIC,
		unix.BPF_FS_MAGIC, unix.PSTOREFS_MAGIC, unix.EFIVARFS_MAGIC, unix.SELINUX_MAGIC,
		unix.BINFMTFS_MAGIC, unix.NSFS_MAGIC, unix.HUGETLBFS_MAGIC, mqueueMagic, configfsMagic:
		return true
	}
	return false
}

const (
	mqueueMagic   = 0x19800202
	configfsMagic = 0x62656570
)
