package logs

import (
	"compress/gzip"
	"context"
	"errors"
	"io"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"wharf/internal/model"
)

// reader reads the files of one log, oldest first.
type reader struct {
	ctx  context.Context
	path string
	f    format
	req  model.LogsRequest
	done <-chan struct{} // the container has ended

	closeOnce sync.Once
	closed    chan struct{}

	mu sync.Mutex // over the rest; Next holds it

	// files are what is still to be read, oldest first; the last one is the
	// current file, if live.
	files []*source
	live  bool // the last of files is (or was) at path

	buf   []byte // read and not decoded, from files[0] at off-len(buf)
	last  time.Time
	watch *watcher

	missed atomic.Bool
}

// Missed reports, once each time, that the writer dropped files which this
// reader had perhaps not read: a follower that is too slow.
func (r *reader) Missed() bool { return r.missed.Swap(false) }

// source is an open log file. A compressed one was unpacked into a file
// without a name.
type source struct {
	f   *os.File
	off int64 // read so far
	ino inode
}

type inode struct{ dev, ino uint64 }

func newReader(ctx context.Context, path string, f format, r model.LogsRequest, done <-chan struct{}) *reader {
	return &reader{ctx: ctx, path: path, f: f, req: r, done: done, closed: make(chan struct{})}
}

// open opens the files and seeks to the first entry that is wanted. Youngest
// first: a rotation meanwhile then shows a file twice, not never.
func (r *reader) open() error {
	if r.req.Follow {
		r.watch = newWatcher(r.path) // before looking, so that nothing is missed
	}
	seen := map[inode]bool{}
	add := func(name string) error {
		s, err := openSource(name)
		if err != nil {
			return err
		}
		if seen[s.ino] {
			return s.f.Close()
		}
		seen[s.ino] = true
		r.files = append([]*source{s}, r.files...)
		return nil
	}
	switch err := add(r.path); {
	case err == nil:
		r.live = true
	case !os.IsNotExist(err):
		return err
	}
	want := r.req.Tail
	if want == 0 {
		return r.toEnd()
	}
	if want < 0 && r.req.Since.IsZero() {
		return r.openRotated(add)
	}
	// From the end backwards, opening older files only while lines lack.
	t := tail{want: want, req: r.req, f: r.f}
	if r.live {
		if full, err := t.scan(r.files[0]); err != nil || full {
			return err
		}
	}
	numbers, err := rotated(r.path)
	if err != nil {
		return err
	}
	for _, n := range numbers {
		before := len(r.files)
		if err := addRotated(add, r.path, n); err != nil {
			return err
		}
		if len(r.files) == before {
			continue
		}
		if full, err := t.scan(r.files[0]); err != nil || full {
			return err
		}
	}
	return nil
}

// toEnd skips everything that is there: tail 0.
func (r *reader) toEnd() error {
	if !r.live {
		return nil
	}
	end, err := r.files[0].f.Seek(0, io.SeekEnd)
	r.files[0].off = end
	return err
}

func (r *reader) openRotated(add func(string) error) error {
	numbers, err := rotated(r.path)
	if err != nil {
		return err
	}
	for _, n := range numbers {
		if err := addRotated(add, r.path, n); err != nil {
			return err
		}
	}
	return nil
}

// addRotated adds the n-th file, compressed or not. One that has gone
// meanwhile is no error.
func addRotated(add func(string) error, path string, n int) error {
	name := path + "." + strconv.Itoa(n)
	err := add(name)
	if os.IsNotExist(err) {
		err = add(name + ".gz")
	}
	if os.IsNotExist(err) {
		err = add(name) // it was being moved
	}
	if os.IsNotExist(err) {
		return nil
	}
	return err
}

// openSource opens a log file; ".gz" is unpacked.
func openSource(name string) (*source, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		_ = f.Close()
		return nil, os.NewSyscallError("fstat", err)
	}
	s := &source{f: f, ino: inode{uint64(st.Dev), st.Ino}}
	if len(name) < 3 || name[len(name)-3:] != ".gz" {
		return s, nil
	}
	defer f.Close()
	s.f, err = unpack(f)
	return s, err
}

