package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/moby/moby/api/types/container"

	"wharf/api/guestapi"
	"wharf/internal/driver"
	"wharf/internal/driver/held"
	"wharf/internal/model"
)

// files are an instance's files, through the agent of its machine or of a
// helper.
type files struct {
	i    *instance
	name string // of the root
	done func()
}

var (
	_ driver.Filer = (*Driver)(nil)
	_ driver.Files = (*files)(nil)
)

// Files opens id's files: through the machine that runs, or one that is
// started for it and ends when nobody has used it for a while.
func (d *Driver) Files(ctx context.Context, id model.ID, ids model.IDRange, root model.Rootfs) (driver.Files, error) {
	if i, err := d.Driver.Find(ctx, id); err == nil && i.Pid() != 0 {
		return &files{i: &instance{Instance: i, d: d}, done: func() {}}, nil
	}
	if !ids.Mapped() {
		ids = d.m.o.IDs
	}
	i, done, err := d.helpers.use(ctx, id, func() *model.Bundle { return helperBundle(id, root, ids) })
	if err != nil {
		return nil, fmt.Errorf("machine to look into the files of %s: %w", id.Short(), err)
	}
	return &files{i: i, done: done}, nil
}

// Close lets go of them. It may be called again.
func (f *files) Close() error {
	f.done()
	return nil
}

// Stat describes one path.
func (f *files) Stat(ctx context.Context, path string) (st container.PathStat, err error) {
	r, err := f.i.ask(ctx, guestapi.Request{Op: guestapi.OpStat, Path: path, Name: f.name})
	if err != nil {
		return st, err
	}
	return st, json.Unmarshal(r.Stat, &st)
}

// Get streams a path as tar.
func (f *files) Get(ctx context.Context, path string) (rc io.ReadCloser, st container.PathStat, err error) {
	c, r, err := f.i.guest(ctx, guestapi.Request{Op: guestapi.OpGet, Path: path, Name: f.name})
	if err != nil {
		return nil, st, err
	}
	if err := json.Unmarshal(r.Stat, &st); err != nil {
		return nil, st, errors.Join(err, c.Close())
	}
	return &dataReader{c: c}, st, nil
}

// Export streams the whole root.
func (f *files) Export(ctx context.Context) (io.ReadCloser, error) {
	return f.stream(ctx, guestapi.Request{Op: guestapi.OpExport})
}

// Layer streams the writable layer.
func (f *files) Layer(ctx context.Context) (io.ReadCloser, error) {
	return f.stream(ctx, guestapi.Request{Op: guestapi.OpUpper})
}

func (f *files) stream(ctx context.Context, q guestapi.Request) (io.ReadCloser, error) {
	c, _, err := f.i.guest(ctx, q)
	if err != nil {
		return nil, err
	}
	return &dataReader{c: c}, nil
}

// Changes compares the writable layer with the image.
func (f *files) Changes(ctx context.Context) ([]container.FilesystemChange, error) {
	c, r, err := f.i.guest(ctx, guestapi.Request{Op: guestapi.OpChanges, Stream: true})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if r.Streaming {
		stop := context.AfterFunc(ctx, func() { _ = c.Close() })
		defer stop()
		return readChanges(&dataReader{c: c})
	}
	out := make([]container.FilesystemChange, 0, len(r.Changes))
	for _, c := range r.Changes {
		out = append(out, container.FilesystemChange{Path: c.Path, Kind: container.ChangeType(c.Kind)})
	}
	return out, nil
}

// readChanges reads a guest's list of changes: so many lines, each so long.
func readChanges(in io.Reader) ([]container.FilesystemChange, error) {
	out := []container.FilesystemChange{}
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, 0, 4096), guestapi.MaxLine)
	for lines.Scan() {
		var c guestapi.Change
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			return nil, fmt.Errorf("%w: a change: %v", guestapi.ErrFrame, err)
		}
		if len(out) == guestapi.MaxList {
			return nil, fmt.Errorf("%w: more than %d changes", guestapi.ErrFrame, guestapi.MaxList)
		}
		if !strings.HasPrefix(c.Path, "/") || c.Kind < 0 || c.Kind > int(container.ChangeDelete) {
			return nil, fmt.Errorf("%w: a change of kind %d of %.40q", guestapi.ErrFrame, c.Kind, c.Path)
		}
		out = append(out, container.FilesystemChange{Path: c.Path, Kind: container.ChangeType(c.Kind)})
	}
	return out, lines.Err()
}

// Put unpacks a tar into a directory.
func (f *files) Put(ctx context.Context, path string, o model.PutOptions, tar io.Reader) error {
	c, _, err := f.i.guest(ctx, guestapi.Request{Op: guestapi.OpPut, Path: path, Put: &guestapi.Put{
		NoOverwriteDirNonDir: o.NoOverwriteDirNonDir, CopyUIDGID: o.CopyUIDGID, User: o.User, NoDevices: o.NoDevices, Top: o.Top}})
	if err != nil {
		return err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	buf := make([]byte, guestapi.MaxData)
	for {
		n, rerr := io.ReadFull(tar, buf)
		if n > 0 {
			// A guest that refuses closes the stream: its answer says why.
			if guestapi.Write(c.Conn, guestapi.Data, buf[:n]) != nil {
				break
			}
		}
		if rerr != nil && !errors.Is(rerr, io.EOF) && !errors.Is(rerr, io.ErrUnexpectedEOF) {
			return rerr
		}
		if rerr != nil {
			_ = guestapi.Write(c.Conn, guestapi.Data, nil)
			break
		}
	}
	var reply guestapi.Reply
	r := &guestapi.Reader{R: c.Conn, Max: guestapi.MaxReply}
	err = r.Expect(guestapi.ReplyFrame, &reply)
	var failed *guestapi.Failed
	if errors.As(err, &failed) {
		return held.Kinded(asMonitor(failed))
	}
	return err
}

// dataReader reads Data frames to the empty one; less than that is an error.
type dataReader struct {
	c    io.ReadCloser
	r    *guestapi.Reader
	rest []byte
	end  bool
	once sync.Once
}

func (d *dataReader) Read(b []byte) (int, error) {
	if d.r == nil {
		d.r = &guestapi.Reader{R: d.c, Max: guestapi.MaxReply}
	}
	for len(d.rest) == 0 {
		if d.end {
			return 0, io.EOF
		}
		t, p, err := d.r.Next()
		switch {
		case errors.Is(err, io.EOF):
			return 0, io.ErrUnexpectedEOF
		case err != nil:
			return 0, err
		case t == guestapi.Error:
			f := new(guestapi.Failed)
			if err := json.Unmarshal(p, f); err != nil {
				return 0, fmt.Errorf("%w: error frame", guestapi.ErrFrame)
			}
			return 0, held.Kinded(asMonitor(f))
		case t != guestapi.Data:
			return 0, fmt.Errorf("%w: type %d where data was due", guestapi.ErrFrame, t)
		}
		d.rest, d.end = p, len(p) == 0
	}
	n := copy(b, d.rest)
	d.rest = d.rest[n:]
	return n, nil
}

func (d *dataReader) Close() (err error) {
	d.once.Do(func() { err = d.c.Close() })
	return err
}
