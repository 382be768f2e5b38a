package network

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

// How the room lives beside the host's own firewall (ufw, firewalld, Docker's,
// a plain nftables.conf). A packet has to be accepted by the chains of every
// table, so ours cannot let through what another's drops.
const (
	// FirewallHost leaves other tables alone: what they drop stays dropped,
	// published ports included. The room warns about chains that do.
	FirewallHost = "host"
	// FirewallDocker puts rules at the top of other tables' forward and input
	// chains that accept what goes in and out by the room's bridges; the
	// room's own table then decides alone. They are put back when that
	// firewall is reloaded and taken out when the network is removed or the
	// mode is left.
	FirewallDocker = "docker"
)

// pass is one rule for others' chains.
type pass struct {
	comment string
	exprs   part
}

// openOthers brings the other tables' chains to what the mode wants of them.
// Call with mu held.
func (f *firewall) openOthers(rs ruleset) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	chains, err := c.ListChains()
	if err != nil {
		return err
	}
	changed := false
	for _, x := range chains {
		if !f.foreign(x) {
			continue
		}
		want := f.passes(rs, *x.Hooknum)
		rules, err := c.GetRules(x.Table, x)
		if err != nil {
			continue // gone meanwhile
		}
		var have []string
		var ours []*nftables.Rule
		for _, rule := range rules {
			if s, ok := userdata.GetString(rule.UserData, userdata.TypeComment); ok && strings.HasPrefix(s, f.mark()) {
				have, ours = append(have, s), append(ours, rule)
			}
		}
		if slices.EqualFunc(have, want, func(s string, p pass) bool { return s == p.comment }) {
			continue
		}
		changed = true
		for _, rule := range ours {
			if err := c.DelRule(rule); err != nil {
				return err
			}
		}
		for _, p := range slices.Backward(want) { // each goes before the others
			c.InsertRule(&nftables.Rule{Table: x.Table, Chain: x, Exprs: p.exprs, UserData: userdata.AppendString(nil, userdata.TypeComment, p.comment)})
		}
	}
	if !changed {
		return nil
	}
	return c.Flush()
}

// mark begins the comment of every rule of ours in another's chain.
func (f *firewall) mark() string { return f.room.opts.Table + ": " }

// foreign reports whether x is somebody else's chain that our packets pass.
func (f *firewall) foreign(x *nftables.Chain) bool {
	if x.Hooknum == nil || x.Type != nftables.ChainTypeFilter || x.Table.Name == f.room.opts.Table {
		return false
	}
	switch x.Table.Family {
	case nftables.TableFamilyIPv4, nftables.TableFamilyIPv6, nftables.TableFamilyINet:
		return *x.Hooknum == *nftables.ChainHookForward || *x.Hooknum == *nftables.ChainHookInput
	}
	return false
}

// passes are the rules that the mode wants in a chain at hook.
func (f *firewall) passes(rs ruleset, hook nftables.ChainHook) []pass {
	if f.room.opts.FirewallMode != FirewallDocker {
		return nil
	}
	accept := verdict(expr.VerdictAccept)
	var all []pass
	for _, n := range rs.nets {
		if hook == *nftables.ChainHookForward {
			all = append(all,
				pass{f.mark() + "from " + n.bridge, slices.Concat(iif(), name(n.bridge), accept)},
				pass{f.mark() + "to " + n.bridge, slices.Concat(oif(), name(n.bridge), accept)})
			continue
		}
		if n.dns == 0 {
			continue
		}
		for what, proto := range map[string]byte{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP} {
			text := f.mark() + "names for " + n.bridge + " at " + strconv.Itoa(int(n.dns)) + "/" + what
			all = append(all, pass{text, slices.Concat(iif(), name(n.bridge), l4proto(proto), dport(n.dns), accept)})
		}
	}
	slices.SortFunc(all, func(a, b pass) int { return strings.Compare(a.comment, b.comment) })
	return all
}

// strangers says which chains of others drop by default what our networks
// need: a packet has to be let through by every table.
func (r *Room) strangers() []string {
	if r.opts.FirewallMode == FirewallDocker {
		return nil
	}
	r.mu.Lock()
	var live []*net
	for _, n := range r.nets {
		if n.isBridge() && n.live.Load() {
			live = append(live, n)
		}
	}
	r.mu.Unlock()
	if len(live) == 0 {
		return nil
	}
	slices.SortFunc(live, func(a, b *net) int { return strings.Compare(a.rec.Name, b.rec.Name) })
	c, done, err := openNFT()
	if err != nil {
		return nil
	}
	defer done()
	chains, err := c.ListChains()
	if err != nil {
		return nil
	}
	var all []string
	for _, x := range chains {
		if !r.fw.foreign(x) || !refusing(c, x) {
			continue
		}
		for _, n := range live {
			switch {
			case *x.Hooknum == *nftables.ChainHookForward && !n.rec.Internal:
				all = append(all, fmt.Sprintf("chain %s of nftables table %s drops forwarded packets by default: containers reach other machines, and are reached at published ports, only if it accepts what goes in and out by %s (docs/networking.md), or with firewall-mode docker", x.Name, x.Table.Name, n.link()))
			case *x.Hooknum == *nftables.ChainHookInput && n.hasNames():
				all = append(all, fmt.Sprintf("chain %s of nftables table %s drops incoming packets by default: containers of network %s find each other by name only if it accepts port %d from %s (docs/networking.md), or with firewall-mode docker", x.Name, x.Table.Name, n.rec.Name, n.dnsAt.Load(), n.link()))
			}
		}
	}
	return all
}

// refusing reports whether a chain lets nothing through that it does not name:
// by its policy, or by its last rule, as firewalld does it.
func refusing(c *nftables.Conn, x *nftables.Chain) bool {
	if x.Policy != nil && *x.Policy == nftables.ChainPolicyDrop {
		return true
	}
	rules, err := c.GetRules(x.Table, x)
	if err != nil || len(rules) == 0 {
		return false
	}
	for _, e := range rules[len(rules)-1].Exprs {
		switch e := e.(type) {
		case *expr.Counter, *expr.Log:
		case *expr.Reject:
			return true
		case *expr.Verdict:
			return e.Kind == expr.VerdictDrop
		default:
			return false // it asks something first
		}
	}
	return false
}

// noticeStrangers logs what strangers says, each text once.
func (r *Room) noticeStrangers() {
	for _, text := range r.strangers() {
		r.mu.Lock()
		_, known := r.noticed[text]
		r.noticed[text] = struct{}{}
		r.mu.Unlock()
		if !known {
			r.log.Warn(text)
		}
	}
}