// unpack copies a compressed file's content into a file without a name. What
// can be read of a damaged one is kept.
func unpack(in *os.File) (*os.File, error) {
	tmp, err := os.CreateTemp("", "wharf-log-")
	if err != nil {
		return nil, err
	}
	_ = os.Remove(tmp.Name())
	z, err := gzip.NewReader(in)
	if err != nil {
		return tmp, nil
	}
	if _, err := io.Copy(tmp, z); err != nil {
		var p *os.PathError
		if errors.As(err, &p) { // our disk, not the file
			_ = tmp.Close()
			return nil, err
		}
	}
	return tmp, nil
}

// Next returns the next entry that was asked for.
func (r *reader) Next() (model.LogEntry, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		e, err := r.decode()
		if err != nil {
			return model.LogEntry{}, err
		}
		r.last = e.Time
		if !r.req.Until.IsZero() && e.Time.After(r.req.Until) {
			return model.LogEntry{}, io.EOF
		}
		if !wanted(r.req, e) {
			continue
		}
		if !r.req.Details {
			e.Attrs = nil
		}
		return e, nil
	}
}

// wanted applies the choice of streams and the beginning of the time.
func wanted(r model.LogsRequest, e model.LogEntry) bool {
	if e.Stream == model.Stderr && !r.Stderr || e.Stream != model.Stderr && !r.Stdout {
		return false
	}
	return r.Since.IsZero() || !e.Time.Before(r.Since)
}

// decode returns the next entry of the files.
func (r *reader) decode() (model.LogEntry, error) {
	for {
		select {
		case <-r.closed:
			return model.LogEntry{}, io.EOF
		default:
		}
		if len(r.buf) > 0 {
			e, n, skip, err := r.f.first(r.buf)
			r.buf = r.buf[n:]
			if err == nil && !skip {
				return e, nil
			}
			if err == nil || errors.Is(err, errTorn) {
				continue
			}
		}
		more, err := r.fill()
		if err != nil {
			return model.LogEntry{}, err
		}
		if more {
			continue
		}
		if err := r.atEnd(); err != nil {
			return model.LogEntry{}, err
		}
	}
}

// fill reads on in the present file. It reports false at its end.
func (r *reader) fill() (bool, error) {
	if len(r.files) == 0 {
		return false, nil
	}
	s := r.files[0]
	const step = 64 << 10
	b := make([]byte, len(r.buf), max(2*len(r.buf), step))
	copy(b, r.buf)
	n, err := s.f.ReadAt(b[len(b):cap(b)], s.off)
	if err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	if n == 0 {
		return false, nil
	}
	s.off += int64(n)
	r.buf = b[:len(b)+n]
	return true, nil
}

// atEnd goes on to the next file, or waits for more, or ends.
func (r *reader) atEnd() error {
	if len(r.files) > 1 {
		if len(r.buf) > 0 {
			r.buf = r.buf[r.f.salvage(r.buf):] // a finished file's torn end
			return nil
		}
		r.drop()
		return nil
	}
	if !r.req.Follow {
		if len(r.buf) > 0 {
			r.buf = r.buf[r.f.salvage(r.buf):]
			return nil
		}
		return io.EOF
	}
	return r.await()
}

// drop closes the present file, which was read to its end.
func (r *reader) drop() {
	_ = r.files[0].f.Close()
	r.files = r.files[1:]
	r.buf = nil
	r.f.reset()
}

// Close ends a Next that waits, too.
func (r *reader) Close() error {
	r.closeOnce.Do(func() {
		close(r.closed)
		r.mu.Lock()
		r.free()
		r.mu.Unlock()
	})
	return nil
}

// free closes what is open.
func (r *reader) free() {
	for _, s := range r.files {
		_ = s.f.Close()
	}
	r.files = nil
	r.watch.close()
}
