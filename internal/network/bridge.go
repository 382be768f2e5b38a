package network

import (
	"errors"
	"fmt"
	stdnet "net"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"wharf/internal/model"
)

// The bridge driver's options, in Docker's words.
const (
	optDefault    = "com.docker.network.bridge.default_bridge"
	optICC        = "com.docker.network.bridge.enable_icc"
	optMasquerade = "com.docker.network.bridge.enable_ip_masquerade"
	optBinding    = "com.docker.network.bridge.host_binding_ipv4"
	optName       = "com.docker.network.bridge.name"
	optTrusted    = "com.docker.network.bridge.trusted_host_interfaces"
	optHostIPv4   = "com.docker.network.host_ipv4"
	optHostIPv6   = "com.docker.network.host_ipv6"
	optMTU        = "com.docker.network.driver.mtu"
	optPrefix     = "com.docker.network.container_iface_prefix"
	optIfname     = "com.docker.network.endpoint.ifname"
	optSysctls    = "com.docker.network.endpoint.sysctls"
)

// bridgePorts is BR_MAX_PORTS less port 0, which the kernel keeps.
const bridgePorts = 1023

func (n *net) isBridge() bool { return n.rec.Driver == "bridge" }

// link is the name of the network's bridge, or of its parent.
func (n *net) link() string {
	if n.isSub() {
		return n.parent()
	}
	if s := n.rec.Options[optName]; s != "" {
		return s
	}
	return "wb-" + n.rec.ID[:12]
}

func (n *net) mtu() int {
	if m, err := strconv.Atoi(n.rec.Options[optMTU]); err == nil && m > 0 {
		return m
	}
	return 1500
}

// flag reads a boolean option that is on unless it says otherwise.
func (n *net) flag(opt string) bool {
	v, err := strconv.ParseBool(n.rec.Options[opt])
	return err != nil || v
}

// portsApart reports whether the bridge itself must keep the network's
// containers from each other. Where bridged packets pass the firewall
// (br_netfilter) its rules do that, and do it better: they let through what
// comes by a published port, which the bridge cannot tell.
func (n *net) portsApart() bool {
	if n.flag(optICC) {
		return false
	}
	filtered := func(name string) bool {
		b, err := os.ReadFile("/proc/sys/net/bridge/bridge-nf-call-" + name)
		return err == nil && strings.TrimSpace(string(b)) == "1"
	}
	return !filtered("iptables") || n.rec.EnableIPv6 && !filtered("ip6tables")
}

// gateways are the bridge's own addresses with their subnets.
func (n *net) gateways() []netip.Prefix {
	var all []netip.Prefix
	for _, c := range n.rec.IPAM.Config {
		all = append(all, netip.PrefixFrom(c.Gateway, c.Subnet.Bits()))
	}
	return all
}

// ensure makes the network's bridge unless it is there, and returns its
// index. One maker at a time; afterwards it costs one ioctl, which finds out
// that somebody removed it.
func (r *Room) ensure(n *net) (int, error) {
	n.making.Lock()
	defer n.making.Unlock()
	i, err := r.rt.index(n.link())
	if err == nil && i == n.index {
		return i, nil
	}
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return 0, fmt.Errorf("bridge %s: %w", n.link(), err)
	}
	if i, err = r.make(n, i); err != nil {
		return 0, fmt.Errorf("bridge %s: %w", n.link(), explain(err))
	}
	n.live.Store(true)
	r.serveNames(n)
	if err := r.fw.apply(); err != nil {
		r.warn("no nftables: containers cannot reach other machines unless the host translates and forwards for them, and published ports do not work (%v)", err)
	}
	r.noticeStrangers()
	n.index = i
	return i, nil
}

// explain says what to do about a missing capability and a full bridge.
func explain(err error) error {
	if errors.Is(err, unix.EXFULL) {
		return model.Refuse(errdefs.ErrResourceExhausted, "the network is full: a Linux bridge has %d ports, one for each running instance; make another network for more", bridgePorts)
	}
	if errors.Is(err, unix.EPERM) {
		return model.Refuse(errdefs.ErrFailedPrecondition, "the daemon lacks CAP_NET_ADMIN here; run it with that, or run the container with --network none or host: %w", err)
	}
	return err
}

