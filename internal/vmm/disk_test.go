package vmm

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"wharf/internal/vmm/vmmapi"
)

// A disk that one machine has for itself is nobody else's until the last
// descriptor of it is closed; one that is not asked for so is anybody's.
func TestDiskLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	open := func(lock, readOnly bool, wait time.Duration) (*os.File, error) {
		return openDisk(&vmmapi.File{Path: path, Lock: lock, ReadOnly: readOnly}, wait)
	}
	mine, err := open(true, false, 0)
	if err != nil {
		t.Fatal(err)
	}
	qemus, err := duplicate(mine)
	if err != nil {
		t.Fatal(err)
	}
	_ = mine.Close()
	for _, readOnly := range []bool{false, true} {
		if _, err := open(true, readOnly, 0); err == nil || !strings.Contains(err.Error(), path+" is locked") {
			t.Errorf("a second machine (read-only %v) has the disk: %v", readOnly, err)
		}
	}
	shared, err := open(false, true, 0)
	if err != nil {
		t.Fatal(err)
	}
	_ = shared.Close()
	time.AfterFunc(100*time.Millisecond, func() { _ = qemus.Close() })
	next, err := open(true, false, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	_ = next.Close()
}
