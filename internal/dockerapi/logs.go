package dockerapi

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"sort"
	"strconv"
	"strings"
	"sync"

	"wharf/internal/model"
)

// logTime is RFC 3339 with all nine digits, so that columns line up.
const logTime = "2006-01-02T15:04:05.000000000Z07:00"

func (c *call) logsRequest() (model.LogsRequest, error) {
	r := model.LogsRequest{
		Stdout: c.truth("stdout"), Stderr: c.truth("stderr"),
		Follow: c.truth("follow"), Details: c.truth("details"), Tail: -1,
	}
	if !r.Stdout && !r.Stderr {
		return r, invalid("must specify at least one of 'stdout' or 'stderr'")
	}
	var err error
	if r.Since, err = parseTime("since", c.get("since")); err != nil {
		return r, err
	}
	if text := c.get("until"); text != "0" {
		if r.Until, err = parseTime("until", text); err != nil {
			return r, err
		}
	}
	if text := c.get("tail"); text != "" && text != "all" {
		// Anything else that is no number means all, as in Docker.
		if n, err := strconv.Atoi(text); err == nil && n >= 0 {
			r.Tail = n
		}
	}
	if since := r.Since; !since.IsZero() && since.Unix() == 0 && since.Nanosecond() == 0 {
		r.Since = r.Since.AddDate(-1, 0, 0) // since=0 is "from the beginning"
	}
	return r, nil
}

func (s *server) logs(c *call) error { return s.sendLogs(c, s.Containers.Logs) }

// sendLogs answers with the log that open opens.
func (s *server) sendLogs(c *call, open func(context.Context, string, model.LogsRequest) (model.LogReader, bool, error)) error {
	r, err := c.logsRequest()
	if err != nil {
		return err
	}
	lr, tty, err := open(c.ctx(), c.name, r)
	if err != nil {
		return err
	}
	var once sync.Once
	closeLog := func() { once.Do(func() { _ = lr.Close() }) }
	defer closeLog()
	// A reader that waits for more output ends with the client.
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-c.ctx().Done():
			closeLog()
		case <-stop:
		}
	}()

	c.w.Header().Set("Content-Type", streamType(c.v, !tty))
	c.w.WriteHeader(http.StatusOK)
	c.flush()
	p := newPump(c.w)
	f := logFormat{times: c.truth("timestamps"), details: r.Details, multi: !tty}
	err = copyLog(lr, f, p)
	if perr := p.close(); err == nil {
		err = perr
	}
	if c.ctx().Err() != nil {
		return nil
	}
	return err
}

func copyLog(lr model.LogReader, f logFormat, p *pump) error {
	for {
		e, err := lr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if !p.put(func(to []byte) []byte { return f.append(to, e) }) {
			return nil // the client is gone
		}
	}
}

// logFormat writes log entries as Docker's clients expect them.
type logFormat struct {
	times, details, multi bool

	line   []byte
	middle [3]bool // by stream: the last piece did not end its line
}

func (f *logFormat) append(to []byte, e model.LogEntry) []byte {
	f.line = f.line[:0]
	k := e.Stream % 3
	if !f.middle[k] { // a time in the middle of a long line would break it
		if f.times {
			f.line = e.Time.UTC().AppendFormat(f.line, logTime)
			f.line = append(f.line, ' ')
		}
		if f.details {
			f.line = append(f.line, attrText(e.Attrs)...)
			f.line = append(f.line, ' ')
		}
	}
	f.middle[k] = e.Partial
	f.line = append(f.line, e.Line...)
	if !f.multi {
		return append(to, f.line...)
	}
	return appendFrame(to, e.Stream, f.line)
}

// attrText is k=v,k=v with both sides escaped.
func attrText(attrs map[string]string) string {
	all := make([]string, 0, len(attrs))
	for k, v := range attrs {
		all = append(all, url.QueryEscape(k)+"="+url.QueryEscape(v))
	}
	sort.Strings(all)
	return strings.Join(all, ",")
}
