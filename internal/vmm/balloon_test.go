package vmm

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"testing"

	"wharf/api/guestapi"
	"wharf/internal/vmm/vmmapi"
)

const mib = 1 << 20

// A clone has a balloon only where its memory is its own.
func TestNewBalloon(t *testing.T) {
	for _, c := range []struct {
		spec vmmapi.Machine
		want int64
	}{
		{vmmapi.Machine{Memory: 7}, 7},
		{vmmapi.Machine{Memory: 7, Incoming: 4}, 0},
		{vmmapi.Machine{Memory: 7, Incoming: 4, OwnMemory: true}, 7},
	} {
		if b := newBalloon(&c.spec); b.size != c.want || b.ceiling != c.want || b.actual != c.want {
			t.Errorf("%+v: %+v", c.spec, b)
		}
	}
}

func TestBalloonNext(t *testing.T) {
	for _, c := range []struct {
		name                   string
		pressing               bool
		ceiling, actual, avail int64
		want                   int64
	}{
		{"the host has memory", false, 512 * mib, 200 * mib, 0, 512 * mib},
		{"idle", true, 512 * mib, 512 * mib, 400 * mib, 176 * mib},
		{"not worth it", true, 512 * mib, 200 * mib, 70 * mib, 200 * mib},
		{"the guest needs it", true, 512 * mib, 200 * mib, 10 * mib, 264 * mib},
		{"the guest needs more than there is", true, 256 * mib, 250 * mib, 0, 256 * mib},
		{"the least", true, 512 * mib, 120 * mib, 110 * mib, 96 * mib},
		{"a small machine", true, 80 * mib, 80 * mib, 79 * mib, 80 * mib},
	} {
		b := balloon{ceiling: c.ceiling, actual: c.actual}
		if got := b.next(c.pressing, c.avail); got != c.want {
			t.Errorf("%s: %d MiB, want %d", c.name, got/mib, c.want/mib)
		}
	}
}

func TestPressure(t *testing.T) {
	n, err := parseAvailable([]byte("MemTotal:       24684096 kB\nMemAvailable:   21875136 kB\n"))
	if err != nil || n != 21875136<<10 {
		t.Errorf("%d %v", n, err)
	}
	if f := parseStalled([]byte("some avg10=12.50 avg60=0.02 avg300=0.00 total=3156704\nfull avg10=99.00\n")); f != 12.5 {
		t.Errorf("%v", f)
	}
	if f := parseStalled(nil); f != 0 {
		t.Errorf("%v of nothing", f)
	}
	for _, c := range []struct {
		h       host
		already bool
		want    bool
	}{
		{host{1000 * mib, 0}, false, false}, {host{900 * mib, 0}, false, true}, {host{1100 * mib, 0}, true, true}, {host{1250 * mib, 0}, true, false},
		{host{9000 * mib, 11}, false, true}, {host{9000 * mib, 8}, false, false}, {host{9000 * mib, 8}, true, true},
	} {
		if got := c.h.presses(1000*mib, c.already); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

// fakeQMP notes the balloon's commands.
func fakeQMP(t *testing.T) (*qmp, func() []int64) {
	t.Helper()
	ours, theirs, err := socketpair("qmp")
	if err != nil {
		t.Fatal(err)
	}
	q := newQMP(ours)
	t.Cleanup(func() { q.close(); _ = theirs.Close() })
	var mu sync.Mutex
	var seen []int64
	go func() {
		_, _ = io.WriteString(theirs, `{"QMP":{"version":{}}}`+"\n")
		for r := bufio.NewScanner(theirs); r.Scan(); {
			var c struct {
				Execute   string
				Arguments struct{ Value int64 }
				ID        uint64
			}
			if json.Unmarshal(r.Bytes(), &c) == nil && c.Execute == "balloon" {
				mu.Lock()
				seen = append(seen, c.Arguments.Value/mib)
				mu.Unlock()
			}
			_, _ = io.WriteString(theirs, fmt.Sprintf(`{"return":{},"id":%d}`+"\n", c.ID))
		}
	}()
	return q, func() []int64 {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(seen)
	}
}

// A machine gives memory when the host is short of it, gets it back when it
// needs it or the host has some, and never more than an update left it.
func TestBreath(t *testing.T) {
	var available uint64
	m := talksTo(t, func(s net.Conn, _ guestapi.Request) {
		_ = guestapi.WriteJSON(s, guestapi.ReplyFrame, guestapi.Reply{State: &guestapi.State{Memory: guestapi.Memory{Available: available}}})
	})
	q, seen := fakeQMP(t)
	m.qmp = q
	m.spec = &vmmapi.Machine{Memory: 512 * mib, Pressure: 1000 * mib}
	m.balloon = newBalloon(m.spec)
	plenty, short := host{available: 9000 * mib}, host{available: 500 * mib}
	m.breath(plenty)
	available = 400 * mib
	m.breath(short)
	available = 60 * mib
	m.breath(short)
	available = 5 * mib
	m.breath(short)
	if err := m.setCeiling(300 * mib); err != nil {
		t.Fatal(err)
	}
	m.breath(plenty)
	if err := m.setCeiling(1 << 40); err != nil {
		t.Fatal(err)
	}
	if got, want := seen(), []int64{176, 240, 300, 512}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if err := m.setCeiling(1); err != nil || seen()[4] != 96 {
		t.Errorf("%v %v", seen(), err)
	}
}
