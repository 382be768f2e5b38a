package lifecycle

import (
	"context"
	"os"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"wharf/internal/driver"
	"wharf/internal/model"
)

// tops lists containers' processes.
type tops struct{ *core }

// Top shows a container's processes as ps with these arguments would; "" is
// -ef. Process ids are the host's, as Docker shows them; users are those
// inside.
func (s tops) Top(ctx context.Context, ref, psArgs string) (*container.TopResponse, error) {
	format, err := parsePS(psArgs)
	if err != nil {
		return nil, err
	}
	e, err := s.index.find(ref)
	if err != nil {
		return nil, err
	}
	inst, err := e.instance()
	if err != nil {
		return nil, err
	}
	c := e.record()
	proc, ids, pids := os.DirFS("/proc"), c.IDs, []int(nil)
	if l, ok := inst.(driver.Lister); ok {
		proc, pids, err = l.Processes(ctx)
		ids = model.IDRange{}
	} else {
		pids, err = inst.Pids(ctx)
	}
	if err != nil {
		return nil, wrap(err, "processes of %s", e.id.Short())
	}
	view := newPSView(proc, ids, s.now())
	out := &container.TopResponse{Titles: format.titles(), Processes: [][]string{}}
	for _, pid := range pids {
		p, err := view.read(pid)
		if err != nil {
			continue // ended meanwhile
		}
		out.Processes = append(out.Processes, format.row(p))
	}
	s.event(c, events.ActionTop, nil)
	return out, nil
}
