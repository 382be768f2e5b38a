package record

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"wharf/internal/model"
)

// Store is the room. Its methods are safe for concurrent use.
type Store struct {
	log *logFile

	mu      sync.Mutex
	tables  map[string]map[string]json.RawMessage // guarded by mu
	live    int64                                 // bytes of frames that are still true
	packing bool

	feed   *feed
	damage []string
}

// entry is a frame's payload.
type entry struct {
	Table string          `json:"t"`
	Key   string          `json:"k"`
	Value json.RawMessage `json:"v,omitempty"` // none: the key is gone
}

const containersTable = "containers"

// Open opens the record below dir, making it (0700) if needed.
func Open(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("record: %w", err)
	}
	s := &Store{tables: make(map[string]map[string]json.RawMessage)}
	var bad int
	log, o, err := openLog(filepath.Join(dir, "record.log"), time.Now(), true, func(payload []byte) {
		var e entry
		if json.Unmarshal(payload, &e) != nil {
			bad++
			return
		}
		s.apply(e, len(payload))
	})
	if err != nil {
		return nil, fmt.Errorf("record: %w", err)
	}
	s.log = log
	if o.damage != "" {
		s.note(o.damage)
	}
	if o.holes {
		if err := s.pack(); err != nil {
			s.note(fmt.Sprintf("%s could not be written anew and goes on as it is: %v", log.path, err))
		}
	}
	if bad > 0 {
		s.note(fmt.Sprintf("%s: %d objects are not in a form that this version knows; left out", log.path, bad))
	}
	s.feed, err = openFeed(filepath.Join(dir, "events.log"))
	if err != nil {
		_ = log.close()
		return nil, fmt.Errorf("record: %w", err)
	}
	return s, nil
}

func (s *Store) note(damage string) {
	s.damage = append(s.damage, damage)
	slog.Warn("record: "+damage, "room", "record")
}

// Damage says what Open had to give up; empty when all was well.
func (s *Store) Damage() []string { return slices.Clone(s.damage) }

// Syncs counts the calls of fsync(2) and fdatasync(2) so far.
func (s *Store) Syncs() int64 { return s.log.syncs.Load() }

// Close closes the files. Nothing has to be flushed.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.feed.close()
	return s.log.close()
}

// apply changes memory. n is the size of the payload that said so.
func (s *Store) apply(e entry, n int) {
	t := s.tables[e.Table]
	if old, ok := t[e.Key]; ok {
		s.live -= entrySize(e.Table, e.Key, old)
	}
	if e.Value == nil {
		delete(t, e.Key)
		return
	}
	if t == nil {
		t = make(map[string]json.RawMessage)
		s.tables[e.Table] = t
	}
	t[e.Key] = slices.Clone(e.Value) // the payload may be part of a big read
	s.live += entrySize(e.Table, e.Key, e.Value)
}

// entrySize is about the size of the frame for a value.
func entrySize(table, key string, v json.RawMessage) int64 {
	return int64(frameHeader + len(table) + len(key) + len(v) + 24)
}

// encode makes e a frame. The value is JSON already and goes in as it is: to
// have it checked and copied by the encoder again would double the cost of a
// write.
func encode(e entry) ([]byte, error) {
	table, err := json.Marshal(e.Table)
	if err != nil {
		return nil, err
	}
	key, err := json.Marshal(e.Key)
	if err != nil {
		return nil, err
	}
	b := make([]byte, frameHeader, frameHeader+len(table)+len(key)+len(e.Value)+20)
	b = append(append(append(append(b, `{"t":`...), table...), `,"k":`...), key...)
	if e.Value != nil {
		b = append(append(b, `,"v":`...), e.Value...)
	}
	return sealFrame(append(b, '}'))
}

// put writes entries, with one write(2): a process that dies leaves all of
// them, but a torn write may leave only the first. durable also waits for the
// disk.
func (s *Store) put(ctx context.Context, durable bool, all ...entry) error {
	if err := ctx.Err(); err != nil || len(all) == 0 {
		return err
	}
	e := all[0] // names them in errors
	var frames []byte
	sizes := make([]int, len(all))
	for i, x := range all {
		frame, err := encode(x)
		if err != nil {
			return fmt.Errorf("record: %s %s: %w", x.Table, x.Key, err)
		}
		sizes[i] = len(frame)
		if frames == nil {
			frames = frame
		} else {
			frames = append(frames, frame...)
		}
	}
	s.mu.Lock()
	if err := s.log.append(frames); err != nil {
		s.mu.Unlock()
		return fmt.Errorf("record: %s %s was not saved: %w: %w", e.Table, e.Key, err, errdefs.ErrUnavailable)
	}
	for i, x := range all {
		s.apply(x, sizes[i])
	}
	gen, off, _ := s.log.mark()
	pack := s.wasteful() && !s.packing
	s.packing = s.packing || pack
	s.mu.Unlock()
	if pack {
		go func() {
			if err := s.pack(); err != nil {
				slog.Warn("record: the log could not be packed; it goes on growing", "room", "record", "err", err)
			}
		}()
	}
	if !durable {
		return nil
	}
	if err := s.log.sync(s.current, gen, off); err != nil {
		// After a failed sync the kernel takes the pages for clean: to ask again
		// would succeed without their being on the disk (fsync(2)). So all of it
		// is written anew, into another file.
		slog.WarnContext(ctx, "record: the log could not be synced; it is written anew", "room", "record", "err", err)
		if perr := s.packNow(); perr != nil {
			return fmt.Errorf("record: %s %s: %w; %w", e.Table, e.Key, err, perr)
		}
	}
	return nil
}

