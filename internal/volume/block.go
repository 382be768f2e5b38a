package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"wharf/internal/model"
)

// A volume with type=block is a disk: a sparse file with an ext4, which one
// virtual machine at a time has for itself. The file system on it is written
// by that machine's kernel, so this host's never mounts it: whoever wants its
// files asks a machine (Disks). The file is made at the first use.

// typeBlock is the value of the option type that makes a volume a disk.
const typeBlock = "block"

// minDisk is what an ext4 with a journal needs.
const minDisk = 16 << 20

// Disks reads and writes the files on a disk, in a virtual machine that is
// there for that alone.
type Disks interface {
	// Tree and Fill are Archives' Tree and Put with the disk's root.
	Tree(ctx context.Context, disk string) (io.ReadCloser, error)
	Fill(ctx context.Context, disk string, o model.PutOptions, tar io.Reader) error
	// End lets go of a disk: what was written to it is in its file.
	End(ctx context.Context, disk string) error
}

// SetDisks says who reads disks. Without, their data cannot be exported.
func (r *Room) SetDisks(d Disks) {
	r.mu.Lock()
	r.disks = d
	r.mu.Unlock()
}

func (r *Room) diskReader() (Disks, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.disks == nil {
		return nil, model.Refuse(errdefs.ErrNotImplemented, "a volume with type=block is read by a virtual machine, and this daemon runs none (vm: false, or wharf-vmm is not installed)")
	}
	return r.disks, nil
}

func (rec *record) block() bool { return rec.Options["type"] == typeBlock }

// disk is the file of a volume with type=block. It lies where other volumes
// have their files, so that clones, snapshots and the trash take it along.
func (v *vol) disk() string { return filepath.Join(v.data(), "disk") }

// checkBlock checks the options of a volume with type=block.
func checkBlock(opts map[string]string) error {
	for _, k := range []string{"device", "o"} {
		if opts[k] != "" {
			return model.Refuse(errdefs.ErrInvalidArgument, "option %s: a volume with type=block takes size alone; a device of the host is mounted with its file system as type", k)
		}
	}
	if opts["size"] == "" {
		return model.Refuse(errdefs.ErrInvalidArgument, `missing required option: "size": a volume with type=block is a disk, give its size, such as size=10g (it takes what is written)`)
	}
	n, err := parseSize(opts["size"])
	if err == nil && n < minDisk {
		err = model.Refuse(errdefs.ErrInvalidArgument, "invalid size %q: a volume with type=block has at least 16m", opts["size"])
	}
	return err
}

// IsDisk reports that a volume is a disk.
func (r *Room) IsDisk(name string) bool {
	v, err := r.get(name)
	return err == nil && v.rec.block()
}

// Disk gives id the disk of m's volume, for itself until GiveDisks, and
// returns its file; "" for a volume that is none. errdefs.ErrConflict names who has
// it. Asking again is no error.
func (r *Room) Disk(ctx context.Context, id model.ID, m model.Mount) (string, error) {
	r.mu.Lock()
	v, err := r.find(m.Name)
	if err == nil && v.rec.block() {
		err = v.take(id)
	}
	r.mu.Unlock()
	if err != nil || !v.rec.block() {
		return "", err
	}
	v.busy.Lock()
	defer v.busy.Unlock()
	if err := v.format(ctx); err != nil {
		r.give(v, id)
		return "", fmt.Errorf("volume %s: %w", m.Name, err)
	}
	return v.disk(), nil
}

// GiveDisks lets go of every disk that id has.
func (r *Room) GiveDisks(id model.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, v := range r.vols {
		if v.machine == id {
			v.machine = ""
		}
	}
}

func (r *Room) give(v *vol, id model.ID) {
	r.mu.Lock()
	if v.machine == id {
		v.machine = ""
	}
	r.mu.Unlock()
}

// LookInto keeps a disk from machines and copies while a helper machine shows its files;
// several may look. "" for a volume that is no disk.
func (r *Room) LookInto(ctx context.Context, name string) (file string, done func(), err error) {
	r.mu.Lock()
	v, err := r.find(name)
	if err == nil && v.rec.block() {
		if err = v.free(); err == nil {
			v.looks++
		}
	}
	r.mu.Unlock()
	if err != nil || !v.rec.block() {
		return "", func() {}, err
	}
	done = sync.OnceFunc(func() {
		r.mu.Lock()
		v.looks--
		r.mu.Unlock()
	})
	v.busy.Lock()
	defer v.busy.Unlock()
	if err := v.format(ctx); err != nil {
		done()
		return "", nil, fmt.Errorf("volume %s: %w", name, err)
	}
	return v.disk(), done, nil
}

// take makes id the disk's only user. Call with Room.mu held.
func (v *vol) take(id model.ID) error {
	if v.machine == id {
		return nil
	}
	if err := v.free(); err != nil {
		return err
	}
	if v.looks > 0 {
		return model.Refuse(errdefs.ErrConflict, "volume %s is a disk (type=block) whose files are being copied: try again when that is done", v.rec.Name)
	}
	v.machine = id
	return nil
}