// make makes or adopts the bridge: index is 0 when there is no such link.
func (r *Room) make(n *net, index int) (int, error) {
	if index == 0 {
		mac := macFor(n.gateways()[0].Addr())
		if err := r.rt.do(addBridge(n.link(), n.mtu(), mac)); err != nil {
			return 0, err
		}
		i, err := r.rt.index(n.link())
		if err != nil {
			return 0, err
		}
		index = i
	} else if l, err := r.slow.LinkByIndex(index); err != nil {
		return 0, err
	} else if l.Type() != "bridge" {
		return 0, model.Refuse(errdefs.ErrAlreadyExists, "a link of that name exists and is a %s, not a bridge", l.Type())
	}
	reqs := []request{}
	if !n.rec.EnableIPv6 {
		r.bridgeSysctl(n, "ipv6", "disable_ipv6", "1")
	} else {
		r.bridgeSysctl(n, "ipv6", "disable_ipv6", "0")
		r.bridgeSysctl(n, "ipv6", "accept_ra", "0")
		// The bridge's link-local address is ours alone. Until the kernel is
		// sure of that, a second or two, it does not look for containers on
		// behalf of others: what comes in by a published port would be lost.
		r.bridgeSysctl(n, "ipv6", "accept_dad", "0")
	}
	// So that a port published on 127.0.0.1 reaches the container; the chain
	// "guard" keeps containers from the host's loopback.
	r.bridgeSysctl(n, "ipv4", "route_localnet", "1")
	for _, gw := range n.gateways() {
		reqs = append(reqs, addAddress(index, gw))
	}
	reqs = append(reqs, linkUp(index, n.link()))
	if err := r.rt.do(reqs...); err != nil {
		return 0, err
	}
	if err := r.dropStrangers(n, index); err != nil {
		return 0, err
	}
	if !n.rec.Internal {
		r.forwarding(n)
	}
	return index, nil
}

// dropStrangers removes addresses of an adopted bridge that are no longer the
// network's (the daemon was given another --bip).
func (r *Room) dropStrangers(n *net, index int) error {
	link, err := r.slow.LinkByIndex(index)
	if err != nil {
		return err
	}
	have, err := r.slow.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	for _, a := range have {
		if !ours(n, a.IPNet) && !a.IP.IsLinkLocalUnicast() {
			if err := r.slow.AddrDel(link, &a); err != nil {
				return fmt.Errorf("remove the earlier address %s: %w", a.IPNet, err)
			}
		}
	}
	return nil
}

func ours(n *net, p *stdnet.IPNet) bool {
	for _, gw := range n.gateways() {
		if p.String() == gw.String() {
			return true
		}
	}
	return false
}

// bridgeSysctl sets a sysctl of the network's bridge; what the kernel has not
// got needs no setting.
func (r *Room) bridgeSysctl(n *net, family, key, value string) {
	p := "/proc/sys/net/" + family + "/conf/" + n.link() + "/" + key
	if err := setFile(p, value); err != nil && !errors.Is(err, os.ErrNotExist) {
		r.warn("network %s: %v", n.rec.Name, err)
	}
}

// forwarding turns the host into a router, once.
func (r *Room) forwarding(n *net) {
	if r.opts.NoIPForward {
		return
	}
	if err := setFile("/proc/sys/net/ipv4/ip_forward", "1"); err != nil {
		r.warn("IPv4 forwarding is disabled and cannot be enabled: containers reach only each other and this host (%v)", err)
	}
	if n.rec.EnableIPv6 {
		if err := setFile("/proc/sys/net/ipv6/conf/all/forwarding", "1"); err != nil {
			r.warn("IPv6 forwarding is disabled and cannot be enabled (%v)", err)
		}
	}
}

// setFile writes value unless the file says so already, so that a read-only
// /proc/sys with the right setting is no trouble.
func setFile(path, value string) error {
	if b, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(b)) == value {
		return nil
	}
	return os.WriteFile(path, []byte(value), 0)
}
