package qemu

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"wharf/internal/driver"
	"wharf/internal/driver/held"
	"wharf/internal/model"
	"wharf/internal/runtime/cgroup"
)

// A machine is kept ready behind the template that was used last: a clone that
// has rehearsed a start and stands still (internal/vmm/ready.go). A start that
// the template fits takes it. It is held by a wharf-vmm that waits for its
// orders and ends with the daemon.

// IDs are the host's user ids. QEMU of a machine that is kept ready cannot have
// its instance's range, which is not known yet, and gets one that nobody else has
// until the instance is released.
type IDs interface {
	TakeIDs(holder model.ID) (model.IDRange, error)
	HoldIDs(holder model.ID, r model.IDRange)
	FreeIDs(holder model.ID)
}

// Ready says what machines are kept ready with.
type Ready struct {
	// Most is how many, of all templates together; 0 is none.
	Most int
	IDs  IDs
	// Disks writes an image of tree and an empty writable disk.
	Disks func(ctx context.Context, tree string, root, writable *os.File) error
}

const (
	// readyDelay keeps the making out of the way of the start before it.
	readyDelay = time.Second
	// readyIdle is how long after the last start a machine is kept.
	readyIdle = 10 * time.Minute
	// readyLimit bounds the making of one, with the least share of the processor.
	readyLimit = 5 * time.Minute
	// mostFailed is how often one after the other none may come up behind a template.
	mostFailed = 3
	// readyDir, below the exec root, has what the rehearsal is given.
	readyDir = "vm-ready"
	// idsName is a file in an instance's directory: QEMU's range, where that is
	// not the instance's own.
	idsName = "ids.json"
)

// standbys are the machines that wait.
type standbys struct {
	m *machines
	o Ready

	mu     sync.Mutex
	off    bool
	all    []*standby
	making bool
	give   context.CancelFunc
	given  chan struct{}
	last   *want               // what the last start was made of
	filter *specs.LinuxSeccomp // the last start's: a rehearsal loads one, too
	idle   *time.Timer
	n      int
	failed map[string]int // of a template, one after the other
	taken  map[model.ID]*taken
}

// standby is one that waits.
type standby struct {
	key    string
	ids    model.IDRange
	holder model.ID // of ids; the last part of its control group's path, too
	a      *held.Ahead
}

// taken is a start that has taken one, or has looked for one: s is nil then.
type taken struct {
	s *standby
	g *guest
	h *hardware
}

