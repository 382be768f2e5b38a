package archive

import (
	"context"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"

	"wharf/internal/model"
)

// Archive is lifecycle's archives. It has no state.
type Archive struct{}

// New returns the room.
func New() *Archive { return &Archive{} }

// Stat describes a file as Docker's HEAD archive endpoint does: a symlink is
// not followed but its target inside the container is named.
func (*Archive) Stat(ctx context.Context, root model.Root, p string) (container.PathStat, error) {
	t, err := openTree(root)
	if err != nil {
		return container.PathStat{}, err
	}
	defer t.close()
	pl, err := t.find(p)
	if err != nil {
		return container.PathStat{}, err
	}
	defer pl.close()
	fd, st, err := pl.stat()
	if err != nil {
		return container.PathStat{}, notThere(p, err)
	}
	defer unix.Close(fd)
	return t.pathStat(pl, st, p), ctx.Err()
}

// stat opens the place and reads its attributes from the same descriptor.
func (p place) stat() (int, *unix.Stat_t, error) {
	fd, err := p.open()
	if err != nil {
		return -1, nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		_ = unix.Close(fd)
		return -1, nil, err
	}
	return fd, &st, nil
}

func (t *tree) pathStat(pl place, st *unix.Stat_t, p string) container.PathStat {
	s := container.PathStat{
		Name: pl.name, Size: st.Size, Mode: fileMode(st.Mode),
		Mtime: time.Unix(st.Mtim.Unix()),
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		s.LinkTarget = t.realPath(path.Clean("/" + p))
	}
	return s
}

// realPath follows the symlinks of a clean absolute path inside the root. It
// is an answer for a person or a client, never used to open anything here.
// Where nothing is, the rest stays as written.
func (t *tree) realPath(p string) string {
	todo := strings.Split(strings.Trim(p, "/"), "/")
	at := "/"
	for links := 0; len(todo) > 0; {
		c := todo[0]
		todo = todo[1:]
		if c == "" || c == "." {
			continue
		}
		if c == ".." {
			at = path.Dir(at)
			continue
		}
		next := path.Join(at, c)
		target, ok := t.readlink(next)
		if !ok || links > 255 {
			at = next
			continue
		}
		links++
		if strings.HasPrefix(target, "/") {
			at = "/"
		}
		todo = append(strings.Split(target, "/"), todo...)
	}
	return at
}

func (t *tree) readlink(p string) (string, bool) {
	fd, err := t.at(p, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return "", false
	}
	defer unix.Close(fd)
	s, err := readlinkFD(fd)
	return s, err == nil
}

// readlinkFD reads the target of a symlink that is open with O_PATH.
func readlinkFD(fd int) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", buf)
	if err != nil {
		return "", fmt.Errorf("read link: %w", err)
	}
	return string(buf[:n]), nil
}

// fileMode is Go's form of a mode.
func fileMode(m uint32) fs.FileMode {
	f := fs.FileMode(m & 0o777)
	for _, b := range []struct {
		bit uint32
		to  fs.FileMode
	}{{unix.S_ISUID, fs.ModeSetuid}, {unix.S_ISGID, fs.ModeSetgid}, {unix.S_ISVTX, fs.ModeSticky}} {
		if m&b.bit != 0 {
			f |= b.to
		}
	}
	switch m & unix.S_IFMT {
	case unix.S_IFDIR:
		f |= fs.ModeDir
	case unix.S_IFLNK:
		f |= fs.ModeSymlink
	case unix.S_IFIFO:
		f |= fs.ModeNamedPipe
	case unix.S_IFSOCK:
		f |= fs.ModeSocket
	case unix.S_IFBLK:
		f |= fs.ModeDevice
	case unix.S_IFCHR:
		f |= fs.ModeDevice | fs.ModeCharDevice
	}
	return f
}
