package volume

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/volume"
	"golang.org/x/sys/unix"

	"wharf/internal/model"
)

// draft is a volume in the making: a directory that Open deletes, until it is
// renamed into its place as a whole.
type draft struct {
	room *Room
	vol
}

// draft makes a volume's directory, with its record, aside. The caller ends
// with publish, swap or drop.
func (r *Room) draft(name string, labels, opts map[string]string) (*draft, error) {
	d := &draft{r, vol{
		rec:   record{Name: name, Driver: driverLocal, Created: time.Now().UTC(), Labels: maps.Clone(labels), Options: maps.Clone(opts)},
		dir:   filepath.Join(r.opts.Dir, newPrefix+model.NewID().Short()),
		users: map[model.ID]struct{}{},
	}}
	err := d.save()
	if err == nil {
		err = r.bound(opts, d.data())
	}
	if err != nil {
		d.drop()
		return nil, err
	}
	return d, nil
}

// drop deletes what was made, behind. After publish it does nothing.
func (d *draft) drop() {
	if d.dir == "" {
		return
	}
	gone := filepath.Join(d.room.opts.Dir, gonePrefix+model.NewID().Short())
	if os.Rename(d.dir, gone) == nil {
		d.room.deleteLater(gone)
	}
	d.dir = ""
}

