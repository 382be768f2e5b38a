package lifecycle

import (
	"context"
	"io"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/volume"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"wharf/internal/model"
)

// The rooms as lifecycle needs them. cmd/wharfd passes the real ones.

// images is what lifecycle needs of the image room. Everything about a
// container's root file system is keyed by the container's ID.
type images interface {
	// Resolve finds a local image by reference, id or id prefix.
	// errdefs.ErrNotFound with Docker's text "No such image: REF".
	Resolve(ctx context.Context, ref string, platform *ocispec.Platform) (model.Image, error)
	// Prepare makes the container's writable layer on top of the image's.
	// Doing it twice is no error.
	Prepare(ctx context.Context, id model.ID, img model.Image) error
	// Pin keeps images' layers unpacked and here as long as a prepared
	// container is: those that it mounts. Layers returns their directories,
	// topmost first.
	Pin(ctx context.Context, id model.ID, imgs ...model.Image) error
	Layers(ctx context.Context, img model.Image) ([]string, error)
	// Rootfs returns the directories of a prepared container. It costs no
	// database write.
	Rootfs(ctx context.Context, id model.ID) (model.Rootfs, error)
	// Disks is Rootfs for instances that have disks instead of directories.
	Disks(ctx context.Context, id model.ID) (model.Rootfs, error)
	// Disk is an image's layers as one disk, for mounts of such instances.
	Disk(ctx context.Context, img model.Image) (string, error)
	// DiskSoon has that disk made behind, for an instance that will want it.
	DiskSoon(img model.Image)
	// Discard removes the writable layer; nothing there is no error.
	Discard(ctx context.Context, id model.ID) error
	// Prepared lists the IDs that have a writable layer, for sweeps.
	Prepared(ctx context.Context) ([]model.ID, error)
	// Mount mounts a prepared, not running container's root with owners as
	// the image has them and returns the directory and its release.
	Mount(ctx context.Context, id model.ID, readOnly bool) (dir string, release func() error, err error)
	// Changes compares the writable layer with the image.
	Changes(ctx context.Context, id model.ID) ([]container.FilesystemChange, error)
	// Chains lists the layers that chain consists of, by their own chain ids,
	// topmost (chain itself) first.
	Chains(ctx context.Context, chain digest.Digest) ([]digest.Digest, error)
	// Kept says how many bytes of images only these removed containers keep,
	// newest first; what several share counts for the newest.
	Kept(ctx context.Context, removed []model.ID) (map[model.ID]int64, error)
	// Usage returns the bytes of the writable layer and of the whole root.
	Usage(ctx context.Context, id model.ID) (rw, root int64, err error)
	// Commit makes an image of the container's root with config, tagged ref
	// unless "". Parent is the container's image.
	Commit(ctx context.Context, id model.ID, parent model.Image, config *ocispec.Image, dockerConfig *container.Config, ref, author, comment string) (digest.Digest, error)
	// CommitLayer is Commit with the changes as a tar with whiteouts.
	CommitLayer(ctx context.Context, id model.ID, parent model.Image, config *ocispec.Image, dockerConfig *container.Config, ref, author, comment string, layer io.Reader) (digest.Digest, error)
}

// networks is what lifecycle needs of the network room.
type networks interface {
	// Check says whether the requested endpoints can exist, without side
	// effects, and fills in network ids.
	Check(ctx context.Context, mode container.NetworkMode, want map[string]*network.EndpointSettings) error
	// Inspect describes a network by name, id or prefix of an id.
	Inspect(ctx context.Context, ref string, verbose bool) (*network.Inspect, error)
	// Attach gives the container its links, addresses and routes in the
	// namespace at netns. Everything it holds is keyed by id. Loopback is
	// brought up too, also when want is empty.
	Attach(ctx context.Context, r AttachNetworks) ([]model.Endpoint, error)
	// Detach frees everything held for id; nothing there is no error. It may
	// return before the kernel has removed links.
	Detach(ctx context.Context, id model.ID) error
	// Attached lists IDs that hold something, for sweeps. After a daemon
	// restart the room is told by Restore what running containers hold.
	Attached(ctx context.Context) ([]model.ID, error)
	Restore(ctx context.Context, id model.ID, eps []model.Endpoint) error
	// Stats reads a running container's interfaces by name inside.
	Stats(ctx context.Context, id model.ID) (map[string]container.NetworkStats, error)
	// Connect and Disconnect change a running container's endpoints.
	Connect(ctx context.Context, r AttachNetworks, name string) (model.Endpoint, error)
	Disconnect(ctx context.Context, id model.ID, name string, force bool) error
	// Refresh brings a running container's namespace and its names to what it
	// holds, after Disconnect and a rename. Doing it again changes nothing.
	Refresh(ctx context.Context, r AttachNetworks) ([]model.Endpoint, error)
	// CheckLimits refuses labels that limit a container's network and cannot
	// be carried out.
	CheckLimits(labels map[string]string, mode container.NetworkMode, netAdmin bool) error
	limiting
}

