package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/moby/api/types/network"

	"wharf/internal/model"
)

// record is a network on the disk.
type record struct {
	network.Network
	// AutoSubnet: the subnet was picked by us, so nobody may count on an
	// address in it.
	AutoSubnet bool `json:",omitempty"`
}

// store keeps networks as <dir>/<id>.json. A write is whole or not there.
type store struct{ dir string }

func (s store) load() ([]record, error) {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, fmt.Errorf("network state: %w", err)
	}
	files, err := filepath.Glob(filepath.Join(s.dir, "*.json"))
	if err != nil {
		return nil, err
	}
	var all []record
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return nil, fmt.Errorf("network state: %w", err)
		}
		var n record
		err = json.Unmarshal(b, &n)
		if err == nil && n.ID != strings.TrimSuffix(filepath.Base(f), ".json") {
			err = fmt.Errorf("it holds network %q", n.ID)
		}
		if err != nil {
			// One network less is better than no daemon.
			err = errors.Join(err, os.Rename(f, f+".damaged"))
			slog.Error("a network is left out: its file cannot be read and is kept with the ending .damaged; make the network anew", "room", "network", "file", f, "err", err)
			continue
		}
		all = append(all, n)
	}
	return all, nil
}

// save returns when n is on the disk.
func (s store) save(n record) error {
	b, err := json.MarshalIndent(n, "", "\t")
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(s.dir, ".new-")
	if err != nil {
		return fmt.Errorf("network state: %w", err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(b)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), s.path(n.ID))
	}
	if err == nil {
		err = syncDir(s.dir)
	}
	if err != nil {
		return fmt.Errorf("network state: %w", err)
	}
	return nil
}

func (s store) remove(id string) error {
	if err := os.Remove(s.path(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("network state: %w", err)
	}
	return syncDir(s.dir)
}

func (s store) path(id string) string { return filepath.Join(s.dir, id+".json") }

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// attachedID is the id that a host link's name was made from, as far as the
// name carries it.
func attachedID(link string) (prefix string, ok bool) {
	if len(link) != len("wh")+12+1 || !strings.HasPrefix(link, "wh") {
		return "", false
	}
	p := link[2:14]
	for _, c := range p {
		if !strings.ContainsRune("0123456789abcdef", c) {
			return "", false
		}
	}
	return p, true
}

// hostLink names the host end of a container's nth interface.
func hostLink(id model.ID, n int) string {
	const digits = "0123456789abcdefghijklmnopqrstuvwxyz"
	return "wh" + id.Short() + digits[n:n+1]
}
