package qemu

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"wharf/api/guestapi"
	"wharf/internal/driver"
	"wharf/internal/model"
)

// A mount of type ext4 or erofs, whose source is a file of this host, is a
// disk of the machine: a volume with type=block, or an image. In the guest it
// is mounted by the agent and bound to its place.
const (
	typeExt4  = "ext4"
	typeErofs = "erofs"
)

// volumeData is the directory on a volume's disk that is the volume: what the
// file system has for itself (lost+found) is not in it.
const volumeData = "data"

// serialVolume begins the serials of such disks.
const serialVolume = "wharf-vol"

// slots is how many virtio-mmio devices a microvm with ACPI has that work. It
// has one more, slot 0, whose interrupt gets lost: QEMU's second IO-APIC takes
// its first pin for a timer's, and raises the third.
const slots = 23

// ownDevices are those of every machine beside disks, networks and shares:
// serial port, entropy, balloon.
const ownDevices = 3

// fits refuses more devices than the machine has slots for.
func (h *hardware) fits(wanted int) error {
	room := slots - ownDevices - max(len(h.taps), nics) - rootDisks
	if wanted <= room {
		return nil
	}
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(
		"%d volumes, binds and image mounts: a virtual machine has room for %d (each is a device, and QEMU's microvm has %d virtio-mmio slots, %d of them taken by its own devices, disks and networks)",
		wanted, room, slots, slots-room))
}

// rootDisks are the image's and the writable one.
const rootDisks = 2

// onlyDisk tells a bundle that shows the files of one volume's disk.
func onlyDisk(b *model.Bundle) bool {
	return b.Rootfs.Disk == "" && len(b.Spec.Process.Args) == 0 && len(b.Spec.Mounts) == 1 && b.Spec.Mounts[0].Type == typeExt4
}

// disk makes m a disk of the machine and a bind of where the agent mounts it.
// A volume that is mounted twice is one disk.
func (g *guest) disk(m *specs.Mount) {
	n, sub, fill := -1, "", ""
	for i := range g.disks {
		if g.disks[i].path == m.Source {
			n = i
		}
	}
	out := specs.Mount{Destination: m.Destination, Type: "bind", Options: []string{"rbind", "rprivate"}}
	for _, o := range m.Options {
		if s, ok := strings.CutPrefix(o, "subpath="); ok {
			sub = s
		} else if o == "copyup" {
			fill = m.Destination
		} else {
			out.Options = append(out.Options, o)
		}
	}
	volume := m.Type == typeExt4
	if n < 0 {
		n = len(g.disks)
		g.disks = append(g.disks, disk{serial: serialVolume + strconv.Itoa(n), path: m.Source, readOnly: !volume, lock: volume})
		mount := guestapi.Mount{Type: m.Type, Disk: g.disks[n].serial, Target: path.Join(guestapi.VolumesDir, strconv.Itoa(n)), ReadOnly: !volume}
		if volume { // what is deleted is given back to the host
			mount.Options, mount.Dirs, mount.Grow, mount.Fill = []string{"noatime", "discard"}, []string{volumeData}, true, fill
		}
		g.boot.Mounts = append(g.boot.Mounts, mount)
	}
	out.Source = path.Join(guestapi.VolumesDir, strconv.Itoa(n))
	if volume {
		out.Source = path.Join(out.Source, volumeData)
	}
	out.Source = path.Join(out.Source, path.Join("/", sub))
	*m = out
}

var _ driver.DiskFiler = (*Driver)(nil)

// diskKey is under which id the machine runs that shows a disk's files.
func diskKey(disk string) model.ID {
	sum := sha256.Sum256([]byte(disk))
	return model.ID("disk-" + hex.EncodeToString(sum[:8]))
}

// DiskFiles opens the files on a volume's disk, which no instance has, by a
// machine that is started for it and ends when nobody has used it for a while.
func (d *Driver) DiskFiles(ctx context.Context, disk, name string) (driver.Files, error) {
	f, err := d.diskFiles(ctx, disk, name)
	if err != nil {
		return nil, err
	}
	return f, nil
}

func (d *Driver) diskFiles(ctx context.Context, disk, name string) (*files, error) {
	key := diskKey(disk)
	i, done, err := d.helpers.use(ctx, key, func() *model.Bundle {
		b := helperBundle(key, model.Rootfs{}, d.m.o.IDs)
		b.Spec.Mounts = []specs.Mount{{Destination: "/", Type: typeExt4, Source: disk}}
		return b
	})
	if err != nil {
		return nil, fmt.Errorf("machine to look into the disk %s: %w", disk, err)
	}
	return &files{i: i, name: name, done: done}, nil
}

// Tree streams a disk's files as tar, "./" first.
func (d *Driver) Tree(ctx context.Context, disk string) (io.ReadCloser, error) {
	f, err := d.diskFiles(ctx, disk, "")
	if err != nil {
		return nil, err
	}
	in, err := f.stream(ctx, guestapi.Request{Op: guestapi.OpExport, Top: true})
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &borrowed{ReadCloser: in, f: f}, nil
}

// borrowed lets go of its machine when it is closed.
type borrowed struct {
	io.ReadCloser
	f *files
}

func (b *borrowed) Close() error { return errors.Join(b.ReadCloser.Close(), b.f.Close()) }

// Fill unpacks a tar on a disk.
func (d *Driver) Fill(ctx context.Context, disk string, o model.PutOptions, tar io.Reader) error {
	f, err := d.diskFiles(ctx, disk, "")
	if err != nil {
		return err
	}
	return errors.Join(f.Put(ctx, "/", o, tar), f.Close())
}

// End ends the machine that shows a disk's files: what it wrote is in the
// file.
func (d *Driver) End(ctx context.Context, disk string) error {
	return d.helpers.end(ctx, diskKey(disk))
}

// endDisks ends looks into the disks that b wants.
func (d *Driver) endDisks(ctx context.Context, b *model.Bundle) error {
	var errs []error
	for _, m := range b.Spec.Mounts {
		if m.Type == typeExt4 {
			errs = append(errs, d.End(ctx, m.Source))
		}
	}
	return errors.Join(errs...)
}
