// Package logfile writes a container's output to its log. It is linked into
// wharf-monitor: it imports nothing big (no net, no model) and encodes by
// hand.
//
// # Owns
//
// For drivers that send elsewhere also the way there: a socket, or the process
// wharf-logger (package ship), which follows the file.
//
// While the container runs, the file LogPlan.Path, the rotated ones beside it
// (Path.1 is the youngest; Path.N.gz when compressed) and their temporary
// files. The reader (package logs) never writes them.
//
// # Invariants
//
// Output that was read from the process is in the file when Write returns,
// except for an unfinished line of less than 16 KiB (and with
// mode=non-blocking). One call of Write makes one write(2) for each file it
// touches. A write that fails leaves no torn entry behind, is counted, and is
// told by an entry of its own as soon as writing works again; the container
// never notices.
//
// # Formats
//
// json-file: one JSON object a line, Docker's keys in Docker's order:
//
//	{"log":"text\n","stream":"stdout","attrs":{"k":"v"},"time":"2006-01-02T15:04:05.999999999Z"}
//
// A line longer than 16 KiB is several objects; all but the last have no
// "\n" at the end of log, and all have the first one's time. Invalid UTF-8
// becomes U+FFFD.
//
// local: binary records, each
//
//	uint32 n | n bytes of body | uint32 crc32(body), Castagnoli | uint32 n
//
// with integers big-endian, so that a file can be read from either end and a
// torn end is noticed. A body is one byte of kind and, for output, the time as
// int64 nanoseconds since 1970 and the raw bytes without the newline; kind is
// 1 stdout or 2 stderr, plus 4 if the line goes on in the next record of that
// stream. Kind 16 is the file's attributes, a JSON object of strings; it holds
// for the records behind it.
package logfile

import (
	"bytes"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"wharf/internal/logs/logopts"
)

// Plan says where output goes. Its JSON is that of the daemon's
// model.LogPlan, which says what the fields mean, and ContainerID.
type Plan struct {
	Driver        string            `json:"driver"`
	Path          string            `json:"path,omitempty"`
	Options       map[string]string `json:"options,omitempty"`
	Attrs         map[string]string `json:"attrs,omitempty"`
	Tag           string            `json:"tag,omitempty"`
	ContainerName string            `json:"containerName,omitempty"`
	ImageName     string            `json:"imageName,omitempty"`
	ImageID       string            `json:"imageId,omitempty"`
	Command       string            `json:"command,omitempty"`
	Created       time.Time         `json:"created,omitzero"`
	ContainerID   string            `json:"containerId,omitempty"`
	Logger        string            `json:"logger,omitempty"` // path of wharf-logger
}

// The streams, by their numbers in Docker's multiplexed stream.
const (
	Stdout byte = 1
	Stderr byte = 2
)

// MaxLine is the longest piece of a line in one entry, as Docker's.
const MaxLine = 16 << 10

// State tells how the log is doing.
type State struct {
	Driver    string
	LostLines uint64
	LostBytes uint64
	Gaps      uint64
	Failing   string // the error now; "": the last write worked
}

// entry is one line, or piece of a line.
type entry struct {
	at      time.Time
	stream  byte
	line    []byte // without newline; valid until add returns
	partial bool   // no newline follows in this entry
	marker  bool   // not output: tells of a gap
}

// sink is one driver. It is called with the log's lock held. What cannot be
// written is dropped and told to the loser that it was opened with.
type sink interface {
	// add takes an entry. It may keep an encoded copy until commit.
	add(e entry)
	// commit returns when everything added is written or given up.
	commit()
	close() error
}

// sender is a sink whose add has sent the entry when it returns.
type sender interface {
	sink
	sends()
}

// loser is told how many lines and bytes of output were dropped, and why.
type loser func(lines, bytes uint64, err error)

// Log is an open log. Its methods may be called from any goroutine.
type Log struct {
	mu     sync.Mutex
	sink   sink
	state  State
	split  [3]splitter
	gap    gap
	closed bool
	shown  atomic.Pointer[State] // for State, which does not wait for a write that hangs

	failed  bool  // the present batch lost something
	telling bool  // it has the entry that tells of the gap
	ring    *ring // mode=non-blocking
}

// gap is output that was lost and not yet told of.
type gap struct {
	lines, bytes uint64
	since        time.Time
	why          string
}

// Open opens the log of plan, repairing the end of a file that an earlier run
// left torn.
func Open(p Plan) (*Log, error) {
	if err := logopts.Check(p.Driver, p.Options); err != nil {
		return nil, err
	}
	l := &Log{state: State{Driver: p.Driver}}
	var err error
	switch p.Driver {
	case logopts.JSONFile:
		l.sink, err = openJSON(p, l.lose)
	case logopts.Local:
		l.sink, err = openLocal(p, l.lose)
	case logopts.None:
		l.sink = none{}
	default:
		l.sink, err = openRemote(p, l.lose)
	}
	if err != nil {
		return nil, err
	}
	l.show()
	mode, err := logopts.ParseMode(p.Options)
	if err != nil {
		return nil, err
	}
	if mode.NonBlocking && p.Driver != logopts.None {
		l.ring = newRing(mode.Buffer, l)
	}
	return l, nil
}

