package plan

import (
	"maps"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
)

// oldVersions makes of an older client's request what that client means.
func (cr *creation) oldVersions() error {
	hc := cr.hc
	if hc.NetworkMode == "" || hc.NetworkMode.IsDefault() {
		hc.NetworkMode = network.NetworkBridge
	}
	if cr.api < 40 && hc.IpcMode.IsEmpty() {
		hc.IpcMode = container.IPCModeShareable
	}
	if cr.api < 41 && hc.CgroupnsMode.IsEmpty() && cr.f.CgroupVersion != 2 {
		hc.CgroupnsMode = container.CgroupnsModeHost
	}
	if cr.api < 42 {
		hc.ConsoleSize = [2]uint{}
	}
	if cr.api < 43 {
		hc.Annotations = nil
	}
	if cr.api < 44 {
		if cr.cfg.Healthcheck != nil {
			cr.cfg.Healthcheck.StartInterval = 0
		}
		if n := cr.in.Request.Networking; n != nil && len(n.EndpointsConfig) > 1 {
			names := slices.Sorted(maps.Keys(n.EndpointsConfig))
			return invalid("Container cannot be created with multiple network endpoints: %s", strings.Join(names, ", "))
		}
	}
	for i := range hc.Mounts {
		if err := cr.oldMount(&hc.Mounts[i]); err != nil {
			return err
		}
	}
	if hc.PidsLimit != nil && *hc.PidsLimit <= 0 {
		hc.PidsLimit = nil // unlimited, as without
	}
	return cr.emptyBindings()
}

func (cr *creation) oldMount(m *mount.Mount) error {
	if cr.api < 40 && m.BindOptions != nil {
		m.BindOptions.NonRecursive = false
	}
	if cr.api < 42 {
		if m.BindOptions != nil {
			m.BindOptions.CreateMountpoint = false
		}
		if m.Type != mount.TypeVolume {
			m.VolumeOptions = nil
		}
		if m.Type != mount.TypeTmpfs {
			m.TmpfsOptions = nil
		}
	}
	if cr.api < 44 && m.BindOptions != nil && m.BindOptions.ReadOnlyForceRecursive {
		return invalid("BindOptions.ReadOnlyForceRecursive needs API v1.44 or newer")
	}
	if cr.api < 45 && m.VolumeOptions != nil && m.VolumeOptions.Subpath != "" {
		return invalid("VolumeOptions.Subpath needs API v1.45 or newer")
	}
	if cr.api < 48 && m.Type == mount.TypeImage {
		return invalid(`Mount type "Image" needs API v1.48 or newer`)
	}
	return nil
}

// emptyBindings: a port with an empty list of bindings is published on a port
// of our choice.
func (cr *creation) emptyBindings() error {
	var empty []string
	for port, b := range cr.hc.PortBindings {
		if len(b) > 0 {
			continue
		}
		if cr.api >= 52 {
			empty = append(empty, port.String())
		}
		cr.hc.PortBindings[port] = []network.PortBinding{{}}
	}
	if len(empty) > 0 {
		slices.Sort(empty)
		cr.warnf("Following container port(s) have an empty list of port-bindings: " + strings.Join(empty, ", ") + ". Such bindings will be discarded in a future version.")
	}
	if cr.hc.PortBindings == nil {
		cr.hc.PortBindings = network.PortMap{}
	}
	return nil
}
