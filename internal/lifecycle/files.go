package lifecycle

import (
	"context"
	"io"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"wharf/internal/driver"
	"wharf/internal/model"
)

// files moves files in and out of containers.
type files struct{ *core }

// root opens the container's files: as it is inside while the container runs,
// mounts included, else the layers alone with the volume or bind below which
// name lies. It returns name as seen from that root.
func (s files) root(ctx context.Context, e *entry, name string, write bool) (r view, in string, release func() error, err error) {
	c := e.record()
	free := func() error { return nil }
	switch {
	case c.State.Phase == container.StateRemoving || c.State.Phase == container.StateDead:
		return r, "", nil, conflict("container %s is marked for removal; its files cannot be reached", c.ID)
	case c.State.Running() && c.State.Pid != 0:
		if f, ok, err := s.through(ctx, c); ok || err != nil {
			return f, name, free, err
		}
		return s.onHost(Root{Dir: "/proc/" + strconv.Itoa(c.State.Pid) + "/root", IDs: c.IDs}), name, free, nil
	}
	if m, rest, ok := below(s.mountsOf(c), name); ok && m.Type != "tmpfs" {
		if m.Type == "image" {
			return r, "", nil, conflict("%s lies in the image %s, which is mounted at %s only while the container runs: start it first", name, m.Name, m.Destination)
		}
		if m.Type == "volume" && s.volumes.IsDisk(m.Name) {
			if err := s.writable(c, &m, write); err != nil {
				return r, "", nil, err
			}
			v, done, err := s.onDisk(ctx, c, m)
			return v, strings.TrimSuffix(path.Join("/", m.Subpath), "/") + rest, done, err
		}
		src, err := s.source(ctx, c, m)
		if err != nil {
			return r, "", nil, err
		}
		if fi, err := os.Stat(src); err == nil && !fi.IsDir() { // a file: seen from the directory that it is in
			return s.onHost(Root{Dir: path.Dir(src)}), "/" + path.Base(src), free, s.writable(c, &m, write)
		}
		return s.onHost(Root{Dir: src, Name: path.Base(m.Destination)}), rest, free, s.writable(c, &m, write)
	}
	if err := s.writable(c, nil, write); err != nil {
		return r, "", nil, err
	}
	if f, ok, err := s.through(ctx, c); ok || err != nil {
		return f, name, func() error { return f.Close() }, err
	}
	dir, release, err := s.images.Mount(ctx, c.ID, !write)
	if err != nil {
		return r, "", nil, wrap(err, "mount root of %s", c.ID.Short())
	}
	return s.onHost(Root{Dir: dir}), name, release, nil
}

// mountsOf are the container's mounts with the files that every container has
// in /etc, if it was started before.
func (s files) mountsOf(c *model.Container) []model.Mount {
	out := slices.Clone(c.Mounts)
	for _, name := range []string{"hosts", "hostname", "resolv.conf"} {
		src := path.Join(s.etc(c), name)
		if _, err := os.Stat(src); err == nil {
			out = append(out, model.Mount{Type: "bind", Source: src, Destination: "/etc/" + name})
		}
	}
	return out
}

// onDisk opens the files of a volume that is a disk, through the container's
// driver.
func (s files) onDisk(ctx context.Context, c *model.Container, m model.Mount) (view, func() error, error) {
	d, err := s.driver(c)
	if err != nil {
		return nil, nil, err
	}
	filer, ok := d.(driver.DiskFiler)
	if !ok {
		return nil, nil, needsMachine(m.Name)
	}
	disk, done, err := s.volumes.LookInto(ctx, m.Name)
	if err != nil {
		return nil, nil, err
	}
	f, err := filer.DiskFiles(ctx, disk, path.Base(m.Destination))
	if err != nil {
		done()
		return nil, nil, err
	}
	return f, func() error { defer done(); return f.Close() }, nil
}

// source is the directory, or file, of a mount of a container that does not run.
func (s files) source(ctx context.Context, c *model.Container, m model.Mount) (string, error) {
	if m.Type != "volume" {
		return m.Source, nil
	}
	return s.volumes.Use(ctx, c.ID, m)
}

// writable refuses to write where the container could not.
func (s files) writable(c *model.Container, m *model.Mount, write bool) error {
	switch {
	case !write:
		return nil
	case m != nil && m.ReadOnly:
		return errdefs.ErrPermissionDenied.WithMessage("mount at " + m.Destination + " is marked read-only")
	case m == nil && c.HostConfig.ReadonlyRootfs:
		return errdefs.ErrPermissionDenied.WithMessage("container rootfs is marked read-only")
	}
	return nil
}

