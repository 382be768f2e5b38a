package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/volume"

	"wharf/internal/model"
)

// Archives is what Export and Import need of tar: names are resolved inside
// the root, and what climbs out is refused.
type Archives interface {
	// Tree streams a directory, "./" with its own attributes first.
	Tree(ctx context.Context, root model.Root) (io.ReadCloser, error)
	Put(ctx context.Context, root model.Root, path string, o model.PutOptions, tar io.Reader) error
}

func (r *Room) archives() (Archives, error) {
	if r.opts.Archives == nil {
		return nil, model.Refuse(errdefs.ErrNotImplemented, "this daemon runs without tar")
	}
	return r.opts.Archives, nil
}

// Export streams a volume's data, or those of a snapshot, as tar. The owners
// are those that containers see. The caller closes the reader.
func (r *Room) Export(ctx context.Context, name, snap string) (io.ReadCloser, error) {
	if r.IsDisk(name) {
		return r.exportDisk(ctx, name, snap)
	}
	a, err := r.archives()
	if err != nil {
		return nil, err
	}
	v, release, err := r.borrow(ctx, name, "export")
	if err != nil {
		return nil, err
	}
	dir, err := v.snapshotOrData(snap)
	if err == nil {
		var in io.ReadCloser
		if in, err = a.Tree(ctx, model.Root{Dir: dir}); err == nil {
			return &lent{ReadCloser: in, release: sync.OnceFunc(release)}, nil
		}
	}
	release()
	return nil, err
}

// lent gives a volume back when it is closed.
type lent struct {
	io.ReadCloser
	release func()
}

func (l *lent) Close() error {
	err := l.ReadCloser.Close()
	l.release()
	return err
}

// Import fills a new volume, or an empty one, from a tar: as a whole or not at
// all. free is as in RestoreSnapshot.
func (r *Room) Import(ctx context.Context, q model.VolumeImport, tar io.Reader, free func() error) (*volume.Volume, error) {
	a, err := r.archives()
	if err != nil {
		return nil, err
	}
	if err := errors.Join(checkName(q.Name), onlySize(q.Options)); err != nil {
		return nil, err
	}
	old, release, err := r.borrow(ctx, q.Name, "import")
	if err == nil {
		defer release()
		err = old.fillable(q.Options)
	} else if errdefs.IsNotFound(err) {
		old, err = nil, nil
	}
	if err != nil {
		return nil, err
	}
	labels, opts := q.Labels, q.Options
	if old != nil {
		labels, opts = old.rec.Labels, old.rec.Options
	}
	d, err := r.draft(q.Name, labels, opts)
	if err != nil {
		return nil, fmt.Errorf("create %s: %w", q.Name, err)
	}
	defer d.drop()
	if err := d.unpack(ctx, a, model.PutOptions{Top: true, NoDevices: !q.Devices}, tar); err != nil {
		return nil, fmt.Errorf("import %s: %w", q.Name, full(err, opts))
	}
	v := old
	if old == nil {
		v, err = d.publish()
	} else {
		old.busy.Lock()
		err = d.swap(old, func() error {
			if free != nil {
				if err := free(); err != nil {
					return err
				}
			}
			return old.fillable(q.Options)
		})
		old.busy.Unlock()
	}
	if err != nil {
		return nil, fmt.Errorf("import %s: %w", q.Name, err)
	}
	return v.describe(), nil
}

// fillable refuses a volume that has anything in it or whose data are
// elsewhere.
func (v *vol) fillable(opts map[string]string) error {
	if v.rec.elsewhere() {
		return model.Refuse(errdefs.ErrInvalidArgument, "volume %s is mounted from %s: only a plain volume can be filled", v.rec.Name, v.rec.Options["device"])
	}
	if len(opts) > 0 {
		return model.Refuse(errdefs.ErrConflict, "volume %s exists: its options stay as they are", v.rec.Name)
	}
	names, err := readDir(v.data())
	if errors.Is(err, os.ErrNotExist) {
		return model.Refuse(errdefs.ErrNotFound, "get %s: its directory is gone", v.rec.Name)
	}
	if err == nil && len(names) > 0 {
		return model.Refuse(errdefs.ErrConflict, "volume %s is not empty (it has %q): import into a new one", v.rec.Name, names[0])
	}
	return err
}