// Write takes the next bytes of a stream. It cannot fail: see State.
func (l *Log) Write(stream byte, p []byte) {
	if l.ring != nil {
		l.ring.put(stream, p)
		return
	}
	l.write(stream, p)
}

func (l *Log) write(stream byte, p []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	l.begin()
	l.split[stream].feed(p, func(e entry) {
		e.stream = stream
		l.sink.add(e)
	})
	l.commit()
}

// Flush writes the unfinished line of a stream that has ended.
func (l *Log) Flush(stream byte) {
	if l.ring != nil {
		l.ring.wait()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	l.begin()
	l.split[stream].flush(func(e entry) {
		e.stream = stream
		l.sink.add(e)
	})
	l.commit()
}

// State returns the counts of this run.
func (l *Log) State() State {
	s := *l.shown.Load()
	if r := l.ring; r != nil {
		r.mu.Lock()
		s.LostLines += r.lostLines
		s.LostBytes += r.lostBytes
		r.mu.Unlock()
	}
	return s
}

// show makes the state visible. The lock is held.
func (l *Log) show() {
	if old := l.shown.Load(); old == nil || *old != l.state {
		s := l.state
		l.shown.Store(&s)
	}
}

// Close closes the log. Output that comes later is dropped.
func (l *Log) Close() error {
	if l.ring != nil {
		l.ring.close()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	return l.sink.close()
}

// begin starts a batch: if there is a gap, with the entry that tells of it.
// That one is written together with what follows, so that a disk with room for
// it alone does not fill with such entries.
func (l *Log) begin() {
	l.failed, l.telling = false, !l.gap.since.IsZero()
	if !l.telling {
		return
	}
	l.sink.add(entry{at: time.Now(), stream: Stderr, line: l.gap.text(), marker: true})
	if _, ok := l.sink.(sender); ok && !l.failed {
		l.gap, l.telling = gap{}, false
	}
}

// commit ends a batch.
func (l *Log) commit() {
	defer l.show()
	l.sink.commit()
	if l.failed {
		return
	}
	l.state.Failing = ""
	if l.telling {
		l.gap = gap{}
	}
}

// lose is the sink's loser. The lock is held.
func (l *Log) lose(lines, bytes uint64, err error) {
	l.failed = true
	if l.gap.since.IsZero() {
		l.gap.since = time.Now()
		l.state.Gaps++
	}
	l.gap.lines += lines
	l.gap.bytes += bytes
	l.gap.why = err.Error()
	l.state.LostLines += lines
	l.state.LostBytes += bytes
	l.state.Failing = err.Error()
}

// text says what was lost.
func (g gap) text() []byte {
	return fmt.Appendf(nil, "[wharf: %d lines (%d bytes) of output were lost from %s on: %s]",
		g.lines, g.bytes, g.since.UTC().Format(time.RFC3339), g.why)
}

// splitter cuts a stream into lines.
type splitter struct {
	rest  []byte    // an unfinished line
	first time.Time // of the unfinished line's first piece, if one was cut
}

// feed calls f for each line and each full piece of MaxLine bytes. The line is
// only valid during the call.
func (s *splitter) feed(p []byte, f func(entry)) {
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		n := i
		if i < 0 {
			n = len(p)
		}
		if room := MaxLine - len(s.rest); n >= room {
			// No newline within MaxLine bytes: cut a piece.
			s.rest = append(s.rest, p[:room]...)
			p = p[room:]
			if s.first.IsZero() {
				s.first = time.Now()
			}
			f(entry{at: s.first, line: s.rest, partial: true})
			s.rest = s.rest[:0]
			continue
		}
		if i < 0 {
			s.rest = append(s.rest, p...)
			return
		}
		at, line := s.first, p[:i]
		if at.IsZero() {
			at = time.Now()
		}
		if len(s.rest) > 0 {
			s.rest = append(s.rest, line...)
			line = s.rest
		}
		f(entry{at: at, line: line})
		s.rest, s.first = s.rest[:0], time.Time{}
		p = p[i+1:]
	}
}

// flush calls f for an unfinished line, as a piece that nothing follows.
func (s *splitter) flush(f func(entry)) {
	if len(s.rest) == 0 {
		return
	}
	at := s.first
	if at.IsZero() {
		at = time.Now()
	}
	f(entry{at: at, line: s.rest, partial: true})
	s.rest, s.first = nil, time.Time{}
}

// none drops everything.
type none struct{}

func (none) add(entry)    {}
func (none) commit()      {}
func (none) close() error { return nil }
