package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"
	"github.com/vishvananda/netlink"

	"wharf/internal/model"
)

// Options of Open. The zero value of each is its default.
type Options struct {
	Dir    string // state; needed
	Bridge string // the default bridge's link, "wharf0"
	Table  string // nftables table; "wharf", or "wharf-BRIDGE" for another bridge, so that two daemons can share a host

	BIP       netip.Prefix  // address and subnet of the default bridge; zero: the first pool that the host does not route
	FixedCIDR netip.Prefix  // the default bridge's containers get addresses from here
	IPv6      bool          // the default bridge has IPv6 too
	SubnetV6  netip.Prefix  // its subnet; zero: a unique local one of its own (dockerd's --fixed-cidr-v6)
	Gateway   netip.Addr    // default gateway of the default bridge's containers, if not the bridge
	Pools     []AddressPool // for networks that name no subnet
	MTU       int           // default bridge; 1500

	NoICC         bool   // containers of the default bridge may not talk to each other
	NoMasquerade  bool   // no source NAT for the default bridge
	NoIPForward   bool   // leave net.ipv4.ip_forward alone
	NoDefault     bool   // there is no default bridge (dockerd's --bridge=none)
	FirewallMode  string // FirewallHost (also "") or FirewallDocker
	NoRelay       bool   // nothing is done in user space (dockerd's --userland-proxy=false): an IPv6 address of the host does not lead to a container that has IPv4 only
	HostBindingIP netip.Addr
	DNS           []netip.Addr // asked for names that are not containers'; none: those of ResolvConf
	ResolvConf    string       // "/etc/resolv.conf"

	// Publish receives the room's events; nil drops them.
	Publish func(typ events.Type, action events.Action, id string, attrs map[string]string)
	Log     *slog.Logger
}

// AddressPool is a block that is cut into subnets of Size bits.
type AddressPool struct {
	Base netip.Prefix
	Size int
}

// Room is the network room.
type Room struct {
	opts  Options
	log   *slog.Logger
	store store
	fw    *firewall
	rt    *rtnl           // for the hot path, in the daemon's own namespace
	slow  *netlink.Handle // for the rest
	sweep *janitor
	proc  procfs

	mu        sync.Mutex
	nets      map[string]*net                   // guarded by mu, by id
	held      map[model.ID]map[string]*endpoint // guarded by mu: container, network id
	ports     map[portKey][]*portHolder         // guarded by mu
	leaving   map[model.ID][]string             // guarded by mu: interfaces inside that Refresh removes
	insiders  map[model.ID]*nameServer          // guarded by mu: name servers in containers' namespaces
	warnings  map[string]struct{}               // guarded by mu
	tapLimits map[string]tapLimit               // guarded by mu, by link
	noticed   map[string]struct{}               // guarded by mu: other firewalls' chains that were logged
}

// net is a network: its record and what is known of it at run time.
type net struct {
	rec    record      // never changed after Open or Create
	pools  []*pool     // guarded by Room.mu
	live   atomic.Bool // its bridge was made or adopted: it has rules
	making sync.Mutex
	index  int           // of the bridge; 0 until made; guarded by making
	dns    *nameServer   // guarded by making
	dnsAt  atomic.Uint32 // the name server's port; 0 without
}

// endpoint is what a container holds on a network.
type endpoint struct {
	model.Endpoint
	net   *net
	addrs []netip.Addr
}

