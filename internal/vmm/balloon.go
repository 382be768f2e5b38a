package vmm

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"strconv"
	"strings"
	"time"

	"wharf/api/guestapi"
	"wharf/api/monitorapi"
	"wharf/internal/vmm/vmmapi"
)

// A guest gives free pages back by itself (free page reporting), but not those
// that its kernel keeps for caches. When the host runs short of memory, the
// balloon takes what the guest does not need, a piece at each look, and it is
// given back when the host has memory again, or the guest needs it. If that
// comes too late, the guest takes it itself (deflate-on-oom).
//
// A clone's memory is its template's where it has not written, and QEMU can give
// no page of such memory back: its balloon stays as it is, unless the memory was
// copied (a clone with shares).

const (
	// balloonTime is how often it is looked whether the host has memory.
	balloonTime = 10 * time.Second
	// spareMemory is what a guest keeps available beside what it uses.
	spareMemory = 64 << 20
	// shortMemory: a guest with less than that available gets memory back.
	shortMemory = spareMemory / 2
	// balloonStep: less is not worth a change.
	balloonStep = 16 << 20
	// leastMemory is what every guest keeps.
	leastMemory = 96 << 20
	// pressurePercent is the share of time in which some process waits for
	// memory (PSI's some avg10) that is pressure.
	pressurePercent = 10
)

// balloon is a machine's.
type balloon struct {
	size     int64 // the machine's
	ceiling  int64 // what it may have, at most its size
	actual   int64 // what it was told to have
	pressing bool
}

// newBalloon is a new machine's. One of size 0 is never used.
func newBalloon(spec *vmmapi.Machine) balloon {
	if spec.Incoming != 0 && !spec.OwnMemory {
		return balloon{}
	}
	return balloon{size: spec.Memory, ceiling: spec.Memory, actual: spec.Memory}
}

// next decides how much memory the machine should have. available is the
// guest's, without what the balloon has.
func (b *balloon) next(pressing bool, available int64) int64 {
	want := b.actual
	switch {
	case !pressing:
		want = b.ceiling
	case available < shortMemory:
		want = b.actual + spareMemory
	case available > spareMemory+balloonStep:
		want = b.actual - (available - spareMemory)
	}
	return min(max(want, min(leastMemory, b.ceiling)), b.ceiling)
}

// breathe keeps the balloon as large as the host's memory wants it, until the
// machine is down.
func (m *machine) breathe() {
	if m.spec.Pressure == 0 || m.balloon.size == 0 {
		return
	}
	tick := time.NewTicker(balloonTime)
	defer tick.Stop()
	for {
		select {
		case <-m.down:
			return
		case <-tick.C:
			m.breath(readHost())
		}
	}
}

// breath is one look.
func (m *machine) breath(h host) {
	b := &m.balloon
	m.bmu.Lock()
	defer m.bmu.Unlock()
	b.pressing = h.presses(m.spec.Pressure, b.pressing)
	if !b.pressing && b.actual == b.ceiling {
		return
	}
	available := int64(0)
	if b.pressing {
		r, err := m.ask(askTime, guestapi.Request{Op: guestapi.OpState})
		if err != nil || r.State == nil {
			return
		}
		available = int64(min(r.State.Memory.Available, 1<<60))
	}
	_ = m.inflate(b.next(b.pressing, available))
}

// inflate has the guest keep so much. The caller holds the balloon.
func (m *machine) inflate(want int64) error {
	if m.balloon.actual == want {
		return nil
	}
	if _, err := m.qmp.run("balloon", json.RawMessage(`{"value":`+strconv.FormatInt(want, 10)+`}`)); err != nil {
		return err
	}
	m.balloon.actual = want
	return nil
}

// serveBalloon sets how much memory the machine may have.
func (m *machine) serveBalloon(conn *os.File, q monitorapi.Request) error {
	var want vmmapi.Balloon
	if err := json.Unmarshal(q.Body, &want); err != nil {
		return &monitorapi.Failed{Kind: monitorapi.KindInvalid, Text: "balloon request: " + err.Error()}
	}
	if err := m.setCeiling(want.Memory); err != nil {
		return m.gone(err)
	}
	return monitorapi.WriteJSON(conn, monitorapi.ReplyFrame, monitorapi.Reply{Version: monitorapi.Version})
}

func (m *machine) setCeiling(memory int64) error {
	b := &m.balloon
	m.bmu.Lock()
	defer m.bmu.Unlock()
	if b.size == 0 { // a clone, or a machine without
		return nil
	}
	memory = min(max(memory, leastMemory), b.size)
	want := b.actual
	if b.actual == b.ceiling || b.actual > memory {
		want = memory
	}
	if err := m.inflate(want); err != nil {
		return err
	}
	b.ceiling = memory
	return nil
}

// host is the host's memory.
type host struct {
	available int64   // bytes
	stalled   float64 // per cent of the last ten seconds
}

// presses says whether the host is short of memory: less than mark is available, or
// processes wait for it. Once it is, it has to get a quarter better.
func (h host) presses(mark int64, already bool) bool {
	percent := float64(pressurePercent)
	if already {
		mark, percent = mark+mark/4, percent*3/4
	}
	return h.available < mark || h.stalled > percent
}

// readHost reads /proc/meminfo and, where the kernel has it, /proc/pressure/memory
// (Documentation/accounting/psi.rst).
func readHost() host {
	h := host{available: 1 << 62}
	meminfo, _ := os.ReadFile("/proc/meminfo")
	if n, err := parseAvailable(meminfo); err == nil {
		h.available = n
	}
	pressure, _ := os.ReadFile("/proc/pressure/memory")
	h.stalled = parseStalled(pressure)
	return h
}

func parseAvailable(text []byte) (int64, error) {
	for s := bufio.NewScanner(bytes.NewReader(text)); s.Scan(); {
		if rest, ok := strings.CutPrefix(s.Text(), "MemAvailable:"); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(rest, "kB")), 10, 64)
			return n << 10, err
		}
	}
	return 0, errors.New("no MemAvailable")
}

func parseStalled(text []byte) float64 {
	line, _, _ := strings.Cut(string(text), "\n")
	for _, w := range strings.Fields(line) {
		if v, ok := strings.CutPrefix(w, "avg10="); ok {
			f, _ := strconv.ParseFloat(v, 64)
			return f
		}
	}
	return 0
}
