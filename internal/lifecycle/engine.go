package lifecycle

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"wharf/internal/driver"
	"wharf/internal/model"
	"wharf/internal/plan"
)

// Options are the engine's rooms and settings. All rooms are required.
type Options struct {
	Images   images
	Networks networks
	Volumes  volumes
	Logs     logs
	Records  records
	Archives archives
	Drivers  map[model.Isolation]driver.Driver

	Facts    plan.Facts
	Defaults plan.Defaults // ContainersDir is set to DataRoot/containers

	DataRoot string // <DataRoot>/containers/<id>/ is the engine's
	IDBase   uint32 // first host id for containers; 1,000,000 unless set

	// Devices describes the host device at a path, or those below a
	// directory, for --device.
	Devices func(path string) ([]specs.LinuxDevice, error)
	CDI     plan.CDI // devices by name; nil: none

	// Checks are the rooms that Fsck asks, by name, beside the drivers.
	Checks map[string]Checker

	// Trash bounds what is kept of removed containers and volumes; zero keeps
	// nothing.
	Trash TrashBounds

	Deadline time.Duration // of a verb once begun; 2 minutes unless set
	Now      func() time.Time
	Log      *slog.Logger

	planner planner // tests
}

// Engine is the lifecycle: dockerapi.Containers, made of one small type per
// concern over the same core.
type Engine struct {
	core *core
	end  context.CancelFunc

	creator
	*starter
	*stopper
	*remover
	*pauser
	waits
	streams
	timings
	lists
	inspector
	*execs
	stats
	tops
	settings
	pruner
	files
	committer
	connector
	limits
	fsck
	restorer
	removedOnes
	buildSteps
	recoverer *recoverer
}

// New makes an engine with an empty table; Recover fills it.
func New(o Options) (*Engine, error) {
	if o.Images == nil || o.Networks == nil || o.Volumes == nil || o.Logs == nil || o.Records == nil || o.Archives == nil || len(o.Drivers) == 0 {
		return nil, errors.New("lifecycle: every room and at least one driver is needed")
	}
	if o.DataRoot == "" {
		return nil, errors.New("lifecycle: DataRoot is needed")
	}
	if o.IDBase == 0 {
		o.IDBase = 1_000_000
	}
	if o.Deadline == 0 {
		o.Deadline = 2 * time.Minute
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	o.Defaults.ContainersDir = filepath.Join(o.DataRoot, "containers")
	if o.planner == nil {
		o.planner = pure{o.Facts, o.Defaults}
	}
	if err := os.MkdirAll(o.Defaults.ContainersDir, 0o700); err != nil {
		return nil, wrap(err, "lifecycle")
	}
	o.Volumes.SetTrash(o.Trash.On())
	life, end := context.WithCancel(context.Background())
	c := &core{
		images: o.Images, networks: o.Networks, volumes: o.Volumes, logs: o.Logs, records: o.Records,
		archives: o.Archives, drivers: o.Drivers, plan: o.planner,
		index: newIndex(), ids: newIDRanges(o.IDBase), slog: o.Log.With("room", "lifecycle"), opts: o, life: life,
	}
	c.trash = newTrash(c, o.Trash)
	return assemble(c, end), nil
}

// assemble ties the concerns together.
func assemble(c *core, end context.CancelFunc) *Engine {
	create := creator{c}
	execs := newExecs(c)
	health := &health{core: c, execs: execs}
	start := &starter{core: c, health: health}
	stop := &stopper{core: c, starter: start}
	remove := &remover{core: c, creator: create, stopper: stop}
	exits := &exits{core: c, starter: start, remover: remove, health: health}
	start.exits, stop.exits, health.stopper = exits, exits, stop
	pause := &pauser{core: c, health: health}
	inspect := inspector{c, execs}
	go c.trash.keep()
	return &Engine{
		core: c, end: end,
		creator: create, starter: start, stopper: stop, remover: remove, pauser: pause,
		waits: waits{c}, streams: streams{c}, timings: timings{c}, lists: lists{c}, inspector: inspect,
		execs: execs, stats: stats{c}, tops: tops{c}, settings: settings{c}, pruner: pruner{c, remove, new(atomic.Bool)},
		files: files{c}, committer: committer{c, pause}, connector: connector{c}, limits: limits{c},
		fsck:     fsck{c, &ownCheck{c, create, remove, exits}, c.opts.Checks, new(sync.Mutex)},
		restorer: restorer{c}, removedOnes: removedOnes{c, lists{c}, inspect}, buildSteps: buildSteps{c, start, create},
		recoverer: &recoverer{core: c, creator: create, starter: start, exits: exits, remover: remove, health: health},
	}
}

// Recover reads the records and takes up what an earlier daemon left; see
// recoverer. Call it once, before the API is served. What restart policies
// want is started behind it.
func (e *Engine) Recover(ctx context.Context) error { return e.recoverer.run(ctx) }

// SetTrash changes the bounds of the trash.
func (e *Engine) SetTrash(b TrashBounds) { e.core.trash.SetBounds(b) }

// NudgeTrash says that something came into a room's trash.
func (e *Engine) NudgeTrash() { e.core.trash.Nudge() }

// Close ends what runs on behalf of containers in this process: watchers,
// timers, health checks. Containers live on. Nothing is recorded afterwards.
func (e *Engine) Close() { e.end() }
