package image

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/containerd/v2/core/snapshots"
)

// afterPowerCut leads the databases back to their last points, if the machine
// went down without a word. The layers' is first in point(), so it is never
// behind the metadata's.
func (s *Store) afterPowerCut() error {
	boot := bootID()
	for _, name := range []string{s.path("layers", "metadata.db"), s.path("meta.db")} {
		back, err := toPoint(name, boot)
		if err != nil {
			return fmt.Errorf("image store: %w", err)
		}
		s.cut = s.cut || back
	}
	return nil
}

// reconcile removes files that the databases, led back, know nothing of.
func (s *Store) reconcile(ctx context.Context) error {
	ctx = s.ctx(ctx)
	s.log.WarnContext(ctx, "the machine went down while the daemon ran: images are as they were when it last answered for one; what has no record is removed")
	if c, ok := s.layers.(snapshots.Cleaner); ok {
		if err := c.Cleanup(ctx); err != nil {
			return err
		}
	}
	// The collector looks for layers without a record only after a removal.
	const key = "after-power-cut"
	if _, err := s.snaps.Prepare(ctx, key, ""); err != nil {
		return err
	}
	if err := s.snaps.Remove(ctx, key); err != nil {
		return err
	}
	if err := s.gc.run(ctx); err != nil {
		return err
	}
	found, err := s.fsckBlobs(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, f := range found {
		errs = append(errs, s.Repair(ctx, f))
	}
	return errors.Join(errs...)
}
