package lifecycle

import (
	"context"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/storage"

	"wharf/internal/model"
)

// storageDriver is what clients see as the name of the storage driver.
const storageDriver = "overlayfs"

// inspector describes one container.
type inspector struct {
	*core
	execs *execs
}

// Inspect describes a container; size also measures it, which reads the disk.
func (s inspector) Inspect(ctx context.Context, ref string, size bool) (*container.InspectResponse, error) {
	e, err := s.index.find(ref)
	if err != nil {
		return nil, err
	}
	return s.describe(ctx, e.record(), s.execs.list(e), size)
}

// describe is what inspect shows of a container that is there, or was.
func (s inspector) describe(ctx context.Context, c *model.Container, execs []string, size bool) (*container.InspectResponse, error) {
	path, args := command(c.Config)
	cfg, host := *c.Config, *c.HostConfig // the door fits them to the API's version
	host.Links = s.shownLinks(c)
	net := s.etc(c)
	out := &container.InspectResponse{
		ID: string(c.ID), Created: c.Created.Format(time.RFC3339Nano), Path: path, Args: args,
		State: stateOf(c.State), Image: c.Image.ID.String(),
		ResolvConfPath: filepath.Join(net, "resolv.conf"), HostnamePath: filepath.Join(net, "hostname"), HostsPath: filepath.Join(net, "hosts"),
		LogPath: logPath(s.plan.Log(*c)), Name: "/" + c.Name, RestartCount: c.RestartCount,
		Driver: storageDriver, Platform: "linux", ProcessLabel: c.ProcessLabel, MountLabel: c.MountLabel,
		ExecIDs: execs, HostConfig: &host, Config: &cfg,
		GraphDriver: s.graph(ctx, c),
		Storage:     &storage.Storage{RootFS: &storage.RootFSStorage{Snapshot: &storage.RootFSStorageSnapshot{Name: storageDriver}}},
		Mounts:      mountPoints(c),
		NetworkSettings: &container.NetworkSettings{
			Ports: portMap(c), Networks: endpoints(c),
		},
	}
	if c.State.Running() && c.State.Pid != 0 {
		out.NetworkSettings.SandboxID = string(c.ID)
		out.NetworkSettings.SandboxKey = "/proc/" + strconv.Itoa(c.State.Pid) + "/ns/net"
	}
	if c.Image.Manifest.Digest != "" {
		m := c.Image.Manifest
		if m.Platform == nil {
			m.Platform = &c.Image.Platform
		}
		out.ImageManifestDescriptor = &m
	}
	if size {
		rw, root, err := s.images.Usage(ctx, c.ID)
		if err != nil {
			return nil, wrap(err, "size of %s", c.ID.Short())
		}
		out.SizeRw, out.SizeRootFs = &rw, &root
	}
	return out, nil
}

// graph names the directories of the root file system, for tools that look.
func (s inspector) graph(ctx context.Context, c *model.Container) *storage.DriverData {
	d := &storage.DriverData{Name: storageDriver, Data: map[string]string{}}
	r, err := s.images.Rootfs(ctx, c.ID)
	if err != nil {
		return d // being removed
	}
	if r.Dir != "" {
		d.Data["Dir"] = r.Dir
		return d
	}
	d.Data["LowerDir"], d.Data["UpperDir"], d.Data["WorkDir"] = strings.Join(r.Lower, ":"), r.Upper, r.Work
	if c.State.Running() && c.State.Pid != 0 { // the mount lives in the container's own mount namespace
		d.Data["MergedDir"] = "/proc/" + strconv.Itoa(c.State.Pid) + "/root"
	}
	return d
}

// stateOf is s in Docker's form: "running" is also true while paused and
// between two runs of a restart policy.
func stateOf(s model.State) *container.State {
	status := s.Phase
	if status == "" {
		status = container.StateCreated
	}
	out := &container.State{
		Status: status, Running: active(s.Phase), Paused: s.Phase == container.StatePaused,
		Restarting: s.Phase == container.StateRestarting, Dead: s.Phase == container.StateDead,
		OOMKilled: s.OOMKilled, Pid: s.Pid, ExitCode: s.ExitCode, Error: s.Error,
		StartedAt: s.StartedAt.Format(time.RFC3339Nano), FinishedAt: s.FinishedAt.Format(time.RFC3339Nano),
	}
	if s.Health != nil {
		h := *s.Health
		out.Health = &h
	}
	return out
}

// logPath is what Docker tells of a log's place: that of json-file, which
// others read, and no other.
func logPath(p model.LogPlan) string {
	if p.Driver != "json-file" {
		return ""
	}
	return p.Path
}
