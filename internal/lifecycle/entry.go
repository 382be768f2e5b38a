package lifecycle

import (
	"context"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/moby/moby/api/types/container"

	"wharf/internal/driver"
	"wharf/internal/model"
)

// entry is one container in the table: its record, its lock, and what belongs
// to its present run.
type entry struct {
	id model.ID

	// verb is held by whoever changes the container (a semaphore of one, so
	// that waiting for it ends with a context).
	verb chan struct{}
	// turns counts takings and givings back of verb: even when nobody has it.
	turns atomic.Uint64
	// kept: the last run's exit is not on record yet, so the driver keeps it.
	kept atomic.Bool

	// rec is the present record. Values behind it are never changed.
	rec atomic.Pointer[model.Container]

	// freeze is held shared while an exec is started, alone while the
	// container is frozen: a process frozen half way between the monitor's
	// clone and execve(2) would hold the monitor too.
	freeze sync.RWMutex

	waiters waiters
	late    lateStreams

	mu     sync.Mutex
	inst   driver.Instance    // the present run; nil when nothing runs
	ended  chan struct{}      // closed when the present run's exit is recorded
	probe  context.CancelFunc // ends the health check
	again  restart            // restart policy's memory
	timing Timing
	doomed bool // the present run was sent SIGKILL
	oom    oomTold
	gone   bool // removed; the entry is no longer in the index
}

func newEntry(c model.Container) *entry {
	e := &entry{id: c.ID, verb: make(chan struct{}, 1)}
	e.rec.Store(&c)
	return e
}

// record returns the present record. The caller must not change it.
func (e *entry) record() *model.Container { return e.rec.Load() }

// lock takes the verb lock, or gives up with ctx.
func (e *entry) lock(ctx context.Context) error {
	select {
	case e.verb <- struct{}{}:
		e.turns.Add(1)
		return nil
	default:
	}
	select {
	case e.verb <- struct{}{}:
		e.turns.Add(1)
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (e *entry) unlock() {
	e.turns.Add(1)
	<-e.verb
}

// instance returns the present run, or why there is none, in Docker's words.
func (e *entry) instance() (driver.Instance, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := phaseError(e.record()); err != nil {
		return nil, err
	}
	if e.inst == nil {
		return nil, notRunning(e.id)
	}
	return e.inst, nil
}

// began sets the present run.
func (e *entry) began(inst driver.Instance) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.inst, e.ended, e.doomed, e.oom = inst, make(chan struct{}), false, oomTold{}
}

// doom notes that the present run is being killed. Nothing may freeze it any
// more: with control groups of version 1 its end would wait for the thaw.
func (e *entry) doom(sig syscall.Signal) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.doomed = e.doomed || sig == syscall.SIGKILL
}

func (e *entry) isDoomed() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.doomed
}

// exec starts a process in the run; nothing freezes the container meanwhile.
func (e *entry) exec(ctx context.Context, inst driver.Instance, spec *model.ExecSpec) (driver.Process, error) {
	e.freeze.RLock()
	defer e.freeze.RUnlock()
	if e.record().State.Phase == container.StatePaused {
		return nil, isPaused(e.id)
	}
	return inst.Exec(ctx, spec)
}

// freezing waits until no exec is being started, and keeps others from it.
func (e *entry) freezing(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, freezePatience)
	defer cancel()
	for !e.freeze.TryLock() {
		select {
		case <-ctx.Done():
			return conflict("container %s cannot be paused: a process is being started in it", e.id)
		case <-time.After(time.Millisecond):
		}
	}
	return nil
}

// over clears the present run and wakes those who follow its log. It reports
// false when inst is no longer the present run.
func (e *entry) over(inst driver.Instance) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.inst != inst {
		return false
	}
	e.inst = nil
	return true
}

// finish tells followers that the run's exit is on record.
func (e *entry) finish() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ended != nil {
		close(e.ended)
		e.ended = nil
	}
}

// runEnd is closed when the present run has ended; nil when nothing runs.
func (e *entry) runEnd() <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.ended
}

func (e *entry) isGone() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.gone
}

// freezePatience is how long a pause waits for execs to get under way.
const freezePatience = 5 * time.Second

// active reports whether Docker's clients see the container as running, which
// includes the pause between two runs of a restart policy.
func active(p model.Phase) bool {
	return p == container.StateRunning || p == container.StatePaused || p == container.StateRestarting
}
