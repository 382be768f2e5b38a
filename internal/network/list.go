package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"

	"wharf/internal/model"
)

// List returns the networks that the filters select, by name.
func (r *Room) List(ctx context.Context, f model.Filters) ([]network.Summary, error) {
	if err := checkFilters(f, "driver", "id", "label", "name", "scope", "type", "dangling"); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	out := []network.Summary{}
	for _, n := range r.nets {
		ok, err := r.matches(n, f)
		if err != nil {
			return nil, err
		}
		if ok {
			out = append(out, network.Summary{Network: n.rec.Network})
		}
	}
	slices.SortFunc(out, func(a, b network.Summary) int { return strings.Compare(a.Name, b.Name) })
	return out, ctx.Err()
}

func checkFilters(f model.Filters, known ...string) error {
	for k := range f {
		if !slices.Contains(known, k) {
			return model.Refuse(errdefs.ErrInvalidArgument, "invalid filter '%s'", k)
		}
	}
	return nil
}

// matches applies list's filters: values of one key are alternatives, keys
// add up, every label has to be there. Call with mu held.
func (r *Room) matches(n *net, f model.Filters) (bool, error) {
	any := func(key string, ok func(string) bool) bool {
		vals := f[key]
		for v := range vals {
			if ok(v) {
				return true
			}
		}
		return len(vals) == 0
	}
	for v := range f["type"] {
		if v != "builtin" && v != "custom" {
			return false, model.Refuse(errdefs.ErrInvalidArgument, "invalid filter 'type=%s': it must be builtin or custom", v)
		}
	}
	for v := range f["dangling"] {
		want, err := strconv.ParseBool(v)
		if err != nil {
			return false, model.Refuse(errdefs.ErrInvalidArgument, "invalid filter 'dangling=%s'", v)
		}
		if want == (predefined(n.rec.Name) || len(r.users(n)) > 0) {
			return false, nil
		}
	}
	return any("driver", func(v string) bool { return v == n.rec.Driver }) &&
		any("id", func(v string) bool { return strings.HasPrefix(n.rec.ID, v) }) &&
		any("name", func(v string) bool { return strings.Contains(n.rec.Name, v) }) &&
		any("scope", func(v string) bool { return v == n.rec.Scope }) &&
		any("type", func(v string) bool { return (v == "builtin") == predefined(n.rec.Name) }) &&
		hasLabels(n.rec.Labels, f["label"]), nil
}

func hasLabels(have map[string]string, want map[string]bool) bool {
	for l := range want {
		k, v, withValue := strings.Cut(l, "=")
		got, ok := have[k]
		if !ok || withValue && got != v {
			return false
		}
	}
	return true
}

// users are the endpoints on n by container. Call with mu held.
func (r *Room) users(n *net) map[model.ID]*endpoint {
	u := map[model.ID]*endpoint{}
	for id, eps := range r.held {
		if e := eps[n.rec.ID]; e != nil {
			u[id] = e
		}
	}
	return u
}

// Inspect describes one network and who is on it.
func (r *Room) Inspect(ctx context.Context, ref string, _ bool) (*network.Inspect, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n, err := r.lookup(ref)
	if err != nil {
		return nil, err
	}
	out := &network.Inspect{Network: n.rec.Network, Containers: map[string]network.EndpointResource{}}
	if out.IPAM.Config == nil {
		out.IPAM.Config = []network.IPAMConfig{}
	}
	for id, e := range r.users(n) {
		s := e.Settings
		res := network.EndpointResource{Name: e.Container, EndpointID: s.EndpointID, MacAddress: s.MacAddress}
		if s.IPAddress.IsValid() {
			res.IPv4Address = netip.PrefixFrom(s.IPAddress, s.IPPrefixLen)
		}
		if s.GlobalIPv6Address.IsValid() {
			res.IPv6Address = netip.PrefixFrom(s.GlobalIPv6Address, s.GlobalIPv6PrefixLen)
		}
		out.Containers[string(id)] = res
	}
	if len(n.pools) > 0 {
		out.Status = &network.Status{IPAM: network.IPAMStatus{Subnets: network.SubnetStatuses{}}}
		for _, p := range n.pools {
			out.Status.IPAM.Subnets[p.subnet] = p.status()
		}
	}
	return out, ctx.Err()
}

