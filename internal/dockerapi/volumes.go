package dockerapi

import (
	"net/http"

	"github.com/moby/moby/api/types/volume"
)

func (s *server) volumeRoutes() []route {
	return need(s.Volumes != nil, "volume", []route{
		{method: "GET", path: "/volumes", handle: s.listVolumes},
		{method: "POST", path: "/volumes/create", handle: s.createVolume},
		{method: "POST", path: "/volumes/prune", since: 25, handle: s.pruneVolumes},
		{method: "GET", path: "/volumes/{}", handle: s.inspectVolume},
		{method: "PUT", path: "/volumes/{}", since: 42, handle: notManager},
		{method: "DELETE", path: "/volumes/{}", handle: s.removeVolume},
	})
}

func (s *server) listVolumes(c *call) error {
	f, err := c.filters()
	if err != nil {
		return err
	}
	all, warnings, err := s.Volumes.List(c.ctx(), f)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, volume.ListResponse{Volumes: list(all), Warnings: warnings})
}

func (s *server) inspectVolume(c *call) error {
	v, err := s.Volumes.Inspect(c.ctx(), c.name)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, v)
}

func (s *server) createVolume(c *call) error {
	var r volume.CreateRequest
	if err := c.body(&r); err != nil {
		return err
	}
	if r.ClusterVolumeSpec != nil {
		return errNotManager
	}
	v, err := s.Volumes.Create(c.ctx(), r)
	if err != nil {
		return err
	}
	return c.json(http.StatusCreated, v)
}

func (s *server) removeVolume(c *call) error {
	if err := s.Volumes.Remove(c.ctx(), c.name, c.truth("force")); err != nil {
		return err
	}
	return c.done(http.StatusNoContent)
}

func (s *server) pruneVolumes(c *call) error {
	f, err := c.filters()
	if err != nil {
		return err
	}
	report, err := s.Volumes.Prune(c.ctx(), wantAll(c.v, f))
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, report)
}
