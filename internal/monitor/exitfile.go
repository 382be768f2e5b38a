package monitor

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"wharf/api/monitorapi"
	"wharf/internal/lean"
)

const (
	exitTmp = monitorapi.ExitName + ".tmp"
	// exitRoom is what an exit takes at most, with a long error.
	exitRoom = 4 << 10
	// exitRetry is how often an exit that could not be written is tried again.
	exitRetry = time.Second
)

// exitFile is the file in which the exit is going to be. Its room is taken
// before the container starts: when the disk is full at its end, the exit is
// recorded all the same.
type exitFile struct {
	dir *os.File
	f   *os.File // nil: not reserved
}

// reserve makes the file with blanks, which JSON allows, under another name.
func (x *exitFile) reserve(dir *os.File) error {
	x.dir = dir
	fd, err := unix.Openat(int(dir.Fd()), exitTmp, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return os.NewSyscallError("openat", err)
	}
	x.f = os.NewFile(uintptr(fd), exitTmp)
	if _, err := x.f.Write(bytes.Repeat([]byte{' '}, exitRoom)); err != nil {
		return fmt.Errorf("no room for the exit of the container: %w", err)
	}
	return nil
}

// record writes the exit and gives the file its name.
func (x *exitFile) record(e monitorapi.Exit) error {
	p, err := lean.Marshal(e)
	if err != nil {
		return err
	}
	if len(p) > exitRoom {
		e.Error = e.Error[:min(len(e.Error), exitRoom/8)] // escaped it may be longer
		if p, err = lean.Marshal(e); err != nil {
			return err
		}
	}
	if pad := exitRoom - len(p); pad > 0 {
		p = append(p, bytes.Repeat([]byte{' '}, pad)...)
	}
	if x.f == nil {
		if err := x.reserve(x.dir); err != nil {
			return err
		}
	}
	if _, err := x.f.WriteAt(p, 0); err != nil {
		err = errors.Join(err, x.f.Close()) // perhaps another file has better luck
		x.f = nil
		return err
	}
	dir := int(x.dir.Fd())
	return os.NewSyscallError("renameat", unix.Renameat(dir, exitTmp, dir, monitorapi.ExitName))
}

// unsaved keeps an exit that could not be written: the monitor lives on until
// a daemon has taken it or the write succeeds. Without it the next daemon
// would take the container for one whose monitor was killed.
func (m *monitor) unsaved(e monitorapi.Exit) {
	for !m.told.Load() {
		time.Sleep(exitRetry)
		if m.record.record(e) == nil {
			return
		}
	}
}
