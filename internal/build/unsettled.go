package build

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// BuildKit's tables are written without waiting for the disk: what they hold
// can be made again. A crash of the daemon loses nothing of them, the kernel
// has it. A crash of the machine may leave them torn, or ahead of the layers
// that they speak of, and nobody could tell; so before they change, a file named
// unsettled says so, with the machine's boot id. It goes when all has been quiet
// for a moment and is on the disk. Who finds it from another boot throws the
// cache away.
const (
	unsettledFile = "unsettled"
	quietFor      = 5 * time.Second
)

// cacheFiles are what goes when the cache is thrown away. The history of
// builds is written with care and stays.
var cacheFiles = []string{"metadata.db", "cache.db"}

// cacheLease marks, as a label, the leases of BuildKit's cache records.
const cacheLease = "containerd.io/gc.flat"

// settler keeps the file. Its methods are safe for concurrent use.
type settler struct {
	root   string
	boot   string
	quiet  time.Duration
	settle func() error // brings the image room's tables to the disk
	log    *slog.Logger

	dirty   atomic.Bool
	changes atomic.Int64

	mu    sync.Mutex // guards what follows; held while the file is made or removed
	timer *time.Timer
	ended bool
}

// changed says that the tables are about to change. An error means that they
// must not.
func (s *settler) changed() error {
	s.changes.Add(1)
	if s.dirty.Load() {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dirty.Load() {
		return nil
	}
	if err := s.mark(); err != nil {
		return fmt.Errorf("build cache: %w", err)
	}
	s.dirty.Store(true)
	if !s.ended {
		s.watch(s.state())
	}
	return nil
}

// mark makes the file, of the one that clear put aside if there is one: on a
// full disk a file can be renamed where none can be made, and a cache that
// cannot change could not be pruned.
func (s *settler) mark() error {
	from := s.spare()
	f, err := os.OpenFile(from, os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		from = s.path()
		f, err = os.OpenFile(from, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	}
	if err != nil {
		return err
	}
	_, err = f.WriteString(s.boot)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if from != s.path() {
		if err := os.Rename(from, s.path()); err != nil {
			return err
		}
	}
	return s.syncRoot(unix.Fsync)
}

func (s *settler) spare() string { return s.path() + ".spare" }

func (s *settler) path() string { return filepath.Join(s.root, unsettledFile) }

// state is another whenever a table has changed.
func (s *settler) state() string {
	out := fmt.Sprint(s.changes.Load())
	for _, name := range cacheFiles {
		if st, err := os.Stat(filepath.Join(s.root, name)); err == nil {
			out += fmt.Sprint(" ", st.ModTime().UnixNano())
		}
	}
	return out
}

// watch looks a while later whether state still holds.
func (s *settler) watch(state string) {
	s.timer = time.AfterFunc(s.quiet, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.ended {
			return
		}
		now := s.state()
		if now != state || s.clear(now) != nil {
			s.watch(now)
		}
	})
}

var errBusy = errors.New("the cache is changing")

// clear removes the file, unless the state has become another meanwhile.
func (s *settler) clear(state string) error {
	if !s.dirty.Load() {
		return nil
	}
	err := s.toDisk()
	// Who changes something from here on waits, and makes the file anew.
	s.dirty.Store(false)
	if err == nil && s.state() != state {
		err = errBusy
	}
	if err == nil {
		err = errors.Join(os.Rename(s.path(), s.spare()), s.syncRoot(unix.Fsync))
	}
	if err != nil {
		s.dirty.Store(true)
		if !errors.Is(err, errBusy) {
			s.log.Warn("the build cache is not on the disk yet", "err", err)
		}
	}
	return err
}

func (s *settler) toDisk() error {
	if err := s.settle(); err != nil {
		return err
	}
	return s.syncRoot(unix.Syncfs) // the tables, and the layers that they speak of
}

func (s *settler) syncRoot(sync func(fd int) error) error {
	d, err := os.Open(s.root)
	if err != nil {
		return err
	}
	defer d.Close()
	return sync(int(d.Fd()))
}

// end settles what there is, once nothing changes any more.
func (s *settler) end() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	if s.timer != nil {
		s.timer.Stop()
	}
	return s.clear(s.state())
}

// afterPowerCut throws the cache away, if the machine went down while it
// changed.
func (r *Room) afterPowerCut(boot string) error {
	b, err := os.ReadFile(filepath.Join(r.opts.Root, unsettledFile))
	if errors.Is(err, fs.ErrNotExist) || err == nil && boot != "" && strings.TrimSpace(string(b)) == boot {
		return nil
	}
	if err != nil {
		return err
	}
	r.log.Warn("the machine went down while something was built: the build cache is thrown away", "dir", r.opts.Root)
	for _, name := range cacheFiles {
		if err := os.Remove(filepath.Join(r.opts.Root, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := r.dropCacheLeases(); err != nil {
		return err
	}
	return os.Remove(filepath.Join(r.opts.Root, unsettledFile))
}

// dropCacheLeases lets go of what the records of a cache held that is gone.
func (r *Room) dropCacheLeases() error {
	ctx := namespaces.WithNamespace(context.Background(), r.opts.Namespace)
	lm := r.opts.Images.LeaseManager()
	all, err := lm.List(ctx)
	if err != nil {
		return err
	}
	for _, l := range all {
		if _, ok := l.Labels[cacheLease]; !ok {
			continue
		}
		if err := lm.Delete(ctx, l); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
	}
	return r.opts.Images.Collect(ctx)
}

// bootID tells one run of the machine from another, "" where it cannot.
func bootID() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b))
}

// markingLeases are the image room's leases. BuildKit takes one before it
// changes anything that matters, so they are where changes are noticed.
type markingLeases struct {
	leases.Manager
	changed func() error
}

func (m markingLeases) Create(ctx context.Context, o ...leases.Opt) (leases.Lease, error) {
	if err := m.changed(); err != nil {
		return leases.Lease{}, err
	}
	return m.Manager.Create(ctx, o...)
}

func (m markingLeases) Delete(ctx context.Context, l leases.Lease, o ...leases.DeleteOpt) error {
	if err := m.changed(); err != nil {
		return err
	}
	return m.Manager.Delete(ctx, l, o...)
}

func (m markingLeases) AddResource(ctx context.Context, l leases.Lease, r leases.Resource) error {
	if err := m.changed(); err != nil {
		return err
	}
	return m.Manager.AddResource(ctx, l, chainResource(r))
}

func (m markingLeases) DeleteResource(ctx context.Context, l leases.Lease, r leases.Resource) error {
	if err := m.changed(); err != nil {
		return err
	}
	return m.Manager.DeleteResource(ctx, l, chainResource(r))
}
