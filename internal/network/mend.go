package network

import (
	"context"
	"fmt"

	"wharf/internal/model"
)

// Mend brings a running container's links to what Restore was told that it
// has: a daemon that died in the middle of Connect or Disconnect leaves one
// too many or one too few, and the record is the truth. It reports whether
// anything had to be done. Where nothing has, it costs a few microseconds.
func (r *Room) Mend(ctx context.Context, q model.AttachNetworks) (mended bool, err error) {
	r.mu.Lock()
	eps := r.ranked(q.ID)
	r.mu.Unlock()
	held := map[string]bool{}
	var missing []*endpoint
	for _, e := range eps {
		held[e.HostLink] = true
		if e.HostLink != "" && !e.Tap && !r.linkExists(e.HostLink) {
			missing = append(missing, e)
		}
	}
	// Names are taken in order, so what a Connect has left is among the first.
	for n := range min(len(eps)+2, containerLinkMax) {
		l := hostLink(q.ID, n)
		if held[l] || !r.linkExists(l) {
			continue
		}
		if err := r.removeLink(l); err != nil {
			return mended, fmt.Errorf("mend %s: %w", q.ID.Short(), err)
		}
		mended = true
	}
	if len(missing) > 0 {
		path, err := namespaceOf(q)
		if err == nil {
			err = r.wire(path, q, missing, false)
		}
		if err != nil {
			return mended, fmt.Errorf("mend %s: %w", q.ID.Short(), err)
		}
		mended = true
	}
	if mended && !q.Tap {
		path, err := namespaceOf(q)
		if err == nil {
			err = r.redirect(path, q.ID)
		}
		if err != nil {
			return true, fmt.Errorf("mend %s: %w", q.ID.Short(), err)
		}
	}
	return mended, ctx.Err()
}
