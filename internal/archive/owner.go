package archive

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"

	"wharf/internal/model"
)

// user finds the ids of Config.User in the root's own files.
func (t *tree) user(spec string) (uid, gid int, err error) {
	passwd, err := t.text("/etc/passwd")
	if err != nil {
		return 0, 0, err
	}
	group, err := t.text("/etc/group")
	if err != nil {
		return 0, 0, err
	}
	u, err := user.GetExecUser(spec, nil, strings.NewReader(passwd), strings.NewReader(group))
	if err != nil {
		return 0, 0, model.Refuse(errdefs.ErrInvalidArgument, "user %q of the container: %w", spec, err)
	}
	return u.Uid, u.Gid, nil
}

// text reads a small regular file inside the root; none is empty.
func (t *tree) text(name string) (string, error) {
	look, err := t.at(name, unix.O_PATH)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return "", nil
	}
	if err != nil {
		return "", notThere(name, err)
	}
	defer unix.Close(look)
	var st unix.Stat_t
	if err := unix.Fstat(look, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return "", err
	}
	fd, err := reopen(look, unix.O_RDONLY)
	if err != nil {
		return "", notThere(name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 4<<20))
	return string(b), err
}

// asOwner runs f so that what it creates belongs to the container's root from
// the start: an overlay over idmapped layers cannot store an inode of an id
// that the mapping has not got (EOVERFLOW). fsuid is the thread's own, so f
// runs on one that is thrown away afterwards.
func asOwner(ids model.IDRange, f func() error) error {
	if !ids.Mapped() {
		return f()
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := becomeOwner(ids); err != nil {
			done <- fmt.Errorf("act as host id %d: %w", ids.Host, err)
			return
		}
		done <- f()
	}()
	return <-done
}

func becomeOwner(ids model.IDRange) error {
	var hdr unix.CapUserHeader
	var caps [2]unix.CapUserData
	hdr.Version = unix.LINUX_CAPABILITY_VERSION_3
	if err := unix.Capget(&hdr, &caps[0]); err != nil {
		return err
	}
	if err := unix.Setfsgid(int(ids.Host)); err != nil {
		return err
	}
	if err := unix.Setfsuid(int(ids.Host)); err != nil {
		return err
	}
	// setfsuid drops the file capabilities from the effective set.
	return unix.Capset(&hdr, &caps[0])
}
