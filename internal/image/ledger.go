package image

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// A build makes some forty commits a step, a load ten a layer, and each of
// bolt's commits waits for the disk twice. Nearly none of them is worth it: what
// counts is that a name that was answered for is there after a power cut. So
// commits do not wait (bolt's NoSync), and the database gets a point from time
// to time: a state that is whole on the disk. Between points bolt must not write
// over a page of the last one. It does not while a read transaction looks at
// that state, and the ledger holds one. Only the two meta pages, which say where
// a state begins, are written in place; so the point keeps a copy of its own in
// a file beside the database (point.go).
//
// After a crash of the daemon nothing is lost: the kernel has all that was
// written. After a crash of the machine (another boot id) the file is what of it
// reached the disk in whatever order, and the copy of the meta page leads back
// to the point.
const (
	// ledgerEvery is how long a commit may wait for its point.
	ledgerEvery = 200 * time.Millisecond
	// ledgerMap is how much of a database is mapped: to map more, bolt waits
	// for all readers.
	ledgerMap = 1 << 30
	// ledgerLimit is the size from which on each commit waits for the disk.
	ledgerLimit = ledgerMap / 2
)

// ledgerOptions has bolt opened as newLedger needs it.
func ledgerOptions(o *bolt.Options) error {
	o.NoSync, o.InitialMmapSize, o.FreelistType = true, ledgerMap, bolt.FreelistMapType
	o.Timeout = 5 * time.Second // for its lock
	return nil
}

// ledger is a database that makes points. Its methods are safe for concurrent
// use.
type ledger struct {
	db    *bolt.DB
	path  string
	below *ledger // what this one refers to; its points are made first
	log   *slog.Logger
	limit int64

	// strict: a commit returns when a point has it.
	strict  atomic.Bool
	pending atomic.Bool

	mu   sync.Mutex // guards what follows; held while a point is made
	held *bolt.Tx   // sees the last point, so that its pages stay; nil: each commit waits for the disk
	side *pointFile
}

// newLedger takes up a database that was opened with ledgerOptions.
func newLedger(db *bolt.DB, path string, below *ledger, log *slog.Logger) (*ledger, error) {
	db.AllocSize = 1 << 20 // by how much the file grows, once more is mapped than that
	l := &ledger{db: db, path: path, below: below, log: log, limit: ledgerLimit}
	side, err := openPoints(path, db.Info().PageSize)
	if err != nil {
		return nil, err
	}
	l.side = side
	if side.boot == "" { // no way to tell a crash of the machine
		return l, l.plain()
	}
	// What the process before left in the page cache.
	return l, l.settle()
}

// View and Update implement containerd's Transactor.
func (l *ledger) View(fn func(*bolt.Tx) error) error { return l.db.View(fn) }

func (l *ledger) Update(fn func(*bolt.Tx) error) error {
	var size int64
	err := l.db.Update(func(tx *bolt.Tx) error {
		size = tx.Size()
		return fn(tx)
	})
	switch {
	case err != nil:
		return err
	case size > l.limit:
		return l.plain()
	case l.strict.Load():
		return l.settle()
	}
	l.later()
	return nil
}

// later makes a point soon.
func (l *ledger) later() {
	if !l.pending.CompareAndSwap(false, true) {
		return
	}
	time.AfterFunc(ledgerEvery, func() {
		l.pending.Store(false)
		if err := l.settle(); err != nil {
			l.log.Error("what was recorded of images is not on the disk yet", "db", l.path, "err", err)
		}
	})
}

