package image

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay/overlayutils"
	"github.com/containerd/errdefs"
	clog "github.com/containerd/log"
	"github.com/containerd/platforms"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sync/semaphore"

	"wharf/internal/model"
	"wharf/internal/trust"
	"wharf/internal/undo"
)

// Namespace is the containerd namespace of everything in the metadata
// database.
const Namespace = "wharf"

// snapshotter is the name under which layers are filed; it is also part of
// the labels by which configurations refer to their layers.
const snapshotter = "overlayfs"

// User is a container that uses an image.
type User struct {
	ID      model.ID
	Name    string
	Image   digest.Digest // model.Image.ID
	Running bool
}

// Options are what Open needs. Only Root is required.
type Options struct {
	Root        string // directory that the room owns
	Snapshotter string // "" or "overlayfs"

	CertsDir           string   // directory of <host>/{ca.crt,client.cert,client.key,hosts.toml}
	InsecureRegistries []string // hosts, host:port or CIDRs spoken to without TLS verification, then plain http
	Mirrors            []string // URLs asked first for docker.io

	MaxDownloads int // layers fetched at once by one pull, 3 unless set
	MaxUploads   int // layers sent at once by one push, 5 unless set

	// Users lists the containers, for conflicts and prunes. nil: none.
	Users func(ctx context.Context) ([]User, error)
	// Publish puts an event on the feed. nil: nowhere.
	Publish func(typ events.Type, action events.Action, id string, attrs map[string]string)
	// Changes applies Dockerfile instructions (CMD, ENV, ...) to a copy of a
	// configuration, for Import; plan has it. nil: none are accepted.
	Changes func(base *container.Config, changes []string) (*container.Config, error)
	// UserAgent goes with requests to registries.
	UserAgent string
	// Disks makes the disk for virtual machines of each image as it comes, behind;
	// else it is made when one is created.
	Disks bool
	// Trust says which images may come from outside. nil: all. See SetTrust.
	Trust *trust.Policy
}

// Store is the room. Its methods are safe for concurrent use.
type Store struct {
	opts Options
	log  *slog.Logger
	host platforms.MatchComparer

	ledger *ledger
	cut    bool // the machine went down; the databases were led back

	rescued  bool        // the databases are new, for the old ones could not be read
	namesDue atomic.Bool // the copy of the names is about to be written

	db     *metadata.DB
	cs     content.Store
	blobs  content.Store // the files themselves, without the metadata
	images images.Store
	leases leases.Manager
	snaps  snapshots.Snapshotter // by name, through the metadata database
	layers snapshots.Snapshotter // the overlay snapshotter itself

	unpacking *semaphore.Weighted
	chains    keyed
	gc        collector
	mounts    mounts
	trash     trash
	syncer    syncer
	settings  atomic.Pointer[settings]
	policy    atomic.Pointer[trust.Policy]
	vouched   vouched
	auto      autoRemoval

	names sync.Mutex // one change of names at a time
	disks disker
	empty emptyDisk

	mu       sync.Mutex // guards the caches below
	resolved map[resolveKey]model.Image
	lowers   map[digest.Digest]lower
	usages   map[model.ID]usage
}

// Open opens the store below o.Root, making it when it is not there, and
// clears what an earlier process left half done. It fails with a reason when
// the file system cannot carry overlays.
func Open(ctx context.Context, o Options) (_ *Store, err error) {
	if err := checkOptions(&o); err != nil {
		return nil, err
	}
	s := &Store{
		opts: o, log: slog.Default().With("room", "image"),
		host:      platforms.Default(),
		unpacking: semaphore.NewWeighted(int64(max(2, runtime.GOMAXPROCS(0)))),
		resolved:  map[resolveKey]model.Image{},
		lowers:    map[digest.Digest]lower{},
		usages:    map[model.ID]usage{},
	}
	s.Reconfigure(o.InsecureRegistries, o.Mirrors, o.MaxDownloads, o.MaxUploads)
	s.SetTrust(o.Trust)
	for _, d := range []string{"", "containers", "mounts", "trash", "empty"} {
		if err := os.MkdirAll(s.path(d), 0o700); err != nil {
			return nil, fmt.Errorf("image store: %w", err)
		}
	}
	// The lower directory of an empty image is some container's "/".
	if err := os.Chmod(s.path("empty"), 0o755); err != nil {
		return nil, fmt.Errorf("image store: %w", err)
	}
	var u undo.Stack
	defer u.OnError(&err)
	if err := s.openOrRescue(ctx, &u); err != nil {
		return nil, err
	}
	s.gc.init(s)
	s.disks.init()
	s.mounts.init(s.path("mounts"))
	s.trash.init(s.path("trash"), s.log)
	if s.rescued {
		if err := s.refill(ctx); err != nil {
			return nil, fmt.Errorf("image store: %w", err)
		}
	}
	if err := s.sweep(ctx); err != nil {
		return nil, fmt.Errorf("image store: %w", err)
	}
	s.copyNames()
	return s, nil
}

