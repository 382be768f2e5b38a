package build

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	cerrdefs "github.com/containerd/errdefs"
	bkexecutor "github.com/moby/buildkit/executor"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/moby/api/types/container"

	"wharf/internal/model"
	"wharf/internal/undo"
)

// describe turns what BuildKit wants run into a step. What it mounts meanwhile
// is given back by u.
func (x *executor) describe(ctx context.Context, root bkexecutor.Mount, mounts []bkexecutor.Mount, p bkexecutor.ProcessInfo, u *undo.Stack) (model.Step, *stubs, error) {
	m := p.Meta
	none := model.Step{}
	hc, err := x.hostConfig(m)
	if err != nil {
		return none, nil, err
	}
	hc.ReadonlyRootfs = m.ReadonlyRootFS || root.Readonly
	rootMounts, err := mounted(ctx, root, false, u)
	if err != nil {
		return none, nil, err
	}
	rootfs, err := rootfsOf(rootMounts)
	if err != nil {
		return none, nil, err
	}
	step := model.Step{
		Config: &container.Config{
			Cmd: m.Args, Env: m.Env, User: m.User, WorkingDir: m.Cwd, Hostname: m.Hostname, Tty: m.Tty,
			OpenStdin: p.Stdin != nil, StdinOnce: p.Stdin != nil,
		},
		HostConfig: hc, Rootfs: rootfs,
	}
	dests := []string{"/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/proc", "/sys", "/dev"}
	for _, bm := range mounts {
		ms, err := mounted(ctx, bm, bm.Readonly, u)
		if err != nil {
			return none, nil, err
		}
		mm, err := mountOf(bm, ms)
		if err != nil {
			return none, nil, err
		}
		if mm.Upper != "" {
			give, err := x.uppers.take(ctx, mm.Upper)
			if err != nil {
				return none, nil, err
			}
			u.Push(give)
		}
		step.Mounts = append(step.Mounts, mm)
		dests = append(dests, mm.Destination)
	}
	// Parents before what is below them.
	slices.SortStableFunc(step.Mounts, func(a, b model.Mount) int {
		return strings.Count(a.Destination, "/") - strings.Count(b.Destination, "/")
	})
	return step, newStubs(rootfs, dests), nil
}

// hostConfig are the surroundings that BuildKit asks for.
func (x *executor) hostConfig(m bkexecutor.Meta) (*container.HostConfig, error) {
	hc := &container.HostConfig{}
	switch m.NetMode {
	case pb.NetMode_UNSET:
		hc.NetworkMode = "default"
	case pb.NetMode_HOST:
		hc.NetworkMode = "host"
	case pb.NetMode_NONE:
		hc.NetworkMode = "none"
	default:
		return nil, cerrdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("network mode %s of a build step is not known", m.NetMode))
	}
	if m.Proxy != nil {
		return nil, cerrdefs.ErrNotImplemented.WithMessage("BuildKit's proxy network is not there")
	}
	if m.SecurityMode == pb.SecurityMode_INSECURE {
		if !x.insecure {
			return nil, cerrdefs.ErrPermissionDenied.WithMessage("RUN --security=insecure is not allowed here: set builder.entitlements.security-insecure in daemon.json")
		}
		hc.Privileged = true
	}
	for _, h := range m.ExtraHosts {
		hc.ExtraHosts = append(hc.ExtraHosts, h.Host+":"+h.IP.String())
	}
	for _, l := range m.Ulimit {
		hc.Ulimits = append(hc.Ulimits, &container.Ulimit{Name: l.Name, Soft: l.Soft, Hard: l.Hard})
	}
	for _, d := range m.CDIDevices {
		hc.DeviceRequests = append(hc.DeviceRequests, container.DeviceRequest{Driver: "cdi", DeviceIDs: []string{d.Name}})
	}
	network, cgroup := networkOf(m.CgroupParent)
	if network != "" && m.NetMode == pb.NetMode_UNSET {
		hc.NetworkMode = container.NetworkMode(network)
	}
	hc.CgroupParent = cgroup
	if l := m.LinuxResources; l != nil {
		hc.Memory, hc.MemorySwap, hc.CPUShares = l.Memory, l.MemorySwap, int64(l.CpuShares)
		hc.CPUPeriod, hc.CPUQuota, hc.CpusetCpus, hc.CpusetMems = int64(l.CpuPeriod), l.CpuQuota, l.CpusetCpus, l.CpusetMems
	}
	return hc, nil
}