// SetReady says that machines are to be kept ready, and removes what a daemon
// that was killed has left of them.
func (d *Driver) SetReady(o Ready) {
	s := &d.m.standbys
	for _, name := range held.ListCgroups(d.m.parent()) {
		if strings.HasPrefix(name, d.m.readyPrefix()) {
			_ = d.m.readyGroup(name).Remove() // kills, too
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.o = o
	s.off = o.Most == 0 || o.IDs == nil || o.Disks == nil
}

func (m *machines) parent() string {
	if m.o.CgroupParent == "" {
		return "wharf" // as package held
	}
	return m.o.CgroupParent
}

// readyPrefix begins the names of control groups of machines that wait: another
// daemon's below the same parent have another one.
func (m *machines) readyPrefix() string {
	sum := sha256.Sum256([]byte(m.o.ExecRoot))
	return "ready-" + hex.EncodeToString(sum[:4]) + "-"
}

func (m *machines) readyGroup(name string) *cgroup.Group {
	return cgroup.Open(filepath.Join("/", m.parent(), name))
}

// want is told of each start that a template fits.
func (s *standbys) want(key string, h *hardware) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.m == nil || s.off || h == nil || s.failed[key] >= mostFailed {
		return
	}
	s.last = &want{key, h}
	if s.idle == nil {
		s.idle = time.AfterFunc(readyIdle, s.expire)
	}
	s.idle.Reset(readyIdle)
	if s.making {
		return
	}
	s.making = true
	time.AfterFunc(readyDelay, s.fill)
}

// expire ends all that wait: nobody has started anything for a while.
func (s *standbys) expire() {
	s.mu.Lock()
	s.last = nil
	all := s.all
	s.all = nil
	s.mu.Unlock()
	for _, x := range all {
		s.end(x)
	}
}

// fill makes as many as there should be, one after the other.
func (s *standbys) fill() {
	for {
		w, out, ctx, done := s.next()
		if out != nil {
			s.end(out)
		}
		if w == nil {
			return
		}
		began := time.Now()
		x, err := s.make(ctx, w.key, w.h)
		s.mu.Lock()
		if err == nil && s.off {
			err = context.Canceled
		}
		if err == nil {
			s.all = append(s.all, x)
			delete(s.failed, w.key)
			go s.attend(x)
		}
		s.making = err == nil // after a failure the next start tries again
		s.mu.Unlock()
		if err != nil && x != nil {
			s.end(x)
		}
		ends := errors.Is(ctx.Err(), context.Canceled) // by close
		done()
		if err != nil {
			level := slog.LevelWarn
			if ends || errdefs.IsUnavailable(err) || errors.Is(err, context.Canceled) {
				level = slog.LevelDebug
			} else {
				s.fails(w.key)
			}
			slog.Log(context.Background(), level, "no virtual machine is kept ready", "room", "vm", "key", w.key, "err", err)
			return
		}
		slog.Info("a virtual machine is ready", "room", "vm", "key", w.key, "took", time.Since(began).Round(time.Millisecond))
	}
}

// fails counts: what does not work here is not tried at each start for ever.
func (s *standbys) fails(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed == nil {
		s.failed = map[string]int{}
	}
	s.failed[key]++
}

// next says what to make, nil when there is enough, and which one has to go for it.
func (s *standbys) next() (w *want, out *standby, _ context.Context, done func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.off || s.last == nil {
		s.making = false
		return nil, nil, nil, nil
	}
	same := func(x *standby) bool { return x.key == s.last.key }
	if len(s.all) >= s.o.Most {
		if slices.ContainsFunc(s.all, same) {
			s.making = false
			return nil, nil, nil, nil
		}
		out = s.all[0]
		s.all = s.all[1:]
	}
	ctx, cancel := context.WithTimeout(context.Background(), readyLimit)
	given := make(chan struct{})
	s.give, s.given = cancel, given
	return s.last, out, ctx, func() { cancel(); close(given) }
}

// attend drops a machine that has ended by itself.
func (s *standbys) attend(x *standby) {
	<-x.a.Ended()
	s.mu.Lock()
	i := slices.Index(s.all, x)
	if i >= 0 {
		s.all = slices.Delete(s.all, i, i+1)
	}
	s.mu.Unlock()
	if i >= 0 {
		slog.Debug("a virtual machine is not kept ready any more", "room", "vm", "key", x.key)
		s.end(x)
	}
}

// end ends one that waits, or what is left of one that was taken in vain.
func (s *standbys) end(x *standby) {
	if x.a != nil {
		_ = x.a.Close()
	}
	if err := s.m.readyGroup(string(x.holder)).Remove(); err != nil {
		slog.Warn("control group of a virtual machine that was kept ready", "room", "vm", "err", err)
	}
	s.o.IDs.FreeIDs(x.holder)
}

// close ends all, and what is being made.
func (s *standbys) close() {
	s.mu.Lock()
	s.off = true
	all, give, given := s.all, s.give, s.given
	s.all = nil
	if s.idle != nil {
		s.idle.Stop()
	}
	s.mu.Unlock()
	if give != nil {
		give()
		select {
		case <-given:
		case <-time.After(closeTime): // the next daemon sweeps it
		}
	}
	for _, x := range all {
		s.end(x)
	}
}

// take returns the machine that waits for a start like b's; nil: there is none.
// What was found out of b is there for Prepare in either case.
func (s *standbys) take(ctx context.Context, b *model.Bundle) *taken {
	s.mu.Lock()
	none := s.off || len(s.all) == 0 || len(b.Spec.Process.Args) == 0
	if !s.off && b.Spec.Linux != nil {
		s.filter = b.Spec.Linux.Seccomp
	}
	s.mu.Unlock()
	if none {
		return nil
	}
	g, h, err := s.m.look(ctx, b)
	if err != nil || len(g.shares) > 0 || h.mode != cold {
		return nil // Prepare will say why
	}
	key := h.key()
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.all, func(x *standby) bool { return x.key == key })
	if i < 0 || key == "" {
		s.taken[b.ID] = &taken{g: g, h: h}
		return nil
	}
	t := &taken{s: s.all[i], g: g, h: h}
	s.all = slices.Delete(s.all, i, i+1)
	s.taken[b.ID] = t
	return t
}

