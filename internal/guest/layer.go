package guest

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"path"
	"sort"
	"strings"
	"time"

	"wharf/api/guestapi"
	"wharf/internal/archive"
	"wharf/internal/model"
	"wharf/internal/overlay"
)

// layers are the directories of the container's root: as its process was
// prepared with, or as a helper guest was told.
func (a *Agent) layers() (*guestapi.Overlay, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	o := a.root
	if o == nil {
		o = a.boot.Root
	}
	if o == nil || o.Upper == "" {
		return nil, failed(guestapi.KindUnavailable, "the container has no writable layer here")
	}
	return o, nil
}

// changes lists what the container changed.
func (a *Agent) changes(c *call) error {
	o, err := a.layers()
	if err != nil {
		return err
	}
	out := []guestapi.Change{}
	err = overlay.Walk(context.Background(), o.Upper, o.Lower, func(kind overlay.Kind, p string, _ fs.FileInfo) error {
		if len(out) == guestapi.MaxList {
			return failed(guestapi.KindUnavailable, "too many changed files to list")
		}
		out = append(out, guestapi.Change{Path: p, Kind: int(kind)})
		return nil
	})
	if err != nil {
		return err
	}
	sort.SliceStable(out, func(i, j int) bool { return out[i].Path < out[j].Path })
	if !c.req.Stream {
		return c.reply(guestapi.Reply{Changes: out})
	}
	if err := c.reply(guestapi.Reply{Streaming: true}); err != nil {
		return nil // the host has gone
	}
	r, w := io.Pipe()
	a.spawn(func() {
		enc := json.NewEncoder(w)
		var err error
		for i := range out {
			if err = enc.Encode(out[i]); err != nil {
				break
			}
		}
		_ = w.CloseWithError(err)
	})
	defer func() { _ = r.Close() }() // ends the writer when the host has gone
	return c.sendData(r)
}

// upper sends what the container changed as an image layer. A layer without
// an entry is an empty tar.
func (a *Agent) upper(c *call) error {
	o, err := a.layers()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	keep, gone := map[string]bool{}, []string(nil)
	err = overlay.Walk(ctx, o.Upper, o.Lower, func(kind overlay.Kind, p string, _ fs.FileInfo) error {
		if kind == overlay.Delete {
			gone = append(gone, p)
		} else {
			keep[p] = true
		}
		return nil
	})
	if err != nil {
		return err
	}
	files, err := archive.New().Export(ctx, model.Root{Dir: o.Upper})
	if err != nil {
		return err
	}
	defer files.Close()
	if err := c.reply(guestapi.Reply{}); err != nil {
		return nil // the host has gone
	}
	r, w := io.Pipe()
	defer func() { _ = r.Close() }()
	a.spawn(func() { _ = w.CloseWithError(writeLayer(w, files, keep, gone)) })
	return c.sendData(r)
}

// whiteoutPrefix marks what a layer takes away (image-spec, layer.md).
const whiteoutPrefix = ".wh."

// writeLayer copies those entries of a tar of the upper directory that are
// changes, and puts a whiteout for each deletion behind them.
func writeLayer(w io.Writer, files io.Reader, keep map[string]bool, gone []string) error {
	in, out := tar.NewReader(files), tar.NewWriter(w)
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		name := path.Clean("/" + h.Name)
		if !keep[name] || h.Typeflag == tar.TypeChar && h.Devmajor == 0 && h.Devminor == 0 {
			continue
		}
		h.Format = tar.FormatPAX
		for k := range h.PAXRecords {
			if strings.HasPrefix(k, "GNU.sparse.") { // read as the whole file; not to be written
				delete(h.PAXRecords, k)
			}
		}
		if err := out.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(out, in); err != nil {
			return err
		}
	}
	for _, p := range gone {
		dir, base := path.Split(strings.TrimPrefix(p, "/"))
		h := &tar.Header{Typeflag: tar.TypeReg, Name: dir + whiteoutPrefix + base, ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
		if err := out.WriteHeader(h); err != nil {
			return err
		}
	}
	return out.Close()
}
