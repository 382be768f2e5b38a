package runtime

import (
	"errors"
	"fmt"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// layersMount makes a detached overlay of h.Lower, read-only unless h.Upper is set, or of one
// directory or file in it.
func (m *rootMaker) layersMount(h *HostMount) (int, error) {
	r := &Root{Lower: h.Lower, Upper: h.Upper, Work: h.Work, IDMap: h.IDMap}
	fd, err := m.root(r)
	if err != nil {
		return -1, err
	}
	if h.Subpath != "" {
		part, err := treeBelow(fd, h.Subpath, h.Lower[0])
		_ = unix.Close(fd)
		if err != nil {
			return -1, err
		}
		fd = part
	}
	set := h.Set
	if h.Upper == "" {
		set |= unix.MOUNT_ATTR_RDONLY
	}
	if err := setAttr(fd, set, 0, 0, 0); err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("mount options: %w", err)
	}
	return fd, nil
}

// treeBelow clones what is at sub in the detached mount fd. dir is any
// directory that can be mounted over.
func treeBelow(fd int, sub, dir string) (int, error) {
	part, err := cloneBelow(fd, sub)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.15 only mounts in a namespace can be cloned
		part, err = cloneInNamespace(fd, sub, dir)
	}
	return part, err
}

// cloneBelow resolves sub beneath the mount, where no symbolic link leads out.
func cloneBelow(fd int, sub string) (int, error) {
	at, err := unix.Openat2(fd, sub, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS})
	switch {
	case errors.Is(err, unix.EXDEV):
		return -1, fmt.Errorf("subpath %q: path concatenation escapes the base directory (a symbolic link leads out of the image)", sub)
	case err != nil:
		return -1, fmt.Errorf("cannot access path %q in the image: %w", sub, err)
	}
	defer unix.Close(at)
	part, err := unix.OpenTree(at, "", unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("open_tree %q: %w", sub, err)
	}
	return part, nil
}

// cloneInNamespace does the same in a mount namespace of its own, on a thread
// that ends with it: the mount is attached over dir there.
func cloneInNamespace(fd int, sub, dir string) (part int, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked
		if err = unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
			return
		}
		if err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return
		}
		if err = unix.MoveMount(fd, "", unix.AT_FDCWD, filepath.Clean(dir), unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return
		}
		part, err = cloneBelow(fd, sub)
	}()
	<-done
	if err != nil {
		return -1, err
	}
	return part, nil
}

// openTreeBelow clones what is at sub below dir. Its links are resolved as if
// dir were the root, and what was looked at is what is cloned, whoever else
// writes there meanwhile.
func openTreeBelow(dir, sub string, flags uint) (int, error) {
	base, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(base)
	for {
		at, err := unix.Openat2(base, sub, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS})
		if err == unix.EAGAIN || err == unix.EINTR { // something was renamed
			continue
		}
		if err != nil {
			return -1, fmt.Errorf("subpath %q: %w", sub, err)
		}
		defer unix.Close(at)
		return unix.OpenTree(at, "", flags|unix.AT_EMPTY_PATH)
	}
}
