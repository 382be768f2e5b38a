package network

import (
	"errors"
	"fmt"
	"maps"
	stdnet "net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"wharf/internal/model"
)

// The drivers macvlan and ipvlan: a container's interface is a slice of a
// link of the host (the parent) and the network behind that link does the
// rest; no bridge, no rules, no published ports. Their options are Docker's.
const (
	optParent      = "parent"
	optMacvlanMode = "macvlan_mode"
	optIpvlanMode  = "ipvlan_mode"
	optIpvlanFlag  = "ipvlan_flag"

	driverMacvlan = "macvlan"
	driverIpvlan  = "ipvlan"
)

// Modes in the kernel's numbers (linux/if_link.h).
var (
	macvlanModes = map[string]uint32{"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}
	ipvlanModes  = map[string]uint16{"l2": 0, "l3": 1, "l3s": 2}
	ipvlanFlags  = map[string]uint16{"bridge": 0, "private": 1, "vepa": 2}
)

const (
	iflaMacvlanMode = 1 // IFLA_MACVLAN_MODE
	iflaIpvlanMode  = 1 // IFLA_IPVLAN_MODE
	iflaIpvlanFlags = 2 // IFLA_IPVLAN_FLAGS
	iflaVlanID      = 1 // IFLA_VLAN_ID
)

// moduleOf is the kernel module that a kind of link needs.
var moduleOf = map[string]string{"macvlan": "macvlan", "ipvlan": "ipvlan", "vlan": "8021q", "dummy": "dummy"}

// isSub reports whether the network's interfaces are slices of a parent.
func (n *net) isSub() bool { return n.rec.Driver == driverMacvlan || n.rec.Driver == driverIpvlan }

// wired reports whether containers get an interface on the network.
func (n *net) wired() bool { return n.isBridge() || n.isSub() }

// routed3 reports whether the network's containers route by their interface
// and not by a gateway, as ipvlan's l3 modes do.
func (n *net) routed3() bool {
	return n.rec.Driver == driverIpvlan && strings.HasPrefix(n.rec.Options[optIpvlanMode], "l3")
}

// parent is the parent link's name: what was asked for, else a dummy of the
// network's own.
func (n *net) parent() string {
	if p := n.rec.Options[optParent]; p != "" {
		return p
	}
	return "wd-" + n.rec.ID[:12]
}

// parentOf reads NAME.VLAN, the name of a VLAN's link.
func parentOf(name string) (base string, vlan uint16, ok bool) {
	i := strings.LastIndexByte(name, '.')
	if i <= 0 {
		return "", 0, false
	}
	id, err := strconv.ParseUint(name[i+1:], 10, 16)
	return name[:i], uint16(id), err == nil && id > 0 && id < 4095
}

// checkSubOptions checks the options of macvlan and ipvlan.
func checkSubOptions(driver string, opts map[string]string) (warnings []string, _ error) {
	bad := func(k string, known []string) error {
		slices.Sort(known)
		return model.Refuse(errdefs.ErrInvalidArgument, "invalid value %q for option %s: it is one of %s", opts[k], k, strings.Join(known, ", "))
	}
	for _, k := range slices.Sorted(maps.Keys(opts)) {
		v := opts[k]
		mac := driver == driverMacvlan
		switch {
		case k == optParent:
			if len(v) > ifaceNameMax || strings.ContainsAny(v, "/: \t\n") {
				return nil, model.Refuse(errdefs.ErrInvalidArgument, "invalid value %q for option %s: a link's name has up to %d characters, without slash, colon and space", v, k, ifaceNameMax)
			}
		case k == optMacvlanMode && mac:
			if _, ok := macvlanModes[v]; !ok && v != "" {
				return nil, bad(k, slices.Collect(maps.Keys(macvlanModes)))
			}
		case k == optIpvlanMode && !mac:
			if _, ok := ipvlanModes[v]; !ok && v != "" {
				return nil, bad(k, slices.Collect(maps.Keys(ipvlanModes)))
			}
		case k == optIpvlanFlag && !mac:
			if _, ok := ipvlanFlags[v]; !ok && v != "" {
				return nil, bad(k, slices.Collect(maps.Keys(ipvlanFlags)))
			}
		case k == optMTU || k == optPrefix:
			if _, err := checkOptions(map[string]string{k: v}); err != nil {
				return nil, err
			}
		case strings.HasPrefix(k, "com.docker.network."):
			return nil, model.Refuse(errdefs.ErrInvalidArgument, "network option %s is not one of driver %s", k, driver)
		default:
			warnings = append(warnings, fmt.Sprintf("option %s is not known to driver %s and has no effect", k, driver))
		}
	}
	return warnings, nil
}

// checkParent refuses a network whose parent cannot be had, without making
// anything.
func (r *Room) checkParent(n *net) error {
	if err := r.kindThere(n.rec.Driver); err != nil {
		return err
	}
	p := n.rec.Options[optParent]
	if p == "" || r.linkExists(p) {
		return nil
	}
	base, _, ok := parentOf(p)
	if !ok {
		return model.Refuse(errdefs.ErrInvalidArgument, "parent interface %s does not exist on this host (a VLAN of one is written as eth0.10)", p)
	}
	if !r.linkExists(base) {
		return model.Refuse(errdefs.ErrInvalidArgument, "parent interface %s: there is no interface %s on this host to make VLAN interface %s of", p, base, p)
	}
	return r.kindThere("vlan")
}

// kindThere asks the kernel whether it knows a kind of link; it loads the
// module then if it has one. The request is one that no kind accepts.
func (r *Room) kindThere(kind string) error {
	q := newRequest("look for link kind "+kind, unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	q.AddData(ifinfo(0, false))
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated(kind))
	q.AddData(info)
	if err := r.rt.do(q); errors.Is(err, unix.EOPNOTSUPP) {
		return missingKind(kind)
	}
	return nil
}

func missingKind(kind string) error {
	return model.Refuse(errdefs.ErrNotImplemented, "this kernel has no %s links: its module %s is missing or may not be loaded (try modprobe %[2]s)", kind, moduleOf[kind])
}

// alias marks a link that was made for the network.
func (n *net) alias() string { return "wharf network " + n.rec.ID }

// ensureParent makes the parent unless it is there, and returns its index.
func (r *Room) ensureParent(n *net) (int, error) {
	n.making.Lock()
	defer n.making.Unlock()
	name := n.parent()
	i, err := r.rt.index(name)
	if err == nil || !errors.Is(err, unix.ENODEV) {
		return i, err
	}
	kind := "dummy"
	var on int
	base, vlan, isVLAN := parentOf(name)
	if n.rec.Options[optParent] != "" {
		if !isVLAN {
			return 0, model.Refuse(errdefs.ErrFailedPrecondition, "parent interface %s does not exist on this host", name)
		}
		kind = "vlan"
		if on, err = r.rt.index(base); err != nil {
			return 0, model.Refuse(errdefs.ErrFailedPrecondition, "parent interface %s: there is no interface %s on this host", name, base)
		}
	}
	if err := r.rt.do(addParent(name, kind, on, vlan)); err != nil {
		if errors.Is(err, unix.EOPNOTSUPP) {
			return 0, missingKind(kind)
		}
		return 0, fmt.Errorf("parent interface %s: %w", name, explain(err))
	}
	if i, err = r.rt.index(name); err != nil {
		return 0, err
	}
	return i, r.rt.do(setAlias(i, name, n.alias()), linkUp(i, name))
}

// dropParent removes a parent that ensureParent made.
func (r *Room) dropParent(n *net) error {
	l, err := r.slow.LinkByName(n.parent())
	if err != nil || l.Attrs().Alias != n.alias() {
		return nil // none, or not ours
	}
	return r.removeLink(n.parent())
}

// addSubLink makes e's interface in the namespace.
func (r *Room) addSubLink(ns *netns, e *endpoint) error {
	on, err := r.ensureParent(e.net)
	if err != nil {
		return fmt.Errorf("network %s: %w", e.net.rec.Name, err)
	}
	err = r.rt.do(addSub(e, on, int(ns.f.Fd())))
	switch {
	case errors.Is(err, unix.EOPNOTSUPP):
		err = missingKind(e.net.rec.Driver)
	case errors.Is(err, unix.EBUSY):
		err = model.Refuse(errdefs.ErrConflict, "parent interface %s is in use by something else (a bridge, a bond, macvlan and ipvlan cannot share one): %w", e.net.parent(), err)
	case err != nil:
		err = explain(err)
	}
	if err != nil {
		return fmt.Errorf("network %s: %w", e.net.rec.Name, err)
	}
	return nil
}

func newLink(name, kind string, on int) (request, *nl.RtAttr) {
	r := newRequest("add "+kind+" link "+name, unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	r.AddData(ifinfo(0, false))
	r.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	if on != 0 {
		r.AddData(nl.NewRtAttr(unix.IFLA_LINK, nl.Uint32Attr(uint32(on))))
	}
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated(kind))
	return r, info
}

// addParent makes a VLAN's link or a dummy.
func addParent(name, kind string, on int, vlan uint16) request {
	r, info := newLink(name, kind, on)
	if kind == "vlan" {
		info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(iflaVlanID, nl.Uint16Attr(vlan))
	}
	r.AddData(info)
	return r
}

func setAlias(index int, name, alias string) request {
	r := newRequest("name link "+name, unix.RTM_SETLINK, 0)
	r.AddData(ifinfo(index, false))
	r.AddData(nl.NewRtAttr(unix.IFLA_IFALIAS, []byte(alias)))
	return r
}

// addSub makes a slice of the parent, born in the other namespace.
func addSub(e *endpoint, on, netns int) request {
	o := e.net.rec.Options
	r, info := newLink(e.Interface, e.net.rec.Driver, on)
	r.AddData(nl.NewRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(netns))))
	if o[optMTU] != "" {
		r.AddData(nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(e.net.mtu()))))
	}
	data := info.AddRtAttr(nl.IFLA_INFO_DATA, nil)
	if e.net.rec.Driver == driverMacvlan {
		mode, ok := macvlanModes[o[optMacvlanMode]]
		if !ok {
			mode = macvlanModes["bridge"]
		}
		if mode != macvlanModes["passthru"] { // that takes the parent's
			r.AddData(nl.NewRtAttr(unix.IFLA_ADDRESS, stdnet.HardwareAddr(e.Settings.MacAddress)))
		}
		data.AddRtAttr(iflaMacvlanMode, nl.Uint32Attr(mode))
	} else {
		data.AddRtAttr(iflaIpvlanMode, nl.Uint16Attr(ipvlanModes[o[optIpvlanMode]]))
		data.AddRtAttr(iflaIpvlanFlags, nl.Uint16Attr(ipvlanFlags[o[optIpvlanFlag]]))
	}
	r.AddData(info)
	return r
}

// defaultRoute is e's default route of a family; false: it gives none.
func (e *endpoint) defaultRoute(index int, v4 bool) (request, bool) {
	gw, has := e.Settings.Gateway, e.Settings.IPAddress.IsValid()
	if !v4 {
		gw, has = e.Settings.IPv6Gateway, e.Settings.GlobalIPv6Address.IsValid()
	}
	if e.net.routed3() && has && !e.net.rec.Internal {
		return addDefaultRoute(index, netip.Addr{}, v4), true
	}
	if !gw.IsValid() {
		return request{}, false
	}
	return addDefaultRoute(index, gw, v4), true
}
