package lifecycle

import (
	"context"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"wharf/internal/model"
)

// pruner removes containers that do not run.
type pruner struct {
	*core
	remover *remover
	running *atomic.Bool // one prune at a time
}

// Prune removes every container that does not run, is older than "until" and
// has the labels.
func (s pruner) Prune(ctx context.Context, f model.Filters) (container.PruneReport, error) {
	var out container.PruneReport
	if !s.running.CompareAndSwap(false, true) {
		return out, conflict("a prune operation is already running")
	}
	defer s.running.Store(false)
	if err := known(f, []string{"label", "label!", "until"}); err != nil {
		return out, err
	}
	until, err := untilFilter(f["until"], s.now())
	if err != nil {
		return out, err
	}
	for _, e := range s.index.all() {
		if ctx.Err() != nil {
			return out, nil // what was removed is reported
		}
		c := e.record()
		if active(c.State.Phase) || !until.IsZero() && c.Created.After(until) || !labelled(f["label"], c.Config.Labels) || anyLabel(f["label!"], c.Config.Labels) {
			continue
		}
		rw, _, err := s.images.Usage(ctx, c.ID)
		if err != nil {
			rw = 0 // only for the sum that is shown
		}
		if err := s.remover.Remove(ctx, string(c.ID), model.RemoveRequest{How: model.RemovedPrune}); err != nil {
			s.slog.Warn("prune left a container", "id", c.ID, "err", err)
			continue
		}
		out.ContainersDeleted = append(out.ContainersDeleted, string(c.ID))
		out.SpaceReclaimed += uint64(max(rw, 0))
	}
	s.records.Publish(events.ContainerEventType, events.ActionPrune, "", map[string]string{"reclaimed": strconv.FormatUint(out.SpaceReclaimed, 10)})
	return out, nil
}

// anyLabel reports whether labels has one of the unwanted.
func anyLabel(unwanted map[string]bool, labels map[string]string) bool {
	for w := range unwanted {
		if labelled(map[string]bool{w: true}, labels) {
			return true
		}
	}
	return false
}

// untilFilter reads one time: a duration before now, Unix seconds, or a date.
func untilFilter(values map[string]bool, now time.Time) (time.Time, error) {
	if len(values) > 1 {
		return time.Time{}, invalid("more than one until filter specified")
	}
	for v := range values {
		return parseTime(v, now)
	}
	return time.Time{}, nil
}

// parseTime reads "10m", "1700000000.5", and dates from the day to the
// nanosecond, in local time unless they name a zone.
func parseTime(v string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(v); err == nil {
		return now.Add(-d), nil
	}
	if secs, err := strconv.ParseFloat(v, 64); err == nil {
		return time.Unix(0, int64(secs*1e9)), nil
	}
	for _, layout := range []string{
		time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02T15:04", "2006-01-02T15", "2006-01-02Z07:00", "2006-01-02",
	} {
		if t, err := time.ParseInLocation(layout, v, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, invalid("invalid filter 'until=%s': it takes a duration (10m), Unix seconds, or a date (2006-01-02T15:04:05)", v)
}
