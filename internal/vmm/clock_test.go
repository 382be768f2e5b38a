package vmm

import (
	"net"
	"sync/atomic"
	"testing"
	"time"

	"wharf/api/guestapi"
)

func TestOffset(t *testing.T) {
	asked := time.Now()
	answered := asked.Add(2 * time.Second)
	for at, want := range map[time.Duration]time.Duration{0: 0, time.Second: 0, 2 * time.Second: 0, -time.Second: -time.Second, 5 * time.Second: 3 * time.Second, -time.Hour: -time.Hour} {
		if got := offset(asked, answered, asked.Add(at).UnixNano()); got != want {
			t.Errorf("at %v: %v, want %v", at, got, want)
		}
	}
}

// A clock that is off is put right, one that is right is left alone.
func TestClockIsPutRight(t *testing.T) {
	for name, c := range map[string]struct {
		off time.Duration
		set bool
	}{"right": {0, false}, "slow": {-time.Minute, true}, "fast": {time.Hour, true}, "a little": {100 * time.Millisecond, false}} {
		t.Run(name, func(t *testing.T) {
			var set atomic.Int64
			m := talksTo(t, func(s net.Conn, q guestapi.Request) {
				r := guestapi.Reply{State: &guestapi.State{Time: time.Now().Add(c.off).UnixNano()}}
				if q.Op == guestapi.OpFreshen {
					set.Store(q.Fresh.Time)
				}
				_ = guestapi.WriteJSON(s, guestapi.ReplyFrame, r)
			})
			if err := m.alive(); err != nil {
				t.Fatal(err)
			}
			got := time.Unix(0, set.Load())
			if c.set != (set.Load() != 0) || c.set && time.Since(got).Abs() > time.Minute {
				t.Errorf("set to %v", got)
			}
		})
	}
}

// The timer can be made and waits.
func TestClockSet(t *testing.T) {
	f, err := clockSet()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Read(make([]byte, 8)); err == nil {
		t.Error("the clock was set")
	}
}
