// Package qemu runs instances as microVMs: the same image and the same OCI
// runtime spec as a container's, under a kernel of its own in QEMU, held by
// wharf-vmm. What holding a process of ours means is in package held.
//
// # Owns
//
// ExecRoot/vms/<id>/, as package held says, and ExecRoot/vm-root, the empty
// root of QEMU's own containers. The instance's cgroup, which QEMU and its
// helpers are in.
//
// # Never
//
// Mounts what a guest wrote. Gives QEMU a path of the host's: disks, taps and
// sockets are descriptors, its kernel is bound read-only into its root.
//
// # How an instance is made
//
// prepare (internal/runtime/prepare) runs twice: for QEMU's own container on
// this host, and for the image's process on the guest's kernel (guestHost).
// The second one's result goes to the agent as it is, so what runs inside is
// what would run in a container.
package qemu

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	"wharf/api/monitorapi"
	"wharf/internal/driver"
	"wharf/internal/driver/held"
	"wharf/internal/driver/qemu/boot"
	"wharf/internal/model"
)

// Options configure the driver.
type Options struct {
	// VMM is the path of wharf-vmm, mode 0755 as every directory above it.
	VMM string
	// QEMU and Virtiofsd are the programs; "" looks for them.
	QEMU, Virtiofsd string
	// ExecRoot and CgroupParent are as held.Options has them.
	ExecRoot, CgroupParent string
	// Boot makes kernel and initramfs.
	Boot *boot.Maker
	// Accel says "kvm" or "tcg", and why not kvm.
	Accel func(context.Context) (accel, why string, err error)
	// KVM is told how machines fare on it; nil is nobody.
	KVM Witness
	// Memory in bytes is a machine's without --memory; 0 is 512 MiB.
	Memory int64
	// Pressure in bytes: with less of the host's memory available, guests are
	// asked for what they do not need. 0 never asks.
	Pressure int64
	// BootTime is how long a machine may take to come up; 0 is the usual time.
	BootTime time.Duration
	// IDs is the range that QEMU has whose instance has none (--privileged).
	IDs model.IDRange
	// NoTemplates starts every machine cold.
	NoTemplates bool
	// Debug puts the kernel's messages on the console.
	Debug bool
}

// instancesDir is the directory of instances below the exec root.
const instancesDir = "vms"

// Witness hears how machines fare on KVM.
type Witness interface {
	// Proven: one came up.
	Proven()
	// Failed: one did not, and why. Whether Accel's answer is another one now.
	Failed(why string) bool
}

// Driver is the driver.
type Driver struct {
	*held.Driver
	m       *machines
	helpers helpers
}

var _ driver.Driver = (*Driver)(nil)

// Places where distributions have the programs.
var (
	qemuPlaces      = []string{"qemu-system-x86_64", "/usr/libexec/qemu-kvm"}
	virtiofsdPlaces = []string{"/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd"}
)

// New checks the options. QEMU itself is looked for at a start: a host may get
// it later.
func New(o Options) (*Driver, error) {
	if o.Memory == 0 {
		o.Memory = defaultMemory
	}
	m := &machines{o: o, root: filepath.Join(o.ExecRoot, "vm-root")}
	h, err := held.New(held.Options{Kind: m, Monitor: o.VMM, ExecRoot: o.ExecRoot, Dir: instancesDir, CgroupParent: o.CgroupParent})
	if err != nil {
		return nil, err
	}
	if err := makeCageRoot(m.root); err != nil {
		return nil, fmt.Errorf("root of QEMU's containers: %w", err)
	}
	d := &Driver{Driver: h, m: m}
	d.helpers.d = d
	m.templates.d, m.templates.off = d, o.NoTemplates
	m.templates.byKey, m.templates.failed, m.templates.uses = map[string]*ready{}, map[string]int{}, map[model.ID]use{}
	m.templates.wanted = map[model.ID]want{}
	m.standbys = standbys{m: m, off: true, taken: map[model.ID]*taken{}}
	return d, nil
}

var _ driver.Disker = (*Driver)(nil)

// RootAsDisk says that instances want Rootfs.Disk and Rootfs.Writable.
func (d *Driver) RootAsDisk() bool { return true }

