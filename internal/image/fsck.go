package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	"github.com/opencontainers/go-digest"

	"wharf/internal/model"
)

// Kinds of what Fsck finds.
const (
	thingWritable = "writable layer"
	thingLayer    = "layer"
	thingBlob     = "blob"
	thingName     = "image"
	thingMount    = "mount"
	thingAside    = "damaged image store"
)

// Fsck compares the writable layers with the containers' records, and blobs,
// unpacked layers and mounts with the metadata. Sizes are looked at, contents
// are not: digests were checked when they came in.
func (s *Store) Fsck(ctx context.Context, records []model.Container) ([]model.Finding, error) {
	ctx = s.ctx(ctx)
	out, err := s.fsckStores(ctx)
	if err == nil && len(out) > 0 {
		// What the collector is about to remove is none of our findings.
		if err = s.Collect(ctx); err == nil {
			out, err = s.fsckStores(ctx)
		}
	}
	if err != nil {
		return nil, err
	}
	for _, check := range []func(context.Context) ([]model.Finding, error){
		func(ctx context.Context) ([]model.Finding, error) { return s.fsckWritable(ctx, records) },
		s.fsckNames, s.fsckMounts, s.fsckAside,
	} {
		fs, err := check(ctx)
		if err != nil {
			return nil, err
		}
		out = append(out, fs...)
	}
	return out, nil
}

// fsckStores looks at what the garbage collector works on.
func (s *Store) fsckStores(ctx context.Context) ([]model.Finding, error) {
	layers, err := s.fsckLayers(ctx)
	if err != nil {
		return nil, err
	}
	blobs, err := s.fsckBlobs(ctx)
	return append(layers, blobs...), err
}

func (s *Store) fsckWritable(ctx context.Context, records []model.Container) ([]model.Finding, error) {
	ids, err := s.preparedIDs()
	if err != nil {
		return nil, err
	}
	have := make(map[model.ID]bool, len(ids))
	for _, id := range ids {
		have[id] = true
	}
	var out []model.Finding
	chains := map[digest.Digest]error{} // each chain is looked up once
	for i := range records {
		c := &records[i]
		f := model.Finding{Thing: thingWritable, Name: string(c.ID), ID: c.ID}
		if !have[c.ID] {
			f.Detail, f.Remedy = "the container has no writable layer: what it wrote is lost", "make an empty one, so that it can start"
			out = append(out, f)
			continue
		}
		delete(have, c.ID)
		b, err := s.base(c.ID)
		if err == nil {
			known := false
			if err, known = chains[b.chain]; !known {
				_, err = s.lower(ctx, b.chain)
				chains[b.chain] = err
			}
		}
		if err != nil {
			f.Detail = fmt.Sprintf("what it stands on is not there (%v): it cannot start until its image is pulled or loaded again", err)
			out = append(out, f)
		}
	}
	for id := range have {
		out = append(out, model.Finding{Thing: thingWritable, Name: string(id), ID: id, Detail: "writable layer of a container that has no record", Remedy: "remove it"})
	}
	return out, nil
}

