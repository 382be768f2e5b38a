package image

import (
	"context"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"

	"wharf/internal/model"
)

// listFilter makes one question of `docker images --filter`.
func (s *Store) listFilter(ctx context.Context, f model.Filters) (func(*entry) bool, error) {
	var tests []func(*entry) bool
	for key, values := range f {
		for v, on := range values {
			if !on {
				continue
			}
			t, err := s.listTest(ctx, key, v)
			if err != nil {
				return nil, err
			}
			if key != "reference" {
				tests = append(tests, t)
			}
		}
	}
	if refs := f["reference"]; len(refs) > 0 {
		patterns := make([]string, 0, len(refs))
		for p := range refs {
			patterns = append(patterns, p)
		}
		tests = append(tests, func(e *entry) bool { return e.matchReferences(patterns) })
	}
	return func(e *entry) bool {
		for _, t := range tests {
			if !t(e) {
				return false
			}
		}
		return true
	}, nil
}

func (s *Store) listTest(ctx context.Context, key, v string) (func(*entry) bool, error) {
	switch key {
	case "dangling":
		want, err := boolValue(key, v)
		if err != nil {
			return nil, err
		}
		return func(e *entry) bool { return e.dangling == want }, nil
	case "label":
		return func(e *entry) bool { return hasLabel(e.labels(), v) }, nil
	case "label!":
		return func(e *entry) bool { return !hasLabel(e.labels(), v) }, nil
	case "before", "since":
		f, err := s.find(ctx, v)
		if err != nil {
			return nil, err
		}
		pivot, err := s.variant(ctx, f.target, nil)
		if err != nil {
			return nil, err
		}
		at := time.Time{}
		if pivot.config.Created != nil {
			at = *pivot.config.Created
		}
		if key == "before" {
			return func(e *entry) bool { return e.created.Before(at) }, nil
		}
		return func(e *entry) bool { return e.created.After(at) }, nil
	case "until":
		at, err := parseUntil(v)
		if err != nil {
			return nil, err
		}
		return func(e *entry) bool { return e.created.Before(at) }, nil
	case "reference":
		if _, err := path.Match(v, ""); err != nil {
			return nil, model.Refuse(errdefs.ErrInvalidArgument, "invalid filter 'reference=%s': %w", v, err)
		}
		return nil, nil
	}
	return nil, model.Refuse(errdefs.ErrInvalidArgument, "invalid filter '%s'", key)
}

func boolValue(key, v string) (bool, error) {
	switch v {
	case "1", "true", "True", "TRUE", "t", "T":
		return true, nil
	case "0", "false", "False", "FALSE", "f", "F":
		return false, nil
	}
	return false, model.Refuse(errdefs.ErrInvalidArgument, "invalid filter '%s=%s': want true or false", key, v)
}

// hasLabel matches KEY or KEY=VALUE.
func hasLabel(labels map[string]string, want string) bool {
	k, v, exact := strings.Cut(want, "=")
	have, ok := labels[k]
	return ok && (!exact || have == v)
}

// parseUntil reads a moment: RFC 3339 (also without zone or time), seconds
// since the epoch, or a duration that goes back from now.
func parseUntil(v string) (time.Time, error) {
	if d, err := time.ParseDuration(v); err == nil {
		return time.Now().Add(-d), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02T15", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, v, time.Local); err == nil {
			return t, nil
		}
	}
	if sec, err := strconv.ParseFloat(v, 64); err == nil && sec >= 0 && sec < 1e12 {
		return time.UnixMicro(int64(sec * 1e6)), nil
	}
	return time.Time{}, model.Refuse(errdefs.ErrInvalidArgument, "invalid filter 'until=%s': want a time, seconds since the epoch, or a duration", v)
}

// matchReferences keeps an image of which some name matches, in the short form
// or in the whole one (docker.io/library/busybox), and shows only those names,
// as Docker does.
func (e *entry) matchReferences(patterns []string) bool {
	match := func(name string) bool {
		n, err := reference.ParseNormalizedNamed(name)
		if err != nil {
			return false
		}
		return slices.ContainsFunc(patterns, func(p string) bool {
			if ok, err := reference.FamiliarMatch(p, n); err == nil && ok {
				return true
			}
			whole, err := path.Match(p, n.String())
			bare, err2 := path.Match(p, n.Name())
			return err == nil && whole || err2 == nil && bare
		})
	}
	keep := func(names []string) []string {
		return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return !match(n) })
	}
	tags, digests := keep(e.tags), keep(e.digests)
	if len(tags)+len(digests) == 0 {
		return false
	}
	e.tags, e.digests = tags, digests
	return true
}
