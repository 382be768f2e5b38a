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
	"strings"
	"syscall"
	"time"

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
	x, err := newExtractor(ctx, root)
	if err != nil {
		return nil, err
	}
	defer x.close()
	if err := a.extract(ctx, x, tar.NewReader(r)); err != nil {
		if errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, model.Refuse(errdefs.ErrInvalidArgument, "layer is not a whole tar archive: %w", err)
		}
		return nil, err
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		return nil, err
	}
	return a, a.finish(x)
}

func (a *applier) extract(ctx context.Context, x *extractor, tr *tar.Reader) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name, wanted := a.see(h)
		if !wanted {
			continue
		}
		hidden, handled, err := x.whiteout(name)
		if err != nil {
			return fmt.Errorf("whiteout %.200q: %w", name, err)
		}
		if hidden != "" {
			a.white[hidden] = true
		}
		if handled {
			continue
		}
		if err := x.entry(name, h, tr); err != nil {
			return err
		}
	}
}

// see looks at each header before it is unpacked and returns its clean name.
func (a *applier) see(h *tar.Header) (name string, wanted bool) {
	name = strings.TrimPrefix(path.Clean("/"+h.Name), "/")
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
		return "", false
	}
	if strings.HasPrefix(path.Base(name), ".wh..wh.") && path.Base(name) != whiteoutOpaque {
		return "", false // aufs's own notes
	}
	if h.Typeflag == tar.TypeDir {
		a.explicit[name] = true
	} else {
		delete(a.explicit, name)
	}
	for d := path.Dir(name); d != "." && !a.passed[d]; d = path.Dir(d) {
		a.passed[d] = true
	}
	return name, true
}

// finish sets what later entries would have undone.
func (a *applier) finish(x *extractor) error {
	for name := range a.white {
		if err := x.opaque(name); err != nil {
			return err
		}
	}
	if err := x.finish(); err != nil {
		return err
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
