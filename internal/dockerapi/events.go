package dockerapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types"
	"github.com/moby/moby/api/types/events"
)

// eventTimeout is how long a client may take to read one event. The feed
// must not wait for it.
const eventTimeout = 30 * time.Second

// legacyEvent has the fields that clients before Docker 25 cannot do without.
type legacyEvent struct {
	Status string `json:"status,omitempty"`
	ID     string `json:"id,omitempty"`
	From   string `json:"from,omitempty"`
	events.Message
}

func withLegacy(m events.Message) any {
	switch m.Type {
	case events.ContainerEventType:
		return legacyEvent{string(m.Action), m.Actor.ID, m.Actor.Attributes["image"], m}
	case events.ImageEventType:
		return legacyEvent{string(m.Action), m.Actor.ID, "", m}
	}
	return m
}

func (s *server) events(c *call) error {
	since, err := parseTime("since", c.get("since"))
	if err != nil {
		return err
	}
	until, err := parseTime("until", c.get("until"))
	if err != nil {
		return err
	}
	if !until.IsZero() && until.Before(since) {
		return invalid("`since` time (%s) cannot be after `until` time (%s)", c.get("since"), c.get("until"))
	}
	f, err := c.filters()
	if err != nil {
		return err
	}
	// Asks for nothing, so that a bad filter is a plain answer.
	if err := s.Feed.Events(c.ctx(), 1, 1, f, func(events.Message) bool { return false }); err != nil {
		return err
	}
	kind := types.MediaTypeJSONLines
	if c.v < 52 {
		kind = types.MediaTypeJSON
	}
	if k := acceptedJSON(c.r.Header); k != "" {
		kind = k
	}
	c.w.Header().Set("Content-Type", kind)
	c.w.WriteHeader(http.StatusOK)
	c.flush()

	enc := newJSONStream(c.w, kind)
	rc := http.NewResponseController(c.w)
	err = s.Feed.Events(c.ctx(), nanos(since), nanos(until), f, func(m events.Message) bool {
		if c.v < 46 && m.Type == events.ImageEventType && m.Action == events.ActionCreate {
			return true // not there before 1.46
		}
		var v any = m
		if c.v < 52 {
			v = withLegacy(m)
		}
		return sendWithin(rc, eventTimeout, func() error { return enc(v) })
	})
	if c.ctx().Err() != nil {
		return nil
	}
	return err
}

// sendWithin writes and flushes; the client has d to take it. The deadline is
// taken off again, since the end of the answer may be much later.
func sendWithin(rc *http.ResponseController, d time.Duration, write func() error) bool {
	_ = rc.SetWriteDeadline(time.Now().Add(d))
	ok := write() == nil && flushed(rc)
	_ = rc.SetWriteDeadline(time.Time{})
	return ok
}

// flushed flushes; a writer that cannot flush is a test's recorder.
func flushed(rc *http.ResponseController) bool {
	err := rc.Flush()
	return err == nil || errors.Is(err, http.ErrNotSupported)
}

func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

// acceptedJSON returns the first JSON stream format that the client names in
// Accept, or "".
func acceptedJSON(h http.Header) string {
	for _, line := range h.Values("Accept") {
		for _, word := range strings.Split(line, ",") {
			kind, _, err := mime.ParseMediaType(word)
			if err != nil {
				continue
			}
			switch kind {
			case types.MediaTypeJSONLines, types.MediaTypeNDJSON, types.MediaTypeJSONSequence:
				return kind
			}
		}
	}
	return ""
}

// newJSONStream returns a function that writes values one after the other in
// a stream format.
func newJSONStream(w io.Writer, kind string) func(v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	if kind != types.MediaTypeJSONSequence {
		return enc.Encode
	}
	return func(v any) error {
		if _, err := w.Write([]byte{0x1e}); err != nil { // RFC 7464's record separator
			return err
		}
		return enc.Encode(v)
	}
}

// parseTime reads "seconds" or "seconds.fraction" since 1970; "" is the zero
// time.
func parseTime(key, text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	whole, fraction, _ := strings.Cut(text, ".")
	sec, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || len(fraction) > 20 || strings.Trim(fraction, "0123456789") != "" {
		return time.Time{}, invalid("invalid value for %q: invalid timestamp %q: want seconds or seconds.nanoseconds since 1970", key, text)
	}
	nsec, _ := strconv.ParseInt(fmt.Sprintf("%.9s", fraction+"000000000"), 10, 64)
	return time.Unix(sec, nsec).UTC(), nil
}
