package qemu

import (
	"context"
	"fmt"
	"io/fs"

	"wharf/api/guestapi"
	"wharf/internal/driver"
)

var _ driver.Lister = (*instance)(nil)

// texts are files by name.
type texts map[string][]byte

// Open implements fs.FS: nothing here can be opened, but read.
func (t texts) Open(name string) (fs.File, error) {
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
}

// ReadFile implements fs.ReadFileFS.
func (t texts) ReadFile(name string) ([]byte, error) {
	b, ok := t[name]
	if !ok {
		return nil, &fs.PathError{Op: "read", Path: name, Err: fs.ErrNotExist}
	}
	return b, nil
}

// Processes lists what runs inside, as the guest's /proc has it.
func (i *instance) Processes(ctx context.Context) (fs.FS, []int, error) {
	r, err := i.ask(ctx, guestapi.Request{Op: guestapi.OpTop})
	if err != nil {
		return nil, nil, err
	}
	if r.Top == nil {
		return nil, nil, fmt.Errorf("machine of %s: empty answer", i.ID().Short())
	}
	return texts(r.Top.Files), r.Top.Pids, nil
}
