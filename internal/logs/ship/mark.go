package ship

import (
	"fmt"
	"os"
	"time"
)

// mark remembers which entry was delivered last, in a file of one line: the
// entry's time in nanoseconds since 1970, and the process that sends.
type mark struct {
	f       *os.File
	at      time.Time
	written time.Time // the value of at that is in the file
	flushed time.Time
	looked  time.Time
}

// markTime is how often the file is written while all goes well: after a crash
// so much is sent twice.
const markTime = time.Second

const markForm = "%019d %010d\n"

func openMark(path string) (*mark, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	m := &mark{f: f}
	if at, _, ok := m.read(); ok && at > 0 {
		m.at = time.Unix(0, at)
	}
	m.written = m.at
	m.write()
	return m, nil
}

func (m *mark) read() (at int64, pid int, ok bool) {
	b := make([]byte, 64)
	n, _ := m.f.ReadAt(b, 0)
	k, err := fmt.Sscanf(string(b[:n]), "%d %d\n", &at, &pid)
	return at, pid, err == nil && k == 2
}

// next is the time of the first entry that was not delivered; zero for all.
func (m *mark) next() time.Time {
	if m.at.IsZero() {
		return m.at
	}
	return m.at.Add(1)
}

func (m *mark) set(at time.Time) {
	m.at = at
	if time.Since(m.flushed) >= markTime {
		m.flush()
	}
}

// flush writes what is not written yet.
func (m *mark) flush() {
	if !m.at.Equal(m.written) && !m.superseded() {
		m.write()
	}
}

func (m *mark) write() {
	at := int64(0)
	if !m.at.IsZero() {
		at = m.at.UnixNano()
	}
	// An error costs a repetition after a crash, no more.
	_, _ = m.f.WriteAt(fmt.Appendf(nil, markForm, at, os.Getpid()), 0)
	m.written, m.flushed = m.at, time.Now()
}

// superseded reports, at most once in a tenth of a second anew, that another
// process sends now.
func (m *mark) superseded() bool {
	if time.Since(m.looked) < markTime/10 {
		return false
	}
	m.looked = time.Now()
	_, pid, ok := m.read()
	return ok && pid != os.Getpid()
}

func (m *mark) close() {
	m.looked = time.Time{}
	m.flush()
	_ = m.f.Close()
}
