// Package overlay reads what a writable layer changed: it compares overlayfs's
// upper directory (whiteouts, opaque directories) with the layers below it. It
// owns nothing, mounts nothing and follows no link. The host uses it for
// containers, the agent in a microVM for its own.
package overlay

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"syscall"

	"golang.org/x/sys/unix"
)

// Kind is a kind of change, as Docker's API numbers them.
type Kind uint8

// The kinds.
const (
	Modify Kind = 0
	Add    Kind = 1
	Delete Kind = 2
)

// Func is called for each change with the path below the root ("/etc") and,
// unless it is a deletion, what is there now. Parents come first.
type Func func(kind Kind, path string, now fs.FileInfo) error

// opaqueXattr is set to "y" on a directory that shows nothing of the layers
// below.
const opaqueXattr = "trusted.overlay.opaque"

// walker compares an upper directory with the layers below it.
type walker struct {
	ctx context.Context
	fn  Func
}

// Walk calls fn for what upper, an overlay's upper directory, changes in lower,
// the layers below it, topmost first.
func Walk(ctx context.Context, upper string, lower []string, fn Func) error {
	w := walker{ctx, fn}
	es, _, err := w.read("/", upper, lower)
	if err != nil {
		return err
	}
	return w.emit("/", es)
}

// changed is one changed name, with what changed below it.
type changed struct {
	name  string
	kind  Kind
	info  fs.FileInfo
	below []changed
}

// placeholders are what the runtime makes where the image has nothing to mount
// over. As long as they are empty they are no change of the container's, in
// Docker because they lie in a layer of their own.
var placeholders = map[string]bool{
	"/dev": true, "/dev/console": true, "/dev/mqueue": true, "/dev/pts": true, "/dev/shm": true, "/proc": true, "/sys": true,
	"/etc": true, "/etc/hostname": true, "/etc/hosts": true, "/etc/mtab": true, "/etc/resolv.conf": true,
	"/.dockerenv": true, "/run": true, "/run/.containerenv": true,
}

// isPlaceholder: c, at path, is one of them and nothing was put there.
func (c *changed) isPlaceholder(path string) bool {
	if c.kind != Add || !placeholders[path] {
		return false
	}
	return (c.info.IsDir() && len(c.below) == 0) || (c.info.Mode().IsRegular() && c.info.Size() == 0) ||
		(path == "/etc/mtab" && c.info.Mode()&fs.ModeSymlink != 0)
}

// read lists what differs between the directory upper, called at in the
// container, and the same directory in lowers, topmost first. made says that
// placeholders were left out.
func (w *walker) read(at, upper string, lowers []string) (out []changed, made bool, err error) {
	if err := w.ctx.Err(); err != nil {
		return nil, false, err
	}
	es, err := os.ReadDir(upper)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil // the container is alive
	}
	if err != nil {
		return nil, false, err
	}
	seen := map[string]bool{}
	for _, e := range es {
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, false, err
		}
		seen[e.Name()] = true
		path := filepath.Join(at, e.Name())
		c, err := w.compare(path, filepath.Join(upper, e.Name()), info, lowers)
		if err != nil {
			return nil, false, err
		}
		switch {
		case c == nil:
		case c.isPlaceholder(path):
			made = true
		default:
			out = append(out, *c)
		}
	}
	if isOpaque(upper) {
		gone, err := hidden(lowers, seen)
		if err != nil {
			return nil, false, err
		}
		out = append(out, gone...)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].name < out[j].name })
	return out, made, nil
}

// compare looks at one entry of an upper directory. nil: no change.
func (w *walker) compare(at, path string, info fs.FileInfo, lowers []string) (*changed, error) {
	c := &changed{name: info.Name(), info: info, kind: Add}
	old, dirs, err := lookLower(lowers, info.Name())
	if err != nil {
		return nil, err
	}
	if isWhiteout(info) {
		c.kind, c.info = Delete, nil
		if old == nil {
			return nil, nil
		}
		return c, nil
	}
	if old != nil {
		c.kind = Modify
	}
	if !info.IsDir() {
		return c, nil
	}
	below, made, err := w.read(at, path, dirs)
	if err != nil {
		return nil, err
	}
	c.below = below
	if len(dirs) > 0 && len(c.below) == 0 && sameDir(old, info, made) {
		return nil, nil // only copied up
	}
	return c, nil
}

// emit reports a directory's changes, each directory before its content.
func (w *walker) emit(dir string, cs []changed) error {
	for _, c := range cs {
		p := filepath.Join(dir, c.name)
		if err := w.fn(c.kind, p, c.info); err != nil {
			return err
		}
		if err := w.emit(p, c.below); err != nil {
			return err
		}
	}
	return nil
}

// lookLower finds name in a stack of directories: what it is there, and when
// it is a directory the stack of its own.
func lookLower(lowers []string, name string) (top fs.FileInfo, dirs []string, err error) {
	for _, l := range lowers {
		p := filepath.Join(l, name)
		info, err := os.Lstat(p)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		if isWhiteout(info) || (!info.IsDir() && top != nil) {
			break
		}
		if top == nil {
			top = info
		}
		if !info.IsDir() {
			break
		}
		dirs = append(dirs, p)
		if isOpaque(p) {
			break
		}
	}
	return top, dirs, nil
}

// hidden lists what an opaque directory hides and does not bring back.
func hidden(lowers []string, seen map[string]bool) ([]changed, error) {
	var out []changed
	for _, l := range lowers {
		es, err := os.ReadDir(l)
		if err != nil {
			return nil, err
		}
		for _, e := range es {
			if seen[e.Name()] {
				continue
			}
			seen[e.Name()] = true
			if info, err := e.Info(); err == nil && !isWhiteout(info) {
				out = append(out, changed{name: e.Name(), kind: Delete})
			}
		}
	}
	return out, nil
}

// isWhiteout: a character device 0/0.
func isWhiteout(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && info.Mode()&fs.ModeCharDevice != 0 && st.Rdev == 0
}

// isOpaque: an overlay directory that shows nothing of the layers below.
func isOpaque(dir string) bool {
	for _, attr := range []string{opaqueXattr, "user.overlay.opaque"} {
		var v [4]byte
		if n, err := unix.Lgetxattr(dir, attr, v[:]); err == nil && n == 1 && v[0] == 'y' {
			return true
		}
	}
	return false
}

// sameDir: nobody changed the directory itself. Its time says nothing when the
// runtime made something in it.
func sameDir(old, now fs.FileInfo, made bool) bool {
	a, ok1 := old.Sys().(*syscall.Stat_t)
	b, ok2 := now.Sys().(*syscall.Stat_t)
	return ok1 && ok2 && a.Mode == b.Mode && a.Uid == b.Uid && a.Gid == b.Gid && (made || a.Mtim == b.Mtim)
}
