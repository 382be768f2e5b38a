package logs

import (
	"bytes"
	"encoding/json"
	"errors"
	"time"

	"wharf/internal/logs/logfile"
	"wharf/internal/model"
)

// Errors of a format.
var (
	errShort = errors.New("entry goes on behind what was read")
	errTorn  = errors.New("not an entry")
)

// maxEntry is more than any entry takes: 16 KiB, each byte escaped in six, and
// attributes.
const maxEntry = logfile.MaxRecord

// format decodes a kind of log file.
type format interface {
	// first decodes the entry at the start of b and says how long it is.
	// errShort: b may end within it. errTorn: n bytes are no entry. With
	// skip the bytes were something that is not an entry of output.
	first(b []byte) (e model.LogEntry, n int, skip bool, err error)
	// last is first for the entry at the end of b. final says that b is the
	// file's beginning: nothing comes before it.
	last(b []byte, final bool) (e model.LogEntry, n int, skip bool, err error)
	// salvage says how many bytes to give up of b, the end of a file that
	// begins with an entry which does not end.
	salvage(b []byte) int
	// reset is called when the next entry decoded is of another file.
	reset()
}

// jsonFormat is Docker's json-file.
type jsonFormat struct{}

func (jsonFormat) reset() {}

func (jsonFormat) salvage(b []byte) int { return len(b) }

func (jsonFormat) first(b []byte) (model.LogEntry, int, bool, error) {
	i := bytes.IndexByte(b, '\n')
	if i < 0 {
		if len(b) >= maxEntry {
			return model.LogEntry{}, len(b), false, errTorn
		}
		return model.LogEntry{}, 0, false, errShort
	}
	e, err := decodeJSON(b[:i])
	return e, i + 1, false, err
}

func (jsonFormat) last(b []byte, final bool) (model.LogEntry, int, bool, error) {
	if len(b) == 0 {
		return model.LogEntry{}, 0, false, errShort
	}
	if b[len(b)-1] != '\n' { // a torn end
		i := bytes.LastIndexByte(b, '\n') + 1
		if i == 0 && !final && len(b) < maxEntry {
			return model.LogEntry{}, 0, false, errShort
		}
		return model.LogEntry{}, len(b) - i, false, errTorn
	}
	i := bytes.LastIndexByte(b[:len(b)-1], '\n') + 1
	if i == 0 && !final {
		if len(b) >= maxEntry {
			return model.LogEntry{}, len(b), false, errTorn
		}
		return model.LogEntry{}, 0, false, errShort
	}
	e, err := decodeJSON(b[i : len(b)-1])
	return e, len(b) - i, false, err
}

// decodeJSON decodes one line of a json-file log.
func decodeJSON(b []byte) (model.LogEntry, error) {
	var m struct {
		Log    *string           `json:"log"`
		Stream string            `json:"stream"`
		Attrs  map[string]string `json:"attrs"`
		Time   time.Time         `json:"time"`
	}
	if err := json.Unmarshal(b, &m); err != nil || m.Log == nil {
		return model.LogEntry{}, errTorn
	}
	e := model.LogEntry{Time: m.Time, Stream: model.Stdout, Line: []byte(*m.Log), Attrs: m.Attrs}
	if m.Stream == "stderr" {
		e.Stream = model.Stderr
	}
	e.Partial = len(e.Line) == 0 || e.Line[len(e.Line)-1] != '\n'
	return e, nil
}

// localFormat is our own; see package logfile. It remembers the attributes
// that hold for what follows.
type localFormat struct{ attrs map[string]string }

func (l *localFormat) reset() { l.attrs = nil }

func (l *localFormat) salvage(b []byte) int {
	for n := 1; n < len(b); n++ {
		if _, _, err := logfile.DecodeRecord(b[n:]); err == nil {
			return n
		}
	}
	return len(b)
}

func (l *localFormat) first(b []byte) (model.LogEntry, int, bool, error) {
	r, n, err := logfile.DecodeRecord(b)
	switch {
	case errors.Is(err, logfile.ErrShort):
		return model.LogEntry{}, 0, false, errShort
	case err != nil:
		// Look for the next place where a record fits.
		for n = 1; n < len(b); n++ {
			if _, _, err := logfile.DecodeRecord(b[n:]); err == nil {
				break
			}
		}
		if n == len(b) && n > 3 {
			n -= 3 // a record may begin in what is here
		}
		return model.LogEntry{}, n, false, errTorn
	case r.Attrs != nil:
		l.attrs = r.Attrs
		return model.LogEntry{}, n, true, nil
	}
	return l.entry(r), n, false, nil
}

func (l *localFormat) last(b []byte, final bool) (model.LogEntry, int, bool, error) {
	if len(b) == 0 {
		return model.LogEntry{}, 0, false, errShort
	}
	r, n, err := logfile.LastRecord(b)
	switch {
	case errors.Is(err, logfile.ErrShort) && !final:
		return model.LogEntry{}, 0, false, errShort
	case err != nil:
		for n = 1; n < len(b); n++ {
			if _, _, err := logfile.LastRecord(b[:len(b)-n]); err == nil {
				break
			}
		}
		return model.LogEntry{}, n, false, errTorn
	case r.Attrs != nil:
		l.attrs = r.Attrs
		return model.LogEntry{}, n, true, nil
	}
	return l.entry(r), n, false, nil
}

func (l *localFormat) entry(r logfile.Record) model.LogEntry {
	e := model.LogEntry{Time: r.Time, Stream: model.StreamKind(r.Stream), Partial: r.Partial, Attrs: l.attrs}
	e.Line = make([]byte, len(r.Line), len(r.Line)+1)
	copy(e.Line, r.Line)
	if !r.Partial {
		e.Line = append(e.Line, '\n')
	}
	return e
}
