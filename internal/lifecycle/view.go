package lifecycle

import (
	"context"
	"io"

	"github.com/moby/moby/api/types/container"

	"wharf/internal/driver"
	"wharf/internal/model"
)

// view is how an instance's files are reached: in a directory of this host, or
// through its driver where that host must not look.
type view interface {
	Stat(ctx context.Context, path string) (container.PathStat, error)
	Get(ctx context.Context, path string) (io.ReadCloser, container.PathStat, error)
	Put(ctx context.Context, path string, o model.PutOptions, tar io.Reader) error
	Export(ctx context.Context) (io.ReadCloser, error)
}

var _ view = driver.Files(nil)

// hostView is a directory of this host.
type hostView struct {
	archives
	root Root
}

func (v hostView) Stat(ctx context.Context, path string) (container.PathStat, error) {
	return v.archives.Stat(ctx, v.root, path)
}

func (v hostView) Get(ctx context.Context, path string) (io.ReadCloser, container.PathStat, error) {
	return v.archives.Get(ctx, v.root, path)
}

func (v hostView) Put(ctx context.Context, path string, o model.PutOptions, tar io.Reader) error {
	return v.archives.Put(ctx, v.root, path, o, tar)
}

func (v hostView) Export(ctx context.Context) (io.ReadCloser, error) {
	return v.archives.Export(ctx, v.root)
}

// onHost makes a view of a directory.
func (s files) onHost(r Root) view { return hostView{s.archives, r} }

// through opens c's files by its driver; ok is false when this host has them.
func (c *core) through(ctx context.Context, ctr *model.Container) (f driver.Files, ok bool, err error) {
	d, err := c.driver(ctr)
	if err != nil {
		return nil, false, err
	}
	filer, ok := d.(driver.Filer)
	if !ok {
		return nil, false, nil
	}
	root, err := c.images.Disks(ctx, ctr.ID)
	if err != nil {
		return nil, true, wrap(err, "root file system of %s", ctr.ID.Short())
	}
	f, err = filer.Files(ctx, ctr.ID, ctr.IDs, root)
	return f, true, err
}