// Start starts b in a machine of its own.
func (d *Driver) Start(ctx context.Context, b *model.Bundle, sb driver.Sandbox) (driver.Instance, error) {
	if err := errors.Join(d.helpers.end(ctx, b.ID), d.endDisks(ctx, b)); err != nil {
		return nil, errors.Join(err, sb.Close())
	}
	i, sb, done, err := d.startReady(ctx, b, sb)
	if done {
		if err != nil {
			return nil, err
		}
		return &instance{Instance: i, d: d}, nil
	}
	accel, _, _ := d.m.o.Accel(ctx) // what it fails with, so does Begin
	i, err = d.Driver.Begin(ctx, b, sb)
	_ = d.m.standbys.takenBy(b.ID) // if it did not come to that
	came := err
	if processFault(err) {
		came = nil // the machine came up
	}
	again := ""
	if d.m.templates.started(b.ID, came) {
		again = "a clone did not come up; the machine starts cold"
	} else if d.m.disproven(accel, came) {
		again = "a machine did not come up on KVM; machines are emulated from now on"
	}
	if again != "" && ctx.Err() == nil {
		slog.WarnContext(ctx, again, "room", "vm", "id", b.ID, "err", err)
		if err := d.Driver.Release(ctx, b.ID); err != nil {
			return nil, err
		}
		if sb, err = d.Driver.Sandbox(ctx, b); err != nil {
			return nil, err
		}
		i, err = d.Driver.Begin(ctx, b, sb)
	}
	if err != nil {
		return nil, err
	}
	return &instance{Instance: i, d: d}, nil
}

// disproven tells of a machine that came up on KVM, or did not, and says
// whether machines are emulated from now on.
func (m *machines) disproven(accel string, err error) bool {
	var f *monitorapi.Failed
	switch {
	case accel != "kvm" || m.o.KVM == nil:
	case err == nil:
		m.o.KVM.Proven()
	case errors.As(err, &f) && f.Down:
		return m.o.KVM.Failed(f.Text)
	}
	return false
}

// processFault: the machine is well, and its process cannot be started; no
// other machine would do better.
func processFault(err error) bool {
	var bad *driver.StartError
	var f *monitorapi.Failed
	return errors.As(err, &bad) || errors.As(err, &f) && f.Told
}

// Recover finds a machine that an earlier daemon started.
func (d *Driver) Recover(ctx context.Context, id model.ID) (driver.Instance, error) {
	i, err := d.Driver.Find(ctx, id)
	if err != nil {
		return nil, err
	}
	d.holdIDs(i)
	return &instance{Instance: i, d: d}, nil
}

// Release ends what still runs for id, a look into its files too.
func (d *Driver) Release(ctx context.Context, id model.ID) error {
	if err := d.helpers.end(ctx, id); err != nil {
		return err
	}
	if err := d.Driver.Release(ctx, id); err != nil {
		return err
	}
	d.freeIDs(id)
	return nil
}

// Close ends what is not an instance: looks into files, templates. Instances
// live on.
func (d *Driver) Close() error {
	d.m.standbys.close()
	d.m.templates.close()
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	var errs []error
	for _, id := range d.helpers.ids() {
		errs = append(errs, d.helpers.end(ctx, id))
	}
	d.m.underWay.Range(func(id, _ any) bool {
		errs = append(errs, d.Driver.Release(ctx, id.(model.ID)))
		return true
	})
	return errors.Join(append(errs, d.Driver.Close())...)
}

// closeTime bounds Close. What is left then, the next daemon sweeps.
const closeTime = 10 * time.Second

// List leaves out what is no instance: machines that look into files, and
// templates under way, of this daemon's. An earlier one's are swept.
func (d *Driver) List(ctx context.Context) ([]model.ID, error) {
	all, err := d.Driver.List(ctx)
	return slices.DeleteFunc(all, d.own), err
}

// own says whether a machine is the driver's own, and no instance.
func (d *Driver) own(id model.ID) bool {
	_, making := d.m.underWay.Load(id)
	return making || d.helpers.has(id)
}

// Fsck is held's, without what List leaves out.
func (d *Driver) Fsck(ctx context.Context, records []model.Container) ([]model.Finding, error) {
	found, err := d.Driver.Fsck(ctx, records)
	return slices.DeleteFunc(found, func(f model.Finding) bool { return d.own(f.ID) }), err
}

// find returns the first of programs that is there.
func find(configured string, places []string, remedy string) (string, error) {
	if configured != "" {
		places = []string{configured}
	}
	for _, p := range places {
		if at, err := exec.LookPath(p); err == nil {
			return at, nil
		} else if !errors.Is(err, exec.ErrNotFound) && !errors.Is(err, os.ErrNotExist) {
			return "", err
		}
	}
	return "", errdefs.ErrUnavailable.WithMessage(fmt.Sprintf("isolation vm needs %s, which is not there: %s", filepath.Base(places[0]), remedy))
}
