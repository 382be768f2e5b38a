package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/moby/api/types/volume"
	"github.com/moby/sys/mountinfo"

	"wharf/internal/model"
)

// Kinds of what Fsck finds.
const (
	thingVolume = "volume"
	thingUse    = "use of a volume"
	thingMount  = "mount"
)

// Fsck compares directories, users and mounts with each other and with the
// containers' records. No content is read.
func (r *Room) Fsck(ctx context.Context, records []model.Container) ([]model.Finding, error) {
	ms, err := mountinfo.GetMounts(mountinfo.PrefixFilter(r.opts.Dir))
	if err != nil {
		return nil, fmt.Errorf("volume: %w", err)
	}
	dirs, err := os.ReadDir(r.opts.Dir)
	if err != nil {
		return nil, fmt.Errorf("volume: %w", err)
	}
	known := make(map[model.ID]bool, len(records))
	for i := range records {
		known[records[i].ID] = true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []model.Finding
	for _, d := range dirs {
		if d.IsDir() && checkName(d.Name()) == nil && r.vols[d.Name()] == nil {
			out = append(out, model.Finding{Thing: thingVolume, Name: d.Name(),
				Detail: "directory that was left out because its record cannot be read; its data is in " + filepath.Join(r.opts.Dir, d.Name(), "_data")})
		}
	}
	for name, v := range r.vols {
		if _, err := os.Lstat(v.data()); errors.Is(err, fs.ErrNotExist) {
			out = append(out, model.Finding{Thing: thingVolume, Name: name, Detail: "somebody removed its directory", Remedy: "make an empty one"})
		}
		if id := v.machine; id != "" && !known[id] && !copying(id) {
			out = append(out, model.Finding{Thing: thingUse, Name: name + " by " + string(id), ID: id, Detail: "held by a machine that has no record", Remedy: "let go of it"})
		}
		for id := range v.users {
			if !known[id] && !copying(id) {
				out = append(out, model.Finding{Thing: thingUse, Name: name + " by " + string(id), ID: id, Detail: "held by a container that has no record", Remedy: "let go of it"})
			}
		}
	}
	out = append(out, r.fsckUses(records)...)
	return append(out, r.fsckMounts(ms)...), ctx.Err()
}

// fsckUses finds containers whose volume does not know them. Call with mu
// held.
func (r *Room) fsckUses(records []model.Container) []model.Finding {
	var out []model.Finding
	for i := range records {
		c := &records[i]
		for _, m := range c.Mounts {
			if m.Type != "volume" || c.State.Phase == "" {
				continue
			}
			f := model.Finding{Thing: thingUse, Name: m.Name + " by " + string(c.ID), ID: c.ID}
			if v := r.vols[m.Name]; v == nil {
				f.Detail, f.Remedy = fmt.Sprintf("container %s has volume %s, which is gone", c.ID.Short(), m.Name), "make an empty one"
				out = append(out, f)
			} else if _, ok := v.users[c.ID]; !ok {
				f.Detail, f.Remedy = fmt.Sprintf("container %s has volume %s, which does not know it and could be removed", c.ID.Short(), m.Name), "hold it for the container"
				out = append(out, f)
			}
		}
	}
	return out
}

// fsckMounts finds mounts of volumes that no container has. Call with mu held.
func (r *Room) fsckMounts(ms []*mountinfo.Info) []model.Finding {
	var out []model.Finding
	for _, m := range ms {
		rel, err := filepath.Rel(r.opts.Dir, m.Mountpoint)
		if err != nil || rel == "." || strings.HasPrefix(rel, "..") {
			continue
		}
		name, _, _ := strings.Cut(rel, string(filepath.Separator))
		if v := r.vols[name]; v != nil && len(v.users) > 0 {
			continue
		}
		out = append(out, model.Finding{Thing: thingMount, Name: m.Mountpoint, Detail: "mounted, though no container has the volume", Remedy: "unmount it"})
	}
	return out
}

// Repair does what the remedies say.
func (r *Room) Repair(ctx context.Context, f model.Finding) error {
	switch f.Thing {
	case thingVolume:
		return r.repairDir(f.Name)
	case thingUse:
		name, _, _ := strings.Cut(f.Name, " by ")
		return r.repairUse(ctx, name, f)
	case thingMount:
		return unmountAt(f.Name)
	}
	return fmt.Errorf("there is no repair for a %s", f.Thing)
}

// repairDir makes the directory of a volume again.
func (r *Room) repairDir(name string) error {
	v, err := r.get(name)
	if err != nil {
		return err
	}
	v.busy.Lock()
	defer v.busy.Unlock()
	return v.save()
}

// repairUse lets go of a volume for a container that is gone, or holds it for
// one that is there.
func (r *Room) repairUse(ctx context.Context, name string, f model.Finding) error {
	if strings.HasPrefix(f.Detail, "held by") {
		return r.Unuse(ctx, f.ID, nil, false)
	}
	if _, err := r.get(name); err != nil {
		q := volume.CreateRequest{Name: name}
		if len(name) == 64 { // such names are given to those that a person did not name
			q.Labels = map[string]string{labelAnonymous: ""}
		}
		_, err := r.create(q, f.ID)
		return err
	}
	return r.Restore(ctx, f.ID, []model.Mount{{Type: "volume", Name: name}})
}
