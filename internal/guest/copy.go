package guest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/errdefs"

	"wharf/api/guestapi"
	"wharf/internal/archive"
	"wharf/internal/model"
)

// kindOf turns errdefs' kinds into the channel's.
func kindOf(err error) string {
	switch {
	case errors.Is(err, errdefs.ErrInvalidArgument):
		return guestapi.KindInvalid
	case errors.Is(err, errdefs.ErrNotFound):
		return guestapi.KindNotFound
	case errors.Is(err, errdefs.ErrConflict), errors.Is(err, errdefs.ErrAlreadyExists):
		return guestapi.KindConflict
	case errors.Is(err, errdefs.ErrUnavailable):
		return guestapi.KindUnavailable
	case errors.Is(err, errdefs.ErrNotImplemented):
		return guestapi.KindUnimplemented
	}
	return guestapi.KindInternal
}

// files is the container's root: through its process while that lives, so
// that its mounts are seen; else the overlay, which is mounted anew at its first
// use after the process's end.
func (a *Agent) files() (model.Root, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.main != nil {
		pid, exit := a.main.state()
		switch {
		case pid != 0:
			return model.Root{Dir: fmt.Sprintf("/proc/%d/root", pid)}, nil
		case exit == nil:
			return model.Root{}, failed(guestapi.KindUnavailable, "the container is being started")
		}
	}
	if a.boot.Root == nil {
		if a.root == nil {
			return model.Root{}, failed(guestapi.KindUnavailable, "the machine has no container's files")
		}
		if err := mountOverlay(a.root); err != nil {
			return model.Root{}, err
		}
		a.boot.Root = a.root
	}
	return model.Root{Dir: guestapi.RootDir}, nil
}

func (a *Agent) stat(c *call) error {
	root, err := a.files()
	if err != nil {
		return err
	}
	root.Name = c.req.Name
	s, err := archive.New().Stat(context.Background(), root, c.req.Path)
	if err != nil {
		return err
	}
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return c.reply(guestapi.Reply{Stat: data})
}

func (a *Agent) get(c *call) error {
	root, err := a.files()
	if err != nil {
		return err
	}
	root.Name = c.req.Name
	r, s, err := archive.New().Get(context.Background(), root, c.req.Path)
	if err != nil {
		return err
	}
	defer r.Close()
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if err := c.reply(guestapi.Reply{Stat: data}); err != nil {
		return nil // the host has gone
	}
	return c.sendData(r)
}

func (a *Agent) export(c *call) error {
	root, err := a.files()
	if err != nil {
		return err
	}
	read := archive.New().Export
	if c.req.Top {
		read = archive.New().Tree
	}
	r, err := read(context.Background(), root)
	if err != nil {
		return err
	}
	defer r.Close()
	if err := c.reply(guestapi.Reply{}); err != nil {
		return nil
	}
	return c.sendData(r)
}

// sendData sends r as Data frames and an empty one at its end. A host that
// closes its side ends it.
func (c *call) sendData(r io.Reader) error {
	buf := make([]byte, guestapi.HeaderLen+guestapi.MaxData)
	for {
		n, err := io.ReadFull(r, buf[guestapi.HeaderLen:])
		if n > 0 {
			guestapi.PutHeader(buf, guestapi.Data, n)
			if _, err := c.stream.Write(buf[:guestapi.HeaderLen+n]); err != nil {
				return nil
			}
		}
		switch {
		case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
			return guestapi.Write(c.stream, guestapi.Data, nil)
		case err != nil:
			return err
		}
	}
}

// dataReader reads Data frames as a stream.
type dataReader struct {
	r    *guestapi.Reader
	rest []byte
	end  bool
}

func (d *dataReader) Read(b []byte) (int, error) {
	for len(d.rest) == 0 {
		if d.end {
			return 0, io.EOF
		}
		t, p, err := d.r.Next()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return 0, err
		}
		if t != guestapi.Data {
			return 0, fmt.Errorf("%w: type %d where data was due", guestapi.ErrFrame, t)
		}
		d.rest, d.end = p, len(p) == 0
	}
	n := copy(b, d.rest)
	d.rest = d.rest[n:]
	return n, nil
}

// put unpacks a tar. The first reply says that it may come, the second that
// it has been unpacked.
func (a *Agent) put(c *call) error {
	if c.req.Put == nil {
		return invalid("there is nothing to put")
	}
	root, err := a.files()
	if err != nil {
		return err
	}
	if err := c.reply(guestapi.Reply{}); err != nil {
		return nil
	}
	in := &dataReader{r: c.reader}
	o := model.PutOptions{NoOverwriteDirNonDir: c.req.Put.NoOverwriteDirNonDir, CopyUIDGID: c.req.Put.CopyUIDGID,
		User: c.req.Put.User, NoDevices: c.req.Put.NoDevices, Top: c.req.Put.Top}
	if err := archive.New().Put(context.Background(), root, c.req.Path, o, in); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, in); err != nil { // what stands behind the tar's end
		return err
	}
	return c.reply(guestapi.Reply{})
}
