package lifecycle

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"wharf/internal/model"
	"wharf/internal/plan"
)

// rewired brings a running container to its changed networks or name: routes
// and names in its namespace, and the files of /etc that speak of them. It
// returns the endpoints as they are now. eps are those that the record is
// going to have.
func (c *core) rewired(ctx context.Context, ctr *model.Container, eps []model.Endpoint) ([]model.Endpoint, error) {
	now, err := c.networks.Refresh(ctx, c.running(ctr, nil))
	if err != nil {
		return eps, err
	}
	out := slices.Clone(eps)
	for i, ep := range out {
		if j := slices.IndexFunc(now, func(n model.Endpoint) bool { return n.NetworkID == ep.NetworkID }); j >= 0 {
			out[i] = now[j]
		}
	}
	return out, c.etcAgain(ctr, ctr.Attached, out)
}

// etcAgain writes hosts and resolv.conf for other endpoints, unless somebody
// has edited them in the container.
func (c *core) etcAgain(ctr *model.Container, before, after []model.Endpoint) error {
	in := plan.FilesInput{Container: *ctr, Endpoints: before, HostResolv: hostResolv(), Links: c.links(ctr)}
	old := c.plan.Files(in)
	in.Endpoints = after
	next := c.plan.Files(in)
	for _, f := range []struct {
		name     string
		old, new []byte
	}{{"hosts", old.Hosts, next.Hosts}, {"resolv.conf", old.Resolv, next.Resolv}} {
		path := filepath.Join(c.dir(ctr.ID), f.name)
		have, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(have, f.old) {
			continue
		}
		if err := rewrite(path, f.new); err != nil {
			return wrap(err, "write %s of %s", f.name, ctr.ID.Short())
		}
	}
	return nil
}

// mayChangeNetwork reports whether the container has CAP_NET_ADMIN over its
// own network.
func mayChangeNetwork(c *model.Container) bool {
	return c.HostConfig.Privileged || slices.ContainsFunc(c.HostConfig.CapAdd, func(s string) bool {
		s = strings.TrimPrefix(strings.ToUpper(s), "CAP_")
		return s == "ALL" || s == "NET_ADMIN"
	})
}
