package logfile

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"wharf/internal/logs/logopts"
)

// file is a rotated log file with the entries that are not written yet. The
// formats encode into buf and call entry's end.
type file struct {
	path string
	opts logopts.File
	lose loser
	// head, when set, is written at the start of each new file.
	head []byte

	f    *os.File // nil: could not be opened, tried again at the next write
	size int64

	buf          []byte
	lines, bytes uint64 // of output in buf
	start        int    // of the entry that is being encoded
	pack         packer
}

// openFile opens the current file. repair is given the file and its size and
// returns how much of it is whole.
func openFile(p Plan, head []byte, lose loser, repair func(*os.File, int64) (int64, error)) (*file, error) {
	if p.Path == "" {
		return nil, fmt.Errorf("log driver %s: the plan has no path", p.Driver)
	}
	o, err := logopts.ParseFile(p.Options)
	if err != nil {
		return nil, err
	}
	l := &file{path: p.Path, opts: o, lose: lose, head: head}
	if err := l.open(); err != nil {
		return nil, err
	}
	if whole, err := repair(l.f, l.size); err == nil && whole < l.size {
		if err := l.f.Truncate(whole); err != nil {
			return nil, err
		}
		l.size = whole
	}
	return l, nil
}

// open opens the current file at its end. Mode 0600: output is private.
func (l *file) open() error {
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	end, err := f.Seek(0, 2)
	if err != nil {
		_ = f.Close()
		return err
	}
	l.f, l.size = f, end
	return nil
}

// begin starts an entry; the caller appends its encoding to l.buf.
func (l *file) begin() { l.start = len(l.buf) }

// end ends the entry e, rotating in front of it if it does not fit.
func (l *file) end(e entry) {
	if l.opts.MaxSize > 0 && l.size+int64(l.start) > int64(len(l.head)) && l.size+int64(len(l.buf)) > l.opts.MaxSize {
		enc := append([]byte(nil), l.buf[l.start:]...)
		l.buf = l.buf[:l.start]
		l.commit()
		if err := l.rotate(); err != nil {
			l.lose(1, uint64(len(e.line)), err)
			return
		}
		l.buf = append(l.buf, enc...)
	}
	if !e.marker {
		l.lines++
		l.bytes += uint64(len(e.line))
		if !e.partial {
			l.bytes++
		}
	}
}

// commit writes what was encoded, in one write.
func (l *file) commit() {
	if len(l.buf) == 0 {
		return
	}
	err := l.flush()
	if err != nil {
		l.lose(l.lines, l.bytes, err)
	}
	l.lines, l.bytes = 0, 0
	if cap(l.buf) > 128<<10 {
		l.buf = nil
	}
	l.buf = l.buf[:0]
}

func (l *file) flush() error {
	if l.f == nil {
		if err := l.open(); err != nil {
			return err
		}
	}
	if l.size == 0 && len(l.head) > 0 {
		if err := l.write(l.head); err != nil {
			return err
		}
	}
	return l.write(l.buf)
}

// write appends p whole or not at all.
func (l *file) write(p []byte) error {
	n, err := l.f.Write(p)
	if err != nil {
		if n > 0 {
			// A torn entry would make the next one unreadable.
			err = errors.Join(err, l.f.Truncate(l.size))
		}
		return err
	}
	l.size += int64(n)
	return nil
}

// rotate makes the current file Path.1, Path.1 Path.2 and so on, and opens a
// new one. With one file only, it is emptied.
func (l *file) rotate() error {
	if l.opts.MaxFile == 1 {
		if l.f != nil {
			if err := l.f.Truncate(0); err != nil {
				return err
			}
			l.size = 0
		}
		return nil
	}
	l.pack.wait()
	// The current file is missing when an earlier rotation could not open a
	// new one: then the others have moved already.
	if exists(l.path) {
		if err := l.shift(); err != nil {
			return err
		}
	}
	old := l.f
	l.f = nil
	if err := l.open(); err != nil {
		l.f = old // still Path.1: better there than nowhere
		return err
	}
	if old != nil {
		_ = old.Close()
	}
	if l.opts.Compress {
		l.pack.start(l.numbered(1))
	}
	return nil
}

// shift renames every file to the next number and drops the oldest.
func (l *file) shift() error {
	last := l.opts.MaxFile - 1
	for _, name := range []string{l.numbered(last), l.numbered(last) + ".gz"} {
		if err := os.Remove(name); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	for i := last; i > 0; i-- {
		if i > 1 {
			if err := os.Rename(l.numbered(i-1)+".gz", l.numbered(i)+".gz"); err != nil && !os.IsNotExist(err) {
				return err
			}
		}
		if err := os.Rename(l.numbered(i-1), l.numbered(i)); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	return nil
}

func exists(path string) bool { _, err := os.Lstat(path); return err == nil }

// numbered is the name of the i-th youngest file; 0 is the current one.
func (l *file) numbered(i int) string {
	if i == 0 {
		return l.path
	}
	return l.path + "." + strconv.Itoa(i)
}

func (l *file) close() error {
	l.commit()
	l.pack.stop()
	if l.f == nil {
		return nil
	}
	err := l.f.Close()
	l.f = nil
	return err
}
