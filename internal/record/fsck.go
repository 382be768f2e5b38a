package record

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"wharf/internal/model"
)

// Kinds of what Fsck finds.
const (
	thingLog    = "record log"
	thingObject = "object"
)

// Fsck reads the log once: it ends where it should and every frame has its
// checksum, so a daemon that started now would know the same. What records say
// of things is the other rooms' to judge.
func (s *Store) Fsck(ctx context.Context, records []model.Container) ([]model.Finding, error) {
	s.mu.Lock()
	defer s.mu.Unlock() // writers wait for one read of some megabytes
	var out []model.Finding
	path := filepath.Base(s.log.path)
	data, err := os.ReadFile(s.log.path)
	if err != nil {
		return []model.Finding{{Thing: thingLog, Name: path, Detail: "cannot be read: " + err.Error(), Remedy: "write it anew"}}, nil
	}
	sc := scan{tail: int64(len(data))}
	if bytes.HasPrefix(data, []byte(fileHeader)) {
		sc = readFrames(data[len(fileHeader):], int64(len(fileHeader)), func([]byte) {})
	}
	if tail := int64(len(data)) - s.log.size; sc.skipped > 0 || sc.end != s.log.size || tail != 0 && !s.log.dirty {
		out = append(out, model.Finding{Thing: thingLog, Name: path,
			Detail: fmt.Sprintf("good up to byte %d of %d, %d bytes were written, %d in between cannot be read", sc.end, len(data), s.log.size, sc.skipped), Remedy: "write it anew"})
	}
	known := map[string]bool{}
	for i := range records {
		known[string(records[i].ID)] = true
	}
	for key, v := range s.tables[containersTable] {
		var c model.Container
		if known[key] {
			continue
		}
		f := model.Finding{Thing: thingObject, Name: key, ID: model.ID(key), Detail: "record of a container that the daemon does not show"}
		if err := json.Unmarshal(v, &c); err != nil {
			f.Detail = "record of a container that this version cannot read: " + err.Error()
		}
		out = append(out, f)
	}
	return out, ctx.Err()
}

// Repair writes the log anew from memory.
func (s *Store) Repair(_ context.Context, f model.Finding) error {
	if f.Thing != thingLog {
		return fmt.Errorf("there is no repair for an %s", f.Thing)
	}
	return s.packNow()
}
