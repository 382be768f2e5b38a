package record

import (
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/events"

	"wharf/internal/model"
)

// actorKeys are the filters that name an actor: an event passes when its
// actor's id or name starts with the value.
var actorKeys = []string{"config", "container", "daemon", "network", "node", "plugin", "secret", "service", "volume"}

// filter decides as Docker does which events a client sees: every key must
// match, and of a key's values one.
type filter struct{ f model.Filters }

func newFilter(f model.Filters) (filter, error) {
	for key := range f {
		switch key {
		case "event", "image", "label", "scope", "type":
		default:
			if !slices.Contains(actorKeys, key) {
				return filter{}, fmt.Errorf("invalid filter '%s': %w", key, errdefs.ErrInvalidArgument)
			}
		}
	}
	return filter{f}, nil
}

func (f filter) match(m events.Message) bool {
	if len(f.f) == 0 {
		return true
	}
	for _, key := range actorKeys {
		if !f.prefix(key, m.Actor.ID) && !f.prefix(key, m.Actor.Attributes["name"]) {
			return false
		}
	}
	return f.event(string(m.Action)) && f.exact("type", string(m.Type)) && f.exact("scope", m.Scope) &&
		f.image(m) && f.labels(m.Actor.Attributes)
}

func (f filter) exact(key, value string) bool {
	return len(f.f[key]) == 0 || f.f[key][value]
}

func (f filter) prefix(key, value string) bool {
	if len(f.f[key]) == 0 {
		return true
	}
	for want := range f.f[key] {
		if strings.HasPrefix(value, want) {
			return true
		}
	}
	return false
}

// event matches the action. Some actions carry a text behind a colon; asked
// for without it, all of them are meant.
func (f filter) event(action string) bool {
	for _, open := range []string{"health_status", "exec_create", "exec_start"} {
		if f.f["event"][open] {
			return f.prefix("event", action)
		}
	}
	return f.exact("event", action)
}

// image matches the image of an image event, and that of a container's.
func (f filter) image(m events.Message) bool {
	if len(f.f["image"]) == 0 {
		return true
	}
	name := m.Actor.Attributes["image"]
	if m.Type == events.ImageEventType {
		name = m.Actor.Attributes["name"]
	}
	for _, s := range []string{m.Actor.ID, name, withoutTag(m.Actor.ID), withoutTag(name)} {
		if f.f["image"][s] {
			return true
		}
	}
	return false
}

func withoutTag(image string) string {
	ref, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return image
	}
	return reference.FamiliarName(ref)
}

// labels wants every one: "key" or "key=value".
func (f filter) labels(attrs map[string]string) bool {
	for want := range f.f["label"] {
		key, value, exact := strings.Cut(want, "=")
		have, ok := attrs[key]
		if !ok || exact && have != value {
			return false
		}
	}
	return true
}
