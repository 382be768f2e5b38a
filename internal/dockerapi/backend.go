package dockerapi

import (
	"context"
	"io"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/api/types/volume"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"wharf/internal/model"
)

// The rooms as the door needs them. Every "ref" is a container's, image's,
// ... name, full id or unambiguous id prefix. Errors are of errdefs kinds; the
// texts are those that Docker's clients look for ("No such container: x").

// Containers is the lifecycle.
type Containers interface {
	Create(ctx context.Context, r model.CreateRequest) (container.CreateResponse, error)
	List(ctx context.Context, r model.ListRequest) ([]container.Summary, error)
	Inspect(ctx context.Context, ref string, size bool) (*container.InspectResponse, error)
	Start(ctx context.Context, ref string) error
	Stop(ctx context.Context, ref string, r model.StopRequest) error
	Restart(ctx context.Context, ref string, r model.StopRequest) error
	Kill(ctx context.Context, ref, signal string) error
	Pause(ctx context.Context, ref string) error
	Unpause(ctx context.Context, ref string) error
	// Wait returns at once with a channel that yields one result; the error
	// is for a container that is not there.
	Wait(ctx context.Context, ref string, cond container.WaitCondition) (<-chan model.WaitResult, error)
	Attach(ctx context.Context, ref string, r model.AttachRequest) (s model.Stream, tty bool, err error)
	Logs(ctx context.Context, ref string, r model.LogsRequest) (l model.LogReader, tty bool, err error)
	Resize(ctx context.Context, ref string, height, width uint) error
	Top(ctx context.Context, ref, psArgs string) (*container.TopResponse, error)
	// Stats calls yield once for one-shot, else every second until the
	// container is removed, ctx ends or yield returns false. A stopped
	// container yields zeros.
	Stats(ctx context.Context, ref string, stream, oneShot bool, yield func(*container.StatsResponse) bool) error
	Rename(ctx context.Context, ref, name string) error
	Update(ctx context.Context, ref string, u container.UpdateConfig) (container.UpdateResponse, error)
	Remove(ctx context.Context, ref string, r model.RemoveRequest) error
	Prune(ctx context.Context, f model.Filters) (container.PruneReport, error)
	Changes(ctx context.Context, ref string) ([]container.FilesystemChange, error)
	ArchiveStat(ctx context.Context, ref, path string) (container.PathStat, error)
	ArchiveGet(ctx context.Context, ref, path string) (io.ReadCloser, container.PathStat, error)
	ArchivePut(ctx context.Context, ref, path string, o model.PutOptions, tar io.Reader) error
	Export(ctx context.Context, ref string) (io.ReadCloser, error)
	Commit(ctx context.Context, ref string, r model.CommitRequest) (id string, err error)
	DiskUsage(ctx context.Context, verbose bool) (*container.DiskUsage, error)

	ExecCreate(ctx context.Context, ref string, r model.ExecRequest) (id string, err error)
	// ExecStart starts an exec. Detached: the stream is nil. When the stream
	// ends, ExecInspect has the exit code.
	ExecStart(ctx context.Context, id string, detach bool, consoleSize *[2]uint) (model.Stream, error)
	ExecInspect(ctx context.Context, id string) (*container.ExecInspectResponse, error)
	ExecResize(ctx context.Context, id string, height, width uint) error

	// Connect and Disconnect change a container's networks, running or not.
	Connect(ctx context.Context, network, ref string, s *network.EndpointSettings) error
	Disconnect(ctx context.Context, network, ref string, force bool) error
}

// Images is the image room.
type Images interface {
	List(ctx context.Context, all, sharedSize, manifests bool, f model.Filters) ([]image.Summary, error)
	Inspect(ctx context.Context, ref string, platform *ocispec.Platform, manifests bool) (*image.InspectResponse, error)
	// Attestations are the in-toto statements attached to one platform's image
	// (nil: the host's), of the given kinds or all, with their text if asked.
	Attestations(ctx context.Context, ref string, p *ocispec.Platform, kinds []string, bodies bool) ([]image.AttestationStatement, error)
	// Search asks Docker Hub, or the registry that term begins with.
	Search(ctx context.Context, term string, limit int, f model.Filters, auth *registry.AuthConfig) ([]registry.SearchResult, error)
	// Parent is the id of the image that ref was committed from, or "".
	Parent(ctx context.Context, ref string) (string, error)
	History(ctx context.Context, ref string, platform *ocispec.Platform) ([]image.HistoryResponseItem, error)
	Tag(ctx context.Context, ref, target string) error
	Remove(ctx context.Context, ref string, force, noPrune bool, platforms []ocispec.Platform) ([]image.DeleteResponse, error)
	Prune(ctx context.Context, f model.Filters) (image.PruneReport, error)
	Load(ctx context.Context, tar io.Reader, platforms []ocispec.Platform, quiet bool, p model.Progress) error
	Save(ctx context.Context, refs []string, platforms []ocispec.Platform, w io.Writer) error
	// Download opens the body of what an http or https URL names; without a
	// scheme http is meant.
	Download(ctx context.Context, url string) (io.ReadCloser, error)
	// Import makes a one-layer image of a root file system; "" repo: untagged.
	Import(ctx context.Context, tar io.Reader, repo, tag, message string, changes []string, platform *ocispec.Platform, p model.Progress) error
	// Pull and Push: auth is nil for anonymous; a ref without tag and digest
	// means all tags of the repository. After the first progress
	// message errors go into the stream (the door does that).
	Pull(ctx context.Context, ref string, platform *ocispec.Platform, auth *registry.AuthConfig, p model.Progress) error
	Push(ctx context.Context, ref string, platform *ocispec.Platform, auth *registry.AuthConfig, p model.Progress) error
	Distribution(ctx context.Context, ref string, auth *registry.AuthConfig) (registry.DistributionInspect, error)
	// Login checks credentials against a registry.
	Login(ctx context.Context, auth registry.AuthConfig) (status, token string, err error)
	DiskUsage(ctx context.Context, verbose bool) (*image.DiskUsage, error)
}

// Networks is the network room.
type Networks interface {
	List(ctx context.Context, f model.Filters) ([]network.Summary, error)
	Inspect(ctx context.Context, ref string, verbose bool) (*network.Inspect, error)
	Create(ctx context.Context, r network.CreateRequest) (network.CreateResponse, error)
	Remove(ctx context.Context, ref string) error
	Prune(ctx context.Context, f model.Filters) (network.PruneReport, error)
}

// Volumes is the volume room.
type Volumes interface {
	List(ctx context.Context, f model.Filters) ([]volume.Volume, []string, error)
	Inspect(ctx context.Context, name string) (*volume.Volume, error)
	Create(ctx context.Context, r volume.CreateRequest) (*volume.Volume, error)
	Remove(ctx context.Context, name string, force bool) error
	Prune(ctx context.Context, f model.Filters) (volume.PruneReport, error)
	DiskUsage(ctx context.Context, verbose bool) (*volume.DiskUsage, error)
}

// System is the daemon itself, put together in cmd/wharfd.
type System interface {
	Info(ctx context.Context) (*system.Info, error)
	Version(ctx context.Context) (*system.VersionResponse, error)
}

// Feed is the record room's change feed.
type Feed interface {
	// Events calls yield for each matching event from since (zero: now) until
	// until (zero: for ever), both in nanoseconds since 1970, ctx's end, or
	// yield returning false. A bad filter is an error at once.
	Events(ctx context.Context, since, until int64, f model.Filters, yield func(events.Message) bool) error
}