// packNow packs unless somebody does already.
func (s *Store) packNow() error {
	s.mu.Lock()
	busy := s.packing
	s.packing = true
	s.mu.Unlock()
	if busy {
		return fmt.Errorf("the log is being written anew just now: %w", errdefs.ErrUnavailable)
	}
	return s.pack()
}

func (s *Store) current() (int, int64, *os.File) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.mark()
}

// wasteful reports whether packing is worth it: more than half is out of
// date, and that is at least a mebibyte.
func (s *Store) wasteful() bool {
	dead := s.log.size - s.live
	return dead > 1<<20 && dead > s.live
}

// pack writes the log anew with only what is true. Writers go on meanwhile.
func (s *Store) pack() error {
	defer func() {
		s.mu.Lock()
		s.packing = false
		s.mu.Unlock()
	}()
	s.mu.Lock()
	var frames []byte
	var err error
	for table, t := range s.tables {
		for key, v := range t {
			var frame []byte
			if frame, err = encode(entry{table, key, v}); err != nil {
				s.mu.Unlock()
				return err
			}
			frames = append(frames, frame...)
		}
	}
	from := s.log.size
	s.mu.Unlock()

	r, err := s.log.prepare(frames)
	if err != nil {
		return err
	}
	s.log.syncMu.Lock()
	defer s.log.syncMu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.log.closed {
		r.drop()
		return nil
	}
	return s.log.replace(r, from)
}

// PutContainer writes a container's record. It returns when the record
// survives the death of the daemon; durable also waits for the disk.
func (s *Store) PutContainer(ctx context.Context, c model.Container, durable bool) error {
	v, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("record: container %s: %w", c.ID, err)
	}
	return s.put(ctx, durable, entry{containersTable, string(c.ID), v})
}

// DeleteContainer removes a record; none there is no error.
func (s *Store) DeleteContainer(ctx context.Context, id model.ID) error {
	return s.Table(containersTable).Delete(ctx, string(id))
}

// Containers returns every record, oldest first. A record that this version
// cannot read is reported in the log and left in the file.
func (s *Store) Containers(ctx context.Context) ([]model.Container, error) {
	return s.containers(ctx, containersTable)
}

func (s *Store) containers(ctx context.Context, table string) ([]model.Container, error) {
	all := s.Table(table).All()
	out := make([]model.Container, 0, len(all))
	for key, v := range all {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		var c model.Container
		if err := json.Unmarshal(v, &c); err != nil {
			slog.WarnContext(ctx, "record: container cannot be read; it is kept but not shown", "room", "record", "id", key, "err", err)
			continue
		}
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b model.Container) int {
		if c := a.Created.Compare(b.Created); c != 0 {
			return c
		}
		return strings.Compare(string(a.ID), string(b.ID))
	})
	return out, nil
}

// Table is a room's own small table of JSON objects.
type Table struct {
	s    *Store
	name string
}

// Table returns the table of that name; it need not exist.
func (s *Store) Table(name string) Table { return Table{s, name} }

// Put writes v, encoded as JSON, under key. durable as in PutContainer.
func (t Table) Put(ctx context.Context, key string, v any, durable bool) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("record: %s %s: %w", t.name, key, err)
	}
	return t.s.put(ctx, durable, entry{t.name, key, b})
}

// Delete removes key; none there is no error and no write.
func (t Table) Delete(ctx context.Context, key string) error {
	t.s.mu.Lock()
	_, ok := t.s.tables[t.name][key]
	t.s.mu.Unlock()
	if !ok {
		return nil
	}
	return t.s.put(ctx, false, entry{Table: t.name, Key: key})
}

// Get decodes key's object into v. errdefs.ErrNotFound.
func (t Table) Get(key string, v any) error {
	t.s.mu.Lock()
	b, ok := t.s.tables[t.name][key]
	t.s.mu.Unlock()
	if !ok {
		return fmt.Errorf("record: %s has no %q: %w", t.name, key, errdefs.ErrNotFound)
	}
	return json.Unmarshal(b, v)
}

// All returns every object, encoded. The values must not be changed.
func (t Table) All() map[string]json.RawMessage {
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	out := make(map[string]json.RawMessage, len(t.s.tables[t.name]))
	for k, v := range t.s.tables[t.name] {
		out[k] = v
	}
	return out
}
