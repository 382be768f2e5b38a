package volume

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/volume"

	"wharf/internal/model"
)

// Options of Open.
type Options struct {
	Dir string // needed
	// Publish receives the room's events; nil drops them.
	Publish func(typ events.Type, action events.Action, id string, attrs map[string]string)
	// Archives reads and writes tar, for Export and Import.
	Archives Archives
	// OnTrash is called, without locks, when a removed volume lies in the
	// trash and is measured; nil is not called.
	OnTrash func()
	Log     *slog.Logger
}

// Room is the volume room.
type Room struct {
	opts Options
	log  *slog.Logger
	wg   sync.WaitGroup // deletions and measurements

	closing context.Context // ends what goes on behind, but not deletions
	close   context.CancelFunc

	projects sync.Mutex // held while a quota's number is chosen

	mu      sync.Mutex // guards the rest
	vols    map[string]*vol
	trash   map[string]*trashed // by id
	noTrash bool
	disks   Disks
}

// vol is one volume.
type vol struct {
	rec   record
	dir   string                // <Dir>/<name>
	users map[model.ID]struct{} // guarded by Room.mu
	busy  sync.Mutex            // held while mounting, unmounting and copying up

	// Of a disk, guarded by Room.mu: who has it for itself ("" nobody), and how
	// many look into it.
	machine model.ID
	looks   int
}

func (v *vol) data() string { return filepath.Join(v.dir, "_data") }

const (
	driverLocal    = "local"
	labelAnonymous = "com.docker.volume.anonymous"
	gonePrefix     = ".gone-" // removed, being deleted
	newPrefix      = ".new-"  // being made
)

// Open reads the volumes and goes on deleting what an earlier daemon began to
// delete.
func Open(o Options) (*Room, error) {
	if o.Dir == "" {
		return nil, model.Refuse(errdefs.ErrInvalidArgument, "volume: a directory is needed")
	}
	if o.Publish == nil {
		o.Publish = func(events.Type, events.Action, string, map[string]string) {}
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	r := &Room{opts: o, log: o.Log.With("room", "volume"), vols: map[string]*vol{}, trash: map[string]*trashed{}}
	r.closing, r.close = context.WithCancel(context.Background())
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("volume: %w", err)
	}
	entries, err := os.ReadDir(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("volume: %w", err)
	}
	for _, e := range entries {
		dir := filepath.Join(o.Dir, e.Name())
		switch {
		case !e.IsDir():
		case strings.HasPrefix(e.Name(), gonePrefix), strings.HasPrefix(e.Name(), newPrefix):
			r.deleteLater(dir)
		case strings.HasPrefix(e.Name(), trashPrefix):
			t, err := loadTrashed(dir)
			if err != nil {
				r.log.Error("a removed volume cannot be restored", "dir", e.Name(), "error", err)
				continue
			}
			id := strings.TrimPrefix(e.Name(), trashPrefix)
			if r.trash[id] = t; t.Size < 0 {
				r.weigh(id)
			}
		case checkName(e.Name()) == nil:
			rec, err := loadRecord(dir)
			if err != nil {
				r.log.Error("a volume is left out", "volume", e.Name(), "error", err)
				continue
			}
			r.vols[e.Name()] = &vol{rec: rec, dir: dir, users: map[model.ID]struct{}{}}
		}
	}
	return r, nil
}

// Close waits for deletions that are going on.
func (r *Room) Close() error {
	r.close()
	r.wg.Wait()
	return nil
}

var validName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`)

// checkName is Docker's rule for names, in Docker's words.
func checkName(name string) error {
	switch {
	case len(name) == 1:
		return model.Refuse(errdefs.ErrInvalidArgument, "volume name is too short, names should be at least two alphanumeric characters")
	case len(name) > 255:
		return model.Refuse(errdefs.ErrInvalidArgument, "volume name of %d characters is too long, it may have 255", len(name))
	case !validName.MatchString(name):
		return model.Refuse(errdefs.ErrInvalidArgument, `create %s: %q includes invalid characters for a local volume name, only "[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path`, name, name)
	}
	return nil
}

// Create makes a volume; one of that name and driver that is there already is
// the answer too.
func (r *Room) Create(ctx context.Context, q volume.CreateRequest) (*volume.Volume, error) {
	v, err := r.create(q, "")
	if err != nil {
		return nil, err
	}
	return v.describe(), ctx.Err()
}

