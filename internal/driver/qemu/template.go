package qemu

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"wharf/internal/driver/held"
	"wharf/internal/model"
	"wharf/internal/vmm/vmmapi"
)

// A template is a machine that was booted until its agent answered, and was
// stopped there: its memory in one memfd, the rest of its state in another,
// both sealed, so that no clone's QEMU can change what others start from. They
// are the daemon's and go with it: nothing is on a disk, and nothing of an
// earlier kernel or QEMU is ever used. The next daemon makes new ones.

// maxTemplates bounds how many are kept. Each costs what a booted, idle guest
// has touched: some 60 MiB.
const maxTemplates = 3

// mostBad is how many clones one after the other may not come up of a template
// that has been good.
const mostBad = 2

// templateDelay keeps the making of a template out of the way of the machine
// that showed that it is wanted, and has just started.
const templateDelay = 3 * time.Second

// templates are a driver's.
type templates struct {
	d   *Driver // nil: none are made
	off bool    // by configuration

	mu     sync.Mutex
	byKey  map[string]*ready
	making bool
	give   context.CancelFunc // gives up what is being made
	given  chan struct{}      // closed when that has ended
	failed map[string]int     // how often a key's template could not be made, or not be used
	uses   map[model.ID]use   // who was started from what
	wanted map[model.ID]want  // who is being started cold for want of a template
	again  map[model.ID]bool  // who has just failed as a clone, and starts cold
}

// use is a clone's template.
type use struct {
	key    string
	shares bool // it has some
}

// want is a template that there should be.
type want struct {
	key string
	h   *hardware
}

// ready is a template.
type ready struct {
	h          *hardware
	ram, state *os.File
	used       time.Time
	worked     bool // a clone of it has come up
	bad        int  // how many after the last one that did have not
	badShares  int  // the same of clones that share directories
}

// key is what machines have to have in common with their template: QEMU,
// kernel, command line, processor, memory, devices. "" is a machine that can
// have none.
func (h *hardware) key() string {
	if h.digest == "" {
		return ""
	}
	st, err := os.Stat(h.binary)
	if err != nil {
		return ""
	}
	x := h.bare()
	args, _ := x.command()
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %d %d %q", h.digest, st.Size(), st.ModTime().UnixNano(), args))
	return hex.EncodeToString(sum[:8])
}

// bare is the template's hardware. It has no shares: a vhost-user device's
// state is elsewhere. A clone gets them when it has its state (vmmapi.Late).
func (h *hardware) bare() *hardware {
	x := *h
	x.mode, x.shares = template, nil
	return &x
}

// use makes h a clone if there is a template for it, and else has one made
// later. The files are the caller's to close.
func (t *templates) use(b *model.Bundle, h *hardware, out *vmmapi.Machine) ([]held.File, error) {
	if h.mode == template { // of one that is being made
		return t.files(b.ID, h, out)
	}
	ram, state, err := t.take(b.ID, h)
	if ram == nil || err != nil {
		return nil, err
	}
	if len(h.shares) > 0 {
		from := ram
		ram, err = copyMemory(from)
		if err = errors.Join(err, from.Close()); err != nil {
			return nil, errors.Join(fmt.Errorf("copy the template's memory: %w", err), state.Close())
		}
	}
	h.mode, out.Incoming, out.OwnMemory = clone, cloneState, len(h.shares) > 0
	out.Late = h.late()
	out.Boot.Late = len(out.Late)
	return []held.File{{Name: ramFile, File: ram}, {Name: stateFile, File: state}}, nil
}

// take opens the files of h's template for id; nil: there is none that it can
// be a clone of.
func (t *templates) take(id model.ID, h *hardware) (ram, state *os.File, err error) {
	key := h.key()
	t.mu.Lock()
	defer t.mu.Unlock()
	again := t.again[id]
	delete(t.again, id)
	if t.d == nil || t.off || key == "" || again {
		return nil, nil, nil
	}
	r := t.byKey[key]
	if r == nil {
		t.wanted[id] = want{key, h.bare()}
		return nil, nil, nil
	}
	if len(h.shares) > 0 && (!h.roomForLate() || r.badShares >= mostBad) {
		slog.Info("a machine starts cold: its shares cannot be plugged into a clone", "room", "vm", "id", id, "shares", len(h.shares), "failed", r.badShares)
		return nil, nil, nil
	}
	if ram, state, err = r.open(); err != nil {
		return nil, nil, err
	}
	t.uses[id] = use{key, len(h.shares) > 0}
	return ram, state, nil
}

// open opens a template's files anew.
func (r *ready) open() (ram, state *os.File, err error) {
	if ram, err = reopen(r.ram, os.O_RDWR); err != nil {
		return nil, nil, err
	}
	if state, err = reopen(r.state, os.O_RDONLY); err != nil { // its own position
		return nil, nil, errors.Join(err, ram.Close())
	}
	r.used = time.Now()
	return ram, state, nil
}

// open opens key's template for a machine that is kept ready.
func (t *templates) open(key string) (ram, state *os.File, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.byKey[key]
	if r == nil {
		return nil, nil, errdefs.ErrUnavailable.WithMessage("its template has gone")
	}
	return r.open()
}

// used is the hardware of key's template, which is used again; nil: it has gone.
func (t *templates) used(key string) *hardware {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.byKey[key]
	if r == nil {
		return nil
	}
	r.used = time.Now()
	return r.h
}

// reopen opens what f is anew: with a position of its own.
func reopen(f *os.File, flag int) (*os.File, error) {
	return os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), flag, 0)
}

// making are the bundles of templates that are being made, by id.
type making struct {
	h          *hardware
	ram, state *os.File
}

