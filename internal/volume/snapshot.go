package volume

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"wharf/internal/model"
)

// A snapshot lies in its volume's directory and goes with it into the trash:
// snapshots/<name>/_data and snapshot.json. Nobody mounts it.

func (v *vol) snapshots() string { return filepath.Join(v.dir, "snapshots") }

// snapshotOrData is the directory of a snapshot, or for "" the volume's.
func (v *vol) snapshotOrData(snap string) (string, error) {
	if snap == "" {
		return v.data(), nil
	}
	dir := filepath.Join(v.snapshots(), snap)
	if checkName(snap) != nil || !isDir(dir) {
		return "", noSnapshot(v.rec.Name, snap)
	}
	return filepath.Join(dir, "_data"), nil
}

func isDir(p string) bool {
	st, err := os.Lstat(p)
	return err == nil && st.IsDir()
}

func noSnapshot(name, snap string) error {
	return model.Refuse(errdefs.ErrNotFound, "volume %s has no snapshot %s", name, snap)
}

// Snapshot copies a volume's data as they are; name "" is made of the time.
// Files that change meanwhile are copied at different moments: the snapshot
// of a volume in use is as consistent as its containers were still (paused
// tells which, for the record).
func (r *Room) Snapshot(ctx context.Context, name, snap string, paused []string, p model.Progress) (model.VolumeSnapshot, error) {
	none := model.VolumeSnapshot{}
	now := time.Now().UTC()
	if snap == "" {
		snap = now.Format("20060102-150405")
	}
	if err := checkName(snap); err != nil {
		return none, err
	}
	v, release, err := r.borrow(ctx, name, "snapshot")
	if err != nil {
		return none, err
	}
	defer release()
	if _, err := v.snapshotOrData(snap); err == nil {
		return none, model.Refuse(errdefs.ErrConflict, "volume %s has a snapshot %s", name, snap)
	}
	d, err := r.draft(name, nil, nil)
	if err != nil {
		return none, fmt.Errorf("snapshot of %s: %w", name, err)
	}
	defer d.drop()
	if err := d.fill(ctx, v.data(), p); err != nil {
		return none, fmt.Errorf("snapshot of %s: %w", name, err)
	}
	s := model.VolumeSnapshot{Volume: name, Name: snap, Created: now, Paused: paused}
	if s.Size, err = onDisk(ctx, d.data()); err != nil {
		return none, fmt.Errorf("snapshot of %s: %w", name, err)
	}
	if err := d.become(v, s); err != nil {
		return none, fmt.Errorf("snapshot of %s: %w", name, err)
	}
	return s, nil
}

// become makes the draft the volume's snapshot s.
func (d *draft) become(v *vol, s model.VolumeSnapshot) error {
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(d.dir, "snapshot.json"), b, 0o600); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(d.dir, "opts.json")); err != nil {
		return err
	}
	if err := d.sync(); err != nil {
		return err
	}
	v.busy.Lock()
	defer v.busy.Unlock()
	if err := os.Mkdir(v.snapshots(), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	err = unix.Renameat2(unix.AT_FDCWD, d.dir, unix.AT_FDCWD, filepath.Join(v.snapshots(), s.Name), unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EEXIST) {
		return model.Refuse(errdefs.ErrConflict, "there is a snapshot %s", s.Name)
	}
	if err != nil {
		return err
	}
	d.dir = ""
	return errors.Join(syncDir(v.snapshots()), syncDir(v.dir))
}

// Snapshots lists a volume's snapshots, or with "" everybody's: by volume,
// oldest first.
func (r *Room) Snapshots(ctx context.Context, name string) ([]model.VolumeSnapshot, error) {
	var vols []*vol
	r.mu.Lock()
	for n, v := range r.vols {
		if name == "" || n == name {
			vols = append(vols, v)
		}
	}
	r.mu.Unlock()
	if name != "" && len(vols) == 0 {
		return nil, model.Refuse(errdefs.ErrNotFound, "get %s: no such volume", name)
	}
	out := []model.VolumeSnapshot{}
	for _, v := range vols {
		some, err := v.listSnapshots()
		if err != nil {
			return nil, err
		}
		out = append(out, some...)
	}
	slices.SortFunc(out, func(a, b model.VolumeSnapshot) int {
		if c := strings.Compare(a.Volume, b.Volume); c != 0 {
			return c
		}
		return a.Created.Compare(b.Created)
	})
	return out, ctx.Err()
}

