package network

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"

	"wharf/internal/model"
)

// Labels of a container that limit what it may send and receive.
const (
	labelEgressAllow  = "wharf.egress.allow"
	labelEgressDeny   = "wharf.egress.deny"
	labelIngressAllow = "wharf.ingress.allow"
	labelIngressDeny  = "wharf.ingress.deny"
	labelBandwidthIn  = "wharf.bandwidth.in"
	labelBandwidthOut = "wharf.bandwidth.out"
)

// policy is what the labels and the rules say. Without an allow list
// everything may pass that is not denied; with one, or when everything is
// denied, nothing that is not on it. What is denied by name stays denied.
type policy struct {
	egress, ingress direction
	in, out         uint64 // bytes a second and interface; 0: no limit
}

type direction struct {
	allow, deny []target
	closed      bool // there is an allow list, or everything is denied
}

// refuse adds to the deny list. Denying everything leaves the allow list its
// sense: it names the exceptions.
func (d *direction) refuse(ts []target) {
	for _, t := range ts {
		if t == (target{}) {
			d.closed = true
		} else {
			d.deny = append(d.deny, t)
		}
	}
}

func (d direction) empty() bool { return len(d.deny) == 0 && !d.closed }

// target is a peer (egress: where to; ingress: where from) and a port (egress:
// the peer's; ingress: the container's).
type target struct {
	net         netip.Prefix // not valid: any
	proto       byte         // 0: any
	first, last uint16       // 0: any
}

// CheckLimits refuses labels that cannot be carried out: values that cannot be
// read, a container without a network of its own, one that could lift the
// limits itself.
func (r *Room) CheckLimits(labels map[string]string, mode container.NetworkMode, netAdmin bool) error {
	p, used, err := readPolicy(labels)
	if err != nil || p == nil {
		return err
	}
	if mode.IsHost() || mode.IsContainer() {
		return model.Refuse(errdefs.ErrInvalidArgument, "label %s needs a network namespace of the container's own; it has --network %s", used, mode)
	}
	if netAdmin {
		return model.Refuse(errdefs.ErrInvalidArgument, "label %s cannot hold for a container that may change its own network: leave out --privileged and --cap-add NET_ADMIN, or the label", used)
	}
	return nil
}

// policyOf reads q's labels and rules; nil: they limit nothing. What a virtual
// machine may do in its own kernel does not matter: it is limited out here.
func policyOf(q model.AttachNetworks) (*policy, error) {
	p, used, err := readPolicy(q.Labels)
	if err != nil {
		return nil, err
	}
	used = "label " + used
	if !empty(q.Rules) {
		if p == nil {
			p = &policy{}
		}
		used, err = "a network rule", p.add(*q.Rules)
	}
	if err == nil && p != nil && q.NetAdmin && !q.Tap {
		err = model.Refuse(errdefs.ErrInvalidArgument, "%s cannot hold for a container that may change its own network", used)
	}
	return p, err
}

// readPolicy reads the labels and names the first of them; nil: none.
func readPolicy(labels map[string]string) (_ *policy, used string, err error) {
	p := &policy{}
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		if !strings.HasPrefix(k, "wharf.egress.") && !strings.HasPrefix(k, "wharf.ingress.") && !strings.HasPrefix(k, "wharf.bandwidth.") {
			continue
		}
		v := labels[k]
		switch k {
		case labelEgressAllow:
			p.egress.closed = true
			err = p.add(model.NetworkRules{EgressAllow: words(v)})
		case labelEgressDeny:
			err = p.add(model.NetworkRules{EgressDeny: words(v)})
		case labelIngressAllow:
			p.ingress.closed = true
			err = p.add(model.NetworkRules{IngressAllow: words(v)})
		case labelIngressDeny:
			err = p.add(model.NetworkRules{IngressDeny: words(v)})
		case labelBandwidthIn:
			p.in, err = parseRate(v)
		case labelBandwidthOut:
			p.out, err = parseRate(v)
		default: // a slip of the pen must not leave a door open
			return nil, k, model.Refuse(errdefs.ErrInvalidArgument, "label %s is not known: there are %s", k,
				strings.Join([]string{labelEgressAllow, labelEgressDeny, labelIngressAllow, labelIngressDeny, labelBandwidthIn, labelBandwidthOut}, ", "))
		}
		if err != nil {
			return nil, k, model.Refuse(errdefs.ErrInvalidArgument, "label %s: %w", k, err)
		}
		if used == "" {
			used = k
		}
	}
	if used == "" {
		return nil, "", nil
	}
	return p, used, nil
}

