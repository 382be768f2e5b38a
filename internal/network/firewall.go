package network

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"

	"github.com/google/nftables"
)

// firewall keeps the room's table as the networks and ports want it.
type firewall struct {
	room *Room
	mu   sync.Mutex  // one transaction at a time
	want *tableShape // what the last transaction made; nil before; guarded by mu
	stop func() error
}

// tableShape is enough of the table to notice that somebody tampered with it.
type tableShape struct {
	rules map[string]int // by chain
}

// rules is everything that goes into the table.
type ruleset struct {
	nets  []ruleNet
	ports []portRule
}

// ruleNet is what the rules need to know of a network.
type ruleNet struct {
	bridge     string
	subnets    []netip.Prefix
	icc        bool
	masquerade bool
	internal   bool
	dns        uint16       // port of the network's name server, 0 without
	trusted    []string     // host interfaces from where every port is reached
	from       []netip.Addr // addresses that containers' packets leave with, instead of the way out's
}

// portRule sends a host port to a container. An unspecified host address
// stands for every address of the host of its family.
type portRule struct {
	proto     byte
	host      netip.AddrPort
	container netip.AddrPort
}

func newFirewall(r *Room) *firewall {
	return &firewall{room: r, stop: func() error { return nil }}
}

// apply writes the whole table in one transaction: either the kernel has all
// of it or what was there before. Doing it again changes nothing.
func (f *firewall) apply() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.applyLocked()
}

func (f *firewall) applyLocked() error {
	c, done, err := openNFT()
	if err != nil {
		return err
	}
	defer done()
	t := f.table()
	c.AddTable(t) // so that the removal never fails
	c.DelTable(t)
	c.AddTable(t)
	b := &tableBuilder{conn: c, table: t, shape: &tableShape{rules: map[string]int{}}}
	rs := f.room.ruleset()
	b.build(rs)
	if b.err != nil {
		return fmt.Errorf("nftables table %s: %w", t.Name, b.err)
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("nftables table %s: %w", t.Name, err)
	}
	if err := f.openOthers(rs); err != nil {
		f.room.warn("other firewalls' chains cannot be changed for firewall mode %s: %v", f.room.opts.FirewallMode, err)
	}
	first := f.want == nil
	f.want = b.shape
	if first {
		if f.stop, err = f.watch(); err != nil {
			f.room.log.Warn("the nftables table is not watched: if somebody flushes it, restart the daemon", "error", err)
			f.stop = func() error { return nil }
		}
	}
	return nil
}

func (f *firewall) table() *nftables.Table {
	return &nftables.Table{Name: f.room.opts.Table, Family: nftables.TableFamilyINet}
}

// intact reports whether the kernel still has what apply wrote. Call with mu
// held.
func (f *firewall) intact() bool {
	c, err := nftables.New()
	if err != nil {
		return true
	}
	t := f.table()
	tables, err := c.ListTablesOfFamily(t.Family)
	if err != nil {
		return true // cannot tell
	}
	there := false
	for _, x := range tables {
		there = there || x.Name == t.Name
	}
	if !there {
		return false
	}
	for chain, n := range f.want.rules {
		rules, err := c.GetRules(t, &nftables.Chain{Name: chain, Table: t})
		if err != nil || len(rules) != n {
			return false
		}
	}
	return true
}

// repair puts the table back if it is not as it was written.
func (f *firewall) repair() {
	defer f.room.noticeStrangers() // without mu
	f.room.tapTablesAgain()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.want == nil {
		return
	}
	if f.intact() {
		if err := f.openOthers(f.room.ruleset()); err != nil {
			f.room.log.Warn("let containers through other firewalls' chains again", "error", err)
		}
		return
	}
	if err := f.applyLocked(); err != nil {
		f.room.log.Error("restore the nftables table", "error", err)
		return
	}
	f.room.log.Info("restored the nftables table that somebody changed or removed", "table", f.room.opts.Table)
}

// change adds or removes port rules without rewriting the table.
func (f *firewall) change(rules []portRule, add bool) error {
	if len(rules) == 0 {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.want == nil {
		if !add {
			return nil
		}
		return f.applyLocked()
	}
	err := f.changeLocked(rules, add)
	if err != nil {
		err = f.applyLocked() // somebody changed the table: write it whole
	}
	return err
}

func (f *firewall) changeLocked(rules []portRule, add bool) error {
	c, done, err := openNFT()
	if err != nil {
		return err
	}
	defer done()
	for _, p := range rules {
		set := portMap(f.table(), p)
		e := []nftables.SetElement{p.element()}
		if add {
			err = c.SetAddElements(set, e)
		} else {
			err = c.SetDeleteElements(set, e)
		}
		if err != nil {
			return err
		}
	}
	return c.Flush()
}

func (f *firewall) close() error {
	f.mu.Lock()
	stop := f.stop
	f.mu.Unlock()
	return stop()
}

// ruleset collects what the live networks and published ports want.
func (r *Room) ruleset() ruleset {
	r.mu.Lock()
	defer r.mu.Unlock()
	var rs ruleset
	for _, n := range r.nets {
		if !n.isBridge() || !n.live.Load() {
			continue
		}
		rn := ruleNet{bridge: n.link(), icc: n.flag(optICC), masquerade: n.flag(optMasquerade), internal: n.rec.Internal, dns: uint16(n.dnsAt.Load())}
		if t := n.rec.Options[optTrusted]; t != "" {
			rn.trusted = strings.Split(t, ":")
		}
		for _, o := range []string{optHostIPv4, optHostIPv6} {
			if a, err := netip.ParseAddr(n.rec.Options[o]); err == nil {
				rn.from = append(rn.from, a)
			}
		}
		for _, c := range n.rec.IPAM.Config {
			rn.subnets = append(rn.subnets, c.Subnet)
		}
		rs.nets = append(rs.nets, rn)
	}
	for _, hs := range r.ports {
		for _, h := range hs {
			if h.translated() {
				rs.ports = append(rs.ports, h.rule)
			}
		}
	}
	rs.sort()
	return rs
}
