package dockerapi

import (
	"fmt"
	"net/http"

	"github.com/containerd/errdefs"
)

// Endpoints of Docker's that are not there, and what they answer. Where a
// Docker without swarm has an answer of its own, it is given, since clients
// know how to go on from it.

var errNotManager = errdefs.ErrUnavailable.WithMessage("This node is not a swarm manager. wharf has no swarm mode yet.")

func notThere(what string) error {
	return errdefs.ErrNotImplemented.WithMessage(what + " is not there yet")
}

func notManager(*call) error { return errNotManager }

func absentRoutes() []route {
	rs := []route{
		// There are no plugins, and that is an answer.
		{method: "GET", path: "/plugins", handle: func(c *call) error {
			if _, err := c.filters(); err != nil {
				return err
			}
			return c.json(http.StatusOK, []struct{}{})
		}},
		{method: "GET", path: "/plugins/{}/json", since: 25, handle: func(c *call) error {
			return errdefs.ErrNotFound.WithMessage(fmt.Sprintf("plugin %q not found", c.name))
		}},
		{method: "POST", path: "/swarm/leave", handle: func(*call) error {
			return errdefs.ErrUnavailable.WithMessage("This node is not part of a swarm")
		}},
	}
	for _, p := range []string{"/swarm/init", "/swarm/join"} {
		rs = append(rs, route{method: "POST", path: p, missing: "swarm mode is not there yet"})
	}
	managers := []struct {
		method string
		paths  []string
	}{
		{"GET", []string{"/swarm", "/swarm/unlockkey", "/nodes", "/nodes/{}", "/services", "/services/{}", "/services/{}/logs",
			"/tasks", "/tasks/{}", "/tasks/{}/logs", "/secrets", "/secrets/{}", "/configs", "/configs/{}"}},
		{"POST", []string{"/swarm/update", "/swarm/unlock", "/nodes/{}/update", "/services/create", "/services/{}/update",
			"/secrets/create", "/secrets/{}/update", "/configs/create", "/configs/{}/update"}},
		{"DELETE", []string{"/nodes/{}", "/services/{}", "/secrets/{}", "/configs/{}"}},
	}
	for _, m := range managers {
		for _, p := range m.paths {
			rs = append(rs, route{method: m.method, path: p, handle: notManager})
		}
	}
	for what, paths := range map[string][][2]string{
		"plugins": {
			{"GET", "/plugins/privileges"}, {"POST", "/plugins/pull"}, {"POST", "/plugins/create"}, {"DELETE", "/plugins/{}"},
			{"POST", "/plugins/{}/enable"}, {"POST", "/plugins/{}/disable"}, {"POST", "/plugins/{}/upgrade"},
			{"POST", "/plugins/{}/push"}, {"POST", "/plugins/{}/set"},
		},
		"checkpoint and restore": {{"GET", "/containers/{}/checkpoints"}, {"POST", "/containers/{}/checkpoints"}, {"DELETE", "/containers/{}/checkpoints"}},
	} {
		for _, p := range paths {
			rs = append(rs, route{method: p[0], path: p[1], missing: what + " is not there yet"})
		}
	}
	return rs
}
