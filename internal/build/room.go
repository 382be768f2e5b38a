package build

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/control"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/util/tracing"
	"github.com/moby/moby/api/types/events"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"

	"wharf/internal/model"
	"wharf/internal/undo"
)

// Images is the image room as builds need it: BuildKit's cache lives in the
// same store.
type Images interface {
	ContentStore() content.Store
	Snapshotter() snapshots.Snapshotter
	SnapshotterName() string
	LeaseManager() leases.Manager
	// BuildImages is the table of names. What a build names becomes a tag.
	BuildImages() images.Store
	// Collect removes what neither names nor leases hold.
	Collect(ctx context.Context) error
	// Settle returns when all that was recorded is safe from a power cut.
	Settle() error
	// Adopt makes a built image's layers ready to run, from directories with the
	// same content by their diff ids; free is called when they are not needed
	// any more.
	Adopt(target ocispec.Descriptor, dirs map[digest.Digest]string, free func()) error
	// RegistryHosts says how to speak to a registry.
	RegistryHosts() docker.RegistryHosts
}

// Steps runs the processes of RUN instructions; lifecycle does.
type Steps interface {
	RunStep(ctx context.Context, s model.Step) (model.RunningStep, error)
}

// Options are what New needs. Everything but GC is required.
type Options struct {
	Root      string // directory that the room owns
	Namespace string // containerd namespace of the image room
	Images    Images
	Steps     Steps
	GC        GC
	Version   string // of wharf, shown to clients
	// Temp is where BuildKit mounts and copies for a moment (TMPDIR); "" keeps
	// Fsck from looking there.
	Temp string
	// HostGateway is what host-gateway means in --add-host; "" for nothing.
	HostGateway string
	// Insecure allows RUN --security=insecure, NoHostNetwork refuses
	// RUN --network=host.
	Insecure, NoHostNetwork bool
	// Publish tells the change feed; nil tells nobody.
	Publish func(typ events.Type, action events.Action, id string, attrs map[string]string)
}

// Room builds images. Its methods are safe for concurrent use.
type Room struct {
	opts Options
	log  *slog.Logger

	mu   sync.Mutex // held while BuildKit is set up
	kit  *kit
	gone bool

	builds   builds
	disk     *settler
	adopting sync.WaitGroup // images whose layers are being taken over
	busy     atomic.Int64   // requests under way
}

// kit is a BuildKit that was set up.
type kit struct {
	sessions *session.Manager
	control  *control.Controller
	worker   *worker
	uploads  *uploads
	server   *grpc.Server
	pipe     *pipeListener
	client   *client.Client
	close    undo.Stack
}

// New returns a room that has done nothing yet.
func New(o Options) (*Room, error) {
	if o.Root == "" || o.Images == nil || o.Steps == nil || o.Namespace == "" {
		return nil, errors.New("build: Root, Namespace, Images and Steps are needed")
	}
	r := &Room{opts: o, log: slog.Default().With("room", "build")}
	boot := bootID()
	if err := r.afterPowerCut(boot); err != nil {
		return nil, fmt.Errorf("build: %w", err)
	}
	r.disk = &settler{root: o.Root, boot: boot, quiet: quietFor, settle: o.Images.Settle, log: r.log}
	return r, nil
}

// up sets BuildKit up, once.
func (r *Room) up() (*kit, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.gone {
		return nil, errors.New("the daemon is ending")
	}
	if err := os.MkdirAll(r.opts.Root, 0o700); err != nil {
		return nil, err
	}
	if err := r.disk.changed(); err != nil {
		return nil, err
	}
	if r.kit != nil {
		return r.kit, nil
	}
	k, err := r.open()
	if err != nil {
		r.log.Error("BuildKit could not be set up", "err", err)
		return nil, fmt.Errorf("build: %w", err)
	}
	r.kit = k
	return k, nil
}

// used reports whether a build was ever made here: the cache exists.
func (r *Room) used() bool {
	_, err := os.Stat(filepath.Join(r.opts.Root, "cache.db"))
	return err == nil
}

// Close ends the room; builds under way are cancelled.
func (r *Room) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gone = true
	if r.kit == nil {
		return nil
	}
	k := r.kit
	r.kit = nil
	r.adopting.Wait()
	return errors.Join(k.close.Run(), r.disk.end())
}

func (r *Room) open() (_ *kit, err error) {
	tellVersion()
	bridge()
	k := &kit{}
	defer k.close.OnError(&err)
	if k.sessions, err = session.NewManager(); err != nil {
		return nil, err
	}
	if k.worker, err = r.newWorker(); err != nil {
		return nil, err
	}
	k.uploads = &uploads{next: tracing.DefaultTransport}
	if err = k.worker.fetchBy(k.uploads); err != nil {
		_ = k.worker.Close()
		return nil, err
	}
	if k.control, err = r.newController(k); err != nil {
		_ = k.worker.Close()
		return nil, err
	}
	k.close.Push(k.control.Close) // closes the worker too
	k.server = grpc.NewServer(serverOptions()...)
	k.control.Register(k.server)
	k.close.Push(func() error { k.server.Stop(); return nil })
	k.pipe = newPipeListener()
	go func() { _ = k.server.Serve(k.pipe) }()
	k.client, err = client.New(context.Background(), "passthrough:///wharf", client.WithContextDialer(
		func(ctx context.Context, _ string) (net.Conn, error) { return k.pipe.dial(ctx) }))
	if err != nil {
		return nil, err
	}
	k.close.Push(k.client.Close)
	return k, nil
}
