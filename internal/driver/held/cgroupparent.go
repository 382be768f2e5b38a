package held

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"wharf/internal/model"
	"wharf/internal/runtime/cgroup"
)

// thingGroup is a control group without a run.
const thingGroup = "control group"

// madeParent is a note in the exec root, which ends with the machine's run:
// the cgroup parent was not there before a daemon of ours.
const madeParent = "cgroup-parent-made"

// noteParent notes whether the parent will be our making. Somebody else may
// have made it, with limits for all containers.
func (d *Driver) noteParent() {
	for _, h := range hierarchies() {
		if _, err := os.Stat(filepath.Join(h, d.opts.CgroupParent)); err == nil {
			return
		}
	}
	// A note that cannot be made costs an empty directory at the end.
	_ = os.WriteFile(filepath.Join(d.opts.ExecRoot, madeParent), []byte(d.opts.CgroupParent), 0o600)
}

// removeParent removes the parent if it is empty and of our making.
func (d *Driver) removeParent() {
	note := filepath.Join(d.opts.ExecRoot, madeParent)
	if b, err := os.ReadFile(note); err != nil || string(b) != d.opts.CgroupParent {
		return
	}
	left := false
	for _, h := range hierarchies() {
		err := unix.Rmdir(filepath.Join(h, d.opts.CgroupParent))
		left = left || err != nil && !errors.Is(err, unix.ENOENT)
	}
	if !left {
		_ = os.Remove(note)
	}
}

// strayGroups finds empty groups of containers that do not run, below the
// parents that containers' --cgroup-parent names. List looks below our own.
func (d *Driver) strayGroups(records []model.Container) []model.Finding {
	parents, known := map[string]bool{}, map[model.ID]bool{}
	for i := range records {
		c := &records[i]
		if c.State.Running() {
			known[c.ID] = true
		}
		if c.HostConfig == nil || c.HostConfig.CgroupParent == "" {
			continue
		}
		if p, err := cgroup.Clean(c.HostConfig.CgroupParent, string(c.ID)); err == nil && strings.Trim(p, "/") != strings.Trim(d.opts.CgroupParent, "/") {
			parents[p] = true
		}
	}
	var out []model.Finding
	for p := range parents {
		for _, id := range strayCgroups(p, known) {
			out = append(out, model.Finding{Thing: thingGroup, Name: filepath.Join(p, string(id)), ID: id,
				Detail: "control group of a container that does not run", Remedy: "remove it"})
		}
	}
	return out
}
