package image

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"wharf/internal/model"
)

// trash removes directories behind the back of whoever threw them away.
type trash struct {
	dir string
	log *slog.Logger
	wg  sync.WaitGroup // background work of the whole room

	mu     sync.Mutex // guards the rest
	queue  []string
	active bool
	closed bool
}

func (t *trash) init(dir string, log *slog.Logger) { t.dir, t.log = dir, log }

// put moves path into the trash; nothing there is no error.
func (t *trash) put(path string) error {
	to := filepath.Join(t.dir, string(model.NewID()))
	if err := os.Rename(path, to); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	t.enqueue(to)
	return nil
}

func (t *trash) enqueue(p string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return // Open's sweep gets it
	}
	t.queue = append(t.queue, p)
	if !t.active {
		t.active = true
		t.wg.Go(t.work)
	}
}

func (t *trash) work() {
	for {
		t.mu.Lock()
		if len(t.queue) == 0 || t.closed {
			t.active, t.queue = false, nil
			t.mu.Unlock()
			return
		}
		p := t.queue[0]
		t.queue = t.queue[1:]
		t.mu.Unlock()
		if err := os.RemoveAll(p); err != nil {
			t.log.Warn("trash not removed", "path", p, "err", err)
		}
	}
}

// sweep empties what an earlier process left.
func (t *trash) sweep() {
	es, err := os.ReadDir(t.dir)
	if err != nil {
		t.log.Warn("trash cannot be read", "err", err)
	}
	for _, e := range es {
		t.enqueue(filepath.Join(t.dir, e.Name()))
	}
}

// close waits for what is being removed now.
func (t *trash) close() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.wg.Wait()
}