func (v *vol) listSnapshots() ([]model.VolumeSnapshot, error) {
	entries, err := os.ReadDir(v.snapshots())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []model.VolumeSnapshot
	for _, e := range entries {
		s := model.VolumeSnapshot{Size: -1}
		b, err := os.ReadFile(filepath.Join(v.snapshots(), e.Name(), "snapshot.json"))
		if err == nil {
			err = json.Unmarshal(b, &s)
		}
		if err != nil { // the data are there all the same
			if fi, err := e.Info(); err == nil {
				s.Created = fi.ModTime().UTC()
			}
		}
		s.Volume, s.Name = v.rec.Name, e.Name() // a restored volume may have another name
		out = append(out, s)
	}
	return out, nil
}

// RestoreSnapshot gives the volume the data of its snapshot, which stays. The
// data that it had go to the trash, under its name. free refuses while a
// running container has the volume: it is asked just before the exchange.
func (r *Room) RestoreSnapshot(ctx context.Context, name, snap string, free func() error, p model.Progress) error {
	v, release, err := r.borrow(ctx, name, "restore")
	if err != nil {
		return err
	}
	defer release()
	if v.rec.elsewhere() {
		return model.Refuse(errdefs.ErrInvalidArgument, "volume %s is mounted from %s: its snapshots can be cloned into a volume of another name, and not restored in place", name, v.rec.Options["device"])
	}
	from, err := v.snapshotOrData(snap)
	if err != nil || snap == "" {
		return errors.Join(err, emptyName(snap))
	}
	if free != nil {
		if err := free(); err != nil {
			return err
		}
	}
	d, err := r.draft(name, v.rec.Labels, v.rec.Options)
	if err != nil {
		return fmt.Errorf("restore %s of %s: %w", snap, name, err)
	}
	defer d.drop()
	if err := d.fill(ctx, from, p); err != nil {
		return fmt.Errorf("restore %s of %s: %w", snap, name, full(err, v.rec.Options))
	}
	v.busy.Lock()
	err = d.swap(v, free)
	v.busy.Unlock()
	if err != nil {
		return fmt.Errorf("restore %s of %s: %w", snap, name, err)
	}
	d.rec.Created = v.rec.Created
	return d.trash()
}

func emptyName(snap string) error {
	if snap != "" {
		return nil
	}
	return model.Refuse(errdefs.ErrInvalidArgument, "a snapshot's name is needed")
}

// trash puts what the draft has now into the trash.
func (d *draft) trash() error {
	r := d.room
	r.mu.Lock()
	if r.noTrash {
		r.mu.Unlock()
		return nil // drop deletes it
	}
	id, err := r.throw(d.rec, d.dir, "")
	r.mu.Unlock()
	if err == nil {
		d.dir = ""
		r.weigh(id)
	}
	return err
}

// RemoveSnapshot removes a snapshot; its data go to the trash under the name
// <volume>-<snapshot>.
func (r *Room) RemoveSnapshot(ctx context.Context, name, snap string) error {
	v, err := r.get(name)
	if err != nil {
		return err
	}
	if _, err := v.snapshotOrData(snap); err != nil || snap == "" {
		return errors.Join(err, emptyName(snap))
	}
	d, err := r.draft(name+"-"+snap, v.rec.Labels, nil)
	if err != nil {
		return err
	}
	defer d.drop()
	v.busy.Lock()
	defer v.busy.Unlock()
	at := filepath.Join(v.snapshots(), snap)
	if err := unix.Renameat2(unix.AT_FDCWD, d.data(), unix.AT_FDCWD, filepath.Join(at, "_data"), unix.RENAME_EXCHANGE); errors.Is(err, unix.ENOENT) {
		return noSnapshot(name, snap)
	} else if err != nil {
		return fmt.Errorf("remove snapshot %s of %s: %w", snap, name, err)
	}
	if err := os.RemoveAll(at); err != nil {
		return fmt.Errorf("remove snapshot %s of %s: %w", snap, name, err)
	}
	_ = os.Remove(v.snapshots()) // when it was the last
	return errors.Join(d.trash(), ctx.Err())
}
