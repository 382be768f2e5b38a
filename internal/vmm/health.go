package vmm

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/yamux"

	"wharf/api/guestapi"
	"wharf/api/monitorapi"
)

// How long a verb waits for an answer that has no limit of its own: less than
// the daemon waits for ours, which names what is the matter; and how long it
// waits when others did so in vain, and nothing was answered since.
const (
	replyTime = 25 * time.Second
	briefTime = 5 * time.Second
)

// QEMU's states of a machine (query-status) that have a meaning here.
const (
	stateRuns = "running"
	stateFull = "io-error"  // stopped for an error of a disk: the host's is full
	stateNone = "no answer" // QEMU's own
)

// health is what is known of whether a machine can answer.
type health struct {
	mu    sync.Mutex
	state string    // QEMU's; "": not asked yet
	since time.Time // since when it is that
	asked time.Time // the oldest question of those that wait; zero when there was an answer since
}

// see notes QEMU's state and says whether it is another one.
func (h *health) see(state string) (changed bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.state == state {
		return false
	}
	h.state, h.since = state, time.Now()
	return true
}

func (h *health) full() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.state == stateFull
}

// question notes that something was asked, answer that something was answered.
func (h *health) question() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.asked.IsZero() {
		h.asked = time.Now()
	}
}

func (h *health) answer() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asked = time.Time{}
}

// limit shortens a question's time when others have waited in vain.
func (h *health) limit(l time.Duration) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.asked.IsZero() && time.Since(h.asked) > askTime {
		return min(l, briefTime)
	}
	return l
}

// matter says why the machine does not answer, and what comes of it.
func (h *health) matter() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	const now = "docker kill or docker rm -f ends it at once"
	at := h.since.Format(time.TimeOnly)
	switch h.state {
	case stateFull:
		return fmt.Sprintf("it stands still, because the host's disk is full since %s; it goes on within %v of there being room, and %s", at, fullTime, now)
	case stateNone:
		return fmt.Sprintf("QEMU itself does not answer since %s; without a sign of life the machine is ended after %v, and %s", at, silentTime, now)
	case stateRuns, "":
		if h.asked.IsZero() {
			return "its agent is slow: the host may be too busy, or the machine has too little memory"
		}
		return fmt.Sprintf("its agent has answered nothing since %s; without a sign of life the machine is ended after %v, and %s", h.asked.Format(time.TimeOnly), silentTime, now)
	}
	return fmt.Sprintf("QEMU has stopped it (%q) at %s; without a sign of life it is ended after %v, and %s", h.state, at, silentTime, now)
}

// unanswered is the error of a question that got no answer.
func (m *machine) unanswered(op string, limit time.Duration) error {
	return &monitorapi.Failed{Kind: monitorapi.KindUnavailable,
		Text: fmt.Sprintf("the machine did not answer %q within %v: %s", op, limit.Round(time.Millisecond), m.health.matter())}
}

// stream opens a stream and has do talk on it, all within limit. yamux has no
// limit for what does not get into a channel that the guest does not read, so
// this one does not wait for it. The stream is the caller's; without a deadline.
func (m *machine) stream(limit time.Duration, op string, do func(*yamux.Stream) error) (*yamux.Stream, error) {
	type result struct {
		s   *yamux.Stream
		err error
	}
	m.health.question()
	done := make(chan result, 1)
	go func() {
		s, err := m.session.OpenStream()
		if err == nil {
			_ = s.SetDeadline(time.Now().Add(limit))
			if err = do(s); err == nil {
				_ = s.SetDeadline(time.Time{})
			}
		}
		var f *guestapi.Failed
		if err == nil || errors.As(err, &f) {
			m.health.answer()
		}
		done <- result{s, err}
		if err != nil && s != nil {
			_ = s.Close()
		}
	}()
	t := time.NewTimer(limit + limit/8)
	defer t.Stop()
	select {
	case r := <-done:
		switch {
		case r.err == nil:
			return r.s, nil
		case errors.Is(r.err, yamux.ErrTimeout) || errors.Is(r.err, yamux.ErrConnectionWriteTimeout):
			return nil, m.unanswered(op, limit)
		}
		return nil, m.gone(failed(r.err))
	case <-t.C:
		go func() {
			if r := <-done; r.err == nil {
				_ = r.s.Close()
			}
		}()
		return nil, m.unanswered(op, limit)
	}
}

// passable says why a verb need not even be tried.
func (m *machine) passable(op string) error {
	if !m.health.full() {
		return nil
	}
	return &monitorapi.Failed{Kind: monitorapi.KindUnavailable, Text: fmt.Sprintf("the machine cannot answer %q: %s", op, m.health.matter())}
}
