package record

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// onSmallDisk runs f with a tmpfs at dir, on a thread with a mount namespace
// of its own, which ends with the thread.
func onSmallDisk(t *testing.T, dir, size string, f func() error) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it mounts a small tmpfs")
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good
		done <- errors.Join(
			unix.Unshare(unix.CLONE_NEWNS|unix.CLONE_FS),
			unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
			unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size), f())
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func fillDisk(dir string) error {
	err := os.WriteFile(filepath.Join(dir, "filler"), make([]byte, 16<<20), 0o600)
	if !errors.Is(err, unix.ENOSPC) {
		return errors.New("the disk is not full")
	}
	return nil
}

// A record that is damaged, on a disk that is full: Open gives back what can
// be read, loses nothing more, and the next one does too.
func TestDamagedOnAFullDisk(t *testing.T) {
	dir := t.TempDir()
	onSmallDisk(t, dir, "512k", func() error {
		s, err := Open(dir)
		if err != nil {
			return err
		}
		long := strings.Repeat("x", 20<<10)
		for _, k := range []string{"a", "b", "c"} {
			if err := s.Table("t").Put(t.Context(), k, long, false); err != nil {
				return err
			}
		}
		if err := s.Close(); err != nil {
			return err
		}
		path := filepath.Join(dir, "record.log")
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		data[len(data)/2] ^= 0xff // in b
		if err := errors.Join(os.WriteFile(path, data, 0o600), fillDisk(dir)); err != nil {
			return err
		}
		for round := range 3 {
			if round == 2 {
				if err := os.Remove(filepath.Join(dir, "filler")); err != nil {
					return err
				}
			}
			s, err := Open(dir)
			if err != nil {
				return err
			}
			if n := len(s.Table("t").All()); n != 2 {
				t.Errorf("round %d: %d objects, want 2", round, n)
			}
			if len(s.Damage()) == 0 {
				t.Errorf("round %d: no word of it", round)
			}
			err = s.Table("t").Put(t.Context(), "d", long, false)
			if full := round < 2; full != errors.Is(err, unix.ENOSPC) {
				t.Errorf("round %d: put: %v", round, err)
			}
			if err := s.Close(); err != nil {
				return err
			}
		}
		s, err = Open(dir)
		if err != nil {
			return err
		}
		defer s.Close()
		if len(s.Damage()) != 0 || len(s.Table("t").All()) != 3 {
			t.Errorf("with room again: %q, %d objects", s.Damage(), len(s.Table("t").All()))
		}
		return nil
	})
}

// A disk that fails at a sync: what is acknowledged is in a file that was
// synced, and where that fails too, the caller hears of it.
func TestFailedSync(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	before, err := os.Stat(filepath.Join(dir, "record.log"))
	if err != nil {
		t.Fatal(err)
	}
	s.log.fdatasync = func(int) error { return unix.EIO }
	if err := s.Table("t").Put(t.Context(), "a", "kept", true); err != nil {
		t.Errorf("a sync that failed once: %v", err)
	}
	after, err := os.Stat(filepath.Join(dir, "record.log"))
	if err != nil || os.SameFile(before, after) {
		t.Errorf("it was not written anew: %v", err)
	}
	if err := os.Mkdir(filepath.Join(dir, "record.log.new"), 0o700); err != nil { // nowhere to write it
		t.Fatal(err)
	}
	if err := s.Table("t").Put(t.Context(), "b", "lost?", true); !errors.Is(err, unix.EIO) {
		t.Errorf("nowhere to write: %v", err)
	}
}
