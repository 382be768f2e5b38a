package record

import (
	"context"
	"encoding/json"
	"fmt"

	"wharf/internal/model"
)

// removedTable holds the records of containers in the trash.
const removedTable = "removed"

// RemoveContainer moves a container's record to the removed ones. Of a write
// that is torn both records may be left; then the removal is not over.
func (s *Store) RemoveContainer(ctx context.Context, c model.Container) error {
	v, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("record: container %s: %w", c.ID, err)
	}
	return s.put(ctx, false, entry{removedTable, string(c.ID), v}, entry{Table: containersTable, Key: string(c.ID)})
}

// RestoreContainer moves it back, as c. It is on the disk when this returns.
func (s *Store) RestoreContainer(ctx context.Context, c model.Container) error {
	v, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("record: container %s: %w", c.ID, err)
	}
	return s.put(ctx, true, entry{containersTable, string(c.ID), v}, entry{Table: removedTable, Key: string(c.ID)})
}

// PutRemoved changes the record of a removed container.
func (s *Store) PutRemoved(ctx context.Context, c model.Container) error {
	return s.Table(removedTable).Put(ctx, string(c.ID), c, false)
}

// Removed returns the records of removed containers, oldest creation first.
func (s *Store) Removed(ctx context.Context) ([]model.Container, error) {
	return s.containers(ctx, removedTable)
}

// RemovedContainer returns one of them. errdefs.ErrNotFound.
func (s *Store) RemovedContainer(_ context.Context, id model.ID) (model.Container, error) {
	var c model.Container
	err := s.Table(removedTable).Get(string(id), &c)
	return c, err
}

// ForgetRemoved drops records of removed containers; none there is no error.
func (s *Store) ForgetRemoved(ctx context.Context, ids ...model.ID) error {
	var all []entry
	s.mu.Lock()
	for _, id := range ids {
		if _, ok := s.tables[removedTable][string(id)]; ok {
			all = append(all, entry{Table: removedTable, Key: string(id)})
		}
	}
	s.mu.Unlock()
	return s.put(ctx, false, all...)
}
