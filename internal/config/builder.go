package config

import (
	"fmt"
	"strings"
	"time"
)

// Builder is dockerd's "builder": what the build cache may hold, and what
// builds may ask for.
type Builder struct {
	GC           BuilderGC           `json:"gc"`
	Entitlements BuilderEntitlements `json:"entitlements"`
}

// BuilderGC bounds the build cache. Sizes are bytes as "20GB", or a part of
// the file system as "10%"; "" leaves BuildKit's own.
type BuilderGC struct {
	Enabled              *bool           `json:"enabled"`
	DefaultKeepStorage   string          `json:"defaultKeepStorage"` // the older name of DefaultReservedSpace
	DefaultReservedSpace string          `json:"defaultReservedSpace"`
	DefaultMaxUsedSpace  string          `json:"defaultMaxUsedSpace"`
	DefaultMinFreeSpace  string          `json:"defaultMinFreeSpace"`
	Policy               []BuilderPolicy `json:"policy"`
}

// BuilderPolicy is one rule of the cache's; they are applied in order.
type BuilderPolicy struct {
	All           bool     `json:"all"`
	Filter        []string `json:"filter"`      // "type=source.local", "unused-for=48h"
	KeepStorage   string   `json:"keepStorage"` // the older name of ReservedSpace
	ReservedSpace string   `json:"reservedSpace"`
	MaxUsedSpace  string   `json:"maxUsedSpace"`
	MinFreeSpace  string   `json:"minFreeSpace"`
}

// BuilderEntitlements are what `--allow` of a build can give.
type BuilderEntitlements struct {
	NetworkHost      *bool `json:"network-host"`      // yes, unless said
	SecurityInsecure *bool `json:"security-insecure"` // no, unless said
}

// BuilderSpace is what a rule keeps, in bytes.
type BuilderSpace struct {
	All                    bool
	Filters                []string // BuildKit's
	UnusedFor              time.Duration
	Reserved, Max, MinFree int64
}

// Spaces are the default's bounds and the policy's rules, on a file system of
// disk bytes.
func (b Builder) Spaces(disk int64) (def BuilderSpace, rules []BuilderSpace, err error) {
	g := b.GC
	if def, err = spaceOf("builder.gc.default", disk, both(g.DefaultReservedSpace, g.DefaultKeepStorage), g.DefaultMaxUsedSpace, g.DefaultMinFreeSpace); err != nil {
		return def, nil, err
	}
	for i, p := range g.Policy {
		name := fmt.Sprintf("builder.gc.policy[%d].", i)
		s, err := spaceOf(name, disk, both(p.ReservedSpace, p.KeepStorage), p.MaxUsedSpace, p.MinFreeSpace)
		if err != nil {
			return def, nil, err
		}
		s.All = p.All
		for _, f := range p.Filter {
			if err := s.filter(name, f); err != nil {
				return def, nil, err
			}
		}
		rules = append(rules, s)
	}
	return def, rules, nil
}

func both(newer, older string) string {
	if newer == "" {
		return older
	}
	return newer
}

func spaceOf(name string, disk int64, reserved, most, free string) (s BuilderSpace, err error) {
	for _, v := range []struct {
		key, text string
		to        *int64
	}{{"reservedSpace", reserved, &s.Reserved}, {"maxUsedSpace", most, &s.Max}, {"minFreeSpace", free, &s.MinFree}} {
		if v.text == "" {
			continue
		}
		if *v.to, err = share(name+v.key, v.text, disk); err != nil {
			return s, err
		}
	}
	return s, nil
}

// filter takes "key=value" as dockerd writes it.
func (s *BuilderSpace) filter(name, text string) (err error) {
	key, value, ok := strings.Cut(text, "=")
	value = strings.TrimPrefix(value, "=")
	if !ok || key == "" || value == "" {
		return fmt.Errorf("invalid %sfilter %q: want key=value", name, text)
	}
	switch key {
	case "unused-for", "until":
		if s.UnusedFor, err = time.ParseDuration(value); err != nil {
			return fmt.Errorf("invalid %sfilter %q: want a duration as 48h", name, text)
		}
	case "id", "parent":
		s.Filters = append(s.Filters, key+"~="+value)
	case "type", "description", "inuse", "mutable", "immutable", "shared", "private":
		s.Filters = append(s.Filters, key+"=="+value)
	default:
		return fmt.Errorf("invalid %sfilter %q: use type, unused-for, id, parent, description, inuse, mutable, immutable, shared or private", name, text)
	}
	return nil
}

func (c *Config) checkBuilder() error {
	_, _, err := c.Builder.Spaces(1 << 40)
	return err
}
