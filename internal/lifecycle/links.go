package lifecycle

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"wharf/internal/model"
	"wharf/internal/plan"
)

// Links of the default bridge (--link). A record names the other container by
// its id, so that renaming either costs nothing; clients see Docker's form,
// "/other:/container/alias".

// linked is one link, resolved.
type linked struct {
	alias string
	other *model.Container
}

// onDefaultBridge: on networks that users made links are names in the DNS.
func onDefaultBridge(c *model.Container) bool {
	m := c.HostConfig.NetworkMode
	return m == "" || m.IsDefault() || m.IsBridge()
}

// linkedTo are the containers that c's links lead to, without those that were
// removed since.
func (c *core) linkedTo(ctr *model.Container) []linked {
	if !onDefaultBridge(ctr) {
		return nil
	}
	var out []linked
	for _, l := range ctr.HostConfig.Links {
		ref, alias, err := plan.ParseLink(l)
		if err != nil {
			continue // refused at create
		}
		if e, err := c.index.find(ref); err == nil {
			out = append(out, linked{alias, e.record()})
		}
	}
	return out
}

// links are the running containers that --link names, with their addresses on
// the default bridge.
func (c *core) links(ctr *model.Container) []plan.Link {
	var out []plan.Link
	for _, l := range c.linkedTo(ctr) {
		ip := bridgeAddress(l.other)
		if !ip.IsValid() {
			continue
		}
		names := []string{l.alias, l.other.ID.Short()}
		if l.other.Name != l.alias {
			names = append(names, l.other.Name)
		}
		out = append(out, plan.Link{IP: ip, Names: names})
	}
	return out
}

// linkEnv is what Docker puts into the environment of a container with links.
// What is linked to has to run.
func (c *core) linkEnv(ctr *model.Container) ([]string, error) {
	var env []string
	for _, l := range c.linkedTo(ctr) {
		if !l.other.State.Running() {
			return nil, conflict("Cannot link to a non running container: /%s AS /%s/%s", l.other.Name, ctr.Name, l.alias)
		}
		env = append(env, plan.LinkEnv(ctr.Name, l.alias, bridgeAddress(l.other), l.other.Config)...)
	}
	return env, nil
}

// linkEnvNow are the variables of the links whose other end runs, for a
// further process in a container that runs already.
func (c *core) linkEnvNow(ctr *model.Container) []string {
	var env []string
	for _, l := range c.linkedTo(ctr) {
		if l.other.State.Running() {
			env = append(env, plan.LinkEnv(ctr.Name, l.alias, bridgeAddress(l.other), l.other.Config)...)
		}
	}
	return env
}

func bridgeAddress(c *model.Container) netip.Addr {
	for _, ep := range c.Attached {
		if ep.Settings != nil && ep.Network == network.NetworkBridge && ep.Settings.IPAddress.IsValid() {
			return addr(ep.Settings.IPAddress)
		}
	}
	return netip.Addr{}
}

// shownLinks is HostConfig.Links as inspect shows it.
func (c *core) shownLinks(ctr *model.Container) []string {
	if !onDefaultBridge(ctr) {
		return ctr.HostConfig.Links
	}
	var out []string
	for _, l := range c.linkedTo(ctr) {
		out = append(out, "/"+l.other.Name+":/"+ctr.Name+"/"+l.alias)
	}
	return out
}

// linkNames are the further names that containers have by links to them:
// "/container/alias".
func (c *core) linkNames(all []*entry) map[model.ID][]string {
	out := map[model.ID][]string{}
	for _, e := range all {
		ctr := e.record()
		for _, l := range c.linkedTo(ctr) {
			out[l.other.ID] = append(out[l.other.ID], "/"+ctr.Name+"/"+l.alias)
		}
	}
	for names := range maps.Values(out) {
		slices.Sort(names)
	}
	return out
}

// unlink takes the link that name ("container/alias") stands for out of the
// container's configuration; the other container stays.
func (s *remover) unlink(ctx context.Context, name string) error {
	parent, alias, ok := strings.Cut(strings.TrimPrefix(name, "/"), "/")
	if !ok || parent == "" || alias == "" {
		return invalid("invalid link name %q: it must be CONTAINER/ALIAS", name)
	}
	ctx, e, done, err := s.begin(ctx, parent)
	if err != nil {
		return err
	}
	defer done()
	host := *e.record().HostConfig
	left := slices.DeleteFunc(slices.Clone(host.Links), func(l string) bool {
		_, a, err := plan.ParseLink(l)
		return err == nil && a == alias
	})
	if len(left) == len(host.Links) {
		return notFound("no such link: /%s/%s", e.record().Name, alias)
	}
	host.Links = left
	return s.save(ctx, e, true, func(c *model.Container) { c.HostConfig = (*container.HostConfig)(&host) })
}
