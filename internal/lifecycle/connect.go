package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"wharf/internal/driver"
	"wharf/internal/model"
)

// connector changes a container's networks.
type connector struct{ *core }

// Connect puts a container on a network, at once if it runs, else with its
// next start.
func (s connector) Connect(ctx context.Context, name, ref string, want *network.EndpointSettings) error {
	ctx, e, done, err := s.begin(ctx, ref)
	if err != nil {
		return err
	}
	defer done()
	c := e.record()
	if err := s.connectable(c, name); err != nil {
		return err
	}
	if want == nil {
		want = &network.EndpointSettings{}
	}
	one, err := s.checked(ctx, container.NetworkMode(name), map[string]*network.EndpointSettings{name: want.Copy()})
	if err != nil {
		return err
	}
	name = slices.Collect(maps.Keys(one))[0] // the client may have used the id
	if _, ok := c.Endpoints[name]; ok {
		return conflict("endpoint with name %s already exists in network %s", c.Name, name)
	}
	all := maps.Clone(c.Endpoints)
	if all == nil {
		all = map[string]*network.EndpointSettings{}
	}
	maps.Copy(all, one)
	attached := c.Attached
	if c.State.Running() {
		ep, err := s.networks.Connect(ctx, s.running(c, one), name)
		if err != nil && processGone(c.State.Pid) { // it has ended just now: it is connected at its next start
			return s.save(ctx, e, true, func(c *model.Container) { c.Endpoints = all })
		}
		if err != nil {
			return err
		}
		attached = append(slices.Clone(attached), ep)
		if err := s.plug(ctx, e, attached, ep); err != nil {
			_ = s.networks.Disconnect(ctx, e.id, name, true)
			return err
		}
		if err := s.etcAgain(c, c.Attached, attached); err != nil {
			s.slog.WarnContext(ctx, "files of /etc not brought up to date", "id", e.id, "err", err)
		}
	}
	err = s.save(ctx, e, true, func(c *model.Container) { c.Endpoints, c.Attached = all, attached })
	if err != nil && c.State.Running() {
		_ = s.networks.Disconnect(ctx, e.id, name, true)
	}
	return err
}

// plug gives the instance its new interface, where that is a device.
func (s connector) plug(ctx context.Context, e *entry, all []model.Endpoint, ep model.Endpoint) error {
	inst, err := e.instance()
	if err != nil {
		return err
	}
	if p, ok := inst.(driver.Plugger); ok {
		return wrap(p.Plug(ctx, all, ep), "plug network %s into %s", ep.Network, e.id.Short())
	}
	return nil
}

// unplug takes it away.
func (s connector) unplug(ctx context.Context, e *entry, name string) error {
	inst, err := e.instance()
	if err != nil {
		return err
	}
	p, ok := inst.(driver.Plugger)
	if !ok {
		return nil
	}
	all := e.record().Attached
	i := slices.IndexFunc(all, func(ep model.Endpoint) bool { return ep.Network == name })
	if i < 0 {
		return nil
	}
	return wrap(p.Unplug(ctx, slices.Delete(slices.Clone(all), i, i+1), all[i]), "unplug network %s from %s", name, e.id.Short())
}

// processGone reports that a process has ended, though its exit may not be
// recorded yet: it has no namespaces any more.
func processGone(pid int) bool {
	_, err := os.Stat(fmt.Sprintf("/proc/%d/ns/net", pid))
	return errors.Is(err, os.ErrNotExist)
}

// connectable says why c cannot be on a further network.
func (s connector) connectable(c *model.Container, name string) error {
	mode := c.HostConfig.NetworkMode
	switch {
	case c.State.Phase == container.StateRemoving || c.State.Phase == container.StateDead:
		return conflict("container %s is marked for removal and cannot be connected to network %s", c.ID, name)
	case mode.IsContainer():
		return conflict("container sharing network namespace with another container or host cannot be connected to any other network")
	case mode.IsHost() || name == network.NetworkHost:
		return conflict("container cannot be connected to host network or disconnected from it; create it with --network host")
	case mode.IsNone() && c.State.Running() || name == network.NetworkNone:
		return conflict("container cannot be connected to multiple networks with one of the networks in private (none) mode")
	}
	return nil
}

// checked asks the network room whether the endpoints can be, and returns them
// by the networks' names: a client may have used an id.
func (c *core) checked(ctx context.Context, mode container.NetworkMode, want map[string]*network.EndpointSettings) (map[string]*network.EndpointSettings, error) {
	if err := c.networks.Check(ctx, mode, want); err != nil {
		return nil, err
	}
	out := make(map[string]*network.EndpointSettings, len(want))
	for key, s := range want {
		if s != nil && strings.HasPrefix(s.NetworkID, key) {
			n, err := c.networks.Inspect(ctx, key, false)
			if err != nil {
				return nil, err
			}
			key = n.Name
		}
		out[key] = s
	}
	return out, nil
}

// present is checked for a create, where a network may be missing: with Docker
// it is looked for at the start, and some make it in between.
func (c *core) present(ctx context.Context, mode container.NetworkMode, want map[string]*network.EndpointSettings) (all map[string]*network.EndpointSettings, missing []string, err error) {
	if all, err = c.checked(ctx, mode, want); !errdefs.IsNotFound(err) {
		return all, nil, err
	}
	there := make(map[string]*network.EndpointSettings, len(want))
	for key, s := range want {
		_, err := c.networks.Inspect(ctx, key, false)
		switch {
		case errdefs.IsNotFound(err):
			missing = append(missing, key)
			if key == mode.NetworkName() {
				mode = network.NetworkNone // there is nothing to check
			}
		case err != nil:
			return nil, nil, err
		default:
			there[key] = s
		}
	}
	if all, err = c.checked(ctx, mode, there); err != nil {
		return nil, nil, err
	}
	for _, key := range missing {
		all[key] = want[key]
	}
	slices.Sort(missing)
	return all, missing, nil
}

// Disconnect takes a container off a network.
func (s connector) Disconnect(ctx context.Context, name, ref string, force bool) error {
	ctx, e, done, err := s.begin(ctx, ref)
	if err != nil {
		return err
	}
	defer done()
	c := e.record()
	if c.HostConfig.NetworkMode.IsHost() || name == network.NetworkHost {
		return conflict("container cannot be disconnected from host network - container can only be connected to or disconnected from a network other than host")
	}
	key, ok := endpointKey(c, name)
	if !ok {
		return notFound("container %s is not connected to network %s", c.ID, name)
	}
	if c.State.Running() {
		if err := s.unplug(ctx, e, key); err != nil && !force {
			return err
		}
		if err := s.networks.Disconnect(ctx, e.id, key, force); err != nil {
			return err
		}
	}
	all := maps.Clone(c.Endpoints)
	delete(all, key)
	left := slices.DeleteFunc(slices.Clone(c.Attached), func(ep model.Endpoint) bool { return ep.Network == key })
	if c.State.Running() {
		if left, err = s.rewired(ctx, c, left); err != nil {
			s.slog.WarnContext(ctx, "networks not brought up to date after a disconnect", "id", e.id, "err", err)
		}
	}
	return s.save(ctx, e, true, func(c *model.Container) { c.Endpoints, c.Attached = all, left })
}

// endpointKey finds the endpoint on the network with this name or id.
func endpointKey(c *model.Container, ref string) (string, bool) {
	for name, ep := range endpoints(c) {
		if name == ref || len(ref) >= 4 && strings.HasPrefix(ep.NetworkID, ref) {
			return name, true
		}
	}
	return "", false
}