// settle returns when all that was committed until now is safe from a power
// cut. Those who come while a point is made share the next.
func (l *ledger) settle() error {
	var want int
	if err := l.db.View(func(tx *bolt.Tx) error { want = tx.ID(); return nil }); err != nil {
		if errors.Is(err, berrors.ErrDatabaseNotOpen) {
			return nil // closed, with a point
		}
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.side == nil || l.held != nil && l.held.ID() >= want {
		return nil
	}
	return l.point()
}

// point makes a point of the present state.
func (l *ledger) point() error {
	tx, head, err := l.look()
	if err != nil {
		return err
	}
	if l.below != nil {
		if err := l.below.settle(); err != nil {
			_ = tx.Rollback()
			return err
		}
	}
	if err := l.db.Sync(); err != nil {
		_ = tx.Rollback()
		return fmt.Errorf("%s: %w", l.path, err)
	}
	if err := l.side.write(head); err != nil {
		_ = tx.Rollback()
		return err
	}
	if l.held != nil {
		_ = l.held.Rollback()
	}
	l.held = tx
	return nil
}

// look begins a read transaction and reads the meta page that it stands on,
// which the second commit after it writes over.
func (l *ledger) look() (*bolt.Tx, metaHead, error) {
	for range 1000 {
		tx, err := l.db.Begin(false)
		if err != nil {
			return nil, nil, err
		}
		head, err := l.side.read(tx.ID())
		if err != nil {
			_ = tx.Rollback()
			return nil, nil, err
		}
		if head.valid() && head.txid() == uint64(tx.ID()) {
			return tx, head, nil
		}
		_ = tx.Rollback()
	}
	return nil, nil, fmt.Errorf("%s: its meta pages do not hold still", l.path)
}

// plain lets each commit wait for the disk from now on.
func (l *ledger) plain() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.side == nil {
		return nil
	}
	if l.below != nil {
		if err := l.below.settle(); err != nil {
			return err
		}
	}
	keep := errors.New("nothing to write")
	if err := l.db.Update(func(*bolt.Tx) error { l.db.NoSync = false; return keep }); !errors.Is(err, keep) {
		return err
	}
	if err := l.db.Sync(); err != nil {
		return fmt.Errorf("%s: %w", l.path, err)
	}
	err := l.side.remove()
	l.side = nil
	if l.held != nil {
		err = errors.Join(err, l.held.Rollback())
		l.held = nil
	}
	return err
}

// Close ends with all on the disk. metadata.DB calls it.
func (l *ledger) Close() error { return errors.Join(l.plain(), l.db.Close()) }

// layerStore is the overlay snapshotter's database with points. They are made
// by the ledger of the metadata, which says what layers mean.
type layerStore struct {
	*storage.MetaStore
	ledger *ledger
}

func openLayerStore(path string, log *slog.Logger) (*layerStore, error) {
	ms, err := storage.NewMetaStore(path, ledgerOptions)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	_, t, err := ms.TransactionContext(context.Background(), false)
	if err != nil {
		return nil, err
	}
	tx, ok := t.(*bolt.Tx)
	if !ok {
		return nil, errors.Join(fmt.Errorf("%s: not a bolt database", path), t.Rollback(), ms.Close())
	}
	db := tx.DB()
	if err := t.Rollback(); err != nil {
		return nil, errors.Join(err, ms.Close())
	}
	l, err := newLedger(db, path, nil, log)
	if err != nil {
		return nil, errors.Join(err, ms.Close())
	}
	return &layerStore{ms, l}, nil
}

func (s *layerStore) Close() error { return errors.Join(s.ledger.plain(), s.MetaStore.Close()) }

// lastingNames is the table of names: what it answers for is on the disk.
type lastingNames struct {
	images.Store
	ledger  *ledger
	changed func()
}

func (n lastingNames) Create(ctx context.Context, img images.Image) (images.Image, error) {
	out, err := n.Store.Create(ctx, img)
	return out, n.lasting(err)
}

func (n lastingNames) Update(ctx context.Context, img images.Image, fields ...string) (images.Image, error) {
	out, err := n.Store.Update(ctx, img, fields...)
	return out, n.lasting(err)
}

func (n lastingNames) Delete(ctx context.Context, name string, o ...images.DeleteOpt) error {
	return n.lasting(n.Store.Delete(ctx, name, o...))
}

func (n lastingNames) lasting(err error) error {
	if err != nil {
		return err
	}
	n.changed()
	return n.ledger.settle()
}
