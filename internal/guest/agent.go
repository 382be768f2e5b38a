package guest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/hashicorp/yamux"

	"wharf/api/guestapi"
	"wharf/internal/runtime/cgroup"
)

// Agent answers the host. New makes one; tests run it in a plain process.
type Agent struct {
	version string
	began   time.Time
	machine machine
	group   *cgroup.Group

	net   sync.Mutex // one change of the network at a time; over links
	links *links

	mu     sync.Mutex
	boot   *guestapi.Boot    // nil until OpBoot
	main   *process          // nil until OpStart; stays after its end
	root   *guestapi.Overlay // of main
	execs  map[string]*process
	paused bool
	lost   time.Time // when the session was lost; zero while there is one
}

// machine is what a test's plain process has not.
type machine interface {
	// disk returns the device of a virtio-blk serial.
	disk(serial string) (string, error)
	// late finds n devices in slots that were empty when the kernel looked.
	late(n int) error
	// powerOff ends the machine; it does not return.
	powerOff()
	// setTime sets the clock.
	setTime(ns int64) error
	// addEntropy credits p to the kernel's pool.
	addEntropy(p []byte) error
}

// newAgent returns an agent for m whose containers are below the cgroup
// hierarchy l.
func newAgent(version string, m machine, l cgroup.Layout) *Agent {
	return &Agent{version: version, began: time.Now(), machine: m, group: cgroup.New(l, guestapi.CgroupPath), execs: map[string]*process{}}
}

// say writes a line to the console.
func say(format string, args ...any) { fmt.Fprintf(os.Stderr, "wharf-guest: "+format+"\n", args...) }

// Sessions' limits.
const (
	// slowest is how long the other end may take to take what was sent: an
	// emulated machine on a busy host stands still for seconds.
	slowest = 60 * time.Second
	// requestTime is how long a stream may take to say what it wants.
	requestTime = 60 * time.Second
	// hostAway is how often the guest looks for a host.
	hostAway = 10 * time.Millisecond
)

// yamuxConfig is what both ends of the channel use.
func yamuxConfig() *yamux.Config {
	c := yamux.DefaultConfig()
	c.EnableKeepAlive = false
	c.ConnectionWriteTimeout = slowest
	c.StreamCloseTimeout = slowest
	c.StreamOpenTimeout = 0
	c.LogOutput = io.Discard
	return c
}

// channel serves sessions on the port for ever. It returns only the port's
// own errors.
func (a *Agent) channel(port *port) error {
	for {
		err := a.session(port)
		a.sessionLost()
		if errors.Is(err, io.EOF) {
			time.Sleep(hostAway) // reading from a port without a host does not wait
		} else if err != nil {
			return err
		}
	}
}

// session waits for a Hello and serves until the session ends. io.EOF: the
// host's end is closed.
func (a *Agent) session(port *port) error {
	if err := port.welcome(); err != nil {
		if errors.Is(err, guestapi.ErrFrame) {
			return nil // megabytes of garbage: look for a Hello in the next ones
		}
		return err
	}
	a.mu.Lock()
	a.lost = time.Time{}
	a.mu.Unlock()
	conn := port.session()
	defer func() { _ = conn.Close() }()
	s, err := yamux.Server(conn, yamuxConfig())
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }()
	for {
		stream, err := s.AcceptStream()
		if err != nil {
			return nil
		}
		a.spawn(func() { a.serve(stream) })
	}
}

// spawn runs f. A mistake of ours in it ends the machine with a word on the
// console instead of a kernel panic without one.
func (a *Agent) spawn(f func()) {
	go func() {
		defer a.last()
		f()
	}()
}

func (a *Agent) last() {
	if v := recover(); v != nil {
		say("panic: %v", v)
		printStack()
		a.machine.powerOff()
	}
}

// sessionLost notes the time and powers off when nobody comes back.
func (a *Agent) sessionLost() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.boot == nil || a.boot.Orphaned <= 0 || !a.lost.IsZero() {
		return
	}
	now := time.Now()
	a.lost = now
	after := time.Duration(a.boot.Orphaned) * time.Second
	time.AfterFunc(after, func() {
		a.mu.Lock()
		still := a.lost.Equal(now)
		a.mu.Unlock()
		if still {
			say("nobody has held the other end of the channel for %v: powering off", after)
			a.machine.powerOff()
		}
	})
}