// mounted asks a mount's source how it is mounted.
func mounted(ctx context.Context, m bkexecutor.Mount, readonly bool, u *undo.Stack) ([]mount.Mount, error) {
	ref, err := m.Src.Mount(ctx, readonly)
	if err != nil {
		return nil, err
	}
	ms, release, err := raw(ref).Mount()
	if err != nil {
		return nil, err
	}
	if release != nil {
		u.Push(release)
	}
	if len(ms) != 1 {
		return nil, fmt.Errorf("mount at %s is made of %d mounts, want one", m.Dest, len(ms))
	}
	return ms, nil
}

// overlayOf takes an overlay's options apart.
func overlayOf(m mount.Mount) (model.Rootfs, error) {
	var r model.Rootfs
	for _, o := range m.Options {
		key, v, _ := strings.Cut(o, "=")
		switch key {
		case "lowerdir":
			r.Lower = strings.Split(v, ":")
		case "upperdir":
			r.Upper = v
		case "workdir":
			r.Work = v
		}
	}
	if len(r.Lower) == 0 {
		return r, fmt.Errorf("overlay mount without layers: %q", m.Options)
	}
	return r, nil
}

// rootfsOf makes a step's root of a snapshot's mount.
func rootfsOf(ms []mount.Mount) (model.Rootfs, error) {
	switch m := ms[0]; m.Type {
	case "overlay":
		return overlayOf(m)
	case "bind", "rbind":
		return model.Rootfs{Upper: m.Source}, nil // FROM scratch
	default:
		return model.Rootfs{}, fmt.Errorf("snapshot is mounted as %q, want overlay or bind", m.Type)
	}
}

// mountOf makes a step's mount of BuildKit's.
func mountOf(bm bkexecutor.Mount, ms []mount.Mount) (model.Mount, error) {
	m := ms[0]
	out := model.Mount{Destination: filepath.Clean("/" + bm.Dest), ReadOnly: bm.Readonly, Propagation: "rprivate", Recursive: true}
	for _, o := range m.Options {
		if o == "ro" {
			out.ReadOnly = true
		}
	}
	switch m.Type {
	case "bind", "rbind":
		// No selector climbs out of what was mounted, whatever links are in
		// it: the runtime resolves it below the source, by descriptor, since
		// another step that has the same cache could exchange what a name
		// stands for between our look and the mount (CVE-2024-23651).
		out.Type, out.Source, out.Subpath = "bind", m.Source, strings.Trim(filepath.Clean("/"+bm.Selector), "/")
	case "tmpfs":
		out.Type, out.Options = "tmpfs", append([]string{"nosuid", "nodev"}, m.Options...)
	case "overlay":
		r, err := overlayOf(m)
		if err != nil {
			return out, err
		}
		out.Type, out.Lower, out.Subpath = "image", r.Lower, strings.Trim(filepath.Clean("/"+bm.Selector), "/")
		if r.Upper != "" && !out.ReadOnly {
			out.Upper, out.Work = r.Upper, r.Work
		} else if r.Upper != "" {
			out.Lower = append([]string{r.Upper}, out.Lower...)
		}
	default:
		return out, fmt.Errorf("mount at %s is of type %q, want bind, overlay or tmpfs", bm.Dest, m.Type)
	}
	return out, nil
}
