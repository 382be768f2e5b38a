package vmm

import (
	"encoding/json"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/yamux"

	"wharf/api/guestapi"
	"wharf/api/monitorapi"
	"wharf/internal/monitor"
	"wharf/internal/vmm/vmmapi"
)

// deaf is a machine that does not even read: what is written to it stays where
// it is.
func deaf(t *testing.T) *machine {
	t.Helper()
	a, b := net.Pipe()
	client, err := yamux.Client(newGuard(a), session())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = b.Close(), client.Close() })
	return &machine{spec: &vmmapi.Machine{}, session: client, down: make(chan struct{}), etc: newEtc(nil)}
}

// A machine that stands still is not waited for longer than was said, whatever
// the session's own limits are, and the error says what is the matter.
func TestDeafMachine(t *testing.T) {
	m := deaf(t)
	for _, c := range []struct{ state, want string }{
		{stateRuns, "its agent has answered nothing since "},
		{"paused", `QEMU has stopped it ("paused")`},
		{stateNone, "QEMU itself does not answer since "},
		{stateFull, "the host's disk is full since "},
	} {
		m.health.see(c.state)
		for range 3 {
			began := time.Now()
			_, err := m.ask(300*time.Millisecond, guestapi.Request{Op: guestapi.OpState})
			if took := time.Since(began); !isUnavailable(err) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "docker rm -f") || took > time.Minute {
				t.Fatalf("%s: %v after %v", c.state, err, took)
			}
		}
	}
	// A machine that stands still for a full disk is not even asked. Our own
	// machine may be busy: one of three is at once.
	e := &engine{m: m}
	took := time.Hour
	for range 3 {
		began := time.Now()
		p, err := e.Exec(nil, &monitorapi.Exec{ID: "x"}, monitor.Files{})
		if err == nil {
			err = p.Start()
		}
		took = min(took, time.Since(began))
		if !isUnavailable(err) || !strings.Contains(err.Error(), "disk is full") {
			t.Errorf("exec: %v", err)
		}
	}
	if took > 4*time.Second {
		t.Errorf("exec: refused after %v", took)
	}
	if err := passed(t, m, guestapi.OpStats); !strings.Contains(err.Error(), "disk is full") {
		t.Errorf("passed on: %v", err)
	}
}

// passed has a request passed on to the guest and returns its error.
func passed(t *testing.T, m *machine, op guestapi.Op) error {
	t.Helper()
	ours, theirs, err := socketpair("daemon")
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	body, _ := json.Marshal(guestapi.Request{Op: op})
	if err := m.pass(theirs, &monitorapi.Reader{R: theirs}, monitorapi.Request{Op: vmmapi.OpGuest, Body: body}); err != nil {
		t.Fatal(err)
	}
	var reply monitorapi.Reply
	err = (&monitorapi.Reader{R: ours}).Expect(monitorapi.ReplyFrame, &reply)
	if err == nil {
		t.Fatal("it was answered")
	}
	return err
}

// Who asks when others have waited in vain waits shortly, until there is an
// answer.
func TestSilentFor(t *testing.T) {
	var h health
	if got := h.limit(time.Minute); got != time.Minute {
		t.Errorf("at first: %v", got)
	}
	h.question()
	if got := h.limit(time.Minute); got != time.Minute {
		t.Errorf("while the first one waits: %v", got)
	}
	h.asked = time.Now().Add(-askTime - time.Second)
	h.question()
	if got := h.limit(time.Minute); got != briefTime {
		t.Errorf("when it has waited in vain: %v", got)
	}
	if got := h.limit(time.Second); got != time.Second {
		t.Errorf("a short one: %v", got)
	}
	m := talksTo(t, func(s net.Conn, q guestapi.Request) {
		if q.Op == guestapi.OpTop {
			_ = guestapi.WriteJSON(s, guestapi.Error, guestapi.Failed{Kind: guestapi.KindNotFound, Text: "no such thing"})
			return
		}
		_ = guestapi.WriteJSON(s, guestapi.ReplyFrame, guestapi.Reply{Pid: 7})
	})
	for _, op := range []guestapi.Op{guestapi.OpState, guestapi.OpTop} { // an error is a sign of life, too
		m.health.asked = time.Now().Add(-time.Minute)
		_, err := m.ask(time.Minute, guestapi.Request{Op: op})
		var f *monitorapi.Failed
		if err != nil && !(errors.As(err, &f) && f.Kind == monitorapi.KindNotFound) {
			t.Error(err)
		}
		if got := m.health.limit(time.Minute); got != time.Minute {
			t.Errorf("after %s: %v", op, got)
		}
	}
}

// The text names the time at which it began, not the one of the last look.
func TestSince(t *testing.T) {
	var h health
	if !h.see(stateFull) || h.see(stateFull) {
		t.Error("a change is one once")
	}
	h.since = time.Date(2026, 11, 21, 18, 5, 3, 0, time.Local)
	h.see(stateFull)
	if got := h.matter(); !strings.Contains(got, "since 18:05:03;") {
		t.Error(got)
	}
	if !h.full() {
		t.Error("it is not full")
	}
}
