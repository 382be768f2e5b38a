package build

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"wharf/internal/model"
)

// stubs are the mount points that a step's start makes in its root: empty
// files and directories that are not the step's work and must not be in the
// layer.
type stubs struct {
	upper string
	lower []string
	paths []string // relative, that upper did not have before
}

// newStubs looks which of dests the writable layer has not.
func newStubs(root model.Rootfs, dests []string) *stubs {
	s := &stubs{upper: root.Upper, lower: root.Lower}
	if s.upper == "" {
		return s
	}
	for _, d := range dests {
		rel := strings.Trim(filepath.Clean("/"+d), "/")
		if rel == "" {
			continue
		}
		if _, err := os.Lstat(filepath.Join(s.upper, rel)); errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
			s.paths = append(s.paths, rel)
		}
	}
	// Deepest first.
	slices.SortFunc(s.paths, func(a, b string) int { return strings.Count(b, "/") - strings.Count(a, "/") })
	return s
}

// clean removes what is there now, is empty, and was nowhere before; and of
// the directories above what only the mount point brought into the layer.
func (s *stubs) clean() error {
	for _, rel := range s.paths {
		if !s.remove(rel) {
			continue
		}
		for dir := filepath.Dir(rel); dir != "."; dir = filepath.Dir(dir) {
			if !s.removeCopied(dir) {
				break
			}
		}
	}
	return nil
}

// remove removes an empty mount point from the writable layer.
func (s *stubs) remove(rel string) bool {
	dir, name, err := s.open(rel)
	if err != nil {
		return false
	}
	defer dir.Close()
	var st unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return false
	}
	switch {
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return unix.Unlinkat(int(dir.Fd()), name, unix.AT_REMOVEDIR) == nil // fails unless empty
	case st.Mode&unix.S_IFMT == unix.S_IFREG && st.Size == 0:
		return unix.Unlinkat(int(dir.Fd()), name, 0) == nil
	}
	return false
}

// removeCopied removes an empty directory from the writable layer, if the
// layers below have none there (a mount point's parent) or the same (copied
// up for the mount point).
func (s *stubs) removeCopied(rel string) bool {
	dir, name, err := s.open(rel)
	if err != nil {
		return false
	}
	defer dir.Close()
	var st unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return false
	}
	for _, l := range s.lower {
		var low unix.Stat_t
		if err := unix.Lstat(filepath.Join(l, rel), &low); err != nil {
			continue
		}
		if low.Mode != st.Mode || low.Uid != st.Uid || low.Gid != st.Gid {
			return false // the step changed it
		}
		break
	}
	return unix.Unlinkat(int(dir.Fd()), name, unix.AT_REMOVEDIR) == nil
}

// open opens the directory of rel in the writable layer, never through a link.
func (s *stubs) open(rel string) (*os.File, string, error) {
	root, err := unix.Open(s.upper, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, "", err
	}
	defer unix.Close(root)
	fd, err := unix.Openat2(root, filepath.Dir(rel), &unix.OpenHow{
		Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_BENEATH,
	})
	if err != nil {
		return nil, "", err
	}
	return os.NewFile(uintptr(fd), rel), filepath.Base(rel), nil
}
