// Package held is what drivers have in common that run each instance through
// a process of ours that holds it and outlives the daemon: wharf-monitor for
// containers, wharf-vmm for virtual machines. A driver embeds Driver and says
// in a Kind what it starts.
//
// # Owns
//
// ExecRoot/Dir/<id>/ (mode 0700): "monitor.sock" and "exit", which the
// monitor writes (see package monitor), "monitor.log", its stderr, which is
// empty unless it crashed, and "bundle.json", the model.Bundle of the start,
// which exec needs after a restart of the daemon. The cgroup
// CgroupParent/<id> in every hierarchy, made by the runtime. The namespaces of
// a sandbox until its Start or Close.
//
// # Never
//
// Touches networks, images, volumes, log files or records. Blocks a thread in
// a wait: monitors are reaped through the poller.
//
// # Invariants
//
// An instance directory exists before its monitor does and goes last, so that
// List finds whatever is held. The exit file is written before anybody is told
// of the exit. Where the monitor died without writing one (killed), this
// package ends the container's processes and writes it: code 137 and why.
//
// # Lock order
//
// Driver.mu, then instance.mu; neither is held during a system call that may
// wait.
package held

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/containerd/errdefs"

	"wharf/internal/driver"
	"wharf/internal/model"
	"wharf/internal/runtime/cgroup"
)

// Kind is what one driver starts and how.
type Kind interface {
	Isolation() model.Isolation
	// Check refuses what cannot start, before anything is done for it.
	Check(b *model.Bundle) error
	// Prepare returns what goes to the monitor as the start's Prepared (it is
	// encoded as JSON) and the descriptors that go with it; the caller closes
	// those. cgroup is the instance's, below each hierarchy.
	Prepare(ctx context.Context, b *model.Bundle, cgroup string) (any, []File, error)
	// PrepareExec is likewise for one more process.
	PrepareExec(b *model.Bundle, e *model.ExecSpec, cgroup string) (any, error)
	// Explain may say more about why a start failed.
	Explain(b *model.Bundle, err error) error
}

// File is a named descriptor for the monitor.
type File struct {
	Name string
	File *os.File
}

// Options configure the driver.
type Options struct {
	// Kind is the driver's own.
	Kind Kind
	// Monitor is the path of the holding program. It must be executable by
	// others (0755): a container's mapped root executes it as its init stage.
	Monitor string
	// ExecRoot is where the daemon's own files live, /run/wharf; Dir is the
	// directory of this driver's instances in it. Made if missing.
	ExecRoot, Dir string
	// CgroupParent is the cgroup below which containers' cgroups are made
	// whose spec gives no path, and where sweeps look. Default "wharf".
	CgroupParent string
	// Spares is how many monitors are kept ready, so that a start does not
	// wait for one to be executed. Each takes about a megabyte.
	Spares int
}

// Driver is the common half of a driver.
type Driver struct {
	opts      Options
	instances string // directory
	oom       cgroup.OOMWatch

	mu        sync.Mutex
	live      map[model.ID]*Instance
	spare     []*monitor
	refilling bool
}

var _ driver.Driver = (*Driver)(nil)

// New checks the options and makes the instances directory.
func New(o Options) (*Driver, error) {
	if o.CgroupParent == "" {
		o.CgroupParent = "wharf"
	}
	if !filepath.IsAbs(o.ExecRoot) {
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("exec root %q has to be an absolute path", o.ExecRoot))
	}
	fi, err := os.Stat(o.Monitor)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Base(o.Monitor), err)
	}
	if fi.IsDir() || fi.Mode()&0o111 != 0o111 {
		return nil, fmt.Errorf("%s %s has mode %v: it has to be executable for everybody (chmod 755)", filepath.Base(o.Monitor), o.Monitor, fi.Mode())
	}
	d := &Driver{opts: o, instances: filepath.Join(o.ExecRoot, o.Dir), live: map[model.ID]*Instance{}}
	if err := os.MkdirAll(d.instances, 0o700); err != nil {
		return nil, err
	}
	d.noteParent()
	d.refill()
	return d, nil
}

// Isolation says what this driver provides.
func (d *Driver) Isolation() model.Isolation { return d.opts.Kind.Isolation() }

func (d *Driver) dir(id model.ID) string { return filepath.Join(d.instances, string(id)) }

func (d *Driver) put(i *Instance) {
	d.mu.Lock()
	d.live[i.id] = i
	d.mu.Unlock()
}

func (d *Driver) get(id model.ID) *Instance {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.live[id]
}

// checkID keeps an id from becoming a path.
func checkID(id model.ID) error {
	if id == "" || len(id) > 128 || filepath.Base(string(id)) != string(id) || id == "." || id == ".." {
		return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%q is not an instance id", id))
	}
	return nil
}

// List returns the ids that have a directory, or an empty cgroup below our
// parent.
func (d *Driver) List(ctx context.Context) ([]model.ID, error) {
	seen := map[model.ID]bool{}
	entries, err := os.ReadDir(d.instances)
	if err != nil {
		return nil, fmt.Errorf("list instances: %w", err)
	}
	for _, e := range entries {
		seen[model.ID(e.Name())] = true
	}
	for _, id := range strayCgroups(d.opts.CgroupParent, seen) {
		seen[id] = true
	}
	ids := make([]model.ID, 0, len(seen))
	for id := range seen {
		ids = append(ids, id)
	}
	return ids, nil
}
