package lifecycle

import (
	"fmt"
	"slices"
	"sync"

	"github.com/containerd/errdefs"

	"wharf/internal/model"
)

// idSize is how many ids each container has of its own.
const idSize = 65536

// idRanges hands out blocks of host ids: block n starts at base + n*idSize.
// A block may have several holders: containers that share a namespace.
type idRanges struct {
	base uint32

	mu    sync.Mutex
	block map[model.ID]uint32          // holder -> block
	held  map[uint32]map[model.ID]bool // block -> holders
	hint  uint32                       // no free block below
}

func newIDRanges(base uint32) *idRanges {
	return &idRanges{base: base, block: map[model.ID]uint32{}, held: map[uint32]map[model.ID]bool{}}
}

// take gives id a block that nobody holds.
func (r *idRanges) take(id model.ID) (model.IDRange, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	blocks := (^uint32(0) - r.base) / idSize
	for n := r.hint; n < blocks; n++ {
		if r.held[n] != nil {
			continue
		}
		r.set(id, n)
		r.hint = n + 1
		return model.IDRange{Host: r.base + n*idSize, Size: idSize}, nil
	}
	return model.IDRange{}, fmt.Errorf("all %d ranges of user ids above %d are in use; remove containers: %w", blocks, r.base, errdefs.ErrResourceExhausted)
}

// hold notes that id has the range x: its own as recorded, or another's that
// it shares. A range outside the blocks (an older base) is nobody's concern.
func (r *idRanges) hold(id model.ID, x model.IDRange) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.drop(id)
	if x.Mapped() && x.Host >= r.base {
		for n := (x.Host - r.base) / idSize; n <= (x.Host-r.base+x.Size-1)/idSize; n++ {
			r.set(id, n)
		}
	}
}

// free gives back what id holds.
func (r *idRanges) free(id model.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.drop(id)
}

func (r *idRanges) set(id model.ID, n uint32) {
	r.block[id] = n
	if r.held[n] == nil {
		r.held[n] = map[model.ID]bool{}
	}
	r.held[n][id] = true
}

func (r *idRanges) drop(id model.ID) {
	n, ok := r.block[id]
	if !ok {
		return
	}
	delete(r.block, id)
	if n > 0 && r.held[n-1][id] { // a range of an older base lies across two blocks
		r.release(id, n-1)
	}
	r.release(id, n)
}

func (r *idRanges) release(id model.ID, n uint32) {
	delete(r.held[n], id)
	if len(r.held[n]) == 0 {
		delete(r.held, n)
		r.hint = min(r.hint, n)
	}
}

// again gives id the range x that it had before, if all who hold some of it
// now may share it.
func (r *idRanges) again(id model.ID, x model.IDRange, shares func(holder model.ID) bool) bool {
	if x.Host < r.base {
		return false
	}
	r.mu.Lock()
	first, last := (x.Host-r.base)/idSize, (x.Host-r.base+x.Size-1)/idSize
	var holders []model.ID
	for n := first; n <= last; n++ {
		for h := range r.held[n] {
			holders = append(holders, h)
		}
	}
	r.mu.Unlock()
	for _, h := range holders { // without the lock: it is a leaf
		if !shares(h) {
			return false
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for n := first; n <= last; n++ {
		for h := range r.held[n] {
			if !slices.Contains(holders, h) {
				return false // taken meanwhile
			}
		}
	}
	r.drop(id)
	for n := first; n <= last; n++ {
		r.set(id, n)
	}
	return true
}