// free refuses a disk that somebody has. Call with Room.mu held.
func (v *vol) free() error {
	switch {
	case v.machine == "":
		return nil
	case copying(v.machine):
		what, _, _ := strings.Cut(string(v.machine), " ")
		return model.Refuse(errdefs.ErrConflict, "volume %s is a disk (type=block) and a %s of it is going on: try again when that is done", v.rec.Name, what)
	}
	return model.Refuse(errdefs.ErrConflict, "volume %s is a disk (type=block), which one virtual machine at a time has: container %s has it; stop that first, or use a plain volume to share", v.rec.Name, v.machine.Short())
}

// format makes the disk unless it is there. Call with busy held.
func (v *vol) format(ctx context.Context) error {
	if _, err := os.Lstat(v.disk()); err == nil {
		return nil
	}
	size, err := parseSize(v.rec.Options["size"])
	if err != nil {
		return err
	}
	return makeDisk(ctx, filepath.Join(v.dir, ".disk"), v.disk(), size)
}

// makeDisk makes an empty ext4 in a sparse file, whole or not at all.
func makeDisk(ctx context.Context, tmp, at string, size int64) error {
	mkfs, err := exec.LookPath("mkfs.ext4")
	if err != nil {
		if mkfs, err = exec.LookPath("/usr/sbin/mkfs.ext4"); err != nil {
			return model.Refuse(errdefs.ErrUnavailable, "a volume with type=block needs mkfs.ext4: apt-get install e2fsprogs")
		}
	}
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		return err
	}
	c := exec.CommandContext(ctx, mkfs, "-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", tmp)
	if out, err := c.CombinedOutput(); err != nil {
		_ = os.Remove(tmp)
		return fmt.Errorf("mkfs.ext4: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return os.Rename(tmp, at)
}

// lockDisk takes the lock that QEMU has on a disk as long as it runs, whoever
// started it: what is copied here, nobody writes to. Nothing there is fine.
func (r *Room) lockDisk(ctx context.Context, v *vol) (*os.File, error) {
	r.mu.Lock()
	d := r.disks
	r.mu.Unlock()
	if d != nil {
		if err := d.End(ctx, v.disk()); err != nil {
			return nil, err
		}
	}
	f, err := os.OpenFile(v.disk(), os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, model.Refuse(errdefs.ErrConflict, "volume %s is a disk (type=block) that a virtual machine has: stop that first", v.rec.Name)
	}
	return f, nil
}

// cloneOptions are those of a clone: a disk's are its source's, with a size
// that may be larger.
func cloneOptions(src *record, opts map[string]string) (map[string]string, error) {
	if !src.block() {
		return opts, nil
	}
	out := maps.Clone(src.Options)
	want := opts["size"]
	if want == "" {
		return out, nil
	}
	have, err := parseSize(src.Options["size"])
	if err != nil {
		return nil, err
	}
	n, err := parseSize(want)
	if err != nil {
		return nil, err
	}
	if n < have {
		return nil, model.Refuse(errdefs.ErrInvalidArgument, "size %s: the disk of volume %s has %s, and its clone cannot be smaller", want, src.Name, src.Options["size"])
	}
	out["size"] = want
	return out, nil
}

// growDisk makes a copied disk as large as its options say; the file system
// follows when a machine mounts it.
func (d *draft) growDisk() error {
	if !d.rec.block() {
		return nil
	}
	size, err := parseSize(d.rec.Options["size"])
	if err != nil {
		return err
	}
	st, err := os.Stat(d.disk())
	if errors.Is(err, os.ErrNotExist) || err == nil && st.Size() >= size {
		return nil
	}
	if err != nil {
		return err
	}
	return os.Truncate(d.disk(), size)
}

// exportDisk streams the files of a disk.
func (r *Room) exportDisk(ctx context.Context, name, snap string) (io.ReadCloser, error) {
	if snap != "" {
		return nil, model.Refuse(errdefs.ErrInvalidArgument, "a snapshot of volume %s is a disk that nobody mounts: clone it into a volume, and export that", name)
	}
	d, err := r.diskReader()
	if err != nil {
		return nil, err
	}
	file, done, err := r.LookInto(ctx, name)
	if err != nil {
		return nil, err
	}
	in, err := d.Tree(ctx, file)
	if err != nil {
		done()
		return nil, err
	}
	return &lent{ReadCloser: in, release: done}, nil
}

// unpack fills a draft from a tar: its directory, or its disk.
func (d *draft) unpack(ctx context.Context, a Archives, o model.PutOptions, tar io.Reader) error {
	if !d.rec.block() {
		return a.Put(ctx, model.Root{Dir: d.data()}, "/", o, tar)
	}
	disks, err := d.room.diskReader()
	if err != nil {
		return err
	}
	if err := d.format(ctx); err != nil {
		return err
	}
	err = disks.Fill(ctx, d.disk(), o, tar)
	return errors.Join(err, disks.End(context.WithoutCancel(ctx), d.disk()))
}
