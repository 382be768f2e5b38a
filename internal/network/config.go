package network

import (
	"context"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"

	"wharf/internal/model"
)

// A configuration-only network is a template: subnets, options and labels
// under a name, which other networks are made from (--config-from). Nobody
// can be on it, and its driver is shown as null, as in Docker.

// createConfig makes a configuration-only network. Its options and subnets
// are for a driver that is not known yet, so they are looked at when a network
// is made from it; subnets that no driver could have are refused here.
func (r *Room) createConfig(ctx context.Context, q network.CreateRequest) (network.CreateResponse, error) {
	none := network.CreateResponse{}
	if q.ConfigFrom != nil && q.ConfigFrom.Network != "" {
		return none, model.Refuse(errdefs.ErrPermissionDenied, "a configuration network cannot depend on another configuration network")
	}
	if q.Ingress || q.Internal || q.Attachable || q.Scope != "" {
		return none, model.Refuse(errdefs.ErrPermissionDenied, "configuration network can only contain network specific fields. Network operator fields like [ ingress | internal | attachable | scope ] are not supported.") //nolint:staticcheck // Docker's text
	}
	rec, err := newRecord(q)
	if err != nil {
		return none, err
	}
	rec.Driver, rec.ConfigOnly = "null", true
	if q.IPAM != nil {
		rec.IPAM.Config = slices.Clone(q.IPAM.Config)
		for _, c := range q.IPAM.Config {
			if !c.Subnet.IsValid() {
				continue
			}
			if _, err := newPool(c); err != nil {
				return none, err
			}
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.nameFree(rec); err != nil {
		return none, err
	}
	if err := r.store.save(rec); err != nil {
		return none, err
	}
	r.nets[rec.ID] = &net{rec: rec}
	r.opts.Publish(events.NetworkEventType, events.ActionCreate, rec.ID, map[string]string{"name": rec.Name, "type": rec.Driver})
	return network.CreateResponse{ID: rec.ID}, ctx.Err()
}

// configured is q with what the configuration-only network says that it
// names, if it names one.
func (r *Room) configured(q network.CreateRequest) (network.CreateRequest, error) {
	if q.ConfigFrom == nil || q.ConfigFrom.Network == "" {
		q.ConfigFrom = nil
		return q, nil
	}
	own := len(q.Options) > 0 || len(q.Labels) > 0 || q.EnableIPv4 != nil && !*q.EnableIPv4 || q.EnableIPv6 != nil && *q.EnableIPv6
	if i := q.IPAM; i != nil {
		own = own || len(i.Options) > 0 || i.Driver != "" && i.Driver != "default" ||
			slices.ContainsFunc(i.Config, func(c network.IPAMConfig) bool {
				return c.Subnet.IsValid() || c.IPRange.IsValid() || c.Gateway.IsValid() || len(c.AuxAddress) > 0
			})
	}
	if own {
		return q, model.Refuse(errdefs.ErrPermissionDenied, "user-specified configurations are not supported if the network depends on a configuration network")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range r.nets {
		if n.rec.ConfigOnly && n.rec.Name == q.ConfigFrom.Network {
			q.EnableIPv4, q.EnableIPv6 = &n.rec.EnableIPv4, &n.rec.EnableIPv6
			q.Options, q.Labels = n.rec.Options, n.rec.Labels
			q.IPAM = &network.IPAM{Config: n.rec.IPAM.Config}
			return q, nil
		}
	}
	return q, model.Refuse(errdefs.ErrNotFound, "configuration network %q does not exist", q.ConfigFrom.Network)
}

// unreferenced refuses the removal of a configuration that networks were made
// from. Call with mu held.
func (r *Room) unreferenced(n *net) error {
	if !n.rec.ConfigOnly {
		return nil
	}
	var by []string
	for _, o := range r.nets {
		if o.rec.ConfigFrom.Network == n.rec.Name {
			by = append(by, o.rec.Name)
		}
	}
	if len(by) == 0 {
		return nil
	}
	slices.Sort(by)
	return model.Refuse(errdefs.ErrPermissionDenied, "configuration network %q is in use by %s", n.rec.Name, strings.Join(by, ", "))
}
