package network

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"wharf/internal/model"
)

// Refresh brings a running container's namespace, and what others find it by,
// to what it holds now: its name in the DNS (q.Name, q.Hostname), the default
// route, the way from 127.0.0.11. It is for after Disconnect, after a rename
// and after Restore; doing it again changes nothing. It returns the endpoints
// as inspect shows them.
func (r *Room) Refresh(ctx context.Context, q model.AttachNetworks) ([]model.Endpoint, error) {
	r.rename(q)
	if path, err := namespaceOf(q); err == nil && !q.Tap {
		if err := r.redirect(path, q.ID); err != nil {
			return nil, fmt.Errorf("refresh the networks of %s: %w", q.ID.Short(), err)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []model.Endpoint
	for _, e := range r.ranked(q.ID) {
		out = append(out, e.Endpoint)
	}
	return out, ctx.Err()
}

// namespaceOf is the path of the network namespace of q's container.
func namespaceOf(q model.AttachNetworks) (string, error) {
	switch {
	case q.Netns != "":
		return q.Netns, nil
	case q.Pid > 0:
		return "/proc/" + strconv.Itoa(q.Pid) + "/ns/net", nil
	}
	return "", model.Refuse(errdefs.ErrFailedPrecondition, "container %s does not run", q.ID.Short())
}

// rename gives the container's endpoints the names of q. Settings are shared
// with records elsewhere, so they are replaced and not written to.
func (r *Room) rename(q model.AttachNetworks) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if q.Name == "" {
		return
	}
	for _, e := range r.held[q.ID] {
		e.Container = q.Name
		if s := e.Settings.Copy(); s != nil && e.Interface != "" {
			s.DNSNames = dnsNames(e.net, q, s)
			e.Settings = s
		}
	}
	for _, hs := range r.ports {
		for _, h := range hs {
			if h.id == q.ID {
				h.name = q.Name
			}
		}
	}
}

// ranked lists a container's endpoints, the one that its default route would
// rather take first: by gateway priority, then by the network's name. Call
// with mu held.
func (r *Room) ranked(id model.ID) []*endpoint {
	var eps []*endpoint
	for _, e := range r.held[id] {
		eps = append(eps, e)
	}
	slices.SortFunc(eps, func(a, b *endpoint) int {
		return cmp.Or(cmp.Compare(priority(b.Settings), priority(a.Settings)), cmp.Compare(a.Network, b.Network))
	})
	return eps
}

// redirect sends the default route and the questions for names by the first
// of the networks that can take them.
func (r *Room) redirect(path string, id model.ID) error {
	ns, err := openNetns(path)
	if err != nil {
		return err
	}
	defer func() { _ = ns.close() }()
	r.mu.Lock()
	eps := r.ranked(id)
	snapshot := make([]*endpoint, len(eps))
	for i, e := range eps {
		c := *e
		snapshot[i] = &c
	}
	r.mu.Unlock()
	c, err := ns.enter(nil)
	if err != nil {
		return err
	}
	defer func() { _ = c.close() }()
	if err := r.clearLeft(c, id); err != nil {
		return err
	}
	if err := c.do(routeRequests(c, snapshot)...); err != nil {
		return err
	}
	if err := r.namesAgain(ns, snapshot); err != nil {
		return err
	}
	return r.serveInside(ns, id)
}

// clearLeft removes interfaces inside whose networks the container has left
// and that have no end out here.
func (r *Room) clearLeft(c *rtnl, id model.ID) error {
	r.mu.Lock()
	left := r.leaving[id]
	delete(r.leaving, id)
	r.mu.Unlock()
	for _, name := range left {
		i, err := c.index(name)
		if err == nil {
			err = c.do(deleteLink(i, name))
		}
		if err != nil && !errors.Is(err, unix.ENODEV) {
			return err
		}
	}
	return nil
}

// routeRequests are the default routes, one per family, that replace those
// that are there.
func routeRequests(c *rtnl, eps []*endpoint) []request {
	var reqs []request
	var has4, has6 bool
	for _, e := range eps {
		if e.Interface == "" {
			continue
		}
		i, err := c.index(e.Interface)
		if err != nil {
			continue // going, or renamed inside: not ours to route by
		}
		if q, ok := e.defaultRoute(i, true); ok && !has4 {
			has4 = true
			reqs = append(reqs, q)
		}
		if q, ok := e.defaultRoute(i, false); ok && !has6 {
			has6 = true
			reqs = append(reqs, q)
		}
	}
	return reqs
}

// namesAgain is namesInside for a container whose networks changed.
func (r *Room) namesAgain(ns *netns, eps []*endpoint) error {
	i := slices.IndexFunc(eps, (*endpoint).asksNames)
	if i >= 0 {
		name := strings.ReplaceAll(eps[i].Interface, "/", "")
		if err := ns.do(func() error {
			return setFile("/proc/sys/net/ipv4/conf/"+name+"/route_localnet", "1")
		}); err != nil {
			return err
		}
		return r.namesInside(ns, eps, false)
	}
	return removeNamesTable(ns)
}

// removeNamesTable removes what writeNamesTable made; none is no error.
func removeNamesTable(ns *netns) error {
	c, done, err := ns.nft()
	if err != nil {
		return err
	}
	defer done()
	c.DelTable(&nftables.Table{Name: "wharf", Family: nftables.TableFamilyINet})
	if err := c.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove the way from %s: %w", embeddedDNS, err)
	}
	return nil
}