// takenBy is what id's start has taken. It is told once.
func (s *standbys) takenBy(id model.ID) *taken {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.taken[id]
	delete(s.taken, id)
	return t
}

// startReady starts b in a machine that waits. false: there was none, or it did
// not come up, and nothing is left of the try; sb is the sandbox to go on with.
func (d *Driver) startReady(ctx context.Context, b *model.Bundle, sb driver.Sandbox) (_ *held.Instance, _ driver.Sandbox, done bool, err error) {
	s := &d.m.standbys
	t := s.take(ctx, b)
	if t == nil {
		return nil, sb, false, nil
	}
	i, err := d.Driver.BeginOn(ctx, b, sb, t.s.a)
	_ = s.takenBy(b.ID) // if it did not come to that
	t.s.a = nil         // used up
	if err == nil {
		s.o.IDs.FreeIDs(t.s.holder) // it is held for the instance
		s.want(t.s.key, d.m.templates.used(t.s.key))
		return i, nil, true, nil
	}
	s.end(t.s)
	if processFault(err) || ctx.Err() != nil {
		s.want(t.s.key, d.m.templates.used(t.s.key))
		return nil, nil, true, err
	}
	slog.WarnContext(ctx, "a machine that was kept ready did not come up; another one is started", "room", "vm", "id", b.ID, "err", err)
	if err := d.Driver.Release(ctx, b.ID); err != nil {
		return nil, nil, true, err
	}
	d.freeIDs(b.ID)
	if sb, err = d.Driver.Sandbox(ctx, b); err != nil {
		return nil, nil, true, err
	}
	return nil, sb, false, nil
}

// machineIDs is the holder of a range that QEMU of id's machine has.
func machineIDs(id model.ID) model.ID { return id + ".machine" }

// keepIDs notes QEMU's range for as long as id is not released.
func (m *machines) keepIDs(id model.ID, r model.IDRange) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	m.standbys.o.IDs.HoldIDs(machineIDs(id), r)
	return os.WriteFile(filepath.Join(m.o.ExecRoot, instancesDir, string(id), idsName), text, 0o600)
}

// holdIDs holds the range of a machine that an earlier daemon started.
func (d *Driver) holdIDs(i *held.Instance) {
	s := &d.m.standbys
	text, err := os.ReadFile(filepath.Join(i.Dir(), idsName))
	if err != nil || s.o.IDs == nil {
		return
	}
	var r model.IDRange
	if err := json.Unmarshal(text, &r); err != nil {
		slog.Warn("range of user ids of a virtual machine", "room", "vm", "id", i.ID(), "err", err)
		return
	}
	s.o.IDs.HoldIDs(machineIDs(i.ID()), r)
}

func (d *Driver) freeIDs(id model.ID) {
	if ids := d.m.standbys.o.IDs; ids != nil {
		ids.FreeIDs(machineIDs(id))
	}
}

// readyName names the nth machine.
func (m *machines) readyName(n int) model.ID {
	return model.ID(fmt.Sprintf("%s%d", m.readyPrefix(), n))
}
