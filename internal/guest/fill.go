package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"wharf/api/guestapi"
	"wharf/internal/archive"
	"wharf/internal/inroot"
	"wharf/internal/model"
)

// fill gives an empty volume what the image has at its place, as a whole or
// not at all. An image without that directory leaves it as it is.
func fill(image string, m *guestapi.Mount) error {
	if m.Fill == "" || len(m.Dirs) == 0 {
		return nil
	}
	target, err := below(m.Target)
	if err != nil {
		return err
	}
	to := filepath.Join(target, filepath.Clean("/"+m.Dirs[0]))
	if names, err := os.ReadDir(to); err != nil || len(names) > 0 {
		return err
	}
	src, err := inroot.Open(image, m.Fill)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("fill %s: %w", to, err)
	}
	defer unix.Close(src)
	aside := filepath.Join(target, ".fill")
	if err := os.RemoveAll(aside); err != nil {
		return err
	}
	if err := os.Mkdir(aside, 0o755); err != nil {
		return err
	}
	in, err := archive.New().Tree(context.Background(), model.Root{Dir: fmt.Sprintf("/proc/self/fd/%d", src)})
	if err != nil {
		return fmt.Errorf("fill %s: %w", to, err)
	}
	err = archive.New().Put(context.Background(), model.Root{Dir: aside}, "/", model.PutOptions{Top: true}, in)
	if err = errors.Join(err, in.Close()); err != nil {
		return fmt.Errorf("fill %s: %w", to, err)
	}
	return unix.Rename(aside, to) // an empty directory may be renamed over
}
