package lifecycle

import (
	"time"

	"github.com/moby/moby/api/types/container"
)

const (
	firstDelay = 100 * time.Millisecond
	lastDelay  = time.Minute
	// steady is how long a container has to run for the delay to start anew.
	steady = 10 * time.Second
)

// restart is what the restart policy remembers of a container; entry.mu
// protects it.
type restart struct {
	delay   time.Duration // before the last restart
	count   int           // restarts since a person started it
	timer   *time.Timer   // the pending restart
	manual  bool          // a person's restart verb is between stop and start
	stopped bool          // a person has asked for the end of this run
	asked   asked         // who asked last, and how
}

// wanted decides whether policy starts a container again that ended with
// code. stopped: a person ended it.
func wanted(policy container.RestartPolicy, count, code int, stopped bool) bool {
	switch policy.Name {
	case container.RestartPolicyAlways, container.RestartPolicyUnlessStopped:
		return !stopped
	case container.RestartPolicyOnFailure:
		return !stopped && code != 0 && (policy.MaximumRetryCount == 0 || count < policy.MaximumRetryCount)
	default:
		return false
	}
}

// wantedAtBoot decides the same at the start of the daemon, when "always"
// also brings back what a person had stopped. Failed says that the exit code
// counts, not that the machine went down.
func wantedAtBoot(policy container.RestartPolicy, count, code int, stopped bool) bool {
	if policy.Name == container.RestartPolicyAlways {
		return true
	}
	return wanted(policy, count, code, stopped)
}

// delay returns how long to wait before the next restart of a container that
// ran for lasted, and counts it.
func (e *entry) delay(lasted time.Duration) time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	a := &e.again
	if lasted >= steady {
		a.delay = 0
	}
	switch {
	case a.delay == 0:
		a.delay = firstDelay
	default:
		a.delay = min(2*a.delay, lastDelay)
	}
	a.count++
	return a.delay
}

// resetRestart forgets everything: a person starts the container.
func (e *entry) resetRestart() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.again.timer != nil {
		e.again.timer.Stop()
	}
	e.again = restart{}
}

// arm keeps the pending restart's timer.
func (e *entry) arm(t *time.Timer) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.again.timer = t
}

// disarm ends a pending restart.
func (e *entry) disarm() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.again.timer != nil {
		e.again.timer.Stop()
		e.again.timer = nil
	}
}

func (e *entry) retries() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.again.count
}

func (e *entry) setManual(on bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.again.manual = on
}

func (e *entry) isManual() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.again.manual
}

// setStopped notes that a person asked for the end of the present run.
func (e *entry) setStopped() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.again.stopped = true
}

func (e *entry) isStopped() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.again.stopped
}