// words cuts a label's list such as "10.0.0.0/8, 1.1.1.1:443/tcp,
// [2001:db8::1]:53, *:80-90/tcp". An empty list is legal: it allows, or
// denies, nothing.
func words(s string) []string {
	return strings.FieldsFunc(s, func(c rune) bool { return c == ',' || c == ' ' || c == '\t' || c == '\n' })
}

func parseTargets(ws []string) ([]target, error) {
	var all []target
	for _, w := range ws {
		t, err := parseTarget(w)
		if err != nil {
			return nil, fmt.Errorf("invalid value %q: %w; write ADDRESS[/BITS][:PORT[-PORT]][/tcp|udp|sctp|icmp], * or any for any address and [..] around an IPv6 address that has a port", w, err)
		}
		all = append(all, t...)
	}
	return all, nil
}

// parseTarget reads one. A port without a protocol is two targets.
func parseTarget(w string) ([]target, error) {
	var t target
	protos := map[string]byte{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP, "sctp": unix.IPPROTO_SCTP, "icmp": unix.IPPROTO_ICMP}
	if i := strings.LastIndexByte(w, '/'); i >= 0 {
		if p, ok := protos[w[i+1:]]; ok {
			t.proto, w = p, w[:i]
		}
	}
	addr, port, hasPort := w, "", false
	switch end := strings.IndexByte(w, ']'); {
	case strings.HasPrefix(w, "[") && end > 0:
		addr = w[1:end]
		if rest := w[end+1:]; strings.HasPrefix(rest, ":") {
			port, hasPort = rest[1:], true
		} else if rest != "" {
			return nil, fmt.Errorf("what is %q?", rest)
		}
	case strings.Count(w, ":") == 1:
		addr, port, hasPort = strings.Cut(w, ":")
	}
	if addr != "*" && addr != "any" {
		p, err := netip.ParsePrefix(addr)
		if err != nil {
			a, aerr := netip.ParseAddr(addr)
			if aerr != nil || a.Zone() != "" {
				return nil, fmt.Errorf("%q is no address", addr)
			}
			p = netip.PrefixFrom(a, a.BitLen())
		}
		if t.net = p; p != p.Masked() {
			return nil, fmt.Errorf("%s has bits beyond its length, did you mean %s?", p, p.Masked())
		}
	}
	if !hasPort {
		return []target{t}, nil
	}
	if t.proto == unix.IPPROTO_ICMP {
		return nil, fmt.Errorf("icmp has no ports")
	}
	var err error
	if t.first, t.last, err = parseRange(port); err != nil || t.first == 0 {
		return nil, fmt.Errorf("%q is no port or range of ports", port)
	}
	if t.proto != 0 {
		return []target{t}, nil
	}
	both := []target{t, t}
	both[0].proto, both[1].proto = unix.IPPROTO_TCP, unix.IPPROTO_UDP
	return both, nil
}

const minRate = 1000 // bytes a second: less is a mistake

// parseRate reads "10mbit": bits a second, in tc's units; the result is bytes.
func parseRate(s string) (uint64, error) {
	v := strings.ToLower(strings.TrimSpace(s))
	for _, u := range []struct {
		unit string
		bits float64
	}{{"kbit", 1e3}, {"mbit", 1e6}, {"gbit", 1e9}, {"bit", 1}} {
		num, ok := strings.CutSuffix(v, u.unit)
		if !ok {
			continue
		}
		f, err := strconv.ParseFloat(strings.TrimSpace(num), 64)
		if err != nil || !(f > 0) || f*u.bits/8 > 1e12 {
			break
		}
		if f*u.bits/8 < minRate {
			return 0, fmt.Errorf("invalid value %q: less than %dkbit does not work", s, minRate*8/1000)
		}
		return uint64(f * u.bits / 8), nil
	}
	return 0, fmt.Errorf("invalid value %q: write a number with kbit, mbit or gbit, such as 10mbit", s)
}
