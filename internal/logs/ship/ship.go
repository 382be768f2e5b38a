// Package ship is wharf-logger: it sends one container's output to a
// collector (fluentd, gelf, syslog over TCP or TLS). It follows the copy of the
// output that wharf-monitor writes, so the collector may be slow, or not there
// for a while, and neither the container nor its output is harmed: the copy is
// the buffer. See docs/decisions/log-shipping.md.
//
// # Owns
//
// The connection to the collector, and beside the copy the file "<copy>.sent":
// the time of the last entry that was delivered, so that a new process, or the
// container's next run, goes on behind it.
//
// # Protocol with the monitor
//
// stdin is one line, logfile.Plan in JSON, and stays open while the container
// runs. stdout is one line, "ok" or what is wrong, and stays open while this
// process lives. After the end of stdin what is left is sent, for DrainTime at
// most.
//
// # Invariants
//
// Entries are delivered in order, each at least once as far as the protocol
// tells: with acknowledgements (fluentd-request-ack) that is certain; what was
// written to a connection that breaks just then may be lost. An entry is given
// up only after as many attempts as the user's options say (none: never), and
// then an entry of its own tells the collector of the gap.
package ship

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"wharf/internal/logs"
	"wharf/internal/logs/logfile"
	"wharf/internal/logs/logopts"
	"wharf/internal/model"
)

// DrainTime bounds the sending after the container's end.
const DrainTime = 10 * time.Second

// maxWait is the longest wait between two attempts.
const maxWait = 5 * time.Second

// target is a collector.
type target interface {
	// open connects, unless the protocol or the user needs no connection yet.
	open(ctx context.Context) error
	// send delivers one entry, connecting when it has to. errRefused: this
	// entry will never be taken.
	send(ctx context.Context, e entry) error
	close()
}

// errRefused is wrapped by errors that another attempt does not change.
var errRefused = errors.New("not sent")

// errSuperseded ends a process when the container runs again, with another.
var errSuperseded = errors.New("another process sends now")

// entry is a line, or a piece of one.
type entry struct {
	model.LogEntry
	text []byte // without the newline
	part *part  // of a line that was cut; else nil
}

// part says which piece of a line an entry is.
type part struct {
	id      string
	ordinal int
	last    bool
}

// Main runs until the container has ended and its output is sent.
func Main(stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	in := bufio.NewReader(stdin)
	s, err := begin(ctx, in)
	if err != nil {
		_, _ = fmt.Fprintln(stdout, oneLine(err.Error()))
		return 1
	}
	s.stderr = stderr
	if _, err := fmt.Fprintln(stdout, "ok"); err != nil {
		return 1
	}
	go func() {
		_, _ = io.Copy(io.Discard, in)
		close(s.done)
		time.Sleep(DrainTime)
		cancel()
	}()
	if err := s.run(ctx); err != nil && !errors.Is(err, context.Canceled) {
		_, _ = fmt.Fprintln(stderr, "wharf-logger:", err)
		return 1
	}
	return 0
}

func oneLine(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c < ' ' {
			b[i] = ' '
		}
	}
	return string(b)
}

// shipment is one container's output on its way.
type shipment struct {
	plan   logfile.Plan
	to     target
	retry  logopts.Retry
	done   chan struct{} // the container has ended
	mark   *mark
	log    model.LogReader
	stderr io.Writer

	cut  [3]*part
	lost struct {
		lines, bytes uint64
		since        time.Time
		why          error
	}
	failing bool
}

// begin reads the plan, opens the copy and connects.
func begin(ctx context.Context, in *bufio.Reader) (*shipment, error) {
	line, err := in.ReadBytes('\n')
	if err != nil {
		return nil, fmt.Errorf("wharf-logger is started by wharf-monitor and not by hand: %w", err)
	}
	s := &shipment{done: make(chan struct{})}
	if err := json.Unmarshal(line, &s.plan); err != nil {
		return nil, fmt.Errorf("log plan: %w", err)
	}
	if s.to, s.retry, err = newTarget(s.plan); err != nil {
		return nil, err
	}
	if s.mark, err = openMark(s.plan.Path + ".sent"); err != nil {
		return nil, err
	}
	s.log, err = logs.New().Read(ctx, model.LogPlan{Driver: logopts.Local, Path: s.plan.Path},
		model.LogsRequest{Stdout: true, Stderr: true, Since: s.mark.next(), Tail: -1, Follow: true}, s.done)
	if err != nil {
		return nil, err
	}
	return s, s.to.open(ctx)
}

