package lifecycle

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/moby/api/types/network"

	"wharf/internal/driver"
	"wharf/internal/model"
	"wharf/internal/plan"
)

func (s *starter) rootfs(ctx context.Context, r *run) (err error) {
	get := s.images.Rootfs
	if d, ok := r.drv.(driver.Disker); ok && d.RootAsDisk() {
		get = s.images.Disks
	}
	r.rootfs, err = get(ctx, r.e.id)
	return wrap(err, "root file system of %s", r.e.id.Short())
}

// mounts asks the volume room for the volumes' directories again (it may have
// to mount them) and makes host directories that -v promises. Volumes stay
// held until the container is removed; only disks are let go of.
func (s *starter) mounts(ctx context.Context, r *run) error {
	r.mounts = append([]model.Mount(nil), r.c.Mounts...)
	disker, ok := r.drv.(driver.Disker)
	disks := ok && disker.RootAsDisk()
	for i, m := range r.mounts {
		switch {
		case m.Type == "volume":
			dir, err := s.volumes.Use(ctx, r.e.id, m)
			if err == nil {
				r.mounts[i].Disk, err = s.disk(ctx, r, m, disks)
			}
			if err != nil {
				return err
			}
			r.mounts[i].Source = dir
		case m.Image != nil:
			var err error
			if disks {
				r.mounts[i].Disk, err = s.images.Disk(ctx, *m.Image)
			} else {
				r.mounts[i].Lower, err = s.images.Layers(ctx, *m.Image)
			}
			if err != nil {
				return wrap(err, "image %s for the mount at %s", m.Name, m.Destination)
			}
		case m.Type == "bind" && m.CreateSource:
			if _, err := os.Stat(m.Source); os.IsNotExist(err) {
				if err := os.MkdirAll(m.Source, 0o755); err != nil {
					return wrap(err, "make host directory %s of the mount at %s", m.Source, m.Destination)
				}
			}
		}
	}
	return nil
}

// disk takes m's volume for the instance, if it is a disk.
func (s *starter) disk(ctx context.Context, r *run, m model.Mount, able bool) (string, error) {
	if !able && s.volumes.IsDisk(m.Name) {
		return "", needsMachine(m.Name)
	}
	return s.volumes.Disk(ctx, r.e.id, m)
}

// needsMachine refuses a volume with type=block to a container.
func needsMachine(volume string) error {
	return invalid("volume %s is a disk (type=block): a virtual machine's kernel writes its file system, and this host's kernel mounts no such one; use --isolation vm, or a volume without type=block", volume)
}

func (s *starter) giveDisks(_ context.Context, r *run) error {
	s.volumes.GiveDisks(r.e.id)
	return nil
}

// describe plans the bundle.
func (s *starter) describe(_ context.Context, r *run) error {
	dir := s.dir(r.e.id)
	in := plan.StartInput{
		Rootfs: r.rootfs, Mounts: r.mounts, Lookup: s.lookup(),
		Hosts: filepath.Join(dir, "hosts"), Hostname: filepath.Join(dir, "hostname"), Resolv: filepath.Join(dir, "resolv.conf"),
	}
	err := s.join(r.c, &in)
	if err == nil {
		in.LinkEnv, err = s.linkEnv(r.c)
	}
	if err != nil {
		return err
	}
	b, warnings, err := s.plan.Start(*r.c, in)
	if err != nil {
		return err
	}
	for _, w := range warnings {
		s.slog.Warn(w, "id", r.e.id)
	}
	b.Waiting = len(r.late)
	r.bundle = b
	return nil
}

// join fills in the namespaces of other containers.
func (s *starter) join(c *model.Container, in *plan.StartInput) error {
	j := s.plan.Joins(*c)
	for _, x := range []struct {
		id   model.ID
		what string
		ns   string
		path *string
	}{
		{j.Net, "network", "net", &in.JoinNet},
		{j.IPC, "IPC", "ipc", &in.JoinIPC},
		{j.Pid, "PID", "pid", &in.JoinPid},
	} {
		if x.id == "" {
			continue
		}
		other, err := s.joined(x.id, x.what)
		if err != nil {
			return err
		}
		proc := fmt.Sprintf("/proc/%d", other.State.Pid)
		*x.path = proc + "/ns/" + x.ns
		if other.IDs.Mapped() {
			in.JoinUser = proc + "/ns/user"
		}
		if x.what == "IPC" {
			in.JoinShm = proc + "/root/dev/shm"
		}
		if x.what == "network" { // one view of names and resolvers, as Docker has it
			dir := s.etc(other)
			in.Hosts, in.Hostname, in.Resolv = filepath.Join(dir, "hosts"), filepath.Join(dir, "hostname"), filepath.Join(dir, "resolv.conf")
		}
	}
	return nil
}

func (s *starter) makeSandbox(ctx context.Context, r *run) (err error) {
	r.sandbox, err = r.drv.Sandbox(ctx, r.bundle)
	return wrap(err, "sandbox of %s", r.e.id.Short())
}

func (s *starter) closeSandbox(_ context.Context, r *run) error {
	if r.sandbox == nil {
		return nil
	}
	sb := r.sandbox
	r.sandbox = nil
	return sb.Close()
}

