package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/containerd/errdefs"
	"github.com/cyphar/filepath-securejoin"
	"golang.org/x/sys/unix"

	"wharf/internal/model"
)

const (
	whiteoutPrefix = ".wh."
	whiteoutOpaque = ".wh..wh..opq"
	xattrOpaque    = "trusted.overlay.opaque"
	paxXattr       = "SCHILY.xattr."
)

// applier unpacks one layer into an empty directory that has no layer below
// it yet. What the layer leaves open (owner and mode of directories that it
// only passes through) is filled in by adopt, when the layers below are known.
type applier struct {
	root     string
	explicit map[string]bool // directories that have an entry of their own
	passed   map[string]bool // parents of entries
	white    map[string]bool // names with a whiteout in this layer
	top      *tar.Header     // the entry for the root directory itself
}

// apply reads the whole layer, also what follows the end of the tar, so that
// the digest of r covers every byte.
func apply(ctx context.Context, root string, r io.Reader) (*applier, error) {
	a := &applier{root: root, explicit: map[string]bool{}, passed: map[string]bool{}, white: map[string]bool{}}
	_, err := archive.Apply(ctx, root, r, archive.WithFilter(a.see), archive.WithConvertWhiteout(a.whiteout))
	if err != nil {
		if errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, model.Refuse(errdefs.ErrInvalidArgument, "layer is not a whole tar archive: %w", err)
		}
		return nil, err
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		return nil, err
	}
	return a, a.finish()
}

// see looks at each header before it is unpacked.
func (a *applier) see(h *tar.Header) (bool, error) {
	name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
	// The overlay's own attributes are ours to set: a layer could redirect a
	// directory with them.
	for k := range h.PAXRecords {
		if strings.HasPrefix(k, paxXattr+"trusted.overlay.") || strings.HasPrefix(k, paxXattr+"user.overlay.") {
			delete(h.PAXRecords, k)
		}
	}
	if name == "" {
		if h.Typeflag == tar.TypeDir {
			a.top = h
		}
		return false, nil
	}
	if strings.HasPrefix(path.Base(name), ".wh..wh.") && path.Base(name) != whiteoutOpaque {
		return false, nil // aufs's own notes
	}
	if h.Typeflag == tar.TypeDir {
		a.explicit[name] = true
	} else {
		delete(a.explicit, name)
	}
	for d := path.Dir(name); d != "." && !a.passed[d]; d = path.Dir(d) {
		a.passed[d] = true
	}
	return true, nil
}

// whiteout turns .wh.NAME into what overlayfs has for it. A name that the
// same layer also brings is that of the new file, in whichever order they come.
func (a *applier) whiteout(h *tar.Header, p string) (bool, error) {
	dir, base := filepath.Split(p)
	if base == whiteoutOpaque {
		return false, unix.Setxattr(dir, xattrOpaque, []byte{'y'}, 0)
	}
	if !strings.HasPrefix(base, whiteoutPrefix) {
		return true, nil
	}
	target := filepath.Join(dir, base[len(whiteoutPrefix):])
	a.white[target] = true
	err := unix.Mknod(target, unix.S_IFCHR, 0)
	if errors.Is(err, unix.EEXIST) {
		return false, nil
	}
	return false, err
}

// finish sets what later entries would have undone.
func (a *applier) finish() error {
	for p := range a.white {
		if st, err := os.Lstat(p); err == nil && st.IsDir() {
			if err := unix.Setxattr(p, xattrOpaque, []byte{'y'}, 0); err != nil {
				return err
			}
		}
	}
	if a.top == nil {
		return nil
	}
	if err := os.Lchown(a.root, a.top.Uid, a.top.Gid); err != nil {
		return err
	}
	if err := unix.Chmod(a.root, uint32(a.top.Mode&0o7777)); err != nil {
		return err
	}
	return chtimes(a.root, a.top.ModTime)
}

// adopt copies owner, mode and times of the directories that the layer passes
// through from the topmost layer below that has them.
func (a *applier) adopt(below []string) error {
	if a.top == nil && len(below) > 0 {
		if err := copyDirInfo(below[0], a.root); err != nil {
			return err
		}
	}
	for d := range a.passed {
		if a.explicit[d] {
			continue
		}
		if err := adoptDir(a.root, d, below); err != nil {
			return fmt.Errorf("directory %s: %w", d, err)
		}
	}
	return nil
}

func adoptDir(root, dir string, below []string) error {
	to, err := securejoin.SecureJoin(root, dir)
	if err != nil {
		return err
	}
	if st, err := os.Lstat(to); err != nil || !st.IsDir() {
		return nil // a later entry replaced it
	}
	for _, b := range below {
		from, err := securejoin.SecureJoin(b, dir)
		if err != nil {
			return err
		}
		st, err := os.Lstat(from)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
			continue
		}
		if err != nil {
			return err
		}
		if !st.IsDir() {
			return nil
		}
		return copyDirInfo(from, to)
	}
	return nil
}

func copyDirInfo(from, to string) error {
	var st unix.Stat_t
	if err := unix.Lstat(from, &st); err != nil {
		return err
	}
	if err := os.Lchown(to, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := unix.Chmod(to, st.Mode&0o7777); err != nil {
		return err
	}
	if err := copyXattrs(from, to); err != nil {
		return err
	}
	return chtimes(to, time.Unix(st.Mtim.Unix()))
}

// copyXattrs copies all but the overlay's own.
func copyXattrs(from, to string) error {
	n, err := unix.Llistxattr(from, nil)
	if err != nil || n == 0 {
		return nil // a file system without attributes
	}
	names := make([]byte, n)
	if n, err = unix.Llistxattr(from, names); err != nil {
		return err
	}
	for _, name := range strings.Split(strings.TrimRight(string(names[:n]), "\x00"), "\x00") {
		if name == "" || strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.") {
			continue
		}
		v := make([]byte, 64<<10)
		m, err := unix.Lgetxattr(from, name, v)
		if err != nil {
			return err
		}
		if err := unix.Lsetxattr(to, name, v[:m], 0); err != nil && !errors.Is(err, unix.ENOTSUP) {
			return err
		}
	}
	return nil
}

func chtimes(p string, t time.Time) error {
	ts := unix.NsecToTimespec(t.UnixNano())
	return unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
}
