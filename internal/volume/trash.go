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
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/volume"
	"golang.org/x/sys/unix"

	"wharf/internal/model"
)

// trashPrefix begins the directory of a removed volume that can be restored.
const trashPrefix = ".trash-"

// trashed is a removed volume: its directory as it was, and trashed.json.
type trashed struct {
	rec record
	dir string
	ticket
}

// ticket is trashed.json. It is there for the display and may be lost.
type ticket struct {
	Removed   time.Time `json:"removed"`
	Container model.ID  `json:"container,omitempty"`
	Size      int64     `json:"size"`
}

// loadTrashed reads one directory of the trash.
func loadTrashed(dir string) (*trashed, error) {
	t := &trashed{dir: dir, ticket: ticket{Size: -1}}
	b, err := os.ReadFile(filepath.Join(dir, "opts.json"))
	if err == nil {
		err = json.Unmarshal(b, &t.rec)
	}
	if errors.Is(err, fs.ErrNotExist) {
		t.rec = record{Name: "unknown", Driver: driverLocal}
	} else if err != nil {
		return nil, err
	}
	if b, err = os.ReadFile(filepath.Join(dir, "trashed.json")); err == nil {
		err = json.Unmarshal(b, &t.ticket)
	}
	if err != nil { // a crash of the machine took it
		st, err := os.Stat(dir)
		if err != nil {
			return nil, err
		}
		t.Removed, t.Size = st.ModTime().UTC(), -1
	}
	return t, nil
}

// writeTicket is told about errors by nobody: the volume counts, not its tag.
func writeTicket(dir string, t ticket) {
	if b, err := json.Marshal(t); err == nil {
		_ = os.WriteFile(filepath.Join(dir, "trashed.json"), b, 0o600)
	}
}

// SetTrash says whether removed volumes are kept until Purge (as they are
// from the start) or deleted at once.
func (r *Room) SetTrash(on bool) {
	r.mu.Lock()
	r.noTrash = !on
	r.mu.Unlock()
}

// Trashed lists the removed volumes that can be restored, oldest first.
func (r *Room) Trashed(ctx context.Context) ([]model.TrashedVolume, error) {
	r.mu.Lock()
	out := make([]model.TrashedVolume, 0, len(r.trash))
	for id, t := range r.trash {
		out = append(out, model.TrashedVolume{
			ID: id, Name: t.rec.Name, Removed: t.Removed, Container: t.Container, Size: t.Size,
			Driver: t.rec.Driver, Labels: t.rec.Labels, Options: t.rec.Options,
		})
	}
	r.mu.Unlock()
	slices.SortFunc(out, func(a, b model.TrashedVolume) int {
		if c := a.Removed.Compare(b.Removed); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return out, ctx.Err()
}

// RestoreTrashed brings a removed volume back: data, labels, options, time of
// creation, and its name unless as gives it another. errdefs.ErrConflict when
// that name is taken.
func (r *Room) RestoreTrashed(ctx context.Context, id, as string) (*volume.Volume, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	v, err := r.untrash(id, as)
	if err != nil {
		return nil, err
	}
	r.opts.Publish(events.VolumeEventType, events.ActionCreate, v.rec.Name, map[string]string{"driver": v.rec.Driver})
	return v.describe(), syncDir(r.opts.Dir)
}

func (r *Room) untrash(id, as string) (*vol, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.trash[id]
	if t == nil {
		return nil, noTrash(id)
	}
	if as == "" {
		as = t.rec.Name
	}
	if err := checkName(as); err != nil {
		return nil, err
	}
	if r.vols[as] != nil {
		return nil, model.Refuse(errdefs.ErrConflict, "restore %s: a volume %s exists; remove it, or restore under another name", id, as)
	}
	v := &vol{rec: t.rec, dir: t.dir, users: map[model.ID]struct{}{}}
	v.rec.Name = as
	if err := v.save(); err != nil { // in the trash still: a crash here changes nothing that matters
		return nil, fmt.Errorf("restore %s: %w", id, err)
	}
	_ = os.Remove(filepath.Join(t.dir, "trashed.json"))
	v.dir = filepath.Join(r.opts.Dir, as)
	if err := unix.Renameat2(unix.AT_FDCWD, t.dir, unix.AT_FDCWD, v.dir, unix.RENAME_NOREPLACE); err != nil {
		writeTicket(t.dir, t.ticket)
		return nil, fmt.Errorf("restore %s as %s: %w", id, as, err)
	}
	delete(r.trash, id)
	r.vols[as] = v
	return v, nil
}

// Purge deletes one removed volume for good.
func (r *Room) Purge(ctx context.Context, id string) error {
	r.mu.Lock()
	t := r.trash[id]
	delete(r.trash, id)
	r.mu.Unlock()
	if t == nil {
		return noTrash(id)
	}
	gone := filepath.Join(r.opts.Dir, gonePrefix+id)
	if err := os.Rename(t.dir, gone); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete %s: %w", id, err)
	}
	r.deleteLater(gone)
	return ctx.Err()
}

func noTrash(id string) error {
	return model.Refuse(errdefs.ErrNotFound, "No such removed volume: %s", id)
}

// throw renames a directory with a volume's record into the trash. Call with
// Room.mu held; the size is found later, by r.weigh.
func (r *Room) throw(rec record, dir string, by model.ID) (string, error) {
	id := model.NewID().Short()
	t := &trashed{rec: rec, dir: filepath.Join(r.opts.Dir, trashPrefix+id), ticket: ticket{Removed: time.Now().UTC(), Container: by, Size: -1}}
	writeTicket(dir, t.ticket)
	if err := os.Rename(dir, t.dir); err != nil {
		return "", err
	}
	r.trash[id] = t
	return id, nil
}

// weigh measures what came into the trash, behind, and tells who bounds it.
func (r *Room) weigh(id string) {
	r.wg.Go(func() {
		r.mu.Lock()
		t := r.trash[id]
		r.mu.Unlock()
		if t == nil {
			return
		}
		n, err := onDisk(r.closing, t.dir)
		if err != nil {
			return // tried again when the daemon starts
		}
		r.mu.Lock()
		if r.trash[id] == t {
			t.Size = n
			writeTicket(t.dir, t.ticket)
		}
		r.mu.Unlock()
		if r.opts.OnTrash != nil {
			r.opts.OnTrash()
		}
	})
}

// worthless reports that a removed volume has nothing to restore: nobody
// named it, and it is as it was made.
func (v *vol) worthless() bool {
	if _, anonymous := v.rec.Labels[labelAnonymous]; !anonymous || len(v.rec.Options) > 0 {
		return false
	}
	var st unix.Stat_t
	if err := unix.Lstat(v.data(), &st); err != nil {
		return errors.Is(err, unix.ENOENT)
	}
	names, err := readDir(v.data())
	_, snaps := os.Lstat(filepath.Join(v.dir, "snapshots"))
	return err == nil && len(names) == 0 && st.Uid == 0 && st.Gid == 0 && st.Mode&0o7777 == 0o755 && snaps != nil
}

// onDisk sums up the blocks of everything below dir, each inode once.
func onDisk(ctx context.Context, dir string) (int64, error) {
	seen := map[[2]uint64]struct{}{}
	var total int64
	err := walk(ctx, dir, func(_ string, st *unix.Stat_t) error {
		if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			k := [2]uint64{uint64(st.Dev), st.Ino}
			if _, ok := seen[k]; ok {
				return nil
			}
			seen[k] = struct{}{}
		}
		total += st.Blocks * 512
		return nil
	})
	return total, err
}
