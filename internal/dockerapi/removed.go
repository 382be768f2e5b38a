package dockerapi

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"

	"wharf/internal/model"
)

// Removed is what the lifecycle keeps of removed containers: the endpoints
// /wharf/v1/trash and /wharf/v1/removed, and why a container's run ended.
type Removed interface {
	Trash(ctx context.Context, f model.Filters) (model.TrashReport, error)
	RestoreTrash(ctx context.Context, kind, ref, name string) (model.TrashRestored, error)
	EmptyTrash(ctx context.Context, f model.Filters, refs []string) (model.TrashEmptied, error)
	RemovedList(ctx context.Context, r model.ListRequest) ([]container.Summary, error)
	RemovedInspect(ctx context.Context, ref string) (*container.InspectResponse, *model.End, *model.Removal, error)
	RemovedLogs(ctx context.Context, ref string, r model.LogsRequest) (model.LogReader, bool, error)
	// End is nil when the container has not ended yet.
	End(ref string) (*model.End, error)
}

// isRemoved reports whether a path is one of those.
func isRemoved(path string) bool {
	rest := strings.TrimPrefix(path, WharfPrefix)
	return rest == "trash" || strings.HasPrefix(rest, "trash/") || strings.HasPrefix(rest, "removed/")
}

// removedMux are the routes of Removed.
func (s *server) removedMux() *http.ServeMux {
	mux := http.NewServeMux()
	for pattern, h := range map[string]handler{
		"GET /wharf/v1/trash":                s.listTrash,
		"POST /wharf/v1/trash/empty":         s.emptyTrash,
		"POST /wharf/v1/trash/{ref}/restore": s.restoreTrash,
		"GET /wharf/v1/removed/json":         s.listRemoved,
		"GET /wharf/v1/removed/{ref}/json":   s.inspectRemoved,
		"GET /wharf/v1/removed/{ref}/logs":   s.removedLogs,
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			rep, ok := w.(*reply)
			if !ok {
				rep = &reply{ResponseWriter: w}
			}
			if err := h(&call{w: rep, r: r, v: newest, name: r.PathValue("ref"), q: r.URL.Query(), log: s.Log}); err != nil {
				s.fail(rep, r, err)
			}
		})
	}
	return mux
}

func (s *server) listTrash(c *call) error {
	f, err := c.filters()
	if err != nil {
		return err
	}
	rep, err := s.Removed.Trash(c.ctx(), f)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, rep)
}

// emptyTrash takes filters, and names or ids in "ref".
func (s *server) emptyTrash(c *call) error {
	f, err := c.filters()
	if err != nil {
		return err
	}
	rep, err := s.Removed.EmptyTrash(c.ctx(), f, c.q["ref"])
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, rep)
}

func (s *server) restoreTrash(c *call) error {
	kind := c.get("type")
	if kind != "" && kind != "container" && kind != "volume" {
		return invalid("type=%q: it is container or volume", kind)
	}
	got, err := s.Removed.RestoreTrash(c.ctx(), kind, c.name, c.get("name"))
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, got)
}

func (s *server) listRemoved(c *call) error {
	f, err := c.filters()
	if err != nil {
		return err
	}
	limit, err := c.number("limit", 0)
	if err != nil {
		return err
	}
	all, err := s.Removed.RemovedList(c.ctx(), model.ListRequest{Limit: limit, Size: c.truth("size"), Filters: f})
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, all)
}

// ended adds to inspect's answer what Docker has no field for.
type ended struct {
	*container.InspectResponse
	EndReason *model.End `json:",omitempty"`
	Removed   *removal   `json:",omitempty"`
}

// removal is how a container was removed: rm, --rm or prune.
type removal struct {
	At      time.Time
	How     string
	Volumes bool // its anonymous volumes went too
}

type legacyEnded struct {
	*legacyInspect
	EndReason *model.End `json:",omitempty"`
}

// withEnd adds why the last run ended to what inspectFor made.
func withEnd(v any, end *model.End) any {
	if end == nil {
		return v
	}
	switch r := v.(type) {
	case *container.InspectResponse:
		return ended{InspectResponse: r, EndReason: end}
	case *legacyInspect:
		return legacyEnded{r, end}
	}
	return v
}

func (s *server) inspectRemoved(c *call) error {
	got, end, how, err := s.Removed.RemovedInspect(c.ctx(), c.name)
	if err != nil {
		return err
	}
	r, ok := inspectFor(newest, got).(*container.InspectResponse)
	if !ok {
		r = got
	}
	out := ended{InspectResponse: r, EndReason: end}
	if how != nil {
		out.Removed = &removal{how.At, how.How, how.Volumes}
	}
	return c.json(http.StatusOK, out)
}

func (s *server) removedLogs(c *call) error {
	return s.sendLogs(c, s.Removed.RemovedLogs)
}
