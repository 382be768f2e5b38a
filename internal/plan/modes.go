package plan

import (
	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"wharf/internal/model"
)

// netModeConflicts refuses what makes no sense with the network mode asked
// for.
func (cr *creation) netModeConflicts() error {
	cfg, hc := cr.cfg, cr.hc
	if hc.UTSMode.IsHost() && cfg.Hostname != "" {
		return invalid("conflicting options: hostname and the UTS mode")
	}
	if hc.NetworkMode.IsHost() && len(hc.Links) > 0 {
		return invalid("conflicting options: host type networking can't be used with links. This would result in undefined behavior")
	}
	if hc.NetworkMode.IsHost() && len(hc.PortBindings) > 0 {
		cr.warnf("Published ports are discarded when using host network mode")
	}
	if hc.NetworkMode != "container" && !hc.NetworkMode.IsContainer() {
		return nil
	}
	if hc.NetworkMode.ConnectedContainer() == "" {
		return invalid("invalid network mode: invalid container format container:<name|id>")
	}
	for _, c := range []struct {
		bad  bool
		text string
	}{
		{cfg.Hostname != "", "hostname and the network mode"},
		{len(hc.Links) > 0, "container type network can't be used with links. This would result in undefined behavior"},
		{len(hc.DNS) > 0, "dns and the network mode"},
		{len(hc.ExtraHosts) > 0, "custom host-to-IP mapping and the network mode"},
		{len(hc.PortBindings) > 0 || hc.PublishAllPorts, "port publishing and the container type network mode"},
		{len(cfg.ExposedPorts) > 0, "port exposing and the container type network mode"},
	} {
		if c.bad {
			return invalid("conflicting options: %s", c.text)
		}
	}
	return nil
}

// modes decides the namespaces.
func (cr *creation) modes() error {
	hc := cr.hc
	switch {
	case !hc.IpcMode.Valid() || hc.IpcMode == "container:":
		return invalid("invalid IPC mode: %v", hc.IpcMode)
	case !hc.PidMode.Valid():
		return invalid("invalid PID mode: %v", hc.PidMode)
	case !hc.UTSMode.Valid():
		return invalid("invalid UTS mode: %v", hc.UTSMode)
	case !hc.UsernsMode.Valid():
		return invalid("invalid user namespace mode: %v; use \"host\" or leave it out", hc.UsernsMode)
	case !hc.CgroupnsMode.Valid():
		return invalid("invalid cgroup namespace mode: %v", hc.CgroupnsMode)
	case hc.ShmSize < 0:
		return invalid("SHM size can not be less than 0")
	case hc.OomScoreAdj < -1000 || hc.OomScoreAdj > 1000:
		return invalid("Invalid value %d, range for oom score adj is [-1000, 1000]", hc.OomScoreAdj)
	}
	if hc.ShmSize == 0 {
		hc.ShmSize = cr.d.ShmSize
		if hc.ShmSize == 0 {
			hc.ShmSize = 64 << 20
		}
	}
	if hc.IpcMode.IsEmpty() {
		hc.IpcMode = cr.d.IpcMode
		if hc.IpcMode.IsEmpty() {
			hc.IpcMode = container.IPCModePrivate
		}
	}
	cr.cgroupns()
	if !cr.f.IPv4Forward && !hc.NetworkMode.IsHost() && !hc.NetworkMode.IsNone() && !hc.NetworkMode.IsContainer() {
		cr.warnf("IPv4 forwarding is disabled. Networking will not work.")
	}
	return cr.joins()
}

func (cr *creation) cgroupns() {
	hc := cr.hc
	if hc.CgroupnsMode.IsEmpty() {
		switch {
		case hc.Privileged && cr.f.CgroupVersion != 2:
			hc.CgroupnsMode = container.CgroupnsModeHost
		case cr.d.CgroupnsMode != "":
			hc.CgroupnsMode = cr.d.CgroupnsMode
		case cr.f.CgroupVersion == 2:
			hc.CgroupnsMode = container.CgroupnsModePrivate
		default:
			hc.CgroupnsMode = container.CgroupnsModeHost
		}
	}
	if hc.CgroupnsMode.IsPrivate() && !cr.f.CgroupNS {
		cr.warnf("Your kernel does not support cgroup namespaces.  Cgroup namespace setting discarded.")
		hc.CgroupnsMode = container.CgroupnsModeHost
	}
}

