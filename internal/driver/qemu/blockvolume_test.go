package qemu

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"wharf/api/guestapi"
	"wharf/internal/model"
)

func bundleWith(mounts ...specs.Mount) *model.Bundle {
	return &model.Bundle{ID: model.NewID(), Rootfs: model.Rootfs{Disk: "/image", Writable: "/rw"},
		Spec: &specs.Spec{Process: &specs.Process{Args: []string{"x"}}, Linux: &specs.Linux{}, Mounts: mounts}}
}

// Disks of volumes and images become devices, mounts of the agent and binds.
func TestDiskMounts(t *testing.T) {
	b := bundleWith(
		specs.Mount{Destination: "/db", Type: "ext4", Source: "/v/disk", Options: []string{"copyup"}},
		specs.Mount{Destination: "/db-ro", Type: "ext4", Source: "/v/disk", Options: []string{"ro", "subpath=a/../../b"}},
		specs.Mount{Destination: "/img", Type: "erofs", Source: "/i.erofs", Options: []string{"ro", "nodev", "subpath=bin"}},
	)
	g, err := inGuest(b)
	if err != nil {
		t.Fatal(err)
	}
	want := []specs.Mount{
		{Destination: "/db", Type: "bind", Source: "/run/wharf/volumes/0/data", Options: []string{"rbind", "rprivate"}},
		{Destination: "/db-ro", Type: "bind", Source: "/run/wharf/volumes/0/data/b", Options: []string{"rbind", "rprivate", "ro"}},
		{Destination: "/img", Type: "bind", Source: "/run/wharf/volumes/1/bin", Options: []string{"rbind", "rprivate", "ro", "nodev"}},
	}
	if d := cmp.Diff(want, g.bundle.Spec.Mounts); d != "" {
		t.Error(d)
	}
	mounts := []guestapi.Mount{
		{Type: "ext4", Disk: "wharf-vol0", Target: "/run/wharf/volumes/0", Options: []string{"noatime", "discard"}, Dirs: []string{"data"}, Grow: true, Fill: "/db"},
		{Type: "erofs", Disk: "wharf-vol1", Target: "/run/wharf/volumes/1", ReadOnly: true},
	}
	if d := cmp.Diff(mounts, g.boot.Mounts[2:]); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]disk{{serial: "wharf-vol0", path: "/v/disk", lock: true}, {serial: "wharf-vol1", path: "/i.erofs", readOnly: true}}, g.disks, cmp.AllowUnexported(disk{})); d != "" {
		t.Error(d)
	}
}

// What has no slot is refused, in words that name the limit.
func TestSlots(t *testing.T) {
	h := &hardware{taps: make([]tap, maxNics)}
	if err := h.fits(10); err != nil {
		t.Error(err)
	}
	if err := h.fits(11); err == nil || !strings.Contains(err.Error(), "room for 10") {
		t.Error(err)
	}
	h = &hardware{taps: make([]tap, nics)}
	if err := h.fits(14); err != nil {
		t.Error(err)
	}
	if err := h.fits(15); err == nil || !strings.Contains(err.Error(), "room for 14") || !strings.Contains(err.Error(), "23 virtio-mmio slots, 9 of them") {
		t.Error(err)
	}
}

// A volume's disk: filled and read by a machine of its own, used by one
// instance at a time, with what the first had written there for the second.
func TestBlockVolume(t *testing.T) {
	x, bundle := target(t)
	d := x.Driver.(*Driver)
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	ctx := t.Context()
	at := filepath.Join(t.TempDir(), "disk")
	emptyDisk(t, at)
	if err := d.Fill(ctx, at, model.PutOptions{Top: true}, tarOf(t, "from-outside", "hi\n")); err != nil {
		t.Fatal(err)
	}
	b := bundle(t, "/bin/sh", "-c", "cat /vol/from-outside && ls /vol && echo inside >/vol/from-inside && mount | grep /vol")
	b.Spec.Mounts = append(b.Spec.Mounts, specs.Mount{Destination: "/vol", Type: "ext4", Source: at})
	if out := toEnd(t, d, b); !strings.Contains(out, "hi") || !strings.Contains(out, "from-outside") || !strings.Contains(out, "ext4") {
		t.Errorf("%q", out)
	}
	in, err := d.Tree(ctx, at)
	if err != nil {
		t.Fatal(err)
	}
	all, err := io.ReadAll(in)
	if err := fmt.Sprint(err, in.Close()); err != "<nil> <nil>" || !strings.Contains(string(all), "inside\n") {
		t.Errorf("%s %d bytes", err, len(all))
	}
}

func tarOf(t *testing.T, name, text string) io.Reader {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text))}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}
