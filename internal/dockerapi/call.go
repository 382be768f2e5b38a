package dockerapi

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"wharf/internal/model"
)

// Limits of a JSON body.
const (
	maxJSON     = 4 << 20
	jsonTimeout = 30 * time.Second
)

// call is one request: what came in, decoded on demand, and the way out.
type call struct {
	w    *reply
	r    *http.Request
	v    version
	name string // the name in the path
	q    url.Values
	log  *slog.Logger
}

func (c *call) ctx() context.Context { return c.r.Context() }

func (c *call) get(key string) string { return c.q.Get(key) }

// truth reads a boolean as Docker does: anything but these words is true.
func (c *call) truth(key string) bool {
	switch strings.ToLower(strings.TrimSpace(c.q.Get(key))) {
	case "", "0", "no", "false", "none":
		return false
	}
	return true
}

// truthOr is truth with a default for a missing key.
func (c *call) truthOr(key string, otherwise bool) bool {
	if !c.q.Has(key) {
		return otherwise
	}
	return c.truth(key)
}

// number reads an optional integer.
func (c *call) number(key string, otherwise int) (int, error) {
	text := c.q.Get(key)
	if text == "" {
		return otherwise, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0, invalid("%s=%q: not a number", key, text)
	}
	return n, nil
}

// size reads the height and width of a terminal.
func (c *call) size() (height, width uint, err error) {
	for _, f := range []struct {
		key, name string
		to        *uint
	}{{"h", "height", &height}, {"w", "width", &width}} {
		n, err := strconv.ParseUint(c.q.Get(f.key), 10, 32)
		if err != nil {
			var e *strconv.NumError
			if errors.As(err, &e) {
				err = e.Err
			}
			if _, neg := strconv.ParseInt(c.q.Get(f.key), 10, 32); neg == nil { // a number, so a negative one
				err = strconv.ErrRange
			}
			return 0, 0, invalid("invalid resize %s %q: %v", f.name, c.q.Get(f.key), err)
		}
		*f.to = uint(n)
	}
	return height, width, nil
}

// filters reads the filters parameter.
func (c *call) filters() (model.Filters, error) { return parseFilters(c.q.Get("filters")) }

// platform reads a platform in short form, "linux/arm64".
func (c *call) platform(key string, since version) (*ocispec.Platform, error) {
	text := c.q.Get(key)
	if text == "" || c.v < since {
		return nil, nil
	}
	p, err := platforms.Parse(text)
	if err != nil {
		return nil, invalid("%s=%q: %v", key, text, err)
	}
	return &p, nil
}

// platformJSON reads a platform given as JSON.
func (c *call) platformJSON(key string, since version) (*ocispec.Platform, error) {
	all, err := c.platformsJSON(key, since, since)
	if err != nil || len(all) == 0 {
		return nil, err
	}
	if len(all) > 1 {
		return nil, invalid("%s: only one platform can be given here", key)
	}
	return &all[0], nil
}

// platformsJSON reads platforms given as JSON. Before version several only
// one is legal.
func (c *call) platformsJSON(key string, since, several version) ([]ocispec.Platform, error) {
	if c.v < since {
		return nil, nil
	}
	var all []ocispec.Platform
	for _, text := range c.q[key] {
		if text == "" {
			continue
		}
		var p ocispec.Platform
		if err := json.Unmarshal([]byte(text), &p); err != nil {
			return nil, invalid("%s=%q: not a platform in JSON: %v", key, text, err)
		}
		if p.OS == "" || p.Architecture == "" {
			return nil, invalid("%s=%q: both OS and Architecture must be provided", key, text)
		}
		all = append(all, p)
	}
	if len(all) > 1 && c.v < several {
		return nil, invalid("%s: several platforms need API version %s or later", key, several)
	}
	return all, nil
}

// lines reads a repeatable parameter whose values may hold several lines.
func (c *call) lines(key string) []string {
	var all []string
	for _, v := range c.q[key] {
		for _, line := range strings.Split(v, "\n") {
			if line = strings.TrimSpace(line); line != "" {
				all = append(all, line)
			}
		}
	}
	return all
}

// body decodes the JSON body into out. No body at all is no error; out then
// stays as it is.
func (c *call) body(out any) error {
	raw, err := c.rawBody()
	if err != nil || raw == nil {
		return err
	}
	return decodeJSON(raw, out)
}

// rawBody reads a JSON body after checking its type; nil means none was sent.
func (c *call) rawBody() ([]byte, error) {
	ct := c.r.Header.Get("Content-Type")
	empty := c.r.Body == nil || c.r.ContentLength == 0
	if ct != "" || !empty {
		kind, _, err := mime.ParseMediaType(ct)
		if err != nil {
			return nil, invalid("malformed Content-Type header (%s): %v", ct, err)
		}
		if kind != "application/json" {
			return nil, invalid("unsupported Content-Type header (%s): must be 'application/json'", ct)
		}
	}
	if empty {
		return nil, nil
	}
	rc := http.NewResponseController(c.w)
	if rc.SetReadDeadline(time.Now().Add(jsonTimeout)) == nil {
		defer func() { _ = rc.SetReadDeadline(time.Time{}) }()
	}
	raw, err := io.ReadAll(http.MaxBytesReader(c.w, c.r.Body, maxJSON))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return nil, &statusError{http.StatusRequestEntityTooLarge, "request body is larger than 4 MiB"}
	case err != nil:
		return nil, invalid("reading the request body: %v", err)
	}
	return raw, nil
}

// decodeJSON decodes exactly one JSON value.
func decodeJSON(raw []byte, out any) error {
	if len(strings.TrimSpace(string(raw))) == 0 {
		return invalid("invalid JSON: EOF")
	}
	dec := json.NewDecoder(strings.NewReader(string(raw)))
	if err := dec.Decode(out); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return invalid("invalid JSON: EOF")
		}
		return invalid("invalid JSON: %v", err)
	}
	if dec.More() {
		return invalid("unexpected content after JSON")
	}
	return nil
}

// json answers with v.
func (c *call) json(code int, v any) error { return writeJSON(c.w, code, v) }

// done answers with a status and no body.
func (c *call) done(code int) error {
	c.w.WriteHeader(code)
	return nil
}

// flush sends what was written so far. A recorder in a test cannot.
func (c *call) flush() { _ = http.NewResponseController(c.w).Flush() }

func writeJSON(w http.ResponseWriter, code int, v any) error {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// list makes an empty list of nil, which JSON would show as null.
func list[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}
