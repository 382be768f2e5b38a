package network

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"wharf/internal/model"
)

// Words of model.NetworkRule.
const (
	egress, ingress = "egress", "ingress"
	allow, deny     = "allow", "deny"
	byLabel, byRule = "label", "rule"
	unlimited       = "none"
)

func empty(n *model.NetworkRules) bool {
	return n == nil || len(n.EgressAllow)+len(n.EgressDeny)+len(n.IngressAllow)+len(n.IngressDeny) == 0 && n.BandwidthIn == "" && n.BandwidthOut == ""
}

// add puts rules to the policy.
func (p *policy) add(n model.NetworkRules) error {
	for _, l := range []struct {
		d     *direction
		allow bool
		list  []string
	}{
		{&p.egress, true, n.EgressAllow}, {&p.egress, false, n.EgressDeny},
		{&p.ingress, true, n.IngressAllow}, {&p.ingress, false, n.IngressDeny},
	} {
		ts, err := parseTargets(l.list)
		if err != nil {
			return err
		}
		if !l.allow {
			l.d.refuse(ts)
		} else if len(ts) > 0 {
			l.d.closed, l.d.allow = true, append(l.d.allow, ts...)
		}
	}
	return errors.Join(rate(&p.in, n.BandwidthIn), rate(&p.out, n.BandwidthOut))
}

// rate sets to unless text is empty, which leaves it.
func rate(to *uint64, text string) (err error) {
	switch text {
	case "":
	case unlimited:
		*to = 0
	default:
		*to, err = parseRate(text)
	}
	return err
}

// String is the target in its one form: the shortest that parseTarget reads.
func (t target) String() string {
	s := "*"
	if t.net.IsValid() {
		if s = t.net.String(); t.net.IsSingleIP() {
			s = t.net.Addr().String()
		}
	}
	if t.first != 0 {
		if strings.Contains(s, ":") {
			s = "[" + s + "]"
		}
		s += ":" + strconv.Itoa(int(t.first))
		if t.last != t.first {
			s += "-" + strconv.Itoa(int(t.last))
		}
	}
	for name, p := range map[string]byte{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP, "sctp": unix.IPPROTO_SCTP, "icmp": unix.IPPROTO_ICMP} {
		if p == t.proto {
			s += "/" + name
		}
	}
	return s
}

// canonical brings an entry to its one form.
func canonical(w string) (string, error) {
	ts, err := parseTargets([]string{w})
	if err != nil {
		return "", model.Refuse(errdefs.ErrInvalidArgument, "%w", err)
	}
	if len(ts) == 2 { // a port of tcp and udp
		ts[0].proto = 0
	}
	return ts[0].String(), nil
}

// list is the list of n that a rule belongs to.
func list(n *model.NetworkRules, direction, verdict string) (*[]string, error) {
	switch direction + " " + verdict {
	case "egress allow":
		return &n.EgressAllow, nil
	case "egress deny":
		return &n.EgressDeny, nil
	case "ingress allow":
		return &n.IngressAllow, nil
	case "ingress deny":
		return &n.IngressDeny, nil
	}
	return nil, model.Refuse(errdefs.ErrInvalidArgument, "invalid rule %q %q: the direction is egress or ingress, the verdict allow or deny", direction, verdict)
}

