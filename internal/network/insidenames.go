package network

import (
	"fmt"
	"maps"
	stdnet "net"
	"slices"

	"github.com/miekg/dns"
	"golang.org/x/sync/semaphore"

	"wharf/internal/model"
)

// A container with no bridge to the host (macvlan, ipvlan) cannot reach a
// name server at its gateway: that is another machine. One that has IPv6 only
// cannot reach it from 127.0.0.11. The room opens sockets at 127.0.0.11 in the
// container's namespace for them instead. They end with the daemon; Refresh
// opens them again.

// asksInside reports whether a container on eps needs such sockets.
func asksInside(eps []*endpoint) bool {
	return !slices.ContainsFunc(eps, (*endpoint).asksNames) &&
		slices.ContainsFunc(eps, func(e *endpoint) bool { return e.net.named() && !e.Tap })
}

// named reports whether containers of the network find each other by name.
func (n *net) named() bool { return n.wired() && !predefined(n.rec.Name) }

// serveInside gives the container name server sockets of its own, or takes
// them back when a bridge does it now.
func (r *Room) serveInside(ns *netns, id model.ID) error {
	r.mu.Lock()
	eps := slices.Collect(maps.Values(r.held[id]))
	have := r.insiders[id]
	r.mu.Unlock()
	needed := asksInside(eps)
	switch {
	case needed == (have != nil):
		return nil
	case !needed:
		r.closeInside(id)
		return nil
	}
	s := &nameServer{room: r, id: id, limit: semaphore.NewWeighted(upstreamLimit)}
	err := ns.do(func() error {
		l, err := stdnet.Listen("tcp4", embeddedDNS.String()+":53")
		if err != nil {
			return err
		}
		s.servers = append(s.servers, &dns.Server{Listener: l, Handler: s})
		u, err := stdnet.ListenPacket("udp4", embeddedDNS.String()+":53")
		if err != nil {
			return err
		}
		s.servers = append(s.servers, &dns.Server{PacketConn: u, Handler: s})
		return nil
	})
	if err != nil {
		s.close()
		return fmt.Errorf("name server of %s: %w", id.Short(), err)
	}
	for _, srv := range s.servers {
		s.serve(srv)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.held[id] == nil { // detached meanwhile
		s.close()
		return nil
	}
	r.insiders[id] = s
	return nil
}

func (r *Room) closeInside(id model.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closeInsideLocked(id)
}

// closeInsideLocked closes id's own name server. Call with mu held.
func (r *Room) closeInsideLocked(id model.ID) {
	r.insiders[id].close()
	delete(r.insiders, id)
}
