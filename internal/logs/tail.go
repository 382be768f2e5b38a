package logs

import (
	"errors"
	"io"

	"wharf/internal/model"
)

// tail looks for the place from which the wanted number of lines is left. A
// line that was cut into pieces counts once.
type tail struct {
	want int // lines; negative: all since req.Since
	req  model.LogsRequest
	f    format

	have  int
	begun [3]bool // the stream's latest line has been met
}

// scan goes backwards through one file and sets its offset. It reports
// whether older files are not needed.
func (t *tail) scan(s *source) (bool, error) {
	size, err := s.f.Seek(0, io.SeekEnd)
	if err != nil {
		return false, err
	}
	var b []byte // the file's bytes from at on, not decoded
	at := size
	end := size // b ends here
	found := false
	for {
		e, n, skip, err := t.f.last(b, at == 0)
		switch {
		case errors.Is(err, errShort) && at > 0:
			step := min(at, max(64<<10, int64(len(b))))
			grown := make([]byte, step, step+int64(len(b)))
			if _, err := s.f.ReadAt(grown, at-step); err != nil && !errors.Is(err, io.EOF) {
				return false, err
			}
			b, at = append(grown, b...), at-step
			continue
		case errors.Is(err, errShort):
			return found, nil
		case found && skip:
			return true, nil
		case !found && err == nil && !skip && t.full(e):
			s.off = end
			if !t.req.Details {
				return true, nil
			}
			// On to the attributes that hold from there on.
			found = true
			t.f.reset()
		}
		b = b[:len(b)-n]
		end -= int64(n)
	}
}

// full counts e, which is met backwards, and reports whether e is no longer
// wanted.
func (t *tail) full(e model.LogEntry) bool {
	if !t.req.Since.IsZero() && e.Time.Before(t.req.Since) {
		return true
	}
	if !wanted(t.req, e) || !t.req.Until.IsZero() && e.Time.After(t.req.Until) {
		return false
	}
	k := min(int(e.Stream), 2)
	if e.Partial && t.begun[k] {
		return false // a piece of a line that is counted
	}
	if t.want >= 0 && t.have == t.want {
		return true
	}
	t.begun[k] = true
	t.have++
	return false
}
