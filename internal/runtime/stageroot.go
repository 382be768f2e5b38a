package runtime

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// openProc gets a procfs that no mount of the image can stand in for: one of
// our own, attached nowhere; or where the user namespace may not make one,
// the one mounted at /proc, if that really is procfs.
func (s *stage) openProc() error {
	fs, err := unix.Fsopen("proc", unix.FSOPEN_CLOEXEC)
	if err == nil {
		defer unix.Close(fs)
		if err = unix.FsconfigCreate(fs); err == nil {
			s.proc, err = unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
		}
	}
	if err == nil {
		return nil
	}
	s.proc, err = unix.Open("/proc", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		s.proc = -1 // an exec in a container without /proc may not need it
		return nil
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(s.proc, &st); err != nil || int64(st.Type) != unix.PROC_SUPER_MAGIC {
		_ = unix.Close(s.proc)
		s.proc = -1
	}
	return nil
}

// openProcAt opens a file of procfs and never anything else.
func (s *stage) openProcAt(name string, flags int) (int, error) {
	if s.proc < 0 {
		return -1, errors.New("no usable /proc")
	}
	how := unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_XDEV}
	if strings.Contains(name, "self/") { // thread-self and self are links
		how.Resolve = unix.RESOLVE_NO_XDEV
	}
	if strings.Contains(name, "/fd/") || name == "self/exe" {
		how.Resolve = 0
	}
	fd, err := unix.Openat2(s.proc, name, &how)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: "/proc/" + name, Err: err}
	}
	return fd, nil
}

func (s *stage) writeProc(name, value string) error {
	fd, err := s.openProcAt(name, unix.O_WRONLY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte(value)); err != nil {
		return &os.PathError{Op: "write", Path: "/proc/" + name, Err: err}
	}
	return nil
}

// enterRootMount puts the root's detached mount into our mount namespace.
// Everything is mounted below its descriptor; the old root stays ours until
// pivot.
func (s *stage) enterRootMount() error {
	// Nothing that happens here may reach the host.
	if !s.Stage.Root.Chroot {
		if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("make / a slave: %w", err)
		}
	}
	target := s.Stage.Root.Target
	if target == "" {
		target = "/"
	}
	if err := unix.MoveMount(s.root, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount root at %s: %w", target, err)
	}
	return nil
}

// pivot makes the root "/" and lets go of the host's tree.
func (s *stage) pivot() error {
	if err := unix.Fchdir(s.root); err != nil {
		return fmt.Errorf("enter root: %w", err)
	}
	if err := s.changeRoot(); err != nil {
		return err
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	if p := s.Stage.Root.Propagation; p != 0 {
		if err := unix.Mount("", "/", "", uintptr(p), ""); err != nil {
			return fmt.Errorf("propagation of the root: %w", err)
		}
	}
	return nil
}

// changeRoot makes the working directory "/".
func (s *stage) changeRoot() error {
	if s.Stage.Root.Chroot {
		return wrapPath("chroot", s.Stage.Root.Target, unix.Chroot("."))
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	// The old root lies on top of the new one now.
	return wrapPath("leave", "the old root", unix.Unmount(".", unix.MNT_DETACH))
}

// joinRoot: joining a mount namespace enters its root, which is not that of a
// container in somebody else's.
func (s *stage) joinRoot() error {
	if !s.Stage.Root.Chroot {
		return nil
	}
	if err := unix.Fchdir(s.root); err != nil {
		return fmt.Errorf("enter root: %w", err)
	}
	return s.changeRoot()
}

// resolve opens name inside the root, following symbolic links as if the
// root were "/".
func (s *stage) resolve(name string, flags int) (int, error) {
	return unix.Openat2(s.root, name, &unix.OpenHow{
		Flags:   uint64(flags | unix.O_CLOEXEC),
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
}

// target opens the place for a mount inside the root and makes it, a
// directory or an empty file, where it is missing. A symbolic link never
// leads out.
func (s *stage) target(name string, dir bool) (int, error) {
	fd, err := s.resolve(name, unix.O_PATH)
	if err == nil || err != unix.ENOENT {
		return fd, wrapPath("open mount point", name, err)
	}
	if dir {
		return s.makeDirs(name, 0)
	}
	parent, err := s.makeDirs(path.Dir(name), 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(parent)
	base := path.Base(name)
	fd, err = unix.Openat(parent, base, unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o644)
	if err == unix.EEXIST { // a link to nowhere: make what it names
		if to, ok := readlink(parent, base); ok {
			return s.target(follow(path.Dir(name), to, ""), false)
		}
		// Another container of the same root has made it meanwhile.
		fd, err = s.resolve(name, unix.O_PATH)
	}
	return fd, wrapPath("make mount point", name, err)
}

const maxLinks = 40

// makeDirs makes a directory and those above it.
func (s *stage) makeDirs(name string, links int) (int, error) {
	if links > maxLinks {
		return -1, &os.PathError{Op: "mkdir", Path: name, Err: unix.ELOOP}
	}
	name = strings.Trim(name, "/")
	if name == "" || name == "." {
		return s.resolve(".", unix.O_PATH|unix.O_DIRECTORY)
	}
	fd, err := s.resolve(name, unix.O_PATH|unix.O_DIRECTORY)
	if err != unix.ENOENT {
		return fd, wrapPath("open directory", name, err)
	}
	above, base := path.Split(name)
	parent, err := s.makeDirs(above, links+1)
	if err != nil {
		return -1, err
	}
	defer unix.Close(parent)
	if err := unix.Mkdirat(parent, base, 0o755); err != nil {
		if err == unix.EEXIST {
			if to, ok := readlink(parent, base); ok {
				return s.makeDirs(follow(above, to, ""), links+1)
			}
		}
		return -1, &os.PathError{Op: "mkdir", Path: name, Err: err}
	}
	fd, err = unix.Openat(parent, base, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	return fd, wrapPath("open directory", name, err)
}

// follow is the path behind a link in dir. It is not cleaned: ".." after a
// link means something else to the kernel.
func follow(dir, to, rest string) string {
	if !strings.HasPrefix(to, "/") {
		to = dir + "/" + to
	}
	if rest != "" {
		to += "/" + rest
	}
	return to
}

func readlink(at int, name string) (string, bool) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(at, name, buf)
	if err != nil {
		return "", false
	}
	return string(buf[:n]), true
}

func wrapPath(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: op, Path: name, Err: err}
}
