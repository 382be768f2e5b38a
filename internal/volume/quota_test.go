package volume

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/volume"
	"golang.org/x/sys/unix"

	"wharf/internal/model"
)

// bounded makes the thread of somebody without CAP_SYS_RESOURCE, whom ext4 bounds.
func bounded(t testing.TB) {
	t.Helper()
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	must(t, unix.Capget(&hdr, &data[0]))
	data[0].Effective &^= 1 << unix.CAP_SYS_RESOURCE
	must(t, unix.Capset(&hdr, &data[0])) // this thread's alone; the test has locked it
}

// TestSize runs where project quotas are: WHARF_QUOTA_DIR names a directory
// there, or a loop device is made. docs/volumes.md says how to get them.
func TestSize(t *testing.T) {
	needRoot(t)
	dir := os.Getenv("WHARF_QUOTA_DIR")
	if dir == "" {
		dir = loop(t, "loop,prjquota", "mkfs.ext4", "-q", "-O", "project,quota")
	}
	if dir == "" {
		t.Skip("no file system with project quotas: set WHARF_QUOTA_DIR to a directory on one (the kernel here has no CONFIG_QFMT_V2)")
	}
	r := room(t, filepath.Join(dir, "volumes"))
	v, err := r.Create(ctx, volume.CreateRequest{Name: "small", DriverOpts: map[string]string{"size": "2m"}})
	must(t, err)
	other, err := r.Create(ctx, volume.CreateRequest{Name: "other", DriverOpts: map[string]string{"size": "2m"}})
	must(t, err)
	if a, b := project(v.Mountpoint), project(other.Mountpoint); a < firstProject || a == b {
		t.Fatalf("projects %#x %#x", a, b)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and it ends with the goroutine
		bounded(t)
		err := os.WriteFile(v.Mountpoint+"/f", make([]byte, 4<<20), 0o600)
		if err == nil || !strings.Contains(err.Error(), "quota") && !strings.Contains(err.Error(), "no space") {
			t.Errorf("4 MB in a volume of 2: %v", err)
		}
		if err := os.WriteFile(other.Mountpoint+"/f", make([]byte, 1<<20), 0o600); err != nil {
			t.Errorf("the other volume: %v", err)
		}
	}()
	<-done
	if st, err := os.Stat(v.Mountpoint + "/f"); err == nil && st.Size() > 2<<20 {
		t.Errorf("%d bytes were written", st.Size())
	}
	if _, err := r.Clone(ctx, model.VolumeClone{Source: "other", Name: "copy", Options: map[string]string{"size": "4m"}}, nil); err != nil {
		t.Error(err)
	}
	copied, err := r.Inspect(ctx, "copy")
	must(t, err)
	if p := project(copied.Mountpoint); p < firstProject || p == project(other.Mountpoint) {
		t.Errorf("the copy's project is %#x", p)
	}
	r.SetTrash(false)
	must(t, r.Remove(ctx, "small", false))
	must(t, r.Close())
}

// Where nothing can bound a directory, create says what would help.
func TestSizeRefused(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	if canLimit(dir) == nil {
		t.Skip("this file system has project quotas")
	}
	r := room(t, dir)
	_, err := r.Create(ctx, volume.CreateRequest{Name: "small", DriverOpts: map[string]string{"size": "2m"}})
	if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "project quotas") || !strings.Contains(err.Error(), "prjquota") && !strings.Contains(err.Error(), "put the data root") {
		t.Error(err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}
