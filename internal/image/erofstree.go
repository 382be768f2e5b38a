package image

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	erofs "github.com/erofs/go-erofs"
	"golang.org/x/sys/unix"
)

// writeErofs writes the tree below dir as one EROFS file system.
func writeErofs(ctx context.Context, out *os.File, dir string) error {
	w := erofs.Create(out, erofs.WithTempDir(filepath.Dir(out.Name())))
	if err := w.CopyFrom(&tree{ctx: ctx, dir: dir}); err != nil {
		return errors.Join(err, w.Close())
	}
	return w.Close()
}

// tree shows a directory with owners, devices and extended attributes as
// go-erofs reads them.
type tree struct {
	ctx context.Context
	dir string
}

func (t *tree) path(name string) string { return filepath.Join(t.dir, name) }

// Open implements fs.FS.
func (t *tree) Open(name string) (fs.File, error) {
	return os.OpenFile(t.path(name), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NOATIME, 0)
}

// Stat implements fs.StatFS: the walk begins with it.
func (t *tree) Stat(name string) (fs.FileInfo, error) {
	fi, err := os.Lstat(t.path(name))
	if err != nil {
		return nil, err
	}
	return t.info(name, fi)
}

// ReadDir implements fs.ReadDirFS.
func (t *tree) ReadDir(name string) ([]fs.DirEntry, error) {
	if err := t.ctx.Err(); err != nil {
		return nil, err
	}
	es, err := os.ReadDir(t.path(name))
	for i, e := range es {
		es[i] = treeEntry{DirEntry: e, t: t, name: filepath.Join(name, e.Name())}
	}
	return es, err
}

// ReadLink gives symbolic links their targets.
func (t *tree) ReadLink(name string) (string, error) { return os.Readlink(t.path(name)) }

type treeEntry struct {
	fs.DirEntry
	t    *tree
	name string
}

func (e treeEntry) Info() (fs.FileInfo, error) {
	fi, err := e.DirEntry.Info()
	if err != nil {
		return nil, err
	}
	return e.t.info(e.name, fi)
}

type treeInfo struct {
	fs.FileInfo
	stat *erofs.Stat
}

func (i treeInfo) Sys() any { return i.stat }

func (t *tree) info(name string, fi fs.FileInfo) (fs.FileInfo, error) {
	var st unix.Stat_t
	if err := unix.Lstat(t.path(name), &st); err != nil {
		return nil, &fs.PathError{Op: "lstat", Path: name, Err: err}
	}
	attrs, err := xattrs(t.path(name))
	if err != nil {
		return nil, err
	}
	return treeInfo{fi, &erofs.Stat{
		Mode: fi.Mode(), Size: fi.Size(), Rdev: uint32(st.Rdev), UID: st.Uid, GID: st.Gid,
		Mtime: uint64(st.Mtim.Sec), MtimeNs: uint32(st.Mtim.Nsec), Xattrs: attrs,
	}}, nil
}

// xattrs reads a file's extended attributes; those of the overlay itself are
// no part of it.
func xattrs(path string) (map[string]string, error) {
	n, err := unix.Llistxattr(path, nil)
	if n <= 0 || err != nil {
		if errors.Is(err, unix.ENOTSUP) {
			err = nil
		}
		return nil, err
	}
	list := make([]byte, n)
	if n, err = unix.Llistxattr(path, list); err != nil {
		return nil, &fs.PathError{Op: "listxattr", Path: path, Err: err}
	}
	out := map[string]string{}
	for _, name := range strings.Split(strings.TrimRight(string(list[:n]), "\x00"), "\x00") {
		if name == "" || strings.HasPrefix(name, "trusted.overlay.") {
			continue
		}
		size, err := unix.Lgetxattr(path, name, nil)
		if err != nil {
			continue // gone, or not for us
		}
		value := make([]byte, size)
		if size, err = unix.Lgetxattr(path, name, value); err != nil {
			return nil, &fs.PathError{Op: "getxattr", Path: path, Err: err}
		}
		out[name] = string(value[:size])
	}
	return out, nil
}

// mountLayers mounts layers, topmost first, as one read-only tree at dir.
func mountLayers(dir string, layers []string) error {
	fd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("fsopen", err)
	}
	defer unix.Close(fd)
	set := func(key, value string) {
		if err == nil {
			err = unix.FsconfigSetString(fd, key, value)
		}
	}
	set("source", "overlay")
	for _, l := range layers {
		set("lowerdir+", l)
	}
	set("metacopy", "off")
	if err == nil {
		err = unix.FsconfigSetFlag(fd, "ro")
	}
	if err == nil {
		err = unix.FsconfigCreate(fd)
	}
	if err != nil {
		return os.NewSyscallError("fsconfig overlay", err)
	}
	m, err := unix.Fsmount(fd, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return os.NewSyscallError("fsmount", err)
	}
	defer unix.Close(m)
	return os.NewSyscallError("move_mount", unix.MoveMount(m, "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH))
}
