package plan

import (
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// CDI is what this machine's device specifications (Container Device
// Interface, files in /etc/cdi and /var/run/cdi) name.
type CDI interface {
	// Names lists the devices, as vendor/class=name.
	Names() []string
	// Inject adds devices to a container: nodes, mounts, variables, hooks.
	Inject(spec *specs.Spec, names ...string) error
}

// gpus are the classes that stand for the capability "gpu" without a vendor,
// the first that is there.
var gpus = []struct{ driver, class string }{
	{"nvidia", "nvidia.com/gpu"}, {"amd", "amd.com/gpu"},
}

// deviceRequests checks --gpus and --device vendor.com/class=name.
func (cr *creation) deviceRequests() error {
	_, err := cdiNames(cr.hc.DeviceRequests, cr.in.Lookup.CDI)
	return err
}

// cdiNames turns requests into names of devices that are there.
func cdiNames(requests []container.DeviceRequest, cdi CDI) ([]string, error) {
	if len(requests) == 0 {
		return nil, nil
	}
	var have []string
	if cdi != nil {
		have = cdi.Names()
	}
	var out []string
	for _, r := range requests {
		names, err := requestNames(r, have)
		if err != nil {
			return nil, err
		}
		for _, n := range names {
			if !slices.Contains(out, n) { // twice the same would make its nodes twice
				out = append(out, n)
			}
		}
	}
	return out, nil
}

func requestNames(r container.DeviceRequest, have []string) ([]string, error) {
	if r.Driver == "cdi" {
		if r.Count != 0 || len(r.Capabilities) > 0 || len(r.Options) > 0 {
			return nil, invalid("a CDI device request takes DeviceIDs only, not Count, Capabilities or Options")
		}
		if len(r.DeviceIDs) == 0 {
			return nil, invalid("a CDI device request without DeviceIDs")
		}
		return present(r.DeviceIDs, have)
	}
	isGPU := slices.ContainsFunc(r.Capabilities, func(all []string) bool { return slices.Contains(all, "gpu") })
	for _, g := range gpus {
		if r.Driver != "" && r.Driver != g.driver || r.Driver == "" && !isGPU {
			continue
		}
		if slices.ContainsFunc(have, func(n string) bool { return strings.HasPrefix(n, g.class+"=") }) {
			return gpuNames(r, g.class, have)
		}
	}
	return nil, invalid("could not select device driver %q with capabilities: %v: no CDI specification on this machine names such a device (see `docker info`, CDI spec directories)", r.Driver, r.Capabilities)
}

// gpuNames picks from one class: those that are named, or so many.
func gpuNames(r container.DeviceRequest, class string, have []string) ([]string, error) {
	if len(r.Options) > 0 {
		return nil, invalid("options of a device request (%v) have no meaning for CDI devices", r.Options)
	}
	if r.Count != 0 && len(r.DeviceIDs) > 0 {
		return nil, invalid("cannot set both Count and DeviceIDs on device request")
	}
	var ids []string
	switch {
	case len(r.DeviceIDs) > 0:
		ids = r.DeviceIDs
	case r.Count < 0:
		ids = []string{"all"}
	default:
		for n := range max(r.Count, 1) {
			ids = append(ids, strconv.Itoa(n))
			if len(ids) > len(have) {
				break // more than there are anyway
			}
		}
	}
	out := make([]string, len(ids))
	for i, id := range ids {
		out[i] = class + "=" + id
	}
	return present(out, have)
}

func present(names, have []string) ([]string, error) {
	for _, n := range names {
		if !slices.Contains(have, n) {
			return nil, invalid("CDI device injection failed: unresolvable CDI devices %s", n)
		}
	}
	return names, nil
}

// devicesByName is the last step of a start: it changes the spec as a whole.
func (s *starting) devicesByName() error {
	names, err := cdiNames(s.hc.DeviceRequests, s.in.Lookup.CDI)
	if err != nil || len(names) == 0 {
		return err
	}
	if err := s.in.Lookup.CDI.Inject(s.spec, names...); err != nil {
		return invalid("CDI device injection failed: %s", err)
	}
	return nil
}