// ChangeRules is old after a change; nil when nothing is left. It is pure.
func (r *Room) ChangeRules(old *model.NetworkRules, ch model.NetworkRulesChange) (*model.NetworkRules, error) {
	var n model.NetworkRules
	if old != nil {
		n = *old
		for _, l := range []*[]string{&n.EgressAllow, &n.EgressDeny, &n.IngressAllow, &n.IngressDeny} {
			*l = slices.Clone(*l)
		}
	}
	for _, x := range ch.Unset {
		if err := unset(&n, x); err != nil {
			return nil, err
		}
	}
	if ch.Clear {
		n = model.NetworkRules{}
	}
	for _, x := range ch.Set {
		w, err := canonical(x.Target)
		if err != nil {
			return nil, err
		}
		l, err := list(&n, x.Direction, x.Verdict)
		if err != nil {
			return nil, err
		}
		other, _ := list(&n, x.Direction, map[string]string{allow: deny, deny: allow}[x.Verdict])
		*other = slices.DeleteFunc(*other, func(s string) bool { return s == w })
		if !slices.Contains(*l, w) {
			*l = append(*l, w)
		}
	}
	for _, b := range []struct {
		to   *string
		text *string
	}{{&n.BandwidthIn, ch.BandwidthIn}, {&n.BandwidthOut, ch.BandwidthOut}} {
		if b.text == nil {
			continue
		}
		if err := rate(new(uint64), *b.text); err != nil {
			return nil, model.Refuse(errdefs.ErrInvalidArgument, "bandwidth: %w", err)
		}
		*b.to = *b.text
	}
	if empty(&n) {
		return nil, nil
	}
	return &n, nil
}

func unset(n *model.NetworkRules, x model.NetworkRule) error {
	w, err := canonical(x.Target)
	if err != nil {
		return err
	}
	verdicts := []string{x.Verdict}
	if x.Verdict == "" {
		verdicts = []string{allow, deny}
	}
	found := false
	for _, v := range verdicts {
		l, err := list(n, x.Direction, v)
		if err != nil {
			return err
		}
		before := len(*l)
		*l = slices.DeleteFunc(*l, func(s string) bool { return s == w })
		found = found || len(*l) < before
	}
	if !found {
		return model.Refuse(errdefs.ErrNotFound, "no rule for %s %s (rules of labels stay as long as the container)", x.Direction, w)
	}
	return nil
}

// ShowRules lists how an instance is limited, by its labels and its rules. It
// is pure.
func (r *Room) ShowRules(labels map[string]string, n *model.NetworkRules) (model.NetworkLimits, error) {
	out := model.NetworkLimits{Rules: []model.NetworkRule{}}
	p, err := policyOf(model.AttachNetworks{Labels: labels, Rules: n})
	if err != nil {
		return out, err
	}
	if p == nil {
		p = &policy{}
	}
	if n == nil {
		n = &model.NetworkRules{}
	}
	for _, l := range []struct {
		direction, verdict, label string
		list                      []string
	}{
		{egress, deny, labelEgressDeny, n.EgressDeny}, {egress, allow, labelEgressAllow, n.EgressAllow},
		{ingress, deny, labelIngressDeny, n.IngressDeny}, {ingress, allow, labelIngressAllow, n.IngressAllow},
	} {
		for _, s := range words(labels[l.label]) {
			w, _ := canonical(s) // policyOf has read it
			out.Rules = append(out.Rules, model.NetworkRule{Direction: l.direction, Verdict: l.verdict, Target: w, Source: byLabel})
		}
		for _, w := range l.list {
			out.Rules = append(out.Rules, model.NetworkRule{Direction: l.direction, Verdict: l.verdict, Target: w, Source: byRule})
		}
	}
	rest := map[bool]string{true: deny, false: allow}
	out.Egress, out.Ingress = rest[p.egress.closed], rest[p.ingress.closed]
	out.BandwidthIn = rateOf(labels[labelBandwidthIn], n.BandwidthIn)
	out.BandwidthOut = rateOf(labels[labelBandwidthOut], n.BandwidthOut)
	out.Warnings = append(p.egress.idle(egress), p.ingress.idle(ingress)...)
	return out, nil
}

func rateOf(label, rule string) model.NetworkRate {
	switch {
	case rule == unlimited:
		return model.NetworkRate{Source: byRule}
	case rule != "":
		return model.NetworkRate{Rate: rule, Source: byRule}
	case label != "":
		return model.NetworkRate{Rate: label, Source: byLabel}
	}
	return model.NetworkRate{}
}

// idle names what is allowed without effect, because it is denied too.
func (d direction) idle(title string) []string {
	var all []string
	for _, a := range d.allow {
		for _, n := range d.deny {
			if n.covers(a) {
				all = append(all, fmt.Sprintf("%s: allowing %s has no effect, %s is denied and that comes first", title, a, n))
				break
			}
		}
	}
	return all
}

