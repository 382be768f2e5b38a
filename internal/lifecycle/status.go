package lifecycle

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"

	"wharf/internal/model"
)

// What list and inspect both show, in Docker's words.

// statusOf is the STATUS column, with what a container runs in when that is no
// container: "Up 5 seconds (vm)". Docker has no column for it.
func statusOf(c *model.Container, now time.Time) string {
	text := statusText(c.State, now)
	if c.Isolation == "" || c.Isolation == model.IsolationContainer || text == "" {
		return text
	}
	return text + " (" + string(c.Isolation) + ")"
}

// statusText is the state in Docker's words: "Up 5 seconds (healthy)".
func statusText(s model.State, now time.Time) string {
	since := func(t time.Time) string { return units.HumanDuration(now.Sub(t)) }
	switch s.Phase {
	case container.StatePaused:
		return "Up " + since(s.StartedAt) + " (Paused)"
	case container.StateRunning:
		up := "Up " + since(s.StartedAt)
		if s.Health == nil {
			return up
		}
		switch s.Health.Status {
		case container.Starting:
			return up + " (health: starting)"
		case container.Healthy, container.Unhealthy:
			return up + " (" + string(s.Health.Status) + ")"
		}
		return up
	case container.StateRestarting:
		return fmt.Sprintf("Restarting (%d) %s ago", s.ExitCode, since(s.FinishedAt))
	case container.StateRemoving:
		return "Removal In Progress"
	case container.StateDead:
		return "Dead"
	case container.StateCreated, "":
		return "Created"
	}
	if s.FinishedAt.IsZero() {
		return ""
	}
	return fmt.Sprintf("Exited (%d) %s ago", s.ExitCode, since(s.FinishedAt))
}

// command is the process's path and arguments.
func command(c *container.Config) (path string, args []string) {
	words := append(append([]string(nil), c.Entrypoint...), c.Cmd...)
	if len(words) == 0 {
		return "", []string{}
	}
	return words[0], words[1:]
}

// commandText is the COMMAND column.
func commandText(c *container.Config) string {
	path, args := command(c)
	words := []string{path}
	for _, a := range args {
		if strings.Contains(a, " ") {
			a = "'" + a + "'"
		}
		words = append(words, a)
	}
	return strings.Join(words, " ")
}

// mountPoints are the container's binds and volumes; and tmpfs of --mount.
func mountPoints(c *model.Container) []container.MountPoint {
	out := make([]container.MountPoint, 0, len(c.Mounts))
	for _, m := range c.Mounts {
		if _, ok := c.HostConfig.Tmpfs[m.Destination]; ok && m.Type == "tmpfs" {
			continue // Docker shows only those of --mount
		}
		out = append(out, container.MountPoint{
			Type: mount.Type(m.Type), Name: m.Name, Source: m.Source, Destination: m.Destination, Driver: m.Driver,
			Mode: m.Mode, RW: !m.ReadOnly, Propagation: mount.Propagation(m.Propagation),
		})
	}
	slices.SortFunc(out, func(a, b container.MountPoint) int { return strings.Compare(a.Destination, b.Destination) })
	return out
}

// endpoints are the container's networks by name: as they are while it runs,
// else as configured.
func endpoints(c *model.Container) map[string]*network.EndpointSettings {
	out := map[string]*network.EndpointSettings{}
	for name, s := range c.Endpoints {
		out[name] = idle(s)
	}
	for _, ep := range c.Attached {
		if ep.Settings != nil {
			out[ep.Network] = ep.Settings.Copy()
		}
	}
	if mode := c.HostConfig.NetworkMode; len(out) == 0 && (mode.IsHost() || mode.IsNone()) {
		out[string(mode)] = &network.EndpointSettings{}
	}
	return out
}

// idle is an endpoint's configuration without what only a run has.
func idle(s *network.EndpointSettings) *network.EndpointSettings {
	if s == nil {
		return &network.EndpointSettings{}
	}
	out := s.Copy()
	return &network.EndpointSettings{
		IPAMConfig: out.IPAMConfig, Links: out.Links, Aliases: out.Aliases, DriverOpts: out.DriverOpts,
		GwPriority: out.GwPriority, NetworkID: out.NetworkID, MacAddress: out.MacAddress, DNSNames: out.DNSNames,
	}
}

// portMap is what a running container publishes, and exposes without
// publishing (nil).
func portMap(c *model.Container) network.PortMap {
	out := network.PortMap{}
	if !c.State.Running() || len(c.Attached) == 0 {
		return out
	}
	for p := range c.Config.ExposedPorts {
		out[p] = nil
	}
	for _, ep := range c.Attached {
		for p, b := range ep.Ports {
			out[p] = append(out[p], b...)
		}
	}
	return out
}

// portList is portMap as list shows it.
func portList(c *model.Container) []container.PortSummary {
	out := []container.PortSummary{}
	for p, bindings := range portMap(c) {
		if len(bindings) == 0 {
			out = append(out, container.PortSummary{PrivatePort: p.Num(), Type: string(p.Proto())})
		}
		for _, b := range bindings {
			r, err := network.ParsePortRange(b.HostPort)
			if err != nil {
				continue
			}
			out = append(out, container.PortSummary{IP: b.HostIP, PrivatePort: p.Num(), PublicPort: r.Start(), Type: string(p.Proto())})
		}
	}
	slices.SortFunc(out, func(a, b container.PortSummary) int {
		if a.PrivatePort != b.PrivatePort {
			return int(a.PrivatePort) - int(b.PrivatePort)
		}
		if n := strings.Compare(a.Type, b.Type); n != 0 {
			return n
		}
		return a.IP.Compare(b.IP)
	})
	return out
}
