package dockerapi

import (
	"net/http"
	"strconv"

	"github.com/moby/moby/api/types/network"

	"wharf/internal/model"
)

func (s *server) networkRoutes() []route {
	rs := need(s.Networks != nil, "network", []route{
		{method: "GET", path: "/networks", handle: s.listNetworks},
		{method: "POST", path: "/networks/create", handle: s.createNetwork},
		{method: "POST", path: "/networks/prune", since: 25, handle: s.pruneNetworks},
		{method: "GET", path: "/networks/{}", handle: s.inspectNetwork},
		{method: "DELETE", path: "/networks/{}", handle: s.removeNetwork},
	})
	return append(rs, need(s.Containers != nil, "container", []route{
		{method: "POST", path: "/networks/{}/connect", handle: s.connect},
		{method: "POST", path: "/networks/{}/disconnect", handle: s.disconnect},
	})...)
}

func (s *server) listNetworks(c *call) error {
	f, err := c.filters()
	if err != nil {
		return err
	}
	all, err := s.Networks.List(c.ctx(), f)
	if err != nil {
		return err
	}
	if c.v >= 28 {
		return c.json(http.StatusOK, list(all))
	}
	// Older lists were as detailed as inspect.
	full := make([]*network.Inspect, 0, len(all))
	for _, n := range all {
		in, err := s.Networks.Inspect(c.ctx(), n.ID, false)
		if err != nil {
			continue // removed meanwhile
		}
		full = append(full, in)
	}
	return c.json(http.StatusOK, full)
}

func (s *server) inspectNetwork(c *call) error {
	verbose := false
	if text := c.get("verbose"); text != "" {
		var err error
		if verbose, err = strconv.ParseBool(text); err != nil {
			return invalid("invalid value for verbose: %s", text)
		}
	}
	got, err := s.Networks.Inspect(c.ctx(), c.name, verbose)
	if err != nil {
		return err
	}
	if scope := c.get("scope"); scope != "" && scope != got.Scope {
		return &statusError{http.StatusNotFound, "network " + c.name + " not found"}
	}
	n := *got
	if c.v < 52 {
		n.Status = nil
	}
	return c.json(http.StatusOK, &n)
}

func (s *server) createNetwork(c *call) error {
	var r network.CreateRequest
	if err := c.body(&r); err != nil {
		return err
	}
	if c.v < 48 {
		r.EnableIPv4 = nil
	}
	answer, err := s.Networks.Create(c.ctx(), r)
	if err != nil {
		return err
	}
	return c.json(http.StatusCreated, answer)
}

func (s *server) removeNetwork(c *call) error {
	if err := s.Networks.Remove(c.ctx(), c.name); err != nil {
		return err
	}
	return c.done(http.StatusNoContent)
}

func (s *server) pruneNetworks(c *call) error {
	f, err := c.filters()
	if err != nil {
		return err
	}
	report, err := s.Networks.Prune(c.ctx(), f)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, report)
}

func (s *server) connect(c *call) error {
	var r network.ConnectRequest
	if err := c.body(&r); err != nil {
		return err
	}
	if r.Container == "" {
		return invalid("Container: the name or id of a container is missing")
	}
	if r.EndpointConfig == nil {
		r.EndpointConfig = &network.EndpointSettings{}
	}
	if c.v < 44 {
		r.EndpointConfig.MacAddress = nil
	}
	if err := s.Containers.Connect(c.ctx(), c.name, r.Container, r.EndpointConfig); err != nil {
		return err
	}
	return c.done(http.StatusOK)
}

func (s *server) disconnect(c *call) error {
	var r network.DisconnectRequest
	if err := c.body(&r); err != nil {
		return err
	}
	if r.Container == "" {
		return invalid("Container: the name or id of a container is missing")
	}
	if err := s.Containers.Disconnect(c.ctx(), c.name, r.Container, r.Force); err != nil {
		return err
	}
	return c.done(http.StatusOK)
}

// wantAll makes a prune take named volumes too, as it did before 1.42.
func wantAll(v version, f model.Filters) model.Filters {
	if v < 42 {
		add(f, "all", "true")
	}
	return f
}
