package runtime

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// mount puts one mount into place.
func (s *stage) mount(m *StageMount) error {
	if m.FS == "cgroup" {
		return s.mountCgroup(m)
	}
	fd, own, err := s.source(m)
	if err != nil {
		return err
	}
	if fd < 0 {
		return nil
	}
	if own {
		defer unix.Close(fd)
	}
	return s.place(m, fd)
}

// source is the detached mount to move, -1 for one that has to be left out.
// own: made here.
func (s *stage) source(m *StageMount) (fd int, own bool, err error) {
	if m.Slot >= 0 {
		if m.Slot >= len(s.mounts) {
			return -1, false, fmt.Errorf("no mount %d", m.Slot)
		}
		return s.mounts[m.Slot], false, nil
	}
	if m.Bind != nil {
		maker := rootMaker{user: -1}
		if n := m.BindUser; n > 0 && n <= len(s.mounts) {
			maker.user = s.mounts[n-1]
		}
		fd, err = maker.bind(m.Bind)
		s.warnings = append(s.warnings, maker.warnings...)
		return fd, true, err
	}
	s.inheritMode(m)
	fd, err = newMount(m.FS, m.Source, m.Data, m.Attr)
	if err != nil && m.Fallback != "" && (errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES)) {
		fd, err = hostMount(m.Fallback)
		switch {
		case errors.Is(err, unix.ENOENT):
			s.warn("%s cannot be mounted in this user namespace, and the host has no %s: left out", m.FS, m.Fallback)
			return -1, false, nil
		case err == nil:
			s.warn("%s cannot be mounted in this user namespace; the host's %s is shown read-only", m.FS, m.Fallback)
		}
	}
	return fd, true, err
}

// newMount makes a new detached file system.
func newMount(fsType, source string, data []string, attr uint64) (int, error) {
	fs, err := unix.Fsopen(fsType, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("file system %q: %w", fsType, err)
	}
	defer unix.Close(fs)
	if source != "" {
		if err := unix.FsconfigSetString(fs, "source", source); err != nil {
			return -1, fmt.Errorf("source %q: %w", source, fsError(fs, err))
		}
	}
	for _, o := range data {
		k, v, has := strings.Cut(o, "=")
		if has {
			err = unix.FsconfigSetString(fs, k, v)
		} else {
			err = unix.FsconfigSetFlag(fs, k)
		}
		if err != nil {
			return -1, fmt.Errorf("option %q of %s: %w", o, fsType, fsError(fs, err))
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, fmt.Errorf("%s: %w", fsType, fsError(fs, err))
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, int(attr))
	if err != nil {
		return -1, fmt.Errorf("%s: %w", fsType, err)
	}
	return fd, nil
}

// hostMount clones a tree of the host, read-only.
func hostMount(dir string) (int, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return -1, fmt.Errorf("bind %s: %w", dir, err)
	}
	if err := setAttr(fd, unix.MOUNT_ATTR_RDONLY, 0, 0, unix.AT_RECURSIVE); err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("bind %s read-only: %w", dir, err)
	}
	return fd, nil
}

// place moves a detached mount to where it belongs.
func (s *stage) place(m *StageMount, fd int) error {
	isDir, err := directory(fd)
	if err != nil {
		return err
	}
	if m.FS == "proc" || m.FS == "sysfs" {
		if err := s.ordinary(m.Dest); err != nil {
			return err
		}
	}
	to, err := s.target(m.Dest, isDir)
	if err != nil {
		return err
	}
	defer unix.Close(to)
	if m.CopyUp {
		if err := copyUp(to, fd); err != nil {
			return fmt.Errorf("copy up: %w", err)
		}
	}
	if err := attach(fd, to); err != nil {
		return err
	}
	if m.RecProp|m.RecSet != 0 {
		if err := setAttr(fd, m.RecSet, 0, m.RecProp, unix.AT_RECURSIVE); err != nil {
			return fmt.Errorf("mount options, recursively: %w", err)
		}
	}
	if m.Prop != 0 {
		if err := setAttr(fd, 0, 0, m.Prop, 0); err != nil {
			return fmt.Errorf("propagation: %w", err)
		}
	}
	if m.Dest == "/" { // a mount over the root is the root from now on
		s.root = fd
	}
	return nil
}