func checkOptions(o *Options) error {
	if o.Root == "" {
		return model.Refuse(errdefs.ErrInvalidArgument, "image store: no root directory given")
	}
	root, err := filepath.Abs(o.Root)
	if err != nil {
		return fmt.Errorf("image store: %w", err)
	}
	o.Root = root
	if strings.ContainsAny(root, ",:\\") {
		return model.Refuse(errdefs.ErrInvalidArgument, "image store %q: overlayfs cannot work in a directory whose name has a comma, colon or backslash; choose another data root", root)
	}
	switch o.Snapshotter {
	case "", snapshotter, "overlay2":
	default:
		return model.Refuse(errdefs.ErrNotImplemented, "storage driver %q: only overlayfs is there", o.Snapshotter)
	}
	if o.Users == nil {
		o.Users = func(context.Context) ([]User, error) { return nil, nil }
	}
	if o.Publish == nil {
		o.Publish = func(events.Type, events.Action, string, map[string]string) {}
	}
	if o.UserAgent == "" {
		o.UserAgent = "wharf"
	}
	return nil
}

// settings are what may change while the daemon runs.
type settings struct {
	insecure, mirrors  []string
	downloads, uploads int
}

// Reconfigure changes how registries are spoken to; what is under way goes on
// as it began. Numbers that are not positive mean the defaults.
func (s *Store) Reconfigure(insecure, mirrors []string, downloads, uploads int) {
	if downloads <= 0 {
		downloads = 3
	}
	if uploads <= 0 {
		uploads = 5
	}
	s.settings.Store(&settings{slices.Clone(insecure), slices.Clone(mirrors), downloads, uploads})
}

func (s *Store) openDatabases(ctx context.Context, u *undo.Stack) error {
	if err := overlayutils.Supported(s.opts.Root); err != nil {
		return model.Refuse(errdefs.ErrFailedPrecondition, "image store: overlayfs does not work on %s (%v): put the data root on ext4, xfs or btrfs", s.opts.Root, err)
	}
	// containerd's libraries log through logrus; what they only warn of (a file
	// system without fs-verity) says nothing to wharf's users.
	_ = clog.SetLevel("error")
	cs, err := local.NewStore(s.path("content"))
	if err != nil {
		return fmt.Errorf("image store: %w", err)
	}
	if err := s.afterPowerCut(); err != nil {
		return err
	}
	layers, err := openLayerStore(s.path("layers", "metadata.db"), s.log)
	if err != nil {
		return s.openError(s.path("layers", "metadata.db"), err)
	}
	u.Push(layers.Close)
	s.layers, err = overlay.NewSnapshotter(s.path("layers"), overlay.WithMetaStore(layers), overlay.AsynchronousRemove, overlay.WithUpperdirLabel)
	if err != nil {
		return fmt.Errorf("image store: %w", err)
	}
	return s.openMetadata(ctx, cs, layers.ledger, u)
}

// openMetadata opens what says which blobs and layers mean what.
func (s *Store) openMetadata(ctx context.Context, cs content.Store, layers *ledger, u *undo.Stack) error {
	o := bolt.Options{}
	if err := ledgerOptions(&o); err != nil {
		return err
	}
	db, err := bolt.Open(s.path("meta.db"), 0o600, &o)
	if err != nil {
		return s.openError(s.path("meta.db"), err)
	}
	if s.ledger, err = newLedger(db, s.path("meta.db"), layers, s.log); err != nil {
		return errors.Join(fmt.Errorf("image store: %w", err), db.Close())
	}
	u.Push(s.ledger.Close)
	s.blobs = cs
	s.db = metadata.NewDB(s.ledger, cs, map[string]snapshots.Snapshotter{snapshotter: s.layers})
	if err := s.db.Init(s.ctx(ctx)); err != nil {
		return fmt.Errorf("image store: %w", err)
	}
	s.cs = s.db.ContentStore()
	s.images = lastingNames{metadata.NewImageStore(s.db), s.ledger, s.copyNames}
	s.leases = metadata.NewLeaseManager(s.db)
	s.snaps = s.db.Snapshotter(snapshotter)
	return nil
}