// under is what is being made now; nil: nothing.
func (t *templates) files(id model.ID, _ *hardware, out *vmmapi.Machine) ([]held.File, error) {
	m, ok := t.d.m.underWay.Load(id)
	if !ok {
		return nil, fmt.Errorf("no template %s is being made", id)
	}
	x := m.(*making)
	ram, err := reopen(x.ram, os.O_RDWR)
	if err != nil {
		return nil, err
	}
	state, err := reopen(x.state, os.O_RDWR)
	if err != nil {
		return nil, errors.Join(err, ram.Close())
	}
	out.Save = true
	return []held.File{{Name: ramFile, File: ram}, {Name: stateFile, File: state}}, nil
}

// make boots a machine, saves it and keeps it as key's template.
func (t *templates) make(key string, h *hardware) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*max(bootTimeTCG, t.d.m.o.BootTime))
	defer cancel()
	given := make(chan struct{})
	defer close(given)
	t.mu.Lock()
	off := t.off
	t.give, t.given = cancel, given
	t.mu.Unlock()
	if off {
		return
	}
	began := time.Now()
	r, err := t.boot(ctx, key, h)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.making = false
	if t.off {
		if err == nil {
			_, _ = r.ram.Close(), r.state.Close()
		}
		return
	}
	if err != nil {
		t.failed[key]++
		slog.Warn("virtual machines start cold: no template could be made", "room", "vm", "key", key, "err", err)
		return
	}
	slog.Info("a template for virtual machines is ready", "room", "vm", "key", key, "took", time.Since(began).Round(time.Millisecond))
	t.byKey[key] = r
	t.d.m.standbys.want(key, r.h)
	for len(t.byKey) > maxTemplates {
		t.dropOldest()
	}
}

// boot makes the template in a cage like any machine's.
func (t *templates) boot(ctx context.Context, key string, h *hardware) (_ *ready, err error) {
	m := &making{h: h.bare()}
	if m.ram, err = memfd("wharf-template-ram"); err != nil {
		return nil, err
	}
	if m.state, err = memfd("wharf-template-state"); err != nil {
		return nil, errors.Join(err, m.ram.Close())
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.ram.Close(), m.state.Close())
		}
	}()
	id := model.ID("template-" + key)
	t.d.m.underWay.Store(id, m)
	defer t.d.m.underWay.Delete(id)
	b := helperBundle(id, model.Rootfs{Disk: "none", Writable: "none"}, t.d.m.o.IDs)
	b.ID = id
	defer func() { err = errors.Join(err, t.d.Driver.Release(context.WithoutCancel(ctx), id)) }()
	sb, err := t.d.Driver.Sandbox(ctx, b)
	if err != nil {
		return nil, err
	}
	i, err := t.d.Driver.Begin(ctx, b, sb)
	if err != nil {
		return nil, err
	}
	if e, err := i.Wait(ctx); err != nil || e.Code != 0 {
		return nil, fmt.Errorf("template ended: %+v %w", e, err)
	}
	for _, f := range []*os.File{m.ram, m.state} {
		const seals = unix.F_SEAL_WRITE | unix.F_SEAL_GROW | unix.F_SEAL_SHRINK | unix.F_SEAL_SEAL
		if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals); err != nil {
			return nil, os.NewSyscallError("seal", err)
		}
	}
	return &ready{h: m.h, ram: m.ram, state: m.state, used: time.Now()}, nil
}

func memfd(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// dropOldest forgets the template that was used longest ago. Clones keep what
// they have mapped. The caller holds mu.
func (t *templates) dropOldest() {
	var keys []string
	for k := range t.byKey {
		keys = append(keys, k)
	}
	oldest := slices.MinFunc(keys, func(a, b string) int { return t.byKey[a].used.Compare(t.byKey[b].used) })
	t.drop(oldest)
}

func (t *templates) drop(key string) {
	if r := t.byKey[key]; r != nil {
		_ = r.ram.Close()
		_ = r.state.Close()
		delete(t.byKey, key)
	}
}

// close forgets all templates and makes no more. The machine of one that is
// being made is gone when it returns.
func (t *templates) close() {
	t.mu.Lock()
	t.off = true
	for key := range t.byKey {
		t.drop(key)
	}
	give, given := t.give, t.given
	t.mu.Unlock()
	if give == nil {
		return
	}
	give()
	select {
	case <-given:
	case <-time.After(closeTime): // the next daemon sweeps it
	}
}

// started is told of the end of every start. A cold one is followed by the making
// of its template. A clone that did not come up takes a template with it
// that has not been good before; the caller starts cold then.
func (t *templates) started(id model.ID, err error) (again bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if w, ok := t.wanted[id]; ok {
		delete(t.wanted, id)
		if err == nil && t.failed[w.key] < 2 && !t.making && !t.off && t.byKey[w.key] == nil {
			t.making = true
			time.AfterFunc(templateDelay, func() { t.make(w.key, w.h) })
		}
	}
	u, ok := t.uses[id]
	delete(t.uses, id)
	if !ok {
		return false
	}
	key, r := u.key, t.byKey[u.key]
	if err == nil {
		t.failed[key] = 0
		if r != nil {
			r.worked, r.bad = true, 0
			if t.d != nil {
				t.d.m.standbys.want(key, r.h)
			}
		}
		if r != nil && u.shares {
			r.badShares = 0
		}
		return false
	}
	if t.again == nil {
		t.again = map[model.ID]bool{}
	}
	t.again[id] = true
	if u.shares && r != nil { // without them it may well be good
		r.badShares++
		return true
	}
	if r != nil && r.worked && r.bad < mostBad {
		r.bad++ // a busy host, rather
		return true
	}
	t.failed[key]++
	t.drop(key)
	return true
}