// create makes the volume and puts user on it unless "".
func (r *Room) create(q volume.CreateRequest, user model.ID) (*vol, error) {
	labels := maps.Clone(q.Labels)
	if q.Name == "" {
		q.Name = string(model.NewID())
		if labels == nil {
			labels = map[string]string{}
		}
		labels[labelAnonymous] = ""
	}
	if q.ClusterVolumeSpec != nil {
		return nil, model.Refuse(errdefs.ErrNotImplemented, "cluster volumes are not supported")
	}
	if err := checkName(q.Name); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if v := r.vols[q.Name]; v != nil {
		if q.Driver != "" && q.Driver != v.rec.Driver {
			return nil, model.Refuse(errdefs.ErrConflict, "create %s: volume name must be unique: it exists with driver %s, not %s", q.Name, v.rec.Driver, q.Driver)
		}
		if len(q.DriverOpts) > 0 && !maps.Equal(q.DriverOpts, v.rec.Options) {
			r.log.Warn("a volume exists with other options, which stay", "volume", q.Name)
		}
		v.hold(user)
		return v, nil
	}
	if q.Driver != "" && q.Driver != driverLocal {
		return nil, model.Refuse(errdefs.ErrNotFound, "error looking up volume plugin %s: plugin %q not found (the local driver is there)", q.Driver, q.Driver)
	}
	if err := checkOptions(q.DriverOpts); err != nil {
		return nil, fmt.Errorf("create %s: %w", q.Name, err)
	}
	v := &vol{
		rec:   record{Name: q.Name, Driver: driverLocal, Created: time.Now().UTC(), Options: maps.Clone(q.DriverOpts), Labels: labels},
		dir:   filepath.Join(r.opts.Dir, q.Name),
		users: map[model.ID]struct{}{},
	}
	err := v.save()
	if err == nil {
		err = r.bound(v.rec.Options, v.data())
	}
	if err != nil {
		_ = os.RemoveAll(v.dir)
		return nil, fmt.Errorf("create %s: %w", q.Name, err)
	}
	v.hold(user)
	r.vols[q.Name] = v
	r.opts.Publish(events.VolumeEventType, events.ActionCreate, q.Name, map[string]string{"driver": driverLocal})
	return v, nil
}

// hold puts a container on the volume. Call with Room.mu held.
func (v *vol) hold(id model.ID) {
	if id != "" {
		v.users[id] = struct{}{}
	}
}

func (r *Room) get(name string) (*vol, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.find(name)
}

// find is get with mu held.
func (r *Room) find(name string) (*vol, error) {
	if v := r.vols[name]; v != nil {
		return v, nil
	}
	return nil, model.Refuse(errdefs.ErrNotFound, "get %s: no such volume", name)
}

// Remove removes a volume that no container has. With force one that is not
// there is no error.
func (r *Room) Remove(ctx context.Context, name string, force bool) error {
	err := r.remove(name, "", func(*vol) bool { return true })
	if force && errdefs.IsNotFound(err) {
		err = nil
	}
	return errors.Join(err, ctx.Err())
}

// remove takes the volume away, if unused and still wanted. by is the
// container that it goes with.
func (r *Room) remove(name string, by model.ID, still func(*vol) bool) error {
	v, err := r.get(name)
	if err != nil {
		return err
	}
	v.busy.Lock()
	defer v.busy.Unlock()
	if ok, err := r.removable(v, name, still); err != nil || !ok {
		return err
	}
	if v.rec.block() {
		lock, err := r.lockDisk(context.Background(), v)
		if err != nil {
			return err
		}
		if lock != nil {
			defer lock.Close()
		}
	}
	// Who comes from here on mounts it again; the check below sees them.
	if err := v.unmount(); err != nil {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	took, after, err := r.takeAway(v, name, by, still)
	if err != nil || !took {
		return err
	}
	r.opts.Publish(events.VolumeEventType, events.ActionDestroy, name, map[string]string{"driver": v.rec.Driver})
	if err := syncDir(r.opts.Dir); err != nil {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	after()
	return nil
}

// removable says whether the volume is still there and wanted gone; in use is
// an error.
func (r *Room) removable(v *vol, name string, still func(*vol) bool) (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.removableLocked(v, name, still)
}

func (r *Room) removableLocked(v *vol, name string, still func(*vol) bool) (bool, error) {
	if r.vols[name] != v || !still(v) {
		return false, nil
	}
	if len(v.users) == 0 {
		if err := v.free(); err != nil || v.looks > 0 {
			return false, model.Refuse(errdefs.ErrConflict, "remove %s: volume is in use - its files are being copied", name)
		}
		return true, nil
	}
	return false, model.Refuse(errdefs.ErrConflict, "remove %s: volume is in use - [%s]", name, strings.Join(v.userIDs(), ", "))
}

// takeAway renames the volume into the trash, or away, and forgets it, in one
// go, so that its name is free for a new one. after is what is to be done
// behind.
func (r *Room) takeAway(v *vol, name string, by model.ID, still func(*vol) bool) (took bool, after func(), err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if ok, err := r.removableLocked(v, name, still); err != nil || !ok {
		return false, nil, err
	}
	if r.noTrash || v.worthless() {
		gone := filepath.Join(r.opts.Dir, gonePrefix+model.NewID().Short())
		err = os.Rename(v.dir, gone)
		after = func() { r.deleteLater(gone) }
	} else {
		var id string
		id, err = r.throw(v.rec, v.dir, by)
		after = func() { r.weigh(id) }
	}
	if errors.Is(err, os.ErrNotExist) { // somebody removed it by hand
		after, err = func() {}, nil
	}
	if err != nil {
		return false, nil, fmt.Errorf("remove %s: %w", name, err)
	}
	delete(r.vols, name)
	return true, after, nil
}

func (v *vol) userIDs() []string {
	ids := make([]string, 0, len(v.users))
	for id := range v.users {
		ids = append(ids, string(id))
	}
	slices.Sort(ids)
	return ids
}

func (r *Room) deleteLater(dir string) {
	r.wg.Go(func() {
		id := project(filepath.Join(dir, "_data"))
		if err := os.RemoveAll(dir); err != nil {
			r.log.Error("delete a removed volume's content; it is tried again when the daemon starts", "dir", dir, "error", err)
			return
		}
		if id != 0 {
			unlimit(r.opts.Dir, id)
		}
	})
}