// fsckLayers compares the snapshotter's directories with its metadata.
func (s *Store) fsckLayers(ctx context.Context) ([]model.Finding, error) {
	dirs, err := os.ReadDir(s.path("layers", "snapshots"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	want := map[string]string{} // directory -> snapshot
	// Listed before the metadata is read: what comes meanwhile is in the latter.
	err = s.layers.Walk(ctx, func(_ context.Context, i snapshots.Info) error {
		if dir := i.Labels["containerd.io/snapshot/overlay.upperdir"]; dir != "" {
			want[filepath.Base(filepath.Dir(dir))] = i.Name
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	var out []model.Finding
	for _, d := range dirs {
		if _, ok := want[d.Name()]; !ok {
			out = append(out, model.Finding{Thing: thingLayer, Name: s.path("layers", "snapshots", d.Name()),
				Detail: "directory that belongs to no layer", Remedy: "remove it"})
		}
	}
	for dir, name := range want {
		at := s.path("layers", "snapshots", dir, "fs")
		if _, err := os.Lstat(at); errors.Is(err, fs.ErrNotExist) {
			out = append(out, model.Finding{Thing: thingLayer, Name: at,
				Detail: fmt.Sprintf("the directory of layer %s is gone: remove the image and pull or load it again", name)})
		}
	}
	return out, nil
}

// fsckBlobs compares the content store's files with the metadata.
func (s *Store) fsckBlobs(ctx context.Context) ([]model.Finding, error) {
	files := map[digest.Digest]int64{}
	err := s.blobs.Walk(ctx, func(i content.Info) error {
		files[i.Digest] = i.Size
		return nil
	})
	if err != nil {
		return nil, err
	}
	all, err := s.namespaces(ctx)
	if err != nil {
		return nil, err
	}
	var out []model.Finding
	recorded := map[digest.Digest]bool{}
	for _, ns := range all {
		err := s.cs.Walk(namespaces.WithNamespace(ctx, ns), func(i content.Info) error {
			if recorded[i.Digest] {
				return nil
			}
			recorded[i.Digest] = true
			if f, bad := s.fsckBlob(ctx, i, files); bad {
				out = append(out, f)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	for d := range files {
		if !recorded[d] {
			out = append(out, model.Finding{Thing: thingBlob, Name: d.String(), Detail: "file of a blob that nothing refers to", Remedy: "remove it"})
		}
	}
	return out, nil
}

// fsckBlob compares what is recorded of a blob with its file.
func (s *Store) fsckBlob(ctx context.Context, i content.Info, files map[digest.Digest]int64) (model.Finding, bool) {
	size, ok := files[i.Digest]
	f := model.Finding{Thing: thingBlob, Name: i.Digest.String(), Remedy: "forget it, so that the next pull or load brings it again"}
	switch {
	case !ok:
		if _, err := s.blobs.Info(ctx, i.Digest); err == nil {
			return f, false // came meanwhile
		}
		f.Detail = "recorded, but its file is gone: images that need it cannot be saved, pushed or unpacked"
	case size != i.Size:
		f.Detail = fmt.Sprintf("its file has %d bytes instead of %d", size, i.Size)
	default:
		return f, false
	}
	return f, true
}

// fsckNames finds names whose image is not there.
func (s *Store) fsckNames(ctx context.Context) ([]model.Finding, error) {
	all, err := s.images.List(ctx)
	if err != nil {
		return nil, err
	}
	var out []model.Finding
	for _, img := range all {
		if _, err := s.cs.Info(ctx, img.Target.Digest); errdefs.IsNotFound(err) {
			out = append(out, model.Finding{Thing: thingName, Name: img.Name,
				Detail: fmt.Sprintf("the name means %s, which is not here", img.Target.Digest), Remedy: "remove the name"})
		}
	}
	return out, nil
}

// fsckMounts finds mounts of stopped containers that nobody looks into.
func (s *Store) fsckMounts(context.Context) ([]model.Finding, error) {
	m := &s.mounts
	m.mu.Lock() // held while mounting
	defer m.mu.Unlock()
	ms, err := mountinfo.GetMounts(mountinfo.PrefixFilter(m.dir))
	if err != nil {
		return nil, err
	}
	active := map[string]bool{m.dir: true}
	for _, at := range m.active {
		active[at.dir] = true
	}
	var out []model.Finding
	for _, at := range ms {
		if !active[at.Mountpoint] {
			out = append(out, model.Finding{Thing: thingMount, Name: at.Mountpoint, Detail: "mount that nobody uses", Remedy: "unmount it"})
		}
	}
	return out, nil
}

// Repair does what the remedies say.
func (s *Store) Repair(ctx context.Context, f model.Finding) error {
	ctx = s.ctx(ctx)
	switch f.Thing {
	case thingWritable:
		return s.repairWritable(ctx, f)
	case thingLayer:
		if c, ok := s.layers.(snapshots.Cleaner); ok {
			return c.Cleanup(ctx)
		}
	case thingBlob:
		return s.repairBlob(ctx, digest.Digest(f.Name))
	case thingName:
		return s.images.Delete(ctx, f.Name)
	case thingAside:
		return os.RemoveAll(f.Name)
	case thingMount:
		return detach(f.Name)
	}
	return fmt.Errorf("there is no repair for a %s", f.Thing)
}

// repairWritable removes a writable layer without a record, or makes one anew
// from the image of the record.
func (s *Store) repairWritable(ctx context.Context, f model.Finding) error {
	if _, err := os.Lstat(s.path("containers", string(f.ID))); err == nil {
		return s.Discard(ctx, f.ID)
	}
	users, err := s.opts.Users(ctx)
	if err != nil {
		return err
	}
	for _, u := range users {
		if u.ID == f.ID {
			img, err := s.Resolve(ctx, u.Image.String(), nil)
			if err != nil {
				return err
			}
			return s.Prepare(ctx, f.ID, img)
		}
	}
	return nil // the container is gone too
}

// repairBlob removes the half that is without the other.
func (s *Store) repairBlob(ctx context.Context, d digest.Digest) error {
	all, err := s.namespaces(ctx)
	if err != nil {
		return err
	}
	recorded := false
	for _, ns := range all {
		ctx := namespaces.WithNamespace(ctx, ns)
		if _, err := s.cs.Info(ctx, d); err != nil {
			continue
		}
		recorded = true
		if err := s.cs.Delete(ctx, d); err != nil {
			return err
		}
	}
	if recorded {
		return s.Collect(ctx)
	}
	if info, err := s.blobs.Info(ctx, d); err == nil {
		return s.blobs.Delete(ctx, info.Digest)
	}
	return nil
}