// covers reports whether everything that u matches is matched by t.
func (t target) covers(u target) bool {
	return (!t.net.IsValid() || u.net.IsValid() && t.net.Bits() <= u.net.Bits() && t.net.Contains(u.net.Addr())) &&
		(t.proto == 0 || t.proto == u.proto) &&
		(t.first == 0 || u.first != 0 && t.first <= u.first && u.last <= t.last)
}

// CheckRules refuses to limit what cannot be limited from outside.
func (r *Room) CheckRules(q model.AttachNetworks, mode container.NetworkMode) error {
	switch {
	case mode.IsHost():
		return model.Refuse(errdefs.ErrConflict, "container %s is in the host's network: there is nothing of its own to limit", q.Name)
	case mode.IsContainer():
		return model.Refuse(errdefs.ErrConflict, "container %s is in the network of container %s: set the rules there", q.Name, mode.ConnectedContainer())
	case q.NetAdmin && !q.Tap:
		return model.Refuse(errdefs.ErrConflict, "container %s may change its own network (--privileged or --cap-add NET_ADMIN) and could lift any rule: create it without", q.Name)
	}
	return nil
}

// Limit brings a running instance to the limits of q's labels and rules, at
// once: what a rule is against stops, also in the middle of a connection.
// Doing it again changes nothing.
func (r *Room) Limit(ctx context.Context, q model.AttachNetworks) error {
	p, err := policyOf(q)
	if err != nil {
		return err
	}
	r.mu.Lock()
	eps := r.ranked(q.ID)
	r.mu.Unlock()
	if q.Tap {
		if err := r.limitTaps(q.ID, eps, p); err != nil {
			return fmt.Errorf("limit %s: %w", q.ID.Short(), err)
		}
		return ctx.Err()
	}
	if err := r.limitInside(q, eps, p); err != nil {
		return fmt.Errorf("limit %s: %w", q.ID.Short(), err)
	}
	return ctx.Err()
}

func (r *Room) limitInside(q model.AttachNetworks, eps []*endpoint, p *policy) error {
	path, err := namespaceOf(q)
	if err != nil {
		return err
	}
	ns, err := openNetns(path)
	if err != nil {
		return err
	}
	defer func() { _ = ns.close() }()
	if err := p.limit(ns, false); err != nil {
		return err
	}
	c, err := ns.enter(nil)
	if err != nil {
		return err
	}
	defer func() { _ = c.close() }()
	for _, e := range eps {
		if e.Interface == "" {
			continue
		}
		i, err := c.index(e.Interface)
		if errors.Is(err, unix.ENODEV) {
			continue // going
		}
		if err == nil {
			err = r.reshape(p, c, e, i)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// reshape is shape for an interface that may have limits already.
func (r *Room) reshape(p *policy, inside *rtnl, e *endpoint, index int) error {
	if p == nil {
		p = &policy{}
	}
	if p.out == 0 {
		if err := unshape(inside, index); err != nil {
			return err
		}
	}
	if e.HostLink == "" {
		if p.in > 0 {
			return noBandwidthIn(e)
		}
		return r.shape(p, inside, e, index)
	}
	if p.in == 0 {
		i, err := r.rt.index(e.HostLink)
		if err == nil {
			err = unshape(r.rt, i)
		}
		if err != nil {
			return err
		}
	}
	return r.shape(p, inside, e, index)
}

// unshape takes a link's token bucket away; none is no error.
func unshape(c *rtnl, index int) error {
	q := newRequest("lift bandwidth limit", unix.RTM_DELQDISC, 0)
	q.AddData(&nl.TcMsg{Family: unix.AF_UNSPEC, Ifindex: int32(index), Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT})
	if err := c.do(q); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
		return err
	}
	return nil
}

func noBandwidthIn(e *endpoint) error {
	return model.Refuse(errdefs.ErrNotImplemented, "%s cannot be carried out on the %s network %s: what comes in does not pass this host", labelBandwidthIn, e.net.rec.Driver, e.Network)
}
