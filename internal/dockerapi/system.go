package dockerapi

import (
	"encoding/json"
	"net/http"

	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/api/types/system"
)

func (s *server) systemRoutes() []route {
	rs := []route{
		{method: "GET", path: "/_ping", handle: s.ping},
		{method: "HEAD", path: "/_ping", handle: s.ping},
	}
	rs = append(rs, need(s.System != nil, "system", []route{
		{method: "GET", path: "/version", handle: s.version},
		{method: "GET", path: "/info", handle: s.info},
	})...)
	rs = append(rs, need(s.Feed != nil, "record", []route{
		{method: "GET", path: "/events", handle: s.events},
	})...)
	rs = append(rs, need(s.Images != nil, "image", []route{
		{method: "POST", path: "/auth", handle: s.auth},
	})...)
	return append(rs, route{method: "GET", path: "/system/df", handle: s.diskUsage})
}

func (s *server) ping(c *call) error {
	h := c.w.Header()
	h.Set("Cache-Control", "no-cache, no-store, must-revalidate")
	h.Set("Pragma", "no-cache")
	h.Set("Swarm", "inactive")
	if s.Builder != "" {
		h.Set("Builder-Version", s.Builder)
	}
	h.Set("Content-Type", "text/plain; charset=utf-8")
	if c.r.Method == http.MethodHead {
		h.Set("Content-Length", "0")
		return c.done(http.StatusOK)
	}
	_, err := c.w.Write([]byte("OK"))
	return err
}

func (s *server) version(c *call) error {
	v, err := s.System.Version(c.ctx())
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, v)
}

// legacyInfo is an answer with the fields that older versions always had.
type legacyInfo struct {
	*system.Info
	ContainerdCommit  *legacyCommit `json:",omitempty"`
	RuncCommit        *legacyCommit `json:",omitempty"`
	InitCommit        *legacyCommit `json:",omitempty"`
	BridgeNfIptables  *bool         `json:",omitempty"`
	BridgeNfIp6tables *bool         `json:",omitempty"`
}

type legacyCommit struct{ ID, Expected string }

func (s *server) info(c *call) error {
	got, err := s.System.Info(c.ctx())
	if err != nil {
		return err
	}
	info := *got
	if c.v < 53 {
		info.NRI = nil
	}
	if c.v < 46 {
		info.Containerd = nil
	}
	if c.v < 44 && info.Runtimes != nil {
		plain := make(map[string]system.RuntimeWithStatus, len(info.Runtimes))
		for name, rt := range info.Runtimes {
			plain[name] = system.RuntimeWithStatus{Runtime: rt.Runtime}
		}
		info.Runtimes = plain
	}
	if c.v >= 50 {
		return c.json(http.StatusOK, &info)
	}
	old := legacyInfo{Info: &info, BridgeNfIptables: new(bool), BridgeNfIp6tables: new(bool)}
	info.DiscoveredDevices = nil
	if c.v < 49 {
		info.FirewallBackend = nil
		old.ContainerdCommit = &legacyCommit{info.ContainerdCommit.ID, info.ContainerdCommit.ID}
		old.RuncCommit = &legacyCommit{info.RuncCommit.ID, info.RuncCommit.ID}
		old.InitCommit = &legacyCommit{info.InitCommit.ID, info.InitCommit.ID}
		return c.json(http.StatusOK, &old)
	}
	old.ContainerdCommit = &legacyCommit{ID: info.ContainerdCommit.ID}
	old.RuncCommit = &legacyCommit{ID: info.RuncCommit.ID}
	old.InitCommit = &legacyCommit{ID: info.InitCommit.ID}
	return c.json(http.StatusOK, &old)
}

func (s *server) auth(c *call) error {
	raw, err := c.rawBody()
	if err != nil {
		return err
	}
	var a registry.AuthConfig
	if err := json.Unmarshal(raw, &a); err != nil {
		// The text must not repeat the body: it holds a password.
		return invalid("invalid JSON in the body: want username, password, serveraddress")
	}
	status, token, err := s.Images.Login(c.ctx(), a)
	if err != nil {
		return err
	}
	if status == "" {
		status = "Login Succeeded"
	}
	return c.json(http.StatusOK, registry.AuthResponse{Status: status, IdentityToken: token})
}
