package image

import (
	"context"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/pkg/gc"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"wharf/internal/model"
)

// resourceWritable is our own kind in the collector's graph: it never has
// nodes, it only names what prepared containers stand on as roots.
const resourceWritable gc.ResourceType = 0x1a

// ingestAge is how long a half-fetched blob waits for its pull to be tried
// again.
const ingestAge = 24 * time.Hour

// collector runs the metadata database's garbage collection, one at a time,
// and keeps Prepare out between its mark and its sweep.
type collector struct {
	s  *Store
	mu sync.RWMutex // held for writing from mark to sweep

	one     sync.Mutex // one run at a time
	wake    sync.Mutex // guards pending
	pending bool
}

func (c *collector) init(s *Store) {
	c.s = s
	s.db.RegisterCollectibleResource(resourceWritable, c)
}

// run collects now.
func (c *collector) run(ctx context.Context) error {
	c.one.Lock()
	defer c.one.Unlock()
	// What containers stand on must be known, else their layers would go.
	if _, err := c.s.preparedIDs(); err != nil {
		return err
	}
	start := time.Now()
	stats, err := c.s.db.GarbageCollect(ctx)
	if err != nil {
		return err
	}
	c.s.log.DebugContext(ctx, "garbage collected", "took", time.Since(start), "locked", stats.Elapsed())
	return nil
}

// later collects in the background, once for any number of calls that come
// before it begins.
func (c *collector) later() {
	c.wake.Lock()
	defer c.wake.Unlock()
	if c.pending {
		return
	}
	c.pending = true
	c.s.trash.wg.Go(func() {
		c.wake.Lock()
		c.pending = false
		c.wake.Unlock()
		ctx := c.s.ctx(context.Background())
		c.s.expireIngests(ctx)
		if err := c.run(ctx); err != nil {
			c.s.log.WarnContext(ctx, "garbage collection", "err", err)
		}
		c.s.pruneDisks(ctx)
	})
}

// StartCollection and ReferenceLabel make collector a metadata.Collector.
func (c *collector) StartCollection(context.Context) (metadata.CollectionContext, error) {
	c.mu.Lock()
	// What is removed from the metadata must never come back by a power cut when
	// its files are gone.
	c.s.ledger.strict.Store(true)
	return &collection{c: c}, nil
}

func (c *collector) ReferenceLabel() string { return "" }

// collection is one run. gc.mu is held until Finish or Cancel.
type collection struct{ c *collector }

// Active names the manifests and layers that prepared containers stand on.
func (r *collection) Active(ns string, fn func(gc.Node)) {
	if ns != Namespace {
		return
	}
	ids, err := r.c.s.preparedIDs()
	if err != nil {
		r.c.s.log.Error("containers cannot be listed; layers in use could be collected", "err", err)
		return
	}
	for _, id := range ids {
		for _, b := range r.c.s.bases(id) { // none: being made or removed
			if b.manifest != "" {
				fn(gc.Node{Type: metadata.ResourceContent, Namespace: ns, Key: b.manifest.String()})
			}
			if b.chain != "" {
				fn(gc.Node{Type: metadata.ResourceSnapshot, Namespace: ns, Key: snapshotter + "/" + b.chain.String()})
			}
		}
	}
}

func (r *collection) All(func(gc.Node))                    {}
func (r *collection) Leased(string, string, func(gc.Node)) {}
func (r *collection) Remove(gc.Node)                       {}
func (r *collection) Cancel() error                        { r.end(); return nil }
func (r *collection) Finish() error                        { r.end(); return nil }

func (r *collection) end() {
	s := r.c.s
	s.ledger.strict.Store(false)
	s.mu.Lock()
	s.resolved = map[resolveKey]model.Image{}
	s.lowers = map[digest.Digest]lower{}
	s.mu.Unlock()
	r.c.mu.Unlock()
}

// expireIngests aborts downloads that nobody went on with.
func (s *Store) expireIngests(ctx context.Context) {
	sts, err := s.cs.ListStatuses(ctx)
	if err != nil {
		s.log.WarnContext(ctx, "ingests cannot be listed", "err", err)
		return
	}
	for _, st := range sts {
		if time.Since(st.UpdatedAt) < ingestAge {
			continue
		}
		if err := s.cs.Abort(ctx, st.Ref); err != nil && !errdefs.IsNotFound(err) {
			s.log.WarnContext(ctx, "ingest not aborted", "ref", st.Ref, "err", err)
		}
	}
}

// preparedIDs lists the directories of containers.
func (s *Store) preparedIDs() ([]model.ID, error) {
	es, err := os.ReadDir(s.path("containers"))
	if err != nil {
		return nil, err
	}
	ids := make([]model.ID, 0, len(es))
	for _, e := range es {
		if e.IsDir() && !strings.HasPrefix(e.Name(), ".") {
			ids = append(ids, model.ID(e.Name()))
		}
	}
	return ids, nil
}
