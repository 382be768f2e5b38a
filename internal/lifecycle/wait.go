package lifecycle

import (
	"context"
	"slices"
	"sync"

	"github.com/moby/moby/api/types/container"

	"wharf/internal/model"
)

// waiters are the clients that wait for a container.
type waiters struct {
	mu   sync.Mutex
	list []waiter
}

type waiter struct {
	removal bool
	ch      chan model.WaitResult
}

// add registers a waiter. It is told once.
func (w *waiters) add(removal bool) chan model.WaitResult {
	ch := make(chan model.WaitResult, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.list = append(w.list, waiter{removal, ch})
	return ch
}

func (w *waiters) drop(ch chan model.WaitResult) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.list = slices.DeleteFunc(w.list, func(x waiter) bool { return x.ch == ch })
}

// exited tells those who wait for an end; removed also those who wait for the
// removal.
func (w *waiters) exited(r model.WaitResult)  { w.tell(r, false) }
func (w *waiters) removed(r model.WaitResult) { w.tell(r, true) }

func (w *waiters) tell(r model.WaitResult, removal bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.list = slices.DeleteFunc(w.list, func(x waiter) bool {
		if x.removal && !removal {
			return false
		}
		x.ch <- r
		return true
	})
}

// waits answers Wait.
type waits struct{ *core }

// Wait yields the exit code when cond is met: "not-running" (at once when the
// container is not running), "next-exit", "removed". An end after which
// a restart policy starts the container again counts. When ctx ends first,
// nothing is yielded.
func (s waits) Wait(ctx context.Context, ref string, cond container.WaitCondition) (<-chan model.WaitResult, error) {
	e, err := s.index.find(ref)
	if err != nil {
		return nil, err
	}
	switch cond {
	case "", container.WaitConditionNotRunning, container.WaitConditionNextExit, container.WaitConditionRemoved:
	default:
		return nil, invalid("invalid condition: %q", cond)
	}
	ch := e.waiters.add(cond == container.WaitConditionRemoved)
	// The waiter is registered before the state is looked at, so that an exit
	// between the two is not missed.
	c := e.record()
	now := model.WaitResult{Code: c.State.ExitCode}
	switch {
	case e.isGone():
	case cond == container.WaitConditionRemoved, cond == container.WaitConditionNextExit, active(c.State.Phase):
		context.AfterFunc(ctx, func() { e.waiters.drop(ch) })
		return ch, nil
	}
	e.waiters.drop(ch)
	select {
	case ch <- now:
	default: // told meanwhile
	}
	return ch, nil
}

// result is what waiters are told about c.
func result(c *model.Container) model.WaitResult {
	return model.WaitResult{Code: c.State.ExitCode}
}
