package lifecycle

import (
	"context"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/opencontainers/go-digest"

	"wharf/internal/model"
)

// listFilters are the words that list knows.
var listFilters = []string{
	"ancestor", "before", "exited", "expose", "health", "id", "is-task", "isolation", "label", "name", "network",
	"publish", "since", "status", "volume",
}

// known refuses filters that are not among words.
func known(f model.Filters, words []string) error {
	for k := range f {
		if !slices.Contains(words, k) {
			return invalid("invalid filter '%s'", k)
		}
	}
	return nil
}

// verdict is what a filter says of one container in the sorted list.
type verdict int

const (
	take verdict = iota
	skip         // not this one
	stop         // nor any after it
)

// filter is a parsed ListRequest. It is used for one pass over the list,
// newest first.
type filter struct {
	f      model.Filters
	all    bool
	limit  int
	before model.ID // "": none, or passed already
	since  model.ID
	exited []int
	images map[string]bool        // ids and references of "ancestor"
	built  func(model.Image) bool // stands on the layers of one of these
	ports  map[string]map[network.Port]bool
	task   *bool
}

func (s lists) filter(ctx context.Context, r model.ListRequest) (*filter, error) {
	if err := known(r.Filters, listFilters); err != nil {
		return nil, err
	}
	f := &filter{f: r.Filters, all: r.All || r.Limit > 0 || len(r.Filters["status"]) > 0, limit: r.Limit, ports: map[string]map[network.Port]bool{}}
	for _, parse := range []func() error{
		f.parseExited, f.parseStatus, f.parseTask,
		func() error { return f.parsePorts("publish") },
		func() error { return f.parsePorts("expose") },
		func() (err error) { f.before, err = s.one(r.Filters["before"]); return },
		func() (err error) { f.since, err = s.one(r.Filters["since"]); return },
	} {
		if err := parse(); err != nil {
			return nil, err
		}
	}
	if len(r.Filters["ancestor"]) > 0 {
		f.images = map[string]bool{}
		below := map[digest.Digest]bool{}
		for ref := range r.Filters["ancestor"] {
			if img, err := s.images.Resolve(ctx, ref, nil); err == nil {
				f.images[img.ID.String()] = true
				below[img.ChainID] = img.ChainID != ""
			} else {
				f.images[ref] = true // removed since: as the containers name it
			}
		}
		f.built = s.standsOn(ctx, below)
	}
	return f, nil
}

// standsOn tells images that were built on one of those with the layers below.
// Each image is looked up once.
func (s lists) standsOn(ctx context.Context, below map[digest.Digest]bool) func(model.Image) bool {
	seen := map[digest.Digest]bool{}
	return func(img model.Image) bool {
		stands, known := seen[img.ChainID]
		if !known {
			chains, _ := s.images.Chains(ctx, img.ChainID) // not here any more: on nothing
			for i, c := range chains {
				stands = stands || i > 0 && below[c]
			}
			seen[img.ChainID] = stands
		}
		return stands
	}
}

// one resolves the container of "before" or "since".
func (s lists) one(values map[string]bool) (model.ID, error) {
	for ref := range values {
		e, err := s.index.find(ref)
		if err != nil {
			return "", err
		}
		return e.id, nil
	}
	return "", nil
}

func (f *filter) parseExited() error {
	for v := range f.f["exited"] {
		n, err := strconv.Atoi(v)
		if err != nil {
			return invalid("invalid filter 'exited=%s': it takes an exit code", v)
		}
		f.exited = append(f.exited, n)
	}
	return nil
}

func (f *filter) parseStatus() error {
	for v := range f.f["status"] {
		if err := container.ValidateContainerState(container.ContainerState(v)); err != nil {
			return invalid("invalid filter 'status=%s': %v", v, err)
		}
	}
	for v := range f.f["health"] {
		if err := container.ValidateHealthStatus(container.HealthStatus(v)); err != nil {
			return invalid("invalid filter 'health=%s': %v", v, err)
		}
	}
	return nil
}

func (f *filter) parseTask() error {
	for v := range f.f["is-task"] {
		b, err := strconv.ParseBool(v)
		if err != nil {
			return invalid("invalid filter 'is-task=%s': it takes true or false", v)
		}
		f.task = &b
	}
	return nil
}