// inheritMode gives a tmpfs without a mode option that of the directory that
// it covers, if there is one.
func (s *stage) inheritMode(m *StageMount) {
	if m.FS != "tmpfs" || m.CopyUp {
		return
	}
	for _, o := range m.Data {
		if strings.HasPrefix(o, "mode=") {
			return
		}
	}
	old, err := s.resolve(m.Dest, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return
	}
	defer unix.Close(old)
	var st unix.Stat_t
	if unix.Fstat(old, &st) == nil {
		m.Data = append(m.Data, fmt.Sprintf("mode=%o", st.Mode&0o7777))
	}
}

// ordinary refuses an image whose /proc or /sys is a symbolic link: masked and
// read-only paths are named below the real ones.
func (s *stage) ordinary(dest string) error {
	fd, err := unix.Openat2(s.root, dest, &unix.OpenHow{Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_SYMLINKS})
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return fmt.Errorf("must be mounted on ordinary directory: %w", err)
	}
	defer unix.Close(fd)
	if isDir, err := directory(fd); err != nil || !isDir {
		return errors.New("must be mounted on ordinary directory")
	}
	return nil
}

func attach(fd, to int) error {
	return unix.MoveMount(fd, "", to, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
}

func directory(fd int) (bool, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return false, err
	}
	return st.Mode&unix.S_IFMT == unix.S_IFDIR, nil
}

// cover hides the masked paths, protects the read-only ones and at last the
// root itself.
func (s *stage) cover() error {
	for _, p := range s.ReadonlyPaths {
		if err := s.readOnlyPath(p); err != nil {
			return fmt.Errorf("read-only path %s: %w", p, err)
		}
	}
	if err := s.mask(); err != nil {
		return err
	}
	for i := range s.Mounts {
		if err := s.lateReadOnly(&s.Mounts[i]); err != nil {
			return fmt.Errorf("read-only %s: %w", s.Mounts[i].Dest, err)
		}
	}
	if s.Stage.Root.ReadOnly {
		if err := unix.MountSetattr(unix.AT_FDCWD, "/", 0, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
			return fmt.Errorf("read-only root: %w", err)
		}
	}
	return nil
}

func (s *stage) lateReadOnly(m *StageMount) error {
	if !m.LateReadOnly {
		return nil
	}
	fd, err := s.resolve(m.Dest, unix.O_PATH)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return setAttr(fd, unix.MOUNT_ATTR_RDONLY, 0, 0, 0)
}

