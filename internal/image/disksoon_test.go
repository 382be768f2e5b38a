package image

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"wharf/internal/model"
)

// shows waits for a file to be there, or not to be.
func shows(t testing.TB, at string, want bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		_, err := os.Stat(at)
		if (err == nil) == want {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: there is %v, want %v", at, err == nil, want)
		}
	}
}

// Where machines are usual, an image's disk is made when the image comes; it goes
// with the image, and what a crash left half written goes with the next daemon.
func TestDiskOfLoaded(t *testing.T) {
	root := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(root, "disks"), 0o700))
	half := filepath.Join(root, "disks", newDisk+"1")
	must(t, os.WriteFile(half, []byte("half"), 0o600))
	ts := open(t, root, func(o *Options) { o.Disks = true })
	shows(t, half, false)
	img, id := prepared(t, ts)
	at := ts.diskName(img.ChainID)
	shows(t, at, true)
	r, err := ts.Disks(t.Context(), id)
	if err != nil || r.Disk != at {
		t.Errorf("%+v %v", r, err)
	}
	must(t, ts.Discard(t.Context(), id))
	if _, err := ts.Remove(t.Context(), "busybox:test", false, false, nil); err != nil {
		t.Fatal(err)
	}
	ts.gc.later()
	shows(t, at, false)
}

// Elsewhere it is made for an instance; many who want it at once get one.
func TestDiskSoon(t *testing.T) {
	ts := open(t, t.TempDir())
	img, _ := prepared(t, ts)
	at := ts.diskName(img.ChainID)
	if _, err := os.Stat(at); err == nil {
		t.Error("a disk was made for nobody")
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			ts.DiskSoon(img)
			if got, err := ts.Disk(t.Context(), img); err != nil || got != at {
				t.Errorf("%s %v", got, err)
			}
		})
	}
	wg.Wait()
	ts.DiskSoon(model.Image{ChainID: "sha256:" + "00000000000000000000000000000000" + "00000000000000000000000000000000"}) // one that is not here
	for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		ts.disks.mu.Lock()
		busy := ts.disks.busy
		ts.disks.mu.Unlock()
		if !busy {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the queue does not get empty")
		}
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(at), "*")); len(left) != 1 {
		t.Errorf("disks: %v", left)
	}
}