// parsePorts reads "80", "80/udp", "8000-8010/tcp".
func (f *filter) parsePorts(key string) error {
	for v := range f.f[key] {
		if strings.Contains(v, ":") {
			return invalid("filter for '%s' should not contain ':': %s", key, v)
		}
		r, err := network.ParsePortRange(v)
		if err != nil {
			return invalid("error while looking up for %s %s: %v", key, v, err)
		}
		if f.ports[key] == nil {
			f.ports[key] = map[network.Port]bool{}
		}
		for p := range r.All() {
			f.ports[key][p] = true
		}
	}
	return nil
}

// judge says whether c is wanted.
func (f *filter) judge(c *model.Container) verdict {
	if f.before != "" {
		if f.before == c.ID {
			f.before = ""
		}
		return skip
	}
	if f.since == c.ID {
		return stop
	}
	if !f.all && !active(c.State.Phase) {
		return skip
	}
	for _, ok := range []bool{
		f.matchesNames(c), f.matchesState(c), labelled(f.f["label"], c.Config.Labels),
		f.matchesPorts(c), f.matchesThings(c),
	} {
		if !ok {
			return skip
		}
	}
	return take
}

// matches reports whether one of the wanted values equals value or matches it
// as a regular expression; no wanted values match all.
func (f *filter) matches(key, value string) bool {
	want := f.f[key]
	if len(want) == 0 || want[value] {
		return true
	}
	for w := range want {
		if re, err := regexp.Compile(w); err == nil && re.MatchString(value) {
			return true
		}
	}
	return false
}

func (f *filter) matchesNames(c *model.Container) bool {
	if ids := f.f["id"]; len(ids) > 0 && !f.matches("id", string(c.ID)) {
		return false
	}
	return f.matches("name", "/"+c.Name) || f.matches("name", c.Name)
}

func (f *filter) matchesState(c *model.Container) bool {
	if len(f.exited) > 0 && (active(c.State.Phase) || c.State.StartedAt.IsZero() || !slices.Contains(f.exited, c.State.ExitCode)) {
		return false
	}
	if want := f.f["status"]; len(want) > 0 && !want[string(c.State.Phase)] {
		return false
	}
	health := container.NoHealthcheck
	if c.State.Health != nil {
		health = c.State.Health.Status
	}
	return len(f.f["health"]) == 0 || f.f["health"][string(health)]
}

// labelled reports whether labels has every "key" and "key=value" wanted.
func labelled(want map[string]bool, labels map[string]string) bool {
	for w := range want {
		k, v, valued := strings.Cut(w, "=")
		has, ok := labels[k]
		if !ok || valued && has != v {
			return false
		}
	}
	return true
}

func (f *filter) matchesPorts(c *model.Container) bool {
	if want := f.ports["publish"]; want != nil && !anyPort(want, ports(c)) {
		return false
	}
	want := f.ports["expose"]
	return want == nil || anyPort(want, c.Config.ExposedPorts)
}

func anyPort[V any](want map[network.Port]bool, has map[network.Port]V) bool {
	for p := range has {
		if want[p] {
			return true
		}
	}
	return false
}

// matchesThings looks at image, volumes, networks, isolation and task.
func (f *filter) matchesThings(c *model.Container) bool {
	if f.images != nil && !f.images[c.Image.ID.String()] && !f.images[c.Config.Image] && !f.built(c.Image) {
		return false
	}
	if f.task != nil && *f.task {
		return false // there are no swarm tasks
	}
	if len(f.f["isolation"]) > 0 {
		iso := strings.ToLower(string(c.HostConfig.Isolation))
		if iso == "" {
			iso = "default"
		}
		if !f.matches("isolation", iso) && !f.matches("isolation", string(c.Isolation)) {
			return false
		}
	}
	return f.matchesVolumes(c) && f.matchesNetworks(c)
}

func (f *filter) matchesVolumes(c *model.Container) bool {
	want := f.f["volume"]
	return len(want) == 0 || slices.ContainsFunc(c.Mounts, func(m model.Mount) bool {
		name := m.Name
		if name == "" {
			name = m.Source
		}
		return want[m.Destination] || name != "" && want[name]
	})
}

func (f *filter) matchesNetworks(c *model.Container) bool {
	if len(f.f["network"]) == 0 {
		return true
	}
	for name, ep := range endpoints(c) {
		if f.f["network"][name] {
			return true
		}
		for w := range f.f["network"] {
			if w != "" && strings.HasPrefix(ep.NetworkID, w) {
				return true
			}
		}
	}
	return false
}
