package plan

import (
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"

	"wharf/internal/model"
)

// IsolationRule forces an isolation on the containers that fit it: those with
// the label ("key" or "key=value"), those on the network. With both, both have
// to fit.
type IsolationRule struct {
	Label     string          `json:"label,omitempty"`
	Network   string          `json:"network,omitempty"`
	Isolation model.Isolation `json:"isolation"`
}

// ParseIsolation reads an isolation's name; "" and "default" are "".
func ParseIsolation(name string) (model.Isolation, error) {
	switch iso := model.Isolation(strings.ToLower(name)); iso {
	case "", "default":
		return "", nil
	case model.IsolationContainer, model.IsolationVM:
		return iso, nil
	}
	return "", invalid("invalid isolation '%s' on linux; use \"default\", \"container\" or \"vm\"", name)
}

func (r *IsolationRule) fits(labels map[string]string, networks []string) bool {
	if r.Label != "" {
		key, value, exact := strings.Cut(r.Label, "=")
		if have, ok := labels[key]; !ok || exact && have != value {
			return false
		}
	}
	return r.Network == "" || slices.Contains(networks, r.Network)
}

// isolation decides what the container runs in: what --isolation or --runtime
// vm says, else the daemon's default; a rule of the daemon's stands above both.
func (cr *creation) isolation() error {
	asked, err := ParseIsolation(string(cr.hc.Isolation))
	if err != nil {
		return err
	}
	switch name := cr.hc.Runtime; {
	case name == string(model.IsolationVM):
		if asked == model.IsolationContainer {
			return invalid("conflicting options: --isolation container and --runtime vm")
		}
		asked = model.IsolationVM
	case name == "":
		cr.hc.Runtime = cr.d.Runtime
	case name != cr.d.Runtime && !slices.Contains(cr.d.Runtimes, name):
		return invalid("unknown or invalid runtime name: %s", name)
	}
	iso := asked
	if iso == "" {
		iso = cr.d.Isolation
	}
	if iso == "" {
		iso = model.IsolationContainer
	}
	for i := range cr.d.IsolationRules {
		r := &cr.d.IsolationRules[i]
		if !r.fits(cr.cfg.Labels, cr.networkNames()) { // the request's: the image is not merged in yet
			continue
		}
		if asked != "" && asked != r.Isolation {
			cr.warnf("This daemon's isolation-policy runs the container with isolation " + string(r.Isolation) + ", not " + string(asked) + ".")
		}
		iso = r.Isolation
		break
	}
	if iso == model.IsolationVM && !cr.d.VM && cr.d.NoVM != "" {
		return notImplemented("isolation vm cannot be had here: %s", cr.d.NoVM)
	}
	if iso == model.IsolationVM && !cr.d.VM {
		return notImplemented("isolation vm is switched off on this daemon: leave --isolation out, or configure vm in daemon.json")
	}
	cr.c.Isolation = iso
	if iso != model.IsolationContainer || asked != "" {
		cr.hc.Isolation = container.Isolation(iso) // shown by inspect
	}
	return nil
}

func (cr *creation) vm() bool { return cr.c.Isolation == model.IsolationVM }

// networkNames are the networks of the request.
func (cr *creation) networkNames() []string {
	names := []string{cr.hc.NetworkMode.NetworkName()}
	if n := cr.in.Request.Networking; n != nil {
		for name := range n.EndpointsConfig {
			names = append(names, name)
		}
	}
	return names
}

// machine refuses what a virtual machine cannot share with the host or with
// others, and what others cannot share with one.
func (cr *creation) machine() error {
	for _, o := range cr.joined {
		if o.Isolation == model.IsolationVM {
			return invalid("cannot share a namespace of container %s: it runs in a virtual machine (isolation vm), whose namespaces are its own kernel's", o.Name)
		}
	}
	if !cr.vm() {
		return nil
	}
	hc := cr.hc
	for _, x := range []struct {
		bad    bool
		option string
		why    string
	}{
		{hc.PidMode.IsHost(), "--pid host", "does not see the host's processes"},
		{hc.PidMode.IsContainer(), "--pid " + string(hc.PidMode), "does not see another container's processes"},
		{hc.IpcMode.IsHost(), "--ipc host", "has shared memory of its own"},
		{hc.IpcMode.IsContainer(), "--ipc " + string(hc.IpcMode), "has shared memory of its own"},
		{hc.NetworkMode.IsHost(), "--network host", "has network interfaces of its own; publish ports with -p"},
		{hc.NetworkMode.IsContainer(), "--network " + string(hc.NetworkMode), "has network interfaces of its own; put both on one network"},
		{hc.UTSMode.IsHost(), "--uts host", "has a host name of its own"},
		{hc.UsernsMode.IsHost(), "--userns host", "has users of its own"},
		{len(hc.Devices) > 0, "--device", "does not have the host's devices"},
		{len(hc.DeviceRequests) > 0, "--gpus", "does not have the host's devices"},
		{hc.CgroupnsMode.IsHost() && cr.askedCgroupHost(), "--cgroupns host", "has control groups of its own"},
	} {
		if x.bad {
			return invalid("%s cannot be had with isolation vm: a virtual machine has a kernel of its own, which %s", x.option, x.why)
		}
	}
	hc.CgroupnsMode = container.CgroupnsModePrivate
	return nil
}

// askedCgroupHost: the request says so, not the daemon's default.
func (cr *creation) askedCgroupHost() bool {
	return cr.in.Request.HostConfig != nil && cr.in.Request.HostConfig.CgroupnsMode.IsHost()
}