// AttachNetworks is what the network room needs to attach a container.
type AttachNetworks = model.AttachNetworks

// volumes is what lifecycle needs of the volume room.
type volumes interface {
	// Use makes sure that the named volume exists (creating it when create is
	// set) and holds it for id. It returns the directory to bind.
	Use(ctx context.Context, id model.ID, m model.Mount) (dir string, err error)
	// CopyUp fills an empty volume from the image's content below m's
	// destination in root (a mounted root directory). Anything in the volume
	// already: no-op.
	CopyUp(ctx context.Context, m model.Mount, root string) error
	// Unuse lets go of every volume held for id; anonymous ones that nobody
	// holds are removed when remove is set.
	Unuse(ctx context.Context, id model.ID, mounts []model.Mount, remove bool) error
	// Restore tells the room after a daemon restart what a container holds.
	Restore(ctx context.Context, id model.ID, mounts []model.Mount) error
	// Sweep unmounts what nobody holds, after Restore for every container.
	Sweep(ctx context.Context) error
	// A volume may be a disk that one virtual machine at a time has. Disk gives
	// it to id (errdefs.ErrConflict names who has it) and returns its file, "" for
	// other volumes; GiveDisks lets go of all that id has; LookInto keeps one
	// while its files are copied.
	IsDisk(name string) bool
	Disk(ctx context.Context, id model.ID, m model.Mount) (file string, err error)
	GiveDisks(id model.ID)
	LookInto(ctx context.Context, name string) (file string, done func(), err error)
	// Trashed lists removed volumes that can come back, oldest first;
	// RestoreTrashed brings one back, as its old name for "" (ErrConflict:
	// taken); Purge deletes one for good. SetTrash(false): none are kept.
	Trashed(ctx context.Context) ([]model.TrashedVolume, error)
	RestoreTrashed(ctx context.Context, id, as string) (*volume.Volume, error)
	Purge(ctx context.Context, id string) error
	SetTrash(on bool)
}

// logs is what lifecycle needs of the logs room.
type logs interface {
	// Read opens a container's log. A driver whose output cannot be read back
	// answers errdefs.ErrNotImplemented with Docker's text.
	Read(ctx context.Context, p model.LogPlan, r model.LogsRequest, done <-chan struct{}) (model.LogReader, error)
	// Remove deletes a container's log files.
	Remove(p model.LogPlan) error
}

// records is what lifecycle needs of the record room.
type records interface {
	// PutContainer writes a record. It returns when the record survives a
	// crash of the daemon; durable also waits for the disk (fsync).
	PutContainer(ctx context.Context, c model.Container, durable bool) error
	DeleteContainer(ctx context.Context, id model.ID) error
	// RemoveContainer moves a record to those of removed containers,
	// RestoreContainer moves it back and waits for the disk.
	RemoveContainer(ctx context.Context, c model.Container) error
	RestoreContainer(ctx context.Context, c model.Container) error
	PutRemoved(ctx context.Context, c model.Container) error
	Removed(ctx context.Context) ([]model.Container, error)
	RemovedContainer(ctx context.Context, id model.ID) (model.Container, error)
	ForgetRemoved(ctx context.Context, ids ...model.ID) error
	Containers(ctx context.Context) ([]model.Container, error)
	// Publish appends to the change feed and stamps the time.
	Publish(typ events.Type, action events.Action, id string, attrs map[string]string)
}

// archives moves files in and out of a root as tar, with every name resolved
// inside that root.
type archives interface {
	Stat(ctx context.Context, root Root, path string) (container.PathStat, error)
	Get(ctx context.Context, root Root, path string) (io.ReadCloser, container.PathStat, error)
	Put(ctx context.Context, root Root, path string, opts PutOptions, tar io.Reader) error
	// Export streams the whole root.
	Export(ctx context.Context, root Root) (io.ReadCloser, error)
}

// Root is a directory that is some container's "/". IDs is set when files
// there show host ids that have to be shifted back (a running container seen
// through /proc/PID/root).
type Root = model.Root

// PutOptions are those of Docker's archive endpoint.
type PutOptions = model.PutOptions
