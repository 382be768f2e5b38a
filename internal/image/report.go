package image

import (
	"encoding/json"
	"fmt"
	"sync"

	"github.com/moby/moby/api/types/jsonstream"

	"wharf/internal/model"
)

// report turns what happens into Docker's progress messages, one at a time.
type report struct {
	mu sync.Mutex // one message at a time, guards p
	p  model.Progress
}

func newReport(p model.Progress) *report {
	if p == nil {
		p = func(any) {}
	}
	return &report{p: p}
}

func (r *report) send(m jsonstream.Message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.p(m)
}

// stream is a line of plain output.
func (r *report) stream(format string, args ...any) {
	r.send(jsonstream.Message{Stream: fmt.Sprintf(format, args...)})
}

// status is a line of its own, or the state of the thing called id.
func (r *report) status(id, format string, args ...any) {
	r.send(jsonstream.Message{ID: id, Status: fmt.Sprintf(format, args...)})
}

// state is a status that ends a progress bar.
func (r *report) state(id, status string) {
	r.send(jsonstream.Message{ID: id, Status: status, Progress: &jsonstream.Progress{}})
}

// bytes is a progress bar.
func (r *report) bytes(id, status string, n, total int64) {
	r.send(jsonstream.Message{ID: id, Status: status, Progress: &jsonstream.Progress{Current: n, Total: total}})
}

// aux is data for programs.
func (r *report) aux(v any) {
	b, err := json.Marshal(v)
	if err != nil {
		return
	}
	raw := json.RawMessage(b)
	r.send(jsonstream.Message{Aux: &raw})
}
