package held

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"

	"wharf/api/monitorapi"
	"wharf/internal/driver"
	"wharf/internal/model"
)

// Names in an instance's directory, beside monitorapi's.
const (
	bundleName = "bundle.json"
	monitorLog = "monitor.log"
)

// Instance is a started instance.
type Instance struct {
	d        *Driver
	id       model.ID
	pid      int
	warnings []string
	trace    trace

	done chan struct{} // closed when exit is set
	exit model.Exit

	mu      sync.Mutex
	bundle  *model.Bundle // nil until needed, after a recovery
	unwatch []func()      // ends NotifyOOM's notices
}

var _ driver.Instance = (*Instance)(nil)

func newInstance(d *Driver, id model.ID, pid int) *Instance {
	return &Instance{d: d, id: id, pid: pid, done: make(chan struct{})}
}

func (i *Instance) ID() model.ID { return i.id }

// Dir is the instance's directory, for what a driver notes there. It goes with
// the instance.
func (i *Instance) Dir() string { return i.d.dir(i.id) }

func (i *Instance) Pid() int {
	select {
	case <-i.done:
		return 0
	default:
		return i.pid
	}
}

// Warnings tell what the start could not have and left out.
func (i *Instance) Warnings() []string { return i.warnings }

// Trace says where the time of the start went, step by step; nil after a
// recovery.
func (i *Instance) Trace() []monitorapi.Step { return i.trace }

// Steps yields the steps of the start in the order in which they ended, each
// with the time since the one before it: some go on beside each other.
func (i *Instance) Steps(yield func(name string, took time.Duration) bool) {
	all := slices.SortedStableFunc(slices.Values(i.trace), func(a, b monitorapi.Step) int { return cmp.Compare(a.At, b.At) })
	for n := 1; n < len(all); n++ {
		if !yield(all[n].Name, time.Duration(all[n].At-all[n-1].At)) {
			return
		}
	}
}

// hold is the one connection that waits for the exit.
func (i *Instance) hold(r *monitorapi.Reader, conn io.Closer) {
	var e model.Exit
	err := r.Expect(monitorapi.ExitFrame, &e)
	_ = conn.Close()
	if err != nil {
		e = i.d.lost(i.id)
	}
	i.exit = i.complete(e)
	close(i.done)
	i.unwatchAll()
}

// Wait blocks until the exit is recorded.
func (i *Instance) Wait(ctx context.Context) (model.Exit, error) {
	select {
	case <-i.done:
		return i.exit, nil
	default:
	}
	select {
	case <-i.done:
		return i.exit, nil
	case <-ctx.Done():
		return model.Exit{}, ctx.Err()
	}
}

// lost finds out how an instance ended whose monitor does not answer: by the
// exit file, or else the monitor was killed and the container is ended too.
func (d *Driver) lost(id model.ID) model.Exit {
	if e, err := d.readExit(id); err == nil {
		return e
	}
	d.killNoted(id)
	b, _ := d.bundle(id)
	if g, err := d.group(id, b); err == nil {
		_ = g.Kill() // what does not end now, Release tells of
	}
	e := model.Exit{Code: 137, At: time.Now().UTC(),
		Error: "the container's monitor process was killed, so the container was ended" + d.lastWords(id)}
	if p, err := json.Marshal(e); err == nil {
		_ = writeFile(filepath.Join(d.dir(id), monitorapi.ExitName), p)
	}
	return e
}

// lastWords quotes the monitor's stderr, if it wrote anything.
func (d *Driver) lastWords(id model.ID) string {
	f, err := os.Open(filepath.Join(d.dir(id), monitorLog))
	if err != nil {
		return ""
	}
	defer f.Close()
	b, _ := io.ReadAll(io.LimitReader(f, 2000))
	if s := strings.TrimSpace(string(b)); s != "" {
		return " (it said: " + s + ")"
	}
	return ""
}

func (d *Driver) readExit(id model.ID) (e model.Exit, err error) {
	b, err := os.ReadFile(filepath.Join(d.dir(id), monitorapi.ExitName))
	if err != nil {
		return e, err
	}
	err = json.Unmarshal(b, &e)
	return e, err
}

// writeFile replaces path by a rename.
func writeFile(path string, p []byte) error {
	if err := os.WriteFile(path+".tmp", p, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".tmp", path)
}