func (s *stage) readOnlyPath(p string) error {
	fd, err := s.resolve(p, unix.O_PATH)
	if err == unix.ENOENT || err == unix.ENOTDIR {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	tree, err := unix.OpenTree(fd, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH|unix.AT_RECURSIVE)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	if err := setAttr(tree, unix.MOUNT_ATTR_RDONLY, 0, 0, unix.AT_RECURSIVE); err != nil {
		return err
	}
	return attach(tree, fd)
}

// mask covers directories with one empty read-only tmpfs and files with
// /dev/null.
func (s *stage) mask() (err error) {
	empty, null := -1, -1
	defer func() { closeValid(empty, null) }()
	for _, p := range s.MaskedPaths {
		if err := s.maskOne(p, &empty, &null); err != nil {
			return fmt.Errorf("masked path %s: %w", p, err)
		}
	}
	return nil
}

func (s *stage) maskOne(p string, empty, null *int) error {
	fd, err := s.resolve(p, unix.O_PATH)
	if err == unix.ENOENT || err == unix.ENOTDIR {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	isDir, err := directory(fd)
	if err != nil {
		return err
	}
	from := null
	if isDir {
		from = empty
	}
	if *from < 0 {
		if isDir {
			*from, err = newMount("tmpfs", "", []string{"size=0", "nr_inodes=1", "mode=755"}, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
		} else {
			*from, err = s.openNull()
		}
		if err != nil {
			return err
		}
		if isDir { // what is attached nowhere cannot be cloned before Linux 6.15
			return attach(*from, fd)
		}
	}
	tree, err := unix.OpenTree(*from, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	return attach(tree, fd)
}

// openNull opens the container's /dev/null, if that is what it is.
func (s *stage) openNull() (int, error) {
	fd, err := s.resolve("dev/null", unix.O_PATH)
	if err != nil {
		return -1, fmt.Errorf("/dev/null: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != unix.Mkdev(1, 3) {
		_ = unix.Close(fd)
		return -1, errors.New("/dev/null is not the null device")
	}
	return fd, nil
}

func closeValid(fds ...int) {
	for _, fd := range fds {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}

// devices makes the nodes that are not in a /dev from the caller's side.
func (s *stage) devices() error {
	for i := range s.Nodes {
		n := &s.Nodes[i]
		if err := s.device(n); err != nil {
			return fmt.Errorf("device %s: %w", n.Path, err)
		}
	}
	return nil
}

func (s *stage) device(n *Node) error {
	parent, err := s.makeDirs(path.Dir(n.Path), 0)
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	base := path.Base(n.Path)
	if n.Mode&unix.S_IFMT == unix.S_IFLNK {
		err = unix.Symlinkat(n.Link, parent, base)
	} else {
		err = unix.Mknodat(parent, base, n.Mode, int(unix.Mkdev(n.Major, n.Minor)))
	}
	if err == unix.EEXIST {
		return nil // the image's or a mount's own
	}
	if err != nil || n.Mode&unix.S_IFMT == unix.S_IFLNK {
		return err
	}
	if err := unix.Fchmodat(parent, base, n.Mode&0o7777, 0); err != nil {
		return err
	}
	return unix.Fchownat(parent, base, int(n.UID), int(n.GID), unix.AT_SYMLINK_NOFOLLOW)
}

// copyUp fills a new tmpfs with what the directory below holds.
func copyUp(from, to int) error {
	src, err := unix.Openat(from, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	dst, err := unix.Openat(to, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		_ = unix.Close(src)
		return err
	}
	d := os.NewFile(uintptr(dst), "to")
	defer d.Close()
	f := os.NewFile(uintptr(src), "from")
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(src, &st); err != nil {
		return err
	}
	if err := unix.Fchmod(dst, st.Mode&0o7777); err != nil {
		return err
	}
	if err := unix.Fchown(dst, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	return copyDir(f, dst, 0)
}

func copyDir(src *os.File, dst int, depth int) error {
	if depth > 512 {
		return errors.New("directories nested too deeply")
	}
	names, err := src.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := copyEntry(int(src.Fd()), dst, name, depth); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func copyEntry(src, dst int, name string, depth int) error {
	var st unix.Stat_t
	if err := unix.Fstatat(src, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	var err error
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		err = copySubdir(src, dst, name, depth)
	case unix.S_IFLNK:
		to, _ := readlink(src, name)
		err = unix.Symlinkat(to, dst, name)
	case unix.S_IFREG:
		err = copyFile(src, dst, name)
	default:
		err = unix.Mknodat(dst, name, st.Mode, int(st.Rdev))
	}
	if err != nil {
		return err
	}
	if err := unix.Fchownat(dst, name, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		if err := unix.Fchmodat(dst, name, st.Mode&0o7777, 0); err != nil {
			return err
		}
	}
	times := []unix.Timespec{st.Atim, st.Mtim}
	return unix.UtimesNanoAt(dst, name, times, unix.AT_SYMLINK_NOFOLLOW)
}

func copySubdir(src, dst int, name string, depth int) error {
	if err := unix.Mkdirat(dst, name, 0o700); err != nil {
		return err
	}
	from, err := unix.Openat(src, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(from), name)
	defer f.Close()
	to, err := unix.Openat(dst, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(to)
	return copyDir(f, to, depth+1)
}

func copyFile(src, dst int, name string) error {
	from, err := unix.Openat(src, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(from), name)
	defer f.Close()
	to, err := unix.Openat(dst, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	t := os.NewFile(uintptr(to), name)
	defer t.Close()
	_, err = io.Copy(t, f)
	return err
}
