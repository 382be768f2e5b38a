package volume

import (
	"encoding/json"
	"os"
	"path/filepath"

	"wharf/internal/model"
)

// pausedPrefix begins the file that names containers paused for a copy.
const pausedPrefix = ".paused-"

// Pausing notes containers that are about to be paused for a copy. Call done
// when they go on.
func (r *Room) Pausing(ids []string) (done func(), err error) {
	if len(ids) == 0 {
		return func() {}, nil
	}
	b, err := json.Marshal(ids)
	if err != nil {
		return nil, err
	}
	p := filepath.Join(r.opts.Dir, pausedPrefix+model.NewID().Short())
	if err := os.WriteFile(p, b, 0o600); err != nil {
		return nil, err
	}
	return func() { _ = os.Remove(p) }, nil
}

// LeftPaused calls resume for every container that an earlier daemon paused
// for a copy and did not let go on, and forgets them.
func (r *Room) LeftPaused(resume func(id string)) {
	files, _ := filepath.Glob(filepath.Join(r.opts.Dir, pausedPrefix+"*")) // a fixed pattern
	for _, f := range files {
		var ids []string
		if b, err := os.ReadFile(f); err == nil && json.Unmarshal(b, &ids) == nil {
			for _, id := range ids {
				resume(id)
			}
		}
		_ = os.Remove(f)
	}
}