// newTarget makes the driver's target.
func newTarget(p logfile.Plan) (target, logopts.Retry, error) {
	switch p.Driver {
	case logopts.Fluentd:
		o, err := logopts.ParseFluentd(p.Options)
		return newFluentd(p, o), o.Retry, err
	case logopts.GELF:
		o, err := logopts.ParseGELF(p.Options)
		return newGELF(p, o), o.Retry, err
	case logopts.Syslog:
		o, err := logopts.ParseSyslog(p.Options)
		if err != nil {
			return nil, logopts.Retry{}, err
		}
		t, err := newSyslog(p, o)
		return t, logopts.Retry{Max: -1, Wait: time.Second}, err
	}
	return nil, logopts.Retry{}, fmt.Errorf("wharf-logger knows no log driver %q", p.Driver)
}

// run sends until the log ends.
func (s *shipment) run(ctx context.Context) error {
	defer s.to.close()
	defer s.mark.close()
	stop := context.AfterFunc(ctx, func() { _ = s.log.Close() })
	defer stop()
	for {
		e, err := s.log.Next()
		if errors.Is(err, io.EOF) {
			return ctx.Err()
		}
		if err != nil {
			return err
		}
		if s.mark.superseded() {
			return nil
		}
		if m, ok := s.log.(interface{ Missed() bool }); ok && m.Missed() {
			text := fmt.Appendf(nil, "[wharf: output from %s on may be missing here: the collector was away for longer than the log's copy holds]", s.mark.at.UTC().Format(time.RFC3339))
			_ = s.attempt(ctx, entry{LogEntry: model.LogEntry{Time: e.Time, Stream: model.Stderr}, text: text})
		}
		if err := s.deliver(ctx, s.entry(e)); errors.Is(err, errSuperseded) {
			return nil
		} else if err != nil {
			return err
		}
		s.mark.set(e.Time)
	}
}

// entry notices the pieces of cut lines.
func (s *shipment) entry(e model.LogEntry) entry {
	out := entry{LogEntry: e, text: e.Line}
	if n := len(out.text); n > 0 && out.text[n-1] == '\n' {
		out.text = out.text[:n-1]
	}
	k := e.Stream % 3
	if !e.Partial && s.cut[k] == nil {
		return out
	}
	p := part{ordinal: 1, last: !e.Partial}
	if old := s.cut[k]; old != nil {
		p.id, p.ordinal = old.id, old.ordinal+1
	} else {
		p.id = string(model.NewID())
	}
	if s.cut[k] = &p; p.last {
		s.cut[k] = nil
	}
	out.part = &p
	return out
}

// deliver sends e until it is delivered or given up. The error is ctx's, or
// errSuperseded.
func (s *shipment) deliver(ctx context.Context, e entry) error {
	if s.lost.lines > 0 {
		if err := s.attempt(ctx, s.gap()); err == nil {
			s.lost.lines, s.lost.bytes = 0, 0
		} else if ctx.Err() != nil || errors.Is(err, errSuperseded) {
			return err
		}
	}
	err := s.attempt(ctx, e)
	if err == nil || ctx.Err() != nil || errors.Is(err, errSuperseded) {
		return err
	}
	if s.lost.lines == 0 {
		s.lost.since = e.Time
	}
	s.lost.lines++
	s.lost.bytes += uint64(len(e.text))
	s.lost.why = err
	return nil
}

// gap tells the collector what it did not get.
func (s *shipment) gap() entry {
	text := fmt.Appendf(nil, "[wharf: %d lines (%d bytes) of output were not delivered from %s on: %s]",
		s.lost.lines, s.lost.bytes, s.lost.since.UTC().Format(time.RFC3339), s.lost.why)
	return entry{LogEntry: model.LogEntry{Time: time.Now(), Stream: model.Stderr}, text: text}
}

// attempt sends e, again and again as the options say.
func (s *shipment) attempt(ctx context.Context, e entry) error {
	wait := max(s.retry.Wait, 100*time.Millisecond)
	for try := 0; ; try++ {
		err := s.to.send(ctx, e)
		if err == nil {
			s.tell(nil)
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		s.tell(err)
		if errors.Is(err, errRefused) || s.retry.Max >= 0 && try >= s.retry.Max {
			return err
		}
		s.mark.flush()
		t := time.NewTimer(min(wait, maxWait))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
		wait = wait * 3 / 2
		if s.mark.superseded() {
			return errSuperseded
		}
	}
}

// tell writes a change between working and failing where a person who looks
// for it finds it: the instance's monitor.log.
func (s *shipment) tell(err error) {
	if s.failing == (err != nil) {
		return
	}
	s.failing = err != nil
	if err != nil {
		_, _ = fmt.Fprintf(s.stderr, "%s wharf-logger: %s: %v; it is tried again\n", time.Now().UTC().Format(time.RFC3339), s.plan.Driver, err)
		return
	}
	_, _ = fmt.Fprintf(s.stderr, "%s wharf-logger: %s: works again\n", time.Now().UTC().Format(time.RFC3339), s.plan.Driver)
}

// hostname is this machine's, for messages.
func hostname() string {
	h, err := os.Hostname()
	if err != nil || h == "" {
		return "-"
	}
	return h
}
