package logs

import (
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// pollTime is how often a file is looked at without being told: always where
// inotify cannot be had, and against lost events.
const (
	pollTime     = 200 * time.Millisecond
	watchedCheck = 2 * time.Second
)

// await returns nil when there may be more to read and io.EOF when there will
// be none.
func (r *reader) await() error {
	over := r.isOver()
	moved, err := r.advance()
	if err != nil || moved {
		return err
	}
	if over {
		return io.EOF // looked once more after the end
	}
	var until <-chan time.Time
	if !r.req.Until.IsZero() {
		t := time.NewTimer(time.Until(r.req.Until))
		defer t.Stop()
		until = t.C
	}
	events, pause := r.watch.events(), watchedCheck
	if events == nil || len(r.files) == 0 {
		pause = pollTime
	}
	t := time.NewTimer(pause)
	defer t.Stop()
	select {
	case <-events:
	case <-t.C:
	case <-r.done:
	case <-until:
		r.req.Follow = false // what is there by now, and no more
	case <-r.closed:
		return io.EOF
	case <-r.ctx.Done():
		return r.ctx.Err()
	}
	return nil
}

func (r *reader) isOver() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

// advance notices what happened to the file at the end of which we are: more
// was written, it was emptied, or it was rotated and a newer one exists. It
// reports whether there is something to read.
func (r *reader) advance() (bool, error) {
	if len(r.files) == 0 {
		s, err := openSource(r.path)
		if os.IsNotExist(err) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		r.files, r.live = []*source{s}, true
		return true, nil
	}
	s := r.files[0]
	now, err := inodeOf(r.path)
	rotated := err == nil && now != s.ino
	if err != nil && !os.IsNotExist(err) {
		return false, err
	}
	// Only now look at the size: nothing is added to a file once it was moved.
	fi, err := s.f.Stat()
	if err != nil {
		return false, err
	}
	switch {
	case fi.Size() > s.off:
		return true, nil
	case fi.Size() < s.off: // emptied, max-file=1
		s.off, r.buf = 0, nil
		r.f.reset()
		return fi.Size() > 0, nil
	case rotated:
		return true, r.successors(s)
	}
	return false, nil
}

// successors opens the files that are younger than s, which was rotated.
func (r *reader) successors(s *source) error {
	var younger []*source // youngest first
	found := false
	numbers, err := rotated(r.path)
	if err != nil {
		return err
	}
	for _, n := range append([]int{0}, numbers...) {
		name := r.path
		if n > 0 {
			name += "." + strconv.Itoa(n)
		}
		if ino, err := inodeOf(name); err == nil && ino == s.ino {
			found = true
			break
		}
		next, err := openSource(name)
		if os.IsNotExist(err) {
			next, err = openSource(name + ".gz")
		}
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return err
		}
		if len(younger) > 0 && younger[len(younger)-1].ino == next.ino {
			_ = next.f.Close()
			continue
		}
		younger = append(younger, next)
	}
	if !found {
		all := len(younger)
		younger = r.newer(younger)
		// Compressed, it would be among them; else it was dropped, and what
		// came behind it perhaps too.
		r.missed.Store(len(younger) == all && all > 1)
	}
	for i := len(younger) - 1; i >= 0; i-- {
		r.files = append(r.files, younger[i])
	}
	if len(r.files) > 1 {
		r.drop()
	}
	return nil
}

// newer keeps the files whose first entry is younger than the latest that was
// delivered: for a file that was compressed, and so is another one now.
func (r *reader) newer(all []*source) []*source {
	var keep []*source
	for i, s := range all {
		b := make([]byte, 64<<10)
		n, _ := s.f.ReadAt(b, 0)
		b = b[:n]
		for len(b) > 0 {
			e, n, skip, err := r.f.first(b)
			if err == errShort {
				break
			}
			b = b[n:]
			if err != nil || skip {
				continue
			}
			if !e.Time.After(r.last) && i > 0 {
				_ = s.f.Close()
				s = nil
			}
			break
		}
		if s != nil {
			keep = append(keep, s)
		}
	}
	r.f.reset()
	return keep
}

func inodeOf(name string) (inode, error) {
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err != nil {
		return inode{}, &os.PathError{Op: "stat", Path: name, Err: err}
	}
	return inode{uint64(st.Dev), st.Ino}, nil
}

// watcher tells of changes in a log's directory. A nil or broken one tells
// nothing: then the reader polls.
type watcher struct {
	f  *os.File
	ch chan struct{}
}

func newWatcher(path string) *watcher {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil
	}
	w := &watcher{f: os.NewFile(uintptr(fd), "inotify"), ch: make(chan struct{}, 1)}
	_, err = unix.InotifyAddWatch(fd, filepath.Dir(path), unix.IN_MODIFY|unix.IN_CREATE|unix.IN_MOVED_FROM|unix.IN_MOVED_TO)
	if err != nil {
		_ = w.f.Close()
		return nil
	}
	go w.run()
	return w
}

func (w *watcher) run() {
	buf := make([]byte, 4096)
	for {
		if _, err := w.f.Read(buf); err != nil {
			return
		}
		select {
		case w.ch <- struct{}{}:
		default:
		}
	}
}

func (w *watcher) events() <-chan struct{} {
	if w == nil {
		return nil
	}
	return w.ch
}

func (w *watcher) close() {
	if w != nil {
		_ = w.f.Close()
	}
}