// Remove removes a network that nobody is on.
func (r *Room) Remove(ctx context.Context, ref string) error {
	r.mu.Lock()
	n, err := r.lookup(ref)
	if err == nil && predefined(n.rec.Name) {
		err = model.Refuse(errdefs.ErrPermissionDenied, "%s is a pre-defined network and cannot be removed", n.rec.Name)
	}
	if err == nil {
		err = errors.Join(r.unused(n), r.unreferenced(n))
	}
	if err != nil {
		r.mu.Unlock()
		return err
	}
	delete(r.nets, n.rec.ID)
	r.mu.Unlock()
	if err := r.discard(n); err != nil {
		r.mu.Lock()
		r.nets[n.rec.ID] = n
		r.mu.Unlock()
		return fmt.Errorf("remove network %s: %w", n.rec.Name, err)
	}
	r.opts.Publish(events.NetworkEventType, events.ActionDestroy, n.rec.ID, map[string]string{"name": n.rec.Name, "type": n.rec.Driver})
	return ctx.Err()
}

// unused says who is on n. Call with mu held.
func (r *Room) unused(n *net) error {
	var who []string
	for id, e := range r.users(n) {
		who = append(who, fmt.Sprintf("name:%q id:%q", e.Container, id.Short()))
	}
	if len(who) == 0 {
		return nil
	}
	slices.Sort(who)
	return model.Refuse(errdefs.ErrPermissionDenied, "error while removing network: network %s has active endpoints (%s); disconnect or stop them first",
		n.rec.Name, strings.Join(who, ", "))
}

// discard removes what a network has on the disk and in the kernel.
func (r *Room) discard(n *net) error {
	n.making.Lock()
	defer n.making.Unlock()
	if err := r.store.remove(n.rec.ID); err != nil {
		return err
	}
	n.dns.close()
	n.dns = nil
	if n.isBridge() && (n.live.Load() || n.rec.Options[optName] == "") {
		if err := r.removeLink(n.link()); err != nil {
			return err
		}
	}
	if n.isSub() {
		return r.dropParent(n)
	}
	if n.live.Swap(false) {
		if err := r.fw.apply(); err != nil {
			r.log.Warn("remove a network's rules", "network", n.rec.Name, "error", err)
		}
	}
	return nil
}

// Prune removes the user-defined networks that nobody is on.
func (r *Room) Prune(ctx context.Context, f model.Filters) (network.PruneReport, error) {
	var rep network.PruneReport
	if err := checkFilters(f, "label", "label!", "until"); err != nil {
		return rep, err
	}
	until, err := parseUntil(f["until"])
	if err != nil {
		return rep, err
	}
	var names []string
	r.mu.Lock()
	for _, n := range r.nets {
		if predefined(n.rec.Name) || n.rec.ConfigOnly || len(r.users(n)) > 0 || !until.IsZero() && n.rec.Created.After(until) {
			continue
		}
		if hasLabels(n.rec.Labels, f["label"]) && (len(f["label!"]) == 0 || !hasLabels(n.rec.Labels, f["label!"])) {
			names = append(names, n.rec.Name)
		}
	}
	r.mu.Unlock()
	slices.Sort(names)
	for _, name := range names {
		if err := r.Remove(ctx, name); err != nil {
			if errdefs.IsPermissionDenied(err) || errdefs.IsNotFound(err) {
				continue // somebody took it into use, or removed it, meanwhile
			}
			return rep, err
		}
		rep.NetworksDeleted = append(rep.NetworksDeleted, name)
	}
	r.opts.Publish(events.NetworkEventType, events.ActionPrune, "", map[string]string{"reclaimed": "0"})
	return rep, nil
}

// parseUntil reads a time, a Unix time stamp or a duration before now.
func parseUntil(vals map[string]bool) (time.Time, error) {
	if len(vals) > 1 {
		return time.Time{}, model.Refuse(errdefs.ErrInvalidArgument, "more than one until filter specified")
	}
	for v := range vals {
		if d, err := time.ParseDuration(v); err == nil {
			return time.Now().Add(-d), nil
		}
		if t, err := time.Parse(time.RFC3339Nano, v); err == nil {
			return t, nil
		}
		if s, err := strconv.ParseFloat(v, 64); err == nil {
			return time.UnixMicro(int64(s * 1e6)), nil
		}
		return time.Time{}, model.Refuse(errdefs.ErrInvalidArgument, "invalid until %q: give a duration such as 24h, a time (RFC 3339) or a Unix time stamp", v)
	}
	return time.Time{}, nil
}
