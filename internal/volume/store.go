package volume

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/moby/moby/api/types/volume"
)

// record is opts.json.
type record struct {
	Name    string            `json:"name"`
	Driver  string            `json:"driver"`
	Created time.Time         `json:"created"`
	Options map[string]string `json:"options,omitempty"`
	Labels  map[string]string `json:"labels,omitempty"`
}

// loadRecord reads a volume's record. A directory with data but without a
// record is a plain volume: somebody copied it here.
func loadRecord(dir string) (record, error) {
	rec := record{Name: filepath.Base(dir), Driver: driverLocal}
	b, err := os.ReadFile(filepath.Join(dir, "opts.json"))
	if errors.Is(err, fs.ErrNotExist) {
		st, err := os.Stat(filepath.Join(dir, "_data"))
		if err != nil {
			return rec, err
		}
		rec.Created = st.ModTime()
		return rec, nil
	}
	if err != nil {
		return rec, err
	}
	if err := json.Unmarshal(b, &rec); err != nil {
		return rec, fmt.Errorf("%s/opts.json: %w", dir, err)
	}
	if rec.Name != filepath.Base(dir) {
		return rec, fmt.Errorf("%s/opts.json is of volume %q", dir, rec.Name)
	}
	return rec, nil
}

// save makes the volume's directory. The record is on the disk and complete
// before its name is seen.
func (v *vol) save() (err error) {
	if err := os.Mkdir(v.dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := os.Mkdir(v.data(), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := os.Chmod(v.data(), 0o755); err != nil { // whatever the umask is
		return err
	}
	b, err := json.MarshalIndent(v.rec, "", "\t")
	if err != nil {
		return err
	}
	tmp, err := os.OpenFile(filepath.Join(v.dir, ".opts.json"), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = tmp.Write(b)
	if err := errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), filepath.Join(v.dir, "opts.json")); err != nil {
		return err
	}
	return errors.Join(syncDir(v.dir), syncDir(filepath.Dir(v.dir)))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// describe is the volume in Docker's form.
func (v *vol) describe() *volume.Volume {
	var status map[string]any
	if v.rec.block() {
		status = map[string]any{"Disk": v.disk(), "FileSystem": "ext4"}
	}
	return &volume.Volume{
		Status: status, Name: v.rec.Name, Driver: v.rec.Driver, Mountpoint: v.data(), Scope: "local",
		CreatedAt: v.rec.Created.Format(time.RFC3339), Labels: v.rec.Labels, Options: v.rec.Options,
	}
}
