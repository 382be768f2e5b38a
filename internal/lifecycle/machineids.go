package lifecycle

import "wharf/internal/model"

// Ranges of user ids for those of a driver's processes that cannot have their
// instance's. holder is any name that is no container's id.

// TakeIDs gives holder a range that nobody has.
func (e *Engine) TakeIDs(holder model.ID) (model.IDRange, error) { return e.core.ids.take(holder) }

// HoldIDs notes that holder has r, beside others who may have it.
func (e *Engine) HoldIDs(holder model.ID, r model.IDRange) { e.core.ids.hold(holder, r) }

// FreeIDs gives back what holder has; nothing is no error.
func (e *Engine) FreeIDs(holder model.ID) { e.core.ids.free(holder) }
