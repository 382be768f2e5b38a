package archive

import (
	"archive/tar"
	"context"
	"fmt"
	"math"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// attributes sets an entry's owner, mode, attributes and time. The order
// matters: chown drops set-id bits and file capabilities, and all of them
// change the time.
func (u *unpack) attributes(base string, h *tar.Header) error {
	fd, err := openHere(u.parent, base)
	if err != nil {
		return notThere(base, err)
	}
	defer unix.Close(fd)
	uid, gid := h.Uid, h.Gid
	if u.owned {
		uid, gid = u.uid, u.gid
	}
	ids := u.tree.ids
	if err := unix.Fchownat(fd, "", int(in(ids, uid)), int(in(ids, gid)), unix.AT_EMPTY_PATH); err != nil {
		return fmt.Errorf("set owner %d:%d: %w", uid, gid, err)
	}
	if h.Typeflag == tar.TypeSymlink {
		return u.linkTime(base, h.ModTime)
	}
	p := procPath(fd)
	if err := unix.Chmod(p, uint32(h.Mode)&0o7777); err != nil {
		return fmt.Errorf("set mode: %w", err)
	}
	if err := u.setXattrs(p, h); err != nil {
		return err
	}
	if h.Typeflag == tar.TypeDir {
		return nil
	}
	return setTime(p, h.ModTime)
}

// setXattrs sets what the tar carries and a file may have; a file system
// without attributes is an error only for file capabilities, without which a
// program does not work.
func (u *unpack) setXattrs(p string, h *tar.Header) error {
	for k, v := range h.PAXRecords {
		name, ok := strings.CutPrefix(k, paxXattr)
		if !ok || !wantedXattr(name) {
			continue
		}
		val := []byte(v)
		if name == capXattr {
			if val, ok = capIn(u.tree.ids, val); !ok {
				return fmt.Errorf("set attribute %s: the value has no meaning in this container", name)
			}
		}
		err := unix.Setxattr(p, name, val, 0)
		if err != nil && (name == capXattr || err != unix.ENOTSUP && err != unix.EPERM) {
			return fmt.Errorf("set attribute %s: %w", name, err)
		}
	}
	return nil
}

func timespecs(t time.Time) []unix.Timespec {
	if t.IsZero() || t.Unix() > math.MaxInt32*4 || t.Unix() < math.MinInt32 {
		t = time.Unix(0, 0) // what no file system can store
	}
	ts, err := unix.TimeToTimespec(t)
	if err != nil {
		ts = unix.Timespec{}
	}
	return []unix.Timespec{ts, ts}
}

func setTime(p string, t time.Time) error {
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, p, timespecs(t), 0); err != nil {
		return fmt.Errorf("set time: %w", err)
	}
	return nil
}

func (u *unpack) linkTime(base string, t time.Time) error {
	if err := unix.UtimesNanoAt(u.parent, base, timespecs(t), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set time: %w", err)
	}
	return nil
}

// dirTimes sets the directories' times, which every file put into them
// changed. One that is gone meanwhile needs none.
func (u *unpack) dirTimes() error {
	u.leave()
	for i := len(u.dirs) - 1; i >= 0; i-- {
		d := u.dirs[i]
		dir, err := u.tree.at(path.Dir(d.name), unix.O_PATH|unix.O_DIRECTORY)
		if err != nil {
			continue
		}
		fd, err := unix.Openat(dir, path.Base(d.name), unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		_ = unix.Close(dir)
		if err != nil {
			continue
		}
		err = setTime(procPath(fd), d.at)
		_ = unix.Close(fd)
		if err != nil {
			return fmt.Errorf("unpack %q: %w", d.name, err)
		}
	}
	return nil
}

// removeAll removes a name and everything below it, on descriptors.
func removeAll(ctx context.Context, dir int, base string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	err := unix.Unlinkat(dir, base, 0)
	if err == nil || err == unix.ENOENT {
		return nil
	}
	if err != unix.EISDIR && err != unix.EPERM {
		return err
	}
	fd, derr := unix.Openat(dir, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if derr != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), base)
	defer f.Close()
	if rerr := unix.Unlinkat(dir, base, unix.AT_REMOVEDIR); rerr == nil {
		return nil
	} else if rerr == unix.EBUSY { // a mount point: leave what is mounted alone
		return rerr
	}
	names, err := f.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := removeAll(ctx, fd, n); err != nil {
			return err
		}
	}
	return unix.Unlinkat(dir, base, unix.AT_REMOVEDIR)
}
