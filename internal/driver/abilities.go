package driver

import (
	"context"
	"io"
	"io/fs"

	"github.com/moby/moby/api/types/container"

	"wharf/internal/model"
)

// What a driver may be able to do beside the contract. Who needs it asks by
// type assertion; a driver whose instances' files, processes and devices are
// the host's own has none of these.

// Disker is a driver whose instances want their root as disks: Rootfs.Disk and
// Rootfs.Writable.
type Disker interface{ RootAsDisk() bool }

// Filer is a driver whose instances' files the host does not see, or must not
// look at: file systems that an untrusted kernel wrote.
type Filer interface {
	// Files opens an instance's files: as they are inside while it runs,
	// mounts included, else its root alone. The caller closes them.
	Files(ctx context.Context, id model.ID, ids model.IDRange, root model.Rootfs) (Files, error)
}

// DiskFiler is a Disker whose instances may also have volumes that are disks.
// DiskFiles opens the files on one that no instance has, in a machine that is
// there for that alone; name is what the disk's root is called in a tar.
type DiskFiler interface {
	Disker
	DiskFiles(ctx context.Context, disk, name string) (Files, error)
}

// Files are an instance's files. Names are resolved inside its root. Errors
// are those of internal/archive.
type Files interface {
	Stat(ctx context.Context, path string) (container.PathStat, error)
	Get(ctx context.Context, path string) (io.ReadCloser, container.PathStat, error)
	Put(ctx context.Context, path string, o model.PutOptions, tar io.Reader) error
	// Export is the whole root without what is mounted in it, as tar.
	Export(ctx context.Context) (io.ReadCloser, error)
	// Changes compares the writable layer with the image, and Layer is it as
	// an image layer (a tar with whiteouts).
	Changes(ctx context.Context) ([]container.FilesystemChange, error)
	Layer(ctx context.Context) (io.ReadCloser, error)
	Close() error
}

// Lister is an instance whose processes are not the host's: it lists them as
// the files of /proc that ps reads, with their ids there.
type Lister interface {
	Processes(ctx context.Context) (proc fs.FS, pids []int, err error)
}

// Plugger is an instance whose network interfaces are devices: whoever
// connects it to a network makes the tap, and the instance plugs it in. Unplug
// comes before the tap goes.
type Plugger interface {
	Plug(ctx context.Context, all []model.Endpoint, ep model.Endpoint) error
	Unplug(ctx context.Context, all []model.Endpoint, ep model.Endpoint) error
}

// OOMNotifier is an instance that tells when the kernel runs out of memory in
// it, at that time; of others the exit says it.
type OOMNotifier interface {
	// NotifyOOM calls f(true) when processes were killed for memory, and
	// f(false) when they wait for some because killing is disabled; until the
	// instance ends. Kills before are told of too, unless told. f is called
	// from other goroutines, one at a time, and may wait.
	NotifyOOM(told bool, f func(killed bool)) error
}