// attach gives the network namespace its links. A container in the host's
// namespace has none, but an endpoint that inspect shows; one in another
// container's has neither.
func (s *starter) attach(ctx context.Context, r *run) (err error) {
	want := r.c.Endpoints
	switch mode := r.c.HostConfig.NetworkMode; {
	case mode.IsContainer():
		return nil
	case r.c.Config.NetworkDisabled:
		want = map[string]*network.EndpointSettings{network.NetworkNone: {}}
	case len(want) == 0 && (mode.IsHost() || mode.IsNone()):
		want = map[string]*network.EndpointSettings{string(mode): {}} // inspect shows it
	}
	r.eps, err = s.networks.Attach(ctx, s.attachment(r.c, r.netns(), 0, want))
	if r.c.Isolation == model.IsolationVM {
		r.bundle.Endpoints = r.eps
	}
	return err
}

// attachment is what the network room is told about c.
func (c *core) attachment(ctr *model.Container, netns string, pid int, want map[string]*network.EndpointSettings) AttachNetworks {
	return AttachNetworks{
		ID: ctr.ID, Name: ctr.Name, Hostname: ctr.Config.Hostname, Netns: netns, Pid: pid,
		Want: want, Ports: ports(ctr), Sysctls: ctr.HostConfig.Sysctls,
		DNS: ctr.HostConfig.DNS, Labels: ctr.Config.Labels, NetAdmin: mayChangeNetwork(ctr),
		Rules: ctr.NetworkRules, Tap: ctr.Isolation == model.IsolationVM,
	}
}

// running is attachment for a container that runs.
func (c *core) running(ctr *model.Container, want map[string]*network.EndpointSettings) AttachNetworks {
	return c.attachment(ctr, fmt.Sprintf("/proc/%d/ns/net", ctr.State.Pid), ctr.State.Pid, want)
}

// ports are the published ports, with -P's for every exposed one.
func ports(c *model.Container) network.PortMap {
	out := network.PortMap{}
	for p, b := range c.HostConfig.PortBindings {
		out[p] = b
	}
	if c.HostConfig.PublishAllPorts {
		for p := range c.Config.ExposedPorts {
			if _, ok := out[p]; !ok {
				out[p] = []network.PortBinding{{}}
			}
		}
	}
	return out
}

func (s *starter) detachNetworks(ctx context.Context, r *run) error {
	return s.networks.Detach(ctx, r.e.id)
}

// etcNames are the files in a container's directory that are bound to /etc.
var etcNames = [3]string{"hosts", "hostname", "resolv.conf"}

// files writes hosts, hostname and resolv.conf, unless they are another
// container's.
func (s *starter) files(_ context.Context, r *run) error {
	if s.plan.Joins(*r.c).Net != "" {
		return nil
	}
	in := plan.FilesInput{Container: *r.c, Endpoints: r.eps, HostResolv: hostResolv()}
	if r.c.HostConfig.NetworkMode.IsHost() {
		in.HostHosts, _ = os.ReadFile("/etc/hosts")
		in.HostHostname, _ = os.Hostname()
	} else {
		in.Links = s.links(r.c)
	}
	f := s.plan.Files(in)
	for i, text := range [][]byte{f.Hosts, f.Hostname, f.Resolv} {
		name := etcNames[i]
		if err := rewrite(filepath.Join(s.dir(r.e.id), name), text); err != nil {
			return wrap(err, "write %s of %s", name, r.e.id.Short())
		}
	}
	return nil
}

// rewrite puts text into the file at path, in place, for it is bound into
// containers. It leaves an equal file alone and never cuts one to nothing
// first: ext4 answers that with a write to the disk at close (auto_da_alloc).
func rewrite(path string, text []byte) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, text) {
		return nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Truncate(int64(len(text)))
	}
	if err == nil {
		err = f.Chmod(0o644) // whatever the daemon's umask: every user inside reads it
	}
	return errors.Join(err, f.Close())
}

// hostResolv is the host's resolv.conf, or the one with the real servers
// where systemd-resolved's stub is all that the former names.
func hostResolv() []byte {
	text, _ := os.ReadFile("/etc/resolv.conf")
	servers, stub := 0, 0
	for _, l := range strings.Split(string(text), "\n") {
		f := strings.Fields(l)
		if len(f) > 1 && f[0] == "nameserver" {
			servers++
			if f[1] == "127.0.0.53" {
				stub++
			}
		}
	}
	if servers > 0 && servers == stub {
		if real, err := os.ReadFile("/run/systemd/resolve/resolv.conf"); err == nil {
			return real
		}
	}
	return text
}

func addr(a netip.Addr) netip.Addr { return a.Unmap() }

// makeInstance starts the process. The driver consumes the sandbox.
func (s *starter) makeInstance(ctx context.Context, r *run) (err error) {
	if x := r.early; x != nil {
		r.early = nil
		r.inst, err = x.end(nil)
	} else {
		sb := r.sandbox
		r.sandbox = nil
		r.inst, err = r.drv.Start(ctx, r.bundle, sb)
	}
	if err != nil && !isStartError(err) {
		return wrap(err, taskFailed)
	}
	return err
}

// releaseInstance tries again before the next start or the removal when it
// fails: see settle.
func (s *starter) releaseInstance(ctx context.Context, r *run) error {
	err := r.drv.Release(ctx, r.e.id)
	if err != nil {
		r.e.kept.Store(true)
	}
	return err
}
