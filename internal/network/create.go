package network

import (
	"context"
	"encoding/hex"
	"fmt"
	"maps"
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

// Create makes a user-defined network. Its bridge is made when the first
// container comes.
func (r *Room) Create(ctx context.Context, q network.CreateRequest) (network.CreateResponse, error) {
	none := network.CreateResponse{}
	if q.ConfigOnly {
		return r.createConfig(ctx, q)
	}
	q, err := r.configured(q)
	if err != nil {
		return none, err
	}
	rec, err := newRecord(q)
	if err != nil {
		return none, err
	}
	check := checkOptions
	sub := &net{rec: rec}
	if sub.isSub() {
		check = func(o map[string]string) ([]string, error) { return checkSubOptions(rec.Driver, o) }
	}
	warnings, err := check(rec.Options)
	if err == nil && sub.isSub() {
		err = r.checkParent(sub)
	}
	if err != nil {
		return none, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.nameFree(rec); err != nil {
		return none, err
	}
	w, err := r.subnets(&rec, q)
	if err != nil {
		return none, err
	}
	n, err := newNet(rec)
	if err != nil {
		return none, err
	}
	if err := r.store.save(n.rec); err != nil {
		return none, err
	}
	r.nets[rec.ID] = n
	r.opts.Publish(events.NetworkEventType, events.ActionCreate, rec.ID, map[string]string{"name": rec.Name, "type": rec.Driver})
	return network.CreateResponse{ID: rec.ID, Warning: strings.Join(append(warnings, w...), "; ")}, ctx.Err()
}

// newRecord checks everything of a request that needs no look at the room.
func newRecord(q network.CreateRequest) (record, error) {
	bad := func(format string, args ...any) (record, error) {
		return record{}, model.Refuse(errdefs.ErrInvalidArgument, format, args...)
	}
	missing := func(what string) (record, error) {
		return record{}, model.Refuse(errdefs.ErrNotImplemented, "not supported: %s", what)
	}
	if q.Driver == "" {
		q.Driver = "bridge"
	}
	switch {
	case strings.TrimSpace(q.Name) == "":
		return bad("invalid name: name is empty")
	case predefined(q.Name) || q.Name == network.NetworkDefault:
		return record{}, model.Refuse(errdefs.ErrPermissionDenied, "operation is not permitted on predefined %s network", q.Name)
	case strings.ContainsAny(q.Name, "/\\\x00") || strings.HasPrefix(q.Name, "container:"):
		return bad("invalid network name %q", q.Name)
	case q.Driver == "host" || q.Driver == "null":
		return record{}, model.Refuse(errdefs.ErrPermissionDenied, "only one instance of %q network is allowed", q.Driver)
	case q.Driver != "bridge" && q.Driver != driverMacvlan && q.Driver != driverIpvlan:
		return missing(fmt.Sprintf("network driver %q (bridge, macvlan and ipvlan are there)", q.Driver))
	case q.Scope != "" && q.Scope != "local", q.Ingress:
		return missing("networks of a swarm")
	}
	rec := record{Network: network.Network{
		Name: q.Name, ID: string(model.NewID()), Created: time.Now().UTC(), Scope: "local", Driver: q.Driver,
		EnableIPv4: q.EnableIPv4 == nil || *q.EnableIPv4, EnableIPv6: q.EnableIPv6 != nil && *q.EnableIPv6,
		Internal: q.Internal, Attachable: q.Attachable,
		Options: maps.Clone(q.Options), Labels: maps.Clone(q.Labels), IPAM: network.IPAM{Driver: "default"},
	}}
	if rec.Options == nil {
		rec.Options = map[string]string{}
	}
	if rec.Labels == nil {
		rec.Labels = map[string]string{}
	}
	if q.ConfigFrom != nil {
		rec.ConfigFrom = *q.ConfigFrom
	}
	if q.IPAM != nil {
		if q.IPAM.Driver != "" && q.IPAM.Driver != "default" {
			return missing(fmt.Sprintf("IPAM driver %q", q.IPAM.Driver))
		}
		for k := range q.IPAM.Options {
			return missing("IPAM option " + k)
		}
	}
	if !rec.EnableIPv4 && !rec.EnableIPv6 {
		return bad("IPv4 or IPv6 must be enabled")
	}
	return rec, nil
}

// checkOptions checks the bridge driver's options and names those that have
// no effect.
func checkOptions(opts map[string]string) (warnings []string, _ error) {
	for _, k := range slices.Sorted(maps.Keys(opts)) {
		v := opts[k]
		var err error
		switch k {
		case optICC, optMasquerade:
			_, err = strconv.ParseBool(v)
		case optDefault:
			err = fmt.Errorf("there is one default bridge")
		case optMTU:
			var n int
			if n, err = strconv.Atoi(v); err == nil && (n < 68 || n > 65535) {
				err = fmt.Errorf("an MTU lies between 68 and 65535")
			}
		case optBinding:
			_, err = netip.ParseAddr(v)
		case optHostIPv4, optHostIPv6:
			var a netip.Addr
			if a, err = netip.ParseAddr(v); err == nil && a.Is4() != (k == optHostIPv4) {
				err = fmt.Errorf("the address is of the other IP version")
			}
		case optTrusted:
			for _, link := range strings.Split(v, ":") {
				if len(link) == 0 || len(link) > ifaceNameMax || strings.ContainsAny(link, "/ \t\n") {
					err = fmt.Errorf("give names of interfaces, separated by colons")
				}
			}
		case optName, optPrefix:
			if len(v) == 0 || len(v) > ifaceNameMax || strings.ContainsAny(v, "/: \t\n") {
				err = fmt.Errorf("a link's name has 1 to %d characters, without slash, colon and space", ifaceNameMax)
			}
		default:
			if strings.HasPrefix(k, "com.docker.network.") {
				return nil, model.Refuse(errdefs.ErrNotImplemented, "network option %s is not supported", k)
			}
			warnings = append(warnings, fmt.Sprintf("option %s is not known and has no effect", k))
		}
		if err != nil {
			return nil, model.Refuse(errdefs.ErrInvalidArgument, "invalid value %q for option %s: %w", v, k, err)
		}
	}
	return warnings, nil
}

// nameFree refuses names that are taken. Call with mu held.
func (r *Room) nameFree(rec record) error {
	link := (&net{rec: rec}).link()
	for _, n := range r.nets {
		if n.rec.Name == rec.Name {
			return model.Refuse(errdefs.ErrConflict, "network with name %s already exists", rec.Name)
		}
		if n.isBridge() && n.link() == link {
			return model.Refuse(errdefs.ErrConflict, "bridge name %s is used by network %s", link, n.rec.Name)
		}
		if n.isSub() && n.link() == link {
			return model.Refuse(errdefs.ErrConflict, "network %s is already using parent interface %s", n.rec.Name, link)
		}
	}
	return nil
}

// subnets decides the network's subnets: those that were asked for, else one
// of the pools for each family. Call with mu held.
func (r *Room) subnets(rec *record, q network.CreateRequest) (warnings []string, err error) {
	has := map[bool]bool{}
	if q.IPAM != nil {
		for _, c := range q.IPAM.Config {
			if err := r.wanted(c, *rec); err != nil {
				return nil, err
			}
			if !c.Subnet.IsValid() {
				continue // an empty entry, as some clients send
			}
			if r.routedElsewhere(c.Subnet.Masked(), (&net{rec: *rec}).link()) {
				warnings = append(warnings, fmt.Sprintf("subnet %s overlaps with what this host routes already", c.Subnet.Masked()))
			}
			c.Subnet = c.Subnet.Masked()
			has[c.Subnet.Addr().Is4()] = true
			rec.IPAM.Config = append(rec.IPAM.Config, c)
		}
	}
	if rec.EnableIPv4 && !has[true] {
		s, err := r.freeSubnet((&net{rec: *rec}).link())
		if err != nil {
			return nil, err
		}
		rec.AutoSubnet = true
		rec.IPAM.Config = append([]network.IPAMConfig{{Subnet: s}}, rec.IPAM.Config...)
	}
	if rec.EnableIPv6 && !has[false] {
		rec.IPAM.Config = append(rec.IPAM.Config, network.IPAMConfig{Subnet: uniqueLocal(rec.ID)})
	}
	return warnings, nil
}

// wanted checks a subnet that was asked for. Call with mu held.
func (r *Room) wanted(c network.IPAMConfig, rec record) error {
	if !c.Subnet.IsValid() {
		if c.IPRange.IsValid() || c.Gateway.IsValid() || len(c.AuxAddress) > 0 {
			return model.Refuse(errdefs.ErrInvalidArgument, "an ip-range, gateway or auxiliary address needs a subnet")
		}
		return nil
	}
	if v4 := c.Subnet.Addr().Is4(); v4 && !rec.EnableIPv4 || !v4 && !rec.EnableIPv6 {
		return model.Refuse(errdefs.ErrInvalidArgument, "subnet %s: that IP version is not enabled for the network (--ipv6)", c.Subnet)
	}
	if c.Subnet != c.Subnet.Masked() {
		return model.Refuse(errdefs.ErrInvalidArgument, "invalid subnet %s: it should be %s", c.Subnet, c.Subnet.Masked())
	}
	for _, o := range rec.IPAM.Config {
		if o.Subnet.Overlaps(c.Subnet) {
			return model.Refuse(errdefs.ErrInvalidArgument, "subnets %s and %s of one network overlap", o.Subnet, c.Subnet)
		}
	}
	for _, n := range r.nets {
		for _, o := range n.rec.IPAM.Config {
			if !n.rec.ConfigOnly && o.Subnet.Overlaps(c.Subnet) {
				return model.Refuse(errdefs.ErrPermissionDenied, "invalid pool request: Pool overlaps with other one on this address space: %s is in use by network %s (%s)",
					c.Subnet, n.rec.Name, o.Subnet)
			}
		}
	}
	_, err := newPool(c)
	return err
}

// uniqueLocal is an IPv6 /64 of RFC 4193 that follows from the network's id.
func uniqueLocal(id string) netip.Prefix {
	var a [16]byte
	a[0] = 0xfd
	raw, _ := hex.DecodeString(id[:14]) // an ID is hexadecimal
	copy(a[1:8], raw)
	return netip.PrefixFrom(netip.AddrFrom16(a), 64)
}