// below finds the innermost mount that name lies in, and the rest of name.
func below(mounts []model.Mount, name string) (m model.Mount, rest string, ok bool) {
	clean := path.Clean("/" + name)
	for _, x := range mounts {
		if clean == x.Destination || strings.HasPrefix(clean, strings.TrimSuffix(x.Destination, "/")+"/") {
			if !ok || len(x.Destination) > len(m.Destination) {
				m, ok = x, true
			}
		}
	}
	if !ok {
		return m, "", false
	}
	rest = "/" + strings.TrimPrefix(strings.TrimPrefix(clean, m.Destination), "/")
	for _, tail := range []string{"/.", "/"} { // which matter to cp
		if strings.HasSuffix(name, tail) {
			rest = strings.TrimSuffix(rest, "/") + tail
			break
		}
	}
	return m, rest, true
}

// missing turns "not found" into the text that docker cp looks for.
func missing(err error, ref, name string) error {
	if errdefs.IsNotFound(err) {
		return notFound("Could not find the file %s in container %s", name, ref)
	}
	return err
}

// ArchiveStat describes one path.
func (s files) ArchiveStat(ctx context.Context, ref, name string) (container.PathStat, error) {
	e, err := s.index.find(ref)
	if err != nil {
		return container.PathStat{}, err
	}
	r, in, release, err := s.root(ctx, e, name, false)
	if err != nil {
		return container.PathStat{}, err
	}
	defer s.free(e, release)
	st, err := r.Stat(ctx, in)
	return st, missing(err, ref, name)
}

// ArchiveGet streams a path as tar. The caller closes the stream.
func (s files) ArchiveGet(ctx context.Context, ref, name string) (io.ReadCloser, container.PathStat, error) {
	e, err := s.index.find(ref)
	if err != nil {
		return nil, container.PathStat{}, err
	}
	r, in, release, err := s.root(ctx, e, name, false)
	if err != nil {
		return nil, container.PathStat{}, err
	}
	rc, st, err := r.Get(ctx, in)
	if err != nil {
		s.free(e, release)
		return nil, st, missing(err, ref, name)
	}
	s.event(e.record(), events.ActionArchivePath, nil)
	return &releasing{ReadCloser: rc, release: func() { s.free(e, release) }}, st, nil
}

// ArchivePut unpacks a tar into a directory.
func (s files) ArchivePut(ctx context.Context, ref, name string, o model.PutOptions, tar io.Reader) error {
	e, err := s.index.find(ref)
	if err != nil {
		return err
	}
	if c := e.record(); c.State.Running() {
		// Through /proc/PID/root the host could write where the container cannot.
		m, _, ok := below(c.Mounts, name)
		if !ok {
			err = s.writable(c, nil, true)
		} else if m.Type != "tmpfs" {
			err = s.writable(c, &m, true)
		}
		if err != nil {
			return err
		}
	}
	r, in, release, err := s.root(ctx, e, name, true)
	if err != nil {
		return err
	}
	defer s.free(e, release)
	c := e.record()
	o.User, o.NoDevices = c.Config.User, c.IDs.Mapped()
	if err := r.Put(ctx, in, o, tar); err != nil {
		return missing(err, ref, name)
	}
	s.event(e.record(), events.ActionExtractToDir, nil)
	return nil
}

// Export streams the whole root as tar, without volumes.
func (s files) Export(ctx context.Context, ref string) (io.ReadCloser, error) {
	e, err := s.index.find(ref)
	if err != nil {
		return nil, err
	}
	if p := e.record().State.Phase; p == container.StateDead || p == container.StateRemoving {
		return nil, conflict("You cannot export container %s which is being removed", e.id)
	}
	r, release, err := s.layers(ctx, e.record())
	if err != nil {
		return nil, err
	}
	rc, err := r.Export(ctx)
	if err != nil {
		s.free(e, release)
		return nil, err
	}
	s.event(e.record(), events.ActionExport, nil)
	return &releasing{ReadCloser: rc, release: func() { s.free(e, release) }}, nil
}

// layers opens the whole root; archives.Export keeps to its file system, so
// proc, sys and volumes are no part of it.
func (s files) layers(ctx context.Context, c *model.Container) (view, func() error, error) {
	if f, ok, err := s.through(ctx, c); ok || err != nil {
		return f, func() error { return f.Close() }, err
	}
	if c.State.Running() && c.State.Pid != 0 {
		return s.onHost(Root{Dir: "/proc/" + strconv.Itoa(c.State.Pid) + "/root", IDs: c.IDs}), func() error { return nil }, nil
	}
	dir, release, err := s.images.Mount(ctx, c.ID, true)
	return s.onHost(Root{Dir: dir}), release, wrap(err, "mount root of %s", c.ID.Short())
}

func (s files) free(e *entry, release func() error) {
	if err := release(); err != nil {
		s.report(e.id)("image", err)
	}
}

// releasing gives the root back when the stream is closed.
type releasing struct {
	io.ReadCloser
	release func()
	closed  bool
}

func (r *releasing) Close() error {
	if r.closed {
		return nil
	}
	r.closed = true
	err := r.ReadCloser.Close()
	r.release()
	return err
}
