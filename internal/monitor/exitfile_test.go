package monitor

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"wharf/api/monitorapi"
)

// aside runs f on a thread with a mount namespace of its own, which ends with
// the thread.
func aside(t *testing.T, f func() error) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it mounts a small tmpfs")
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good
		err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS)
		if err == nil {
			err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// The exit is recorded on a disk that became full while the container ran.
func TestExitOnAFullDisk(t *testing.T) {
	at := t.TempDir()
	aside(t, func() error {
		if err := unix.Mount("tmpfs", at, "tmpfs", 0, "size=64k"); err != nil {
			return err
		}
		dir, err := os.Open(at)
		if err != nil {
			return err
		}
		defer dir.Close()
		var x exitFile
		if err := x.reserve(dir); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(at, "filler"), make([]byte, 1<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
			return errors.New("the disk is not full")
		}
		if err := x.record(monitorapi.Exit{Code: 7, At: time.Unix(1, 0)}); err != nil {
			return err
		}
		b, err := os.ReadFile(filepath.Join(at, monitorapi.ExitName))
		if err != nil {
			return err
		}
		var e monitorapi.Exit
		if err := json.Unmarshal(b, &e); err != nil || e.Code != 7 {
			t.Errorf("exit %+v, %v", e, err)
		}
		// A start on a full disk fails at once, not at the container's end.
		var other exitFile
		if err := other.reserve(dir); !errors.Is(err, unix.ENOSPC) {
			t.Errorf("no room for the exit: %v", err)
		}
		return nil
	})
}

func TestExitWithALongError(t *testing.T) {
	at := t.TempDir()
	dir, err := os.Open(at)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	x := exitFile{dir: dir} // nothing reserved
	if err := x.record(monitorapi.Exit{Code: 255, Error: strings.Repeat("\x01", 3*exitRoom)}); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(filepath.Join(at, monitorapi.ExitName))
	if err != nil || st.Size() != exitRoom {
		t.Errorf("size %v, %v", st, err)
	}
}

// A monitor whose exit cannot be written waits for somebody to take it, or for
// the disk.
func TestUnsavedExitIsKept(t *testing.T) {
	gone, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer gone.Close()
	if err := os.Remove(gone.Name()); err != nil {
		t.Fatal(err)
	}
	m := &monitor{record: exitFile{dir: gone}}
	done := make(chan struct{})
	go func() { m.unsaved(monitorapi.Exit{Code: 3}); close(done) }()
	select {
	case <-done:
		t.Fatal("it did not wait")
	case <-time.After(exitRetry / 4):
	}
	m.told.Store(true)
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Error("it waits although the exit was taken")
	}
}