// joins resolves container: modes to ids, so that a rename does not matter.
func (cr *creation) joins() error {
	hc := cr.hc
	if hc.NetworkMode.IsContainer() {
		o, err := cr.join(hc.NetworkMode.ConnectedContainer())
		if err != nil {
			return err
		}
		hc.NetworkMode = container.NetworkMode("container:" + string(o.ID))
	}
	if hc.IpcMode.IsContainer() {
		o, err := cr.join(hc.IpcMode.Container())
		if err != nil {
			return err
		}
		hc.IpcMode = container.IpcMode("container:" + string(o.ID))
	}
	if hc.PidMode.IsContainer() {
		o, err := cr.join(hc.PidMode.Container())
		if err != nil {
			return err
		}
		hc.PidMode = container.PidMode("container:" + string(o.ID))
	}
	return nil
}

func (cr *creation) join(ref string) (model.Container, error) {
	o, err := cr.lookup(ref)
	if err != nil {
		return o, err
	}
	if o.ID == cr.in.ID {
		return o, invalid("cannot join own network")
	}
	cr.joined[string(o.ID)] = o
	return o, nil
}

func (cr *creation) lookup(ref string) (model.Container, error) {
	if cr.in.Lookup.Container == nil {
		return model.Container{}, errdefs.ErrNotFound.WithMessage("No such container: " + ref)
	}
	return cr.in.Lookup.Container(ref)
}

// ids decides whose user and group ids the container has.
func (cr *creation) ids() error {
	hc := cr.hc
	host := cr.d.UsernsHost || hc.UsernsMode.IsHost() || hc.Privileged
	if cr.vm() { // QEMU's own ids; the guest's root is root of its kernel anyway
		host = false
	}
	if !host && !cr.f.UserNS {
		cr.warnf("This machine cannot give the container a user namespace: root inside is root of the host. See `wharf doctor`.")
		host = true
	}
	if !host {
		cr.c.IDs = cr.in.IDs
	}
	first := true
	for _, o := range cr.joined {
		if !first && o.IDs != cr.c.IDs {
			return invalid("cannot share namespaces with several containers that have different user namespaces (%s and others); start them with --userns=host, or let them share one's", o.Name)
		}
		// A namespace can be joined only from the user namespace that owns it.
		if first && host && o.IDs.Mapped() {
			return invalid("cannot join a namespace of container %s, which has a user namespace of its own, with --privileged or --userns=host; start that container with --userns=host", o.Name)
		}
		if !host && !o.IDs.Mapped() {
			cr.warnf("Container " + o.Name + ", whose namespaces are shared, has no user namespace: root inside is root of the host here too.")
		}
		cr.c.IDs, first = o.IDs, false
	}
	if cr.c.IDs.Mapped() && hc.NetworkMode.IsHost() {
		for port := range cr.cfg.ExposedPorts {
			if port.Num() < 1024 {
				cr.warnf("With --network host, ports below 1024 cannot be bound from the container's own user namespace; add --userns=host if it has to.")
				break
			}
		}
	}
	return nil
}

// Joined names the containers whose namespaces a container joins; "" none.
type Joined struct{ Net, IPC, Pid model.ID }

// Joins reads them from the record.
func Joins(c model.Container) Joined {
	if c.HostConfig == nil {
		return Joined{}
	}
	return Joined{
		Net: model.ID(c.HostConfig.NetworkMode.ConnectedContainer()),
		IPC: model.ID(c.HostConfig.IpcMode.Container()),
		Pid: model.ID(c.HostConfig.PidMode.Container()),
	}
}

func (cr *creation) hostnames() error {
	cfg, hc := cr.cfg, cr.hc
	if len(cfg.Hostname) > 64 {
		return invalid("hostname %q is too long (maximum 64 bytes)", cfg.Hostname)
	}
	if len(cfg.Domainname) > 64 {
		return invalid("domainname %q is too long (maximum 64 bytes)", cfg.Domainname)
	}
	if o, ok := cr.joined[hc.NetworkMode.ConnectedContainer()]; ok && o.Config != nil {
		cfg.Hostname, cfg.Domainname = o.Config.Hostname, o.Config.Domainname
	}
	if cfg.Hostname == "" {
		cfg.Hostname = cr.in.ID.Short()
		if (hc.NetworkMode.IsHost() || hc.UTSMode.IsHost()) && cr.f.Hostname != "" {
			cfg.Hostname = cr.f.Hostname
		}
	}
	if cfg.StopTimeout == nil && cr.d.StopTimeout > 0 && cr.d.StopTimeout != 10 {
		t := cr.d.StopTimeout
		cfg.StopTimeout = &t
	}
	return nil
}
