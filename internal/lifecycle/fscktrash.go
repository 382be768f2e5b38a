package lifecycle

import (
	"context"

	"wharf/internal/model"
)

// thingRemoved is an entry of the trash.
const thingRemoved = "removed container"

// trashTable compares the trash with its table of records, and both with the
// containers: a container is in one of the two tables.
func (s *ownCheck) trashTable(ctx context.Context) ([]model.Finding, error) {
	all, err := s.records.Removed(ctx)
	if err != nil {
		return nil, err
	}
	var out []model.Finding
	add := func(id model.ID, detail, remedy string) {
		out = append(out, model.Finding{Thing: thingRemoved, Name: string(id), ID: id, Detail: detail, Remedy: remedy})
	}
	recorded := map[model.ID]bool{}
	for i := range all {
		c := &all[i]
		recorded[c.ID] = true
		switch {
		case s.index.get(c.ID) != nil:
			add(c.ID, "a container and in the trash as well", "take it out of the trash")
		case !s.trash.has(c.ID):
			add(c.ID, "its record is in the trash's table, but the trash does not know it", "forget the record; what it has is removed")
		}
	}
	for _, d := range s.trash.list() {
		if !d.busy && !recorded[d.id] && s.index.get(d.id) == nil {
			add(d.id, "in the trash without a record: after a restart it would be gone", "take it out of the trash; what it has is removed")
		}
	}
	return out, nil
}

// repairTrash makes trash and table the same. Layer and directory without a
// record are findings of their own, the next time.
func (s *ownCheck) repairTrash(ctx context.Context, id model.ID) error {
	if err := s.trash.claim(id); err == nil {
		s.trash.drop(id)
	}
	return s.records.ForgetRemoved(ctx, id)
}
