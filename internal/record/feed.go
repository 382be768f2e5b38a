package record

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"

	"wharf/internal/model"
)

// feedSize is how many events are kept, in memory and over restarts.
const feedSize = 4096

// feed is the ordered list of what happened.
type feed struct {
	mu    sync.Mutex
	ring  [feedSize]events.Message // event n is at n % feedSize
	next  uint64                   // number of the next event
	last  int64                    // TimeNano of the newest; times only grow
	news  chan struct{}            // closed by the next publish; nil when nobody waits
	file  *logFile
	since int // events in file
	lost  bool
}

// openFeed reads what an earlier daemon kept. The feed's file is best effort:
// only a directory that cannot be written is an error.
func openFeed(path string) (*feed, error) {
	f := &feed{}
	file, _, err := openLog(path, time.Now(), false, func(payload []byte) {
		var m events.Message
		if json.Unmarshal(payload, &m) == nil {
			f.add(m)
			f.since++
		}
	})
	if err != nil {
		return nil, err
	}
	f.file = file
	return f, nil
}

func (f *feed) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	_ = f.file.close()
}

func (f *feed) add(m events.Message) {
	f.ring[f.next%feedSize] = m
	f.next++
	f.last = max(f.last, m.TimeNano)
}

func (f *feed) oldest() uint64 {
	if f.next > feedSize {
		return f.next - feedSize
	}
	return 0
}

// publish stamps m and appends it. Times grow strictly, so that "since" and
// "until" cut where they should even when the clock jumps.
func (f *feed) publish(m events.Message) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m.TimeNano = max(time.Now().UnixNano(), f.last+1)
	m.Time = m.TimeNano / int64(time.Second)
	f.add(m)
	if f.news != nil {
		close(f.news)
		f.news = nil
	}
	f.save(m)
}

func (f *feed) save(m events.Message) {
	var err error
	if f.since >= 2*feedSize {
		err = f.rewrite()
	} else {
		var frame []byte
		if frame, err = encodeEvent(m); err == nil {
			err = f.file.append(frame)
			f.since++
		}
	}
	if err != nil && !f.lost {
		slog.Warn("record: events are not kept over a restart", "room", "record", "err", err)
	}
	f.lost = err != nil
}

func encodeEvent(m events.Message) ([]byte, error) {
	payload, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	return sealFrame(append(make([]byte, frameHeader, frameHeader+len(payload)), payload...))
}

// rewrite keeps only the ring. No sync: the feed is best effort.
func (f *feed) rewrite() error {
	var frames []byte
	for n := f.oldest(); n < f.next; n++ {
		frame, err := encodeEvent(f.ring[n%feedSize])
		if err != nil {
			return err
		}
		frames = append(frames, frame...)
	}
	tmp := f.file.path + ".new"
	if err := os.WriteFile(tmp, append([]byte(fileHeader), frames...), 0o600); err != nil {
		return err
	}
	file, err := os.OpenFile(tmp, os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if err := os.Rename(tmp, f.file.path); err != nil {
		file.Close()
		return err
	}
	f.file.file.Close()
	f.file.file, f.file.size, f.file.dirty = file, int64(len(fileHeader)+len(frames)), false
	f.since = int(f.next - f.oldest())
	return nil
}

// seek returns the number of the first event not older than t.
func (f *feed) seek(t int64) uint64 {
	n := f.next
	for n > f.oldest() && f.ring[(n-1)%feedSize].TimeNano >= t {
		n--
	}
	return n
}

// take returns the events from number n on, or a channel that is closed when
// there is one. gap: events after n are gone already.
func (f *feed) take(n uint64) (msgs []events.Message, wait <-chan struct{}, gap bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n < f.oldest() {
		return nil, nil, true
	}
	for ; n < f.next && len(msgs) < 64; n++ {
		msgs = append(msgs, f.ring[n%feedSize])
	}
	if len(msgs) == 0 {
		if f.news == nil {
			f.news = make(chan struct{})
		}
		wait = f.news
	}
	return msgs, wait, false
}

// Publish appends to the change feed and stamps the time. attrs is copied.
func (s *Store) Publish(typ events.Type, action events.Action, id string, attrs map[string]string) {
	a := maps.Clone(attrs)
	if a == nil {
		a = map[string]string{}
	}
	s.feed.publish(events.Message{Type: typ, Action: action, Scope: "local", Actor: events.Actor{ID: id, Attributes: a}})
}

// Events calls yield for each event that f lets through, in order, from since
// until until (nanoseconds since 1970; zero until: for ever; zero since: from
// now on, or with an until everything kept), the end of ctx, or yield returning false. With an until in the
// past it returns as soon as the past is told. errdefs.ErrUnavailable: the
// caller was too slow and events were lost to it.
func (s *Store) Events(ctx context.Context, since, until int64, f model.Filters, yield func(events.Message) bool) error {
	match, err := newFilter(f)
	if err != nil {
		return err
	}
	s.feed.mu.Lock()
	n := s.feed.next
	if since != 0 || until != 0 { // only until: all of the past, as Docker
		n = s.feed.seek(since)
	}
	s.feed.mu.Unlock()

	var end <-chan time.Time
	if until != 0 {
		timer := time.NewTimer(time.Until(time.Unix(0, until)))
		defer timer.Stop()
		end = timer.C
	}
	for {
		msgs, wait, gap := s.feed.take(n)
		if gap {
			return fmt.Errorf("events: the client reads too slowly, more than %d events are waiting; subscribe again with --since: %w", feedSize, errdefs.ErrUnavailable)
		}
		n += uint64(len(msgs))
		for _, m := range msgs {
			if until != 0 && m.TimeNano > until {
				return nil
			}
			if match.match(m) && !yield(m) {
				return nil
			}
		}
		if wait == nil {
			if ctx.Err() != nil {
				return nil
			}
			continue
		}
		select {
		case <-wait:
		case <-end:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}
