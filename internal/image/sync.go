package image

import (
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// syncer brings unpacked layers to the disk before they are recorded: after a
// power cut a recorded layer has its files, not empty ones. One syncfs(2) for
// a whole layer, instead of an fsync(2) for each of its thousands of files.
// Those who come while one is going on share the next.
type syncer struct {
	mu    sync.Mutex
	next  *syncRun // waits for the present one to end; nil: nobody waits
	going bool
	calls int64 // guarded by mu
}

// syncRun is one syncfs and those who wait for it.
type syncRun struct {
	done chan struct{}
	err  error
}

// sync returns when everything written below dir until now is on the disk.
func (y *syncer) sync(dir string) error {
	y.mu.Lock()
	r := y.next
	if r == nil {
		r = &syncRun{done: make(chan struct{})}
		y.next = r
		if !y.going {
			y.going = true
			go y.run(dir)
		}
	}
	y.mu.Unlock()
	<-r.done
	return r.err
}

// run goes on until nobody waits.
func (y *syncer) run(dir string) {
	for {
		y.mu.Lock()
		r := y.next
		y.next = nil
		if r == nil {
			y.going = false
			y.mu.Unlock()
			return
		}
		y.calls++
		y.mu.Unlock()
		r.err = syncFS(dir)
		close(r.done)
	}
}

func syncFS(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return fmt.Errorf("syncfs %s: %w", dir, err)
	}
	return nil
}