// Open reads the state and starts the room. It changes nothing of the host's
// network.
func Open(ctx context.Context, o Options) (*Room, error) {
	if o.Dir == "" {
		return nil, model.Refuse(errdefs.ErrInvalidArgument, "network: a state directory is needed")
	}
	if m := o.FirewallMode; m != "" && m != FirewallHost && m != FirewallDocker {
		return nil, model.Refuse(errdefs.ErrInvalidArgument, "invalid firewall mode %q: it is %s (the host's own firewall decides) or %s (containers' packets pass it)", m, FirewallHost, FirewallDocker)
	}
	o.defaults()
	for _, p := range o.Pools {
		if !p.Base.IsValid() || p.Size < p.Base.Bits() || p.Size > p.Base.Addr().BitLen()-2 {
			return nil, model.Refuse(errdefs.ErrInvalidArgument, "network: invalid default address pool %s of size %d: the size is the length of a subnet's prefix, from %d to %d", p.Base, p.Size, max(0, p.Base.Bits()), max(0, p.Base.Addr().BitLen()-2))
		}
	}
	r := &Room{
		opts: o, log: o.Log.With("room", "network"), store: store{o.Dir},
		nets: map[string]*net{}, held: map[model.ID]map[string]*endpoint{},
		ports: map[portKey][]*portHolder{}, leaving: map[model.ID][]string{}, insiders: map[model.ID]*nameServer{}, warnings: map[string]struct{}{}, noticed: map[string]struct{}{}, tapLimits: map[string]tapLimit{},
	}
	var err error
	if r.rt, err = openRTNL(); err != nil {
		return nil, fmt.Errorf("network: %w", err)
	}
	if r.slow, err = netlink.NewHandle(); err != nil {
		return nil, fmt.Errorf("network: %w", errors.Join(err, r.rt.close()))
	}
	if err := r.load(ctx); err != nil {
		r.slow.Close()
		return nil, fmt.Errorf("network: %w", errors.Join(err, r.rt.close()))
	}
	r.fw = newFirewall(r)
	r.sweep = newJanitor(r)
	return r, nil
}

