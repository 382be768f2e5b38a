package record

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const fileHeader = "wharf record 1\n"

// logFile is an append-only file of frames. append and replace are called
// with the owner's lock held; sync is not.
type logFile struct {
	path string

	file   *os.File
	size   int64 // up to here everything is good
	dirty  bool  // a failed write may have left bytes after size
	closed bool

	// fdatasync is unix.Fdatasync but in tests.
	fdatasync func(fd int) error

	syncs atomic.Int64 // fsync and fdatasync calls, all files and directories

	syncMu sync.Mutex
	synced int64 // what is known to be on the disk of the present file
	gen    int   // counts replace, so that sync does not take an old file for the new
}

// opened is what openLog had to leave out.
type opened struct {
	damage string // for a person; "" if nothing
	holes  bool   // there is something unreadable between what is good: write it anew (replace)
}

// openLog opens or makes the file and hands every payload in it to f. It
// writes nothing that is needed: a daemon has to start on a full disk too, so
// a damaged file goes on being appended to until it can be written anew. With
// keep a second name is given to it first, for a person to look at.
func openLog(path string, now time.Time, keep bool, f func(payload []byte)) (l *logFile, o opened, err error) {
	l = &logFile{path: path, fdatasync: unix.Fdatasync}
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return l, o, l.create()
	}
	if err != nil {
		return nil, o, err
	}
	if len(data) == 0 { // made, and killed before the header
		return l, o, l.create()
	}
	s := scan{}
	if len(data) >= len(fileHeader) && string(data[:len(fileHeader)]) == fileHeader {
		s = readFrames(data[len(fileHeader):], int64(len(fileHeader)), f)
	} else {
		// The first block is lost, frames may still be there.
		s = readFrames(data, 0, f)
		s.skipped++
	}
	l.file, err = os.OpenFile(path, os.O_RDWR, 0o600)
	if err != nil {
		return nil, o, err
	}
	switch {
	case s.skipped > 0:
		o.holes = true
		l.size = int64(len(data)) // readers skip what is no frame
		o.damage = fmt.Sprintf("%s was damaged: %d objects could be read, %d bytes could not", path, s.frames, s.skipped+s.tail)
		if keep {
			aside := path + ".damaged-" + now.UTC().Format("20060102T150405.000000000")
			if err := os.Link(path, aside); err != nil {
				o.damage += fmt.Sprintf("; the damaged file could not be kept: %v", err)
			} else {
				o.damage += "; the damaged file is kept as " + aside
			}
		}
		return l, o, nil
	case s.tail > 0:
		o.damage = fmt.Sprintf("%s ended in the middle of a change (%d bytes, never acknowledged or lost in a power cut); cut off", path, s.tail)
	}
	l.size, l.dirty = s.end, s.tail > 0
	return l, o, l.repair()
}

// create makes the file with its header.
func (l *logFile) create() error {
	f, err := os.OpenFile(l.path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if _, err := f.WriteString(fileHeader); err != nil {
		f.Close()
		return err
	}
	l.file, l.size = f, int64(len(fileHeader))
	return l.syncDir()
}

// repair cuts off what a failed write left.
func (l *logFile) repair() error {
	if !l.dirty {
		return nil
	}
	if err := l.file.Truncate(l.size); err != nil {
		return err
	}
	l.dirty = false
	return nil
}

// append writes whole frames at the end with one write(2). After an error
// nothing of them counts.
func (l *logFile) append(frames []byte) error {
	if l.closed {
		return os.ErrClosed
	}
	if err := l.repair(); err != nil {
		return fmt.Errorf("%s: cut off a failed write: %w", l.path, err)
	}
	if _, err := l.file.WriteAt(frames, l.size); err != nil {
		l.dirty = true
		return err // the owner keeps the old state; the tail is cut by the next write or Open
	}
	l.size += int64(len(frames))
	return nil
}

// mark names the present end, for sync.
func (l *logFile) mark() (gen int, off int64, f *os.File) { return l.gen, l.size, l.file }

// sync returns when everything up to the mark is on the disk. Callers that
// come while one syncs wait for it and share the next.
func (l *logFile) sync(current func() (int, int64, *os.File), gen int, off int64) error {
	l.syncMu.Lock()
	defer l.syncMu.Unlock()
	nowGen, nowOff, f := current()
	if nowGen != gen || l.synced >= off {
		return nil // replace syncs what it writes
	}
	l.syncs.Add(1)
	if err := l.fdatasync(int(f.Fd())); err != nil {
		return fmt.Errorf("%s: fdatasync: %w", l.path, err)
	}
	l.synced = nowOff
	return nil
}

// replacement is a new file that is being written beside the log.
type replacement struct {
	file *os.File
	size int64
}

// prepare writes frames into a new file beside the log and syncs it. It
// touches nothing of the log and needs no lock.
func (l *logFile) prepare(frames []byte) (*replacement, error) {
	f, err := os.OpenFile(l.path+".new", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	r := &replacement{file: f}
	for _, b := range [][]byte{[]byte(fileHeader), frames} {
		n, err := f.Write(b)
		r.size += int64(n)
		if err != nil {
			r.drop()
			return nil, err
		}
	}
	l.syncs.Add(1)
	if err := f.Sync(); err != nil {
		r.drop()
		return nil, err
	}
	return r, nil
}

func (r *replacement) drop() {
	name := r.file.Name()
	r.file.Close()
	os.Remove(name)
}

// replace appends what the log got since offset from, and renames r over the
// log. The caller holds syncMu and the owner's lock.
func (l *logFile) replace(r *replacement, from int64) error {
	late := make([]byte, l.size-from)
	if _, err := l.file.ReadAt(late, from); err != nil && !errors.Is(err, io.EOF) {
		r.drop()
		return err
	}
	if _, err := r.file.WriteAt(late, r.size); err != nil {
		r.drop()
		return err
	}
	l.syncs.Add(1)
	if err := unix.Fdatasync(int(r.file.Fd())); err != nil {
		r.drop()
		return err
	}
	if err := os.Rename(r.file.Name(), l.path); err != nil {
		r.drop()
		return err
	}
	l.file.Close()
	l.file, l.size, l.dirty = r.file, r.size+int64(len(late)), false
	l.synced = l.size
	l.gen++
	return l.syncDir()
}

func (l *logFile) syncDir() error {
	d, err := os.Open(filepath.Dir(l.path))
	if err != nil {
		return err
	}
	defer d.Close()
	l.syncs.Add(1)
	return d.Sync()
}

func (l *logFile) close() error {
	if l.closed {
		return nil
	}
	l.closed = true
	return l.file.Close()
}