// sync waits until everything that was copied is on the disk.
func (d *draft) sync() error {
	fd, err := unix.Open(d.dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return os.NewSyscallError("syncfs", unix.Syncfs(fd))
}

// publish makes the draft the volume of its name.
func (d *draft) publish() (*vol, error) {
	if err := d.sync(); err != nil {
		return nil, err
	}
	r, name := d.room, d.rec.Name
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.vols[name] != nil {
		return nil, taken(name)
	}
	v := &vol{rec: d.rec, dir: filepath.Join(r.opts.Dir, name), users: d.users}
	if err := unix.Renameat2(unix.AT_FDCWD, d.dir, unix.AT_FDCWD, v.dir, unix.RENAME_NOREPLACE); err != nil {
		return nil, fmt.Errorf("rename: %w", err)
	}
	d.dir = ""
	r.vols[name] = v
	r.opts.Publish(events.VolumeEventType, events.ActionCreate, name, map[string]string{"driver": v.rec.Driver})
	return v, syncDir(r.opts.Dir)
}

// swap gives v the draft's data, at once, if still says that it may be; the
// draft has v's then. Call with v.busy held.
func (d *draft) swap(v *vol, still func() error) error {
	if err := d.sync(); err != nil {
		return err
	}
	if still != nil {
		if err := still(); err != nil {
			return err
		}
	}
	if err := v.unmount(); err != nil { // subpaths would go on showing the old data
		return err
	}
	var st unix.Stat_t
	if err := unix.Lstat(d.data(), &st); err != nil {
		return &os.PathError{Op: "stat", Path: d.data(), Err: err}
	}
	if err := unix.Renameat2(unix.AT_FDCWD, d.data(), unix.AT_FDCWD, v.data(), unix.RENAME_EXCHANGE); err != nil {
		return fmt.Errorf("exchange: %w", err)
	}
	// xfs takes the new ".." for a change of the directory.
	_ = unix.UtimesNanoAt(unix.AT_FDCWD, v.data(), []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
	return syncDir(v.dir)
}

func taken(name string) error {
	return model.Refuse(errdefs.ErrConflict, "create %s: a volume of that name exists", name)
}

// fresh refuses a name that no new volume can have.
func (r *Room) fresh(name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	if _, err := r.get(name); err == nil {
		return taken(name)
	}
	return nil
}

// onlySize refuses options of a volume whose data are copied into it, but for
// its size.
func onlySize(opts map[string]string) error {
	if opts["type"] == typeBlock {
		return checkBlock(opts)
	}
	for k := range opts {
		if k != "size" {
			return model.Refuse(errdefs.ErrInvalidArgument, "option %s: a volume that is filled takes only the option size, and type=block", k)
		}
	}
	return nil
}

// elsewhere reports that a volume's data are on a mount of their own.
func (rec *record) elsewhere() bool {
	return !rec.block() && (rec.Options["type"] != "" || rec.Options["device"] != "")
}

// borrow keeps a volume from being removed while its data are read or written
// for what, and mounts it.
func (r *Room) borrow(ctx context.Context, name, what string) (*vol, func(), error) {
	r.mu.Lock()
	v, err := r.find(name)
	user := model.ID(what + " " + model.NewID().Short()) // no container's id has a space
	if err == nil && v.rec.block() {
		err = v.take(user)
	}
	if err == nil {
		v.hold(user)
	}
	r.mu.Unlock()
	if err != nil {
		return nil, nil, err
	}
	var lock *os.File
	release := func() {
		if lock != nil {
			_ = lock.Close()
		}
		r.give(v, user)
		r.mu.Lock()
		delete(v.users, user)
		r.mu.Unlock()
		if err := r.idle(v); err != nil {
			r.log.Warn("a volume stays mounted", "volume", name, "error", err)
		}
	}
	v.busy.Lock()
	if v.rec.block() {
		lock, err = r.lockDisk(ctx, v)
	} else {
		err = v.mount(ctx)
	}
	v.busy.Unlock()
	if err != nil {
		release()
		return nil, nil, fmt.Errorf("volume %s: %w", name, err)
	}
	return v, release, nil
}

// copying reports that a user of a volume is a copy of its data, and no
// container.
func copying(id model.ID) bool { return strings.ContainsRune(string(id), ' ') }

// Clone makes a volume of another one's data, or of a snapshot of it.
func (r *Room) Clone(ctx context.Context, q model.VolumeClone, p model.Progress) (*volume.Volume, error) {
	if err := errors.Join(r.fresh(q.Name), onlySize(q.Options)); err != nil {
		return nil, err
	}
	src, release, err := r.borrow(ctx, q.Source, "clone")
	if err != nil {
		return nil, err
	}
	defer release()
	from, err := src.snapshotOrData(q.Snapshot)
	if err != nil {
		return nil, err
	}
	if q.Options["type"] != "" && !src.rec.block() {
		return nil, model.Refuse(errdefs.ErrInvalidArgument, "clone %s: it is no disk (type=block), and its clone cannot be one: export it, and import that", q.Source)
	}
	opts, err := cloneOptions(&src.rec, q.Options)
	if err != nil {
		return nil, err
	}
	d, err := r.draft(q.Name, q.Labels, opts)
	if err != nil {
		return nil, fmt.Errorf("create %s: %w", q.Name, err)
	}
	defer d.drop()
	if err := errors.Join(d.fill(ctx, from, p), d.growDisk()); err != nil {
		return nil, fmt.Errorf("clone %s: %w", q.Source, full(err, opts))
	}
	v, err := d.publish()
	if err != nil {
		return nil, fmt.Errorf("clone %s: %w", q.Source, err)
	}
	return v.describe(), nil
}

// progressTime is how often the progress of a copy is told.
const progressTime = 500 * time.Millisecond

// fill copies a directory's content into the draft.
func (d *draft) fill(ctx context.Context, from string, p model.Progress) error {
	src, err := unix.Open(from, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: from, Err: err}
	}
	defer unix.Close(src)
	dst, err := unix.Open(d.data(), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: d.data(), Err: err}
	}
	defer unix.Close(dst)
	c := &copier{ctx: ctx, whole: true}
	var done int64
	told := time.Now()
	c.count = func(n int64) {
		done += n
		if p != nil && time.Since(told) > progressTime {
			told = time.Now()
			p(model.VolumeProgress{Bytes: done})
		}
	}
	err = c.copyTree(src, dst)
	if err == nil && p != nil {
		p(model.VolumeProgress{Bytes: done})
	}
	return err
}
