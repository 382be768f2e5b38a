package network

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"

	"wharf/internal/model"
)

// Kinds of what Fsck finds.
const (
	thingEndpoint = "endpoint"
	thingLink     = "link"
	thingBridge   = "bridge"
	thingRules    = "nftables rules"
	thingState    = "network state"
)

// Fsck compares links, addresses, rules and state files with the records:
// one dump of the host's links, one reading of the table. Links that the
// janitor is about to remove are no findings.
func (r *Room) Fsck(ctx context.Context, records []model.Container) ([]model.Finding, error) {
	links, err := r.slow.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("network: list links: %w", err)
	}
	there := make(map[string]netlink.Link, len(links))
	for _, l := range links {
		there[l.Attrs().Name] = l
	}
	running := map[model.ID]*model.Container{}
	for i := range records {
		if c := &records[i]; c.State.Running() {
			running[c.ID] = c
		}
	}
	out := r.checkHeld(running, there)
	out = append(out, r.checkLinks(there)...)
	out = append(out, r.checkNetworks(there)...)
	return append(out, r.checkRules()...), ctx.Err()
}

// checkHeld compares what the room holds with the running containers' records.
func (r *Room) checkHeld(running map[model.ID]*model.Container, there map[string]netlink.Link) []model.Finding {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []model.Finding
	taken := map[netip.Addr]model.ID{}
	for id, eps := range r.held {
		if running[id] == nil {
			out = append(out, model.Finding{Thing: thingEndpoint, Name: string(id), ID: id,
				Detail: "addresses and ports are held for a container that does not run", Remedy: "free them"})
			continue
		}
		for _, e := range eps {
			if e.HostLink != "" && there[e.HostLink] == nil {
				out = append(out, model.Finding{Thing: thingLink, Name: e.HostLink, ID: id,
					Detail: fmt.Sprintf("the container runs, but its link on network %s is not there", e.Network)})
			}
			for _, a := range e.addrs {
				if other, twice := taken[a]; twice && e.net.isBridge() {
					out = append(out, model.Finding{Thing: "address", Name: a.String(), ID: id,
						Detail: fmt.Sprintf("containers %s and %s both have it", id.Short(), other.Short())})
				}
				taken[a] = id
			}
		}
	}
	for id, c := range running {
		for _, ep := range c.Attached {
			if ep.HostLink != "" && r.held[id][string(ep.NetworkID)] == nil {
				out = append(out, model.Finding{Thing: thingEndpoint, Name: string(id) + " on " + ep.Network, ID: id,
					Detail: fmt.Sprintf("recorded on network %s, but the network does not know it: its address could be given to another", ep.Network)})
			}
		}
	}
	return out
}

// checkLinks finds host ends of veth pairs, and taps, on our bridges that nobody
// holds.
func (r *Room) checkLinks(there map[string]netlink.Link) []model.Finding {
	bridges := map[int]bool{}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range r.nets {
		if l := there[n.link()]; l != nil && n.isBridge() {
			bridges[l.Attrs().Index] = true
		}
	}
	held := map[string]bool{}
	for _, eps := range r.held {
		for _, e := range eps {
			held[e.HostLink] = true
		}
	}
	var out []model.Finding
	for name, l := range there {
		prefix, ours := attachedID(name)
		if !ours || (l.Type() != "veth" && l.Type() != "tuntap") || !bridges[l.Attrs().MasterIndex] || held[name] || r.sweep.knows(name) {
			continue
		}
		out = append(out, model.Finding{Thing: thingLink, Name: name, ID: model.ID(prefix),
			Detail: "link on one of our bridges that no running container has", Remedy: "remove it"})
	}
	return out
}

// knows reports whether the link is to be removed soon anyway.
func (j *janitor) knows(link string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	_, due := j.due[link]
	return due
}

// checkNetworks compares the networks with their files and bridges.
func (r *Room) checkNetworks(there map[string]netlink.Link) []model.Finding {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []model.Finding
	for _, n := range r.nets {
		if _, err := os.Lstat(r.store.path(n.rec.ID)); errors.Is(err, fs.ErrNotExist) && !predefined(n.rec.Name) {
			out = append(out, model.Finding{Thing: thingState, Name: n.rec.ID,
				Detail: fmt.Sprintf("the file of network %s is gone: the next daemon will not know it", n.rec.Name), Remedy: "write it again"})
		}
		if n.isBridge() && n.live.Load() && there[n.link()] == nil {
			out = append(out, model.Finding{Thing: thingBridge, Name: n.link(),
				Detail: fmt.Sprintf("somebody removed the bridge of network %s", n.rec.Name), Remedy: "make it again; containers that were on it need a restart"})
		}
	}
	files, _ := filepath.Glob(filepath.Join(r.store.dir, "*.json"))
	for _, f := range files {
		if id := strings.TrimSuffix(filepath.Base(f), ".json"); r.nets[id] == nil {
			out = append(out, model.Finding{Thing: thingState, Name: id, Detail: "file of a network that the daemon does not know; it will at its next start"})
		}
	}
	return out
}

// checkRules asks the kernel whether it has the table that was written last.
func (r *Room) checkRules() []model.Finding {
	r.fw.mu.Lock()
	defer r.fw.mu.Unlock()
	if r.fw.want == nil || r.fw.intact() {
		return nil
	}
	return []model.Finding{{Thing: thingRules, Name: r.opts.Table,
		Detail: "the nftables table is not as it was written: published ports or masquerading may not work", Remedy: "write it again"}}
}

// Repair does what the remedies say.
func (r *Room) Repair(ctx context.Context, f model.Finding) error {
	switch f.Thing {
	case thingEndpoint:
		return r.Detach(ctx, f.ID)
	case thingLink:
		return r.removeUnused(f.Name)
	case thingRules:
		return r.fw.apply()
	case thingState:
		r.mu.Lock()
		n := r.nets[f.Name]
		r.mu.Unlock()
		if n == nil {
			return nil
		}
		return r.store.save(n.rec)
	case thingBridge:
		r.mu.Lock()
		var n *net
		for _, x := range r.nets {
			if x.isBridge() && x.link() == f.Name {
				n = x
			}
		}
		r.mu.Unlock()
		if n == nil {
			return nil
		}
		_, err := r.ensure(n)
		return err
	}
	return fmt.Errorf("there is no repair for a %s", f.Thing)
}