func (o *Options) defaults() {
	if o.Bridge == "" {
		o.Bridge = "wharf0"
	}
	if o.Table == "" {
		if o.Table = "wharf"; o.Bridge != "wharf0" {
			o.Table = "wharf-" + o.Bridge
		}
	}
	if o.MTU == 0 {
		o.MTU = 1500
	}
	if len(o.Pools) == 0 {
		o.Pools = defaultPools()
	}
	if !o.HostBindingIP.IsValid() {
		o.HostBindingIP = netip.IPv4Unspecified()
	}
	if o.ResolvConf == "" {
		o.ResolvConf = "/etc/resolv.conf"
	}
	if o.Publish == nil {
		o.Publish = func(events.Type, events.Action, string, map[string]string) {}
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
}

// Close ends the room's goroutines and sockets. Bridges, links and rules stay:
// running containers use them. The room is of no use afterwards.
func (r *Room) Close() error {
	r.sweep.close()
	err := r.fw.close()
	r.mu.Lock()
	all := slices.Collect(maps.Values(r.nets))
	for _, hs := range r.ports {
		for _, h := range hs {
			h.close()
		}
	}
	for _, s := range r.insiders {
		s.close()
	}
	r.mu.Unlock()
	for _, n := range all {
		n.making.Lock()
		n.dns.close()
		n.making.Unlock()
	}
	r.slow.Close()
	return errors.Join(err, r.rt.close(), r.proc.close())
}

// Warnings says what this machine lacks, and what other firewalls keep from
// containers now, for "docker info".
func (r *Room) Warnings() []string {
	r.mu.Lock()
	w := slices.Sorted(maps.Keys(r.warnings))
	r.mu.Unlock()
	return append(w, r.strangers()...)
}

func (r *Room) warn(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	r.mu.Lock()
	_, known := r.warnings[text]
	r.warnings[text] = struct{}{}
	r.mu.Unlock()
	if !known {
		r.log.Warn(text)
	}
}

// load reads the records and makes the predefined networks that are missing.
func (r *Room) load(ctx context.Context) error {
	recs, err := r.store.load()
	if err != nil {
		return err
	}
	found := map[string]bool{}
	for _, rec := range recs {
		if predefined(rec.Name) {
			found[rec.Name] = true
		}
		if rec.Name == network.NetworkBridge {
			had := rec.IPAM.Config
			if rec, err = r.refreshDefault(rec); err != nil {
				return err
			}
			if len(had) == 0 || had[0].Subnet != rec.IPAM.Config[0].Subnet {
				if err := r.store.save(rec); err != nil {
					return err
				}
			}
		}
		n, err := newNet(rec)
		if err != nil {
			return fmt.Errorf("network %s: %w", rec.Name, err)
		}
		r.nets[rec.ID] = n
	}
	for _, name := range []string{network.NetworkBridge, network.NetworkHost, network.NetworkNone} {
		if found[name] || name == network.NetworkBridge && r.opts.NoDefault {
			continue
		}
		rec, err := r.newPredefined(name)
		if err != nil {
			return err
		}
		n, err := newNet(rec)
		if err != nil {
			return fmt.Errorf("network %s: %w", name, err)
		}
		if err := r.store.save(rec); err != nil {
			return err
		}
		r.nets[rec.ID] = n
	}
	return ctx.Err()
}

func newNet(rec record) (*net, error) {
	n := &net{rec: rec}
	if rec.ConfigOnly {
		return n, nil // it has no addresses to give
	}
	for i, c := range rec.IPAM.Config {
		p, err := newPool(c)
		if err != nil {
			return nil, err
		}
		n.rec.IPAM.Config[i].Gateway = p.gateway
		n.pools = append(n.pools, p)
	}
	return n, nil
}

// newPredefined is the record of bridge, host or none.
func (r *Room) newPredefined(name string) (record, error) {
	rec := record{Network: network.Network{
		Name: name, ID: string(model.NewID()), Created: time.Now().UTC(), Scope: "local",
		Driver: name, EnableIPv4: true, IPAM: network.IPAM{Driver: "default"},
		Options: map[string]string{}, Labels: map[string]string{},
	}}
	switch name {
	case network.NetworkNone:
		rec.Driver = "null"
	case network.NetworkBridge:
		return r.refreshDefault(rec)
	}
	return rec, nil
}

// refreshDefault brings the default bridge's record to the present options.
func (r *Room) refreshDefault(rec record) (record, error) {
	o := r.opts
	rec.Options = map[string]string{
		optDefault: "true", optICC: strconv.FormatBool(!o.NoICC), optMasquerade: strconv.FormatBool(!o.NoMasquerade),
		optBinding: o.HostBindingIP.String(), optName: o.Bridge, optMTU: strconv.Itoa(o.MTU),
	}
	var had network.IPAMConfig
	if len(rec.IPAM.Config) > 0 {
		had = rec.IPAM.Config[0]
	}
	c := network.IPAMConfig{Subnet: had.Subnet, IPRange: o.FixedCIDR, Gateway: had.Gateway}
	switch {
	case o.BIP.IsValid():
		if !o.BIP.Addr().Is4() || o.BIP.Masked().Addr() == o.BIP.Addr() && o.BIP.Bits() < 31 {
			return rec, model.Refuse(errdefs.ErrInvalidArgument, "bip %s: it must be the bridge's own IPv4 address with its subnet, such as 172.30.0.1/16", o.BIP)
		}
		c.Subnet, c.Gateway = o.BIP.Masked(), o.BIP.Addr()
	case !had.Subnet.IsValid() || r.routedElsewhere(had.Subnet, o.Bridge):
		s, err := r.freeSubnet(o.Bridge)
		if err != nil {
			return rec, fmt.Errorf("default bridge: %w", err)
		}
		c.Subnet, c.Gateway = s, s.Addr().Next()
	}
	if o.Gateway.IsValid() {
		c.Gateway = o.Gateway
	}
	rec.IPAM.Config = []network.IPAMConfig{c}
	if rec.EnableIPv6 = o.IPv6; o.IPv6 {
		s := o.SubnetV6
		if !s.IsValid() {
			s = uniqueLocal(rec.ID)
		}
		rec.IPAM.Config = append(rec.IPAM.Config, network.IPAMConfig{Subnet: s})
	}
	return rec, nil
}

func predefined(name string) bool {
	return name == network.NetworkBridge || name == network.NetworkHost || name == network.NetworkNone
}

// lookup finds a network by full id, name, or unambiguous id prefix, in that
// order. Call with mu held.
func (r *Room) lookup(ref string) (*net, error) {
	if ref == network.NetworkDefault {
		ref = network.NetworkBridge
	}
	if n := r.nets[ref]; n != nil {
		return n, nil
	}
	var byPrefix *net
	several := false
	for id, n := range r.nets {
		if n.rec.Name == ref {
			return n, nil
		}
		if ref != "" && strings.HasPrefix(id, ref) {
			several = byPrefix != nil
			byPrefix = n
		}
	}
	switch {
	case several:
		return nil, model.Refuse(errdefs.ErrInvalidArgument, "network %s is ambiguous (it is the beginning of several ids)", ref)
	case byPrefix != nil:
		return byPrefix, nil
	}
	return nil, model.Refuse(errdefs.ErrNotFound, "network %s not found", ref)
}
