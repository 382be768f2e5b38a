// Package undo is a stack of cleanups: push one after each step that took
// something, run them when a later step fails, drop them when all went well.
package undo

import "errors"

// Stack holds cleanups. The zero value is ready. It is not safe for
// concurrent use.
type Stack struct{ steps []func() error }

// Push adds f on top.
func (s *Stack) Push(f func() error) { s.steps = append(s.steps, f) }

// Run runs the cleanups, last pushed first, and empties the stack. All of
// them run; the errors are joined.
func (s *Stack) Run() error {
	var errs []error
	for i := len(s.steps) - 1; i >= 0; i-- {
		errs = append(errs, s.steps[i]())
	}
	s.steps = nil
	return errors.Join(errs...)
}

// Drop forgets the cleanups: what they would free now has an owner.
func (s *Stack) Drop() { s.steps = nil }

// OnError runs the cleanups if *err is set, and joins their errors to it;
// else it drops them. It is meant to be deferred.
func (s *Stack) OnError(err *error) {
	if *err == nil {
		s.Drop()
		return
	}
	*err = errors.Join(*err, s.Run())
}