// openError tells why a database cannot be opened, and what to do.
func (s *Store) openError(path string, err error) error {
	if errors.Is(err, berrors.ErrTimeout) {
		return model.Refuse(errdefs.ErrFailedPrecondition, "image store %s is in use by another daemon", s.opts.Root)
	}
	return fmt.Errorf("image store: %s cannot be read: %w; put back a copy of it, or move %s away to begin anew (what containers wrote is in it too)", path, err, s.opts.Root)
}

// Close ends the room. Containers' layers stay.
func (s *Store) Close() error {
	s.auto.end()
	s.disks.close()
	s.trash.close()
	if s.namesDue.Load() {
		_ = s.writeNames() // later would be too late
	}
	return errors.Join(s.mounts.close(), s.db.Close(), s.layers.Close())
}

// sweep clears what a crash left: leases of operations that are gone, stale
// mounts, half-removed layers; then lets the collector look in the background.
func (s *Store) sweep(ctx context.Context) error {
	if s.cut {
		if err := s.reconcile(ctx); err != nil {
			return err
		}
	}
	if err := s.dropLeases(ctx); err != nil {
		return err
	}
	if err := s.mounts.sweep(); err != nil {
		return err
	}
	s.trash.sweep()
	if err := s.sweepDisks(); err != nil {
		return err
	}
	s.gc.later()
	return nil
}

// temporaryLease marks what BuildKit holds while a build runs.
const temporaryLease = "buildkit/lease.temporary"

// dropLeases drops those of a dead daemon's operations and builds.
func (s *Store) dropLeases(ctx context.Context) error {
	all, err := s.namespaces(ctx)
	if err != nil {
		return err
	}
	for _, ns := range all {
		ctx := namespaces.WithNamespace(ctx, ns)
		ls, err := s.leases.List(ctx)
		if err != nil {
			return err
		}
		for _, l := range ls {
			_, ours := l.Labels[leaseLabel]
			_, build := l.Labels[temporaryLease]
			if !ours && !build {
				continue
			}
			if err := s.leases.Delete(ctx, l); err != nil && !errdefs.IsNotFound(err) {
				return err
			}
		}
	}
	return nil
}

// namespaces lists those of the metadata: BuildKit keeps the history of builds
// in one beside ours.
func (s *Store) namespaces(ctx context.Context) (out []string, err error) {
	err = s.db.View(func(tx *bolt.Tx) error {
		out, err = metadata.NewNamespaceStore(tx).List(ctx)
		return err
	})
	return out, err
}

// What follows is for the build room, which keeps its cache in the same
// store. Callers put Namespace into the context.

func (s *Store) ContentStore() content.Store        { return s.cs }
func (s *Store) Snapshotter() snapshots.Snapshotter { return s.snaps }
func (s *Store) SnapshotterName() string            { return snapshotter }
func (s *Store) LeaseManager() leases.Manager       { return s.leases }
func (s *Store) ImageStore() images.Store           { return s.images }
func (s *Store) Database() *metadata.DB             { return s.db }
func (s *Store) Settle() error                      { return s.ledger.settle() }
func (s *Store) Collect(ctx context.Context) error  { return s.gc.run(s.ctx(ctx)) }
func (s *Store) path(elem ...string) string {
	return filepath.Join(append([]string{s.opts.Root}, elem...)...)
}
func (s *Store) ctx(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, Namespace)
}

// matcher says which platforms are acceptable, best first: the one asked for,
// else the host's.
func (s *Store) matcher(p *ocispec.Platform) platforms.MatchComparer {
	if p == nil {
		return s.host
	}
	return platforms.Only(platforms.Normalize(*p))
}

// publish puts an image event on the feed, with the image's labels and, unless
// "", its name among the attributes.
func (s *Store) publish(ctx context.Context, action events.Action, id, name string) {
	attrs := map[string]string{}
	if dgst, err := digest.Parse(id); err == nil {
		if img, err := s.choose(ctx, dgst, nil); err == nil {
			for k, v := range img.Config.Labels {
				attrs[k] = v
			}
		}
	}
	if name != "" {
		attrs["name"] = name
	}
	s.opts.Publish(events.ImageEventType, action, id, attrs)
}