// Recover finds an instance of an earlier daemon.
func (d *Driver) Recover(ctx context.Context, id model.ID) (driver.Instance, error) {
	return AsInstance(d.Find(ctx, id))
}

// Find is Recover.
func (d *Driver) Find(ctx context.Context, id model.ID) (*Instance, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	if i := d.get(id); i != nil {
		return i, nil
	}
	if _, err := os.Stat(d.dir(id)); err != nil {
		if !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		if g, gerr := d.group(id, nil); gerr != nil || !g.Exists() {
			return nil, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("no trace of instance %s", id.Short()))
		}
	}
	i := newInstance(d, id, 0)
	c, rep, err := d.request(ctx, id, monitorapi.Request{Op: monitorapi.OpWait})
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		i.exit = i.complete(d.lost(id))
		close(i.done)
	} else {
		i.pid = rep.Pid
		go i.hold(c.R, c)
	}
	d.put(i)
	return i, nil
}

// Signal sends sig to the main process.
func (i *Instance) Signal(ctx context.Context, sig syscall.Signal) error {
	return i.Call(ctx, monitorapi.Request{Op: monitorapi.OpSignal, Signal: monitorapi.SignalNumber(sig)})
}

// Resize sets the terminal's size.
func (i *Instance) Resize(ctx context.Context, height, width uint) error {
	return i.Call(ctx, monitorapi.Request{Op: monitorapi.OpResize, Size: &monitorapi.WinSize{Height: height, Width: width}})
}

// Call makes a request that has no stream.
func (i *Instance) Call(ctx context.Context, q monitorapi.Request) error {
	c, err := i.Open(ctx, q)
	if err != nil {
		return err
	}
	return c.Close()
}

// Open makes a request; the connection is the caller's.
func (i *Instance) Open(ctx context.Context, q monitorapi.Request) (*Conn, error) {
	c, rep, err := i.d.request(ctx, i.id, q)
	if err != nil {
		return nil, i.gone(err)
	}
	c.Reply = rep
	return c, nil
}

// gone makes "not found" of a monitor that is not there because the container
// has ended.
func (i *Instance) gone(err error) error {
	var op *os.SyscallError
	if errors.As(err, &op) || errors.Is(err, io.EOF) || errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return errdefs.ErrNotFound.WithMessage(fmt.Sprintf("container %s is not running", i.id.Short()))
	}
	return err
}

// State asks the monitor what it knows.
func (i *Instance) State(ctx context.Context) (*monitorapi.State, error) {
	c, err := i.Open(ctx, monitorapi.Request{Op: monitorapi.OpState})
	if err != nil {
		return nil, err
	}
	_ = c.Close()
	if c.Reply.State == nil {
		return nil, fmt.Errorf("monitor of %s: empty answer", i.id.Short())
	}
	return c.Reply.State, nil
}

// keepBundle writes what exec needs after a restart of the daemon. Not
// durable: a machine that went down has no instances.
func (d *Driver) keepBundle(b *model.Bundle) error {
	p, err := json.Marshal(b)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(d.dir(b.ID), bundleName), p, 0o600)
}

// bundle reads the bundle of id's start.
func (d *Driver) bundle(id model.ID) (*model.Bundle, error) {
	if i := d.get(id); i != nil {
		i.mu.Lock()
		defer i.mu.Unlock()
		if i.bundle != nil {
			return i.bundle, nil
		}
	}
	p, err := os.ReadFile(filepath.Join(d.dir(id), bundleName))
	if err != nil {
		return nil, err
	}
	b := new(model.Bundle)
	if err := json.Unmarshal(p, b); err != nil {
		return nil, fmt.Errorf("%s of %s: %w", bundleName, id.Short(), err)
	}
	return b, nil
}

// Bundle returns the bundle of the start.
func (i *Instance) Bundle() (*model.Bundle, error) {
	i.mu.Lock()
	b := i.bundle
	i.mu.Unlock()
	if b != nil {
		return b, nil
	}
	b, err := i.d.bundle(i.id)
	if err != nil {
		return nil, err
	}
	i.mu.Lock()
	i.bundle = b
	i.mu.Unlock()
	return b, nil
}
