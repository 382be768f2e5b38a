package lifecycle

import (
	"context"
	"errors"
	"time"
)

// step is one named piece of work on T. do takes something; release gives it
// back, succeeds when nothing is held, and may be called without do.
type step[T any] struct {
	name    string
	do      func(context.Context, T) error
	release func(context.Context, T) error
}

// releaseTime is how long the release of a failed list may take.
const releaseTime = 30 * time.Second

// walk does the steps in order and notes how long each took. When one fails,
// it and those before it are released in reverse, and the error is do's.
// Release errors go to report.
func walk[T any](ctx context.Context, steps []step[T], t T, times *[]StepTime, report func(step string, err error)) error {
	for i, s := range steps {
		if s.do == nil {
			continue
		}
		began := time.Now()
		err := s.do(ctx, t)
		*times = append(*times, StepTime{Name: s.name, Took: time.Since(began)})
		if err != nil {
			// What failed may have used up the deadline.
			back, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTime)
			defer cancel()
			_ = unwind(back, steps[:i+1], t, report) // reported there
			return err
		}
	}
	return nil
}

// unwind releases the steps in reverse. All of them are tried; the errors are
// reported one by one and returned joined.
func unwind[T any](ctx context.Context, steps []step[T], t T, report func(step string, err error)) error {
	var errs []error
	for i := len(steps) - 1; i >= 0; i-- {
		if steps[i].release == nil {
			continue
		}
		if err := steps[i].release(ctx, t); err != nil {
			err = wrap(err, "release %s", steps[i].name)
			report(steps[i].name, err)
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Timing says how long the steps of a container's create and last start took.
type Timing struct {
	Create  []StepTime
	Start   []StepTime
	Waited  time.Duration // for the verb lock, before the last start
	Started time.Duration // the whole last start, with the wait
}

// StepTime is how long one step took.
type StepTime struct {
	Name string
	Took time.Duration
}

// timings answers Timing.
type timings struct{ *core }

// Timing returns the durations of a container's create and of its last start
// in this daemon's life.
func (s timings) Timing(ref string) (Timing, error) {
	e, err := s.index.find(ref)
	if err != nil {
		return Timing{}, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.timing, nil
}

// noteStart keeps a start's timing.
func (e *entry) noteStart(steps []StepTime, waited, took time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.timing.Start, e.timing.Waited, e.timing.Started = steps, waited, took
}

func (e *entry) noteCreate(steps []StepTime) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.timing.Create = steps
}
