package plan

import (
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// devices checks --device. What they are on this host is looked at by Start.
func (cr *creation) devices() error {
	for i := range cr.hc.Devices {
		d := &cr.hc.Devices[i]
		if d.PathInContainer == "" {
			d.PathInContainer = d.PathOnHost
		}
		if d.CgroupPermissions == "" {
			d.CgroupPermissions = "rwm"
		}
		if !path.IsAbs(d.PathOnHost) || strings.ContainsRune(d.PathOnHost, 0) {
			return invalid("%q is not an absolute path", d.PathOnHost)
		}
		if !path.IsAbs(d.PathInContainer) || strings.ContainsRune(d.PathInContainer, 0) {
			return invalid("%q is not an absolute path", d.PathInContainer)
		}
		if len(d.CgroupPermissions) > 3 || strings.Trim(d.CgroupPermissions, "rwm") != "" {
			return invalid("bad mode specified: %s; use a combination of r, w and m", d.CgroupPermissions)
		}
	}
	return nil
}

func ptr[T any](v T) *T { return &v }

// parseDeviceRule reads "c 1:3 rwm", "b 8:* r", "a *:* rwm".
func parseDeviceRule(rule string) (specs.LinuxDeviceCgroup, error) {
	bad := func() (specs.LinuxDeviceCgroup, error) {
		return specs.LinuxDeviceCgroup{}, invalid("invalid device cgroup rule format: '%s'", rule)
	}
	f := strings.Split(rule, " ")
	if len(f) != 3 || len(f[0]) != 1 || !strings.Contains("abc", f[0]) {
		return bad()
	}
	major, minor, ok := strings.Cut(f[1], ":")
	if !ok || f[2] == "" || len(f[2]) > 3 || strings.Trim(f[2], "rwm") != "" {
		return bad()
	}
	out := specs.LinuxDeviceCgroup{Allow: true, Type: f[0], Access: f[2], Major: ptr(int64(-1)), Minor: ptr(int64(-1))}
	for _, n := range []struct {
		text string
		to   *int64
	}{{major, out.Major}, {minor, out.Minor}} {
		if n.text == "*" {
			continue
		}
		v, err := strconv.ParseUint(n.text, 10, 32)
		if err != nil {
			return bad()
		}
		*n.to = int64(v)
	}
	return out, nil
}

// baseDevices is the default rule set: nothing but the devices that every
// container has (runtime-spec, default devices), and making nodes, which
// without access to them is harmless.
func baseDevices() []specs.LinuxDeviceCgroup {
	allow := func(major, minor int64) specs.LinuxDeviceCgroup {
		return specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: ptr(major), Minor: ptr(minor), Access: "rwm"}
	}
	return []specs.LinuxDeviceCgroup{
		{Allow: false, Access: "rwm"},
		{Allow: true, Type: "c", Major: ptr(int64(-1)), Minor: ptr(int64(-1)), Access: "m"},
		{Allow: true, Type: "b", Major: ptr(int64(-1)), Minor: ptr(int64(-1)), Access: "m"},
		allow(1, 3), allow(1, 5), allow(1, 7), allow(1, 8), allow(1, 9), // null, zero, full, random, urandom
		allow(5, 0), allow(5, 1), allow(5, 2), // tty, console, ptmx
		{Allow: true, Type: "c", Major: ptr(int64(136)), Minor: ptr(int64(-1)), Access: "rwm"}, // pts
	}
}

// notDevices are below /dev and belong to mounts of their own.
var notDevices = []string{"/dev/pts", "/dev/shm", "/dev/fd", "/dev/mqueue", "/dev/console", "/dev/ptmx", "/dev/.lxc", "/dev/.lxd-mounts", "/dev/.udev"}

// specDevices finds the nodes to make and the rules for them.
func specDevices(hc *container.HostConfig, look Lookup) (devs []specs.LinuxDevice, rules []specs.LinuxDeviceCgroup, err error) {
	find := func(p string) ([]specs.LinuxDevice, error) {
		if look.Devices == nil {
			return nil, invalid("error gathering device information while adding custom device %q: no such file or directory", p)
		}
		found, err := look.Devices(p)
		if err == nil && len(found) == 0 {
			return nil, invalid("error gathering device information while adding custom device %q: not a device node", p)
		}
		if err != nil {
			return nil, invalid("error gathering device information while adding custom device %q: %s", p, err)
		}
		return found, nil
	}
	if hc.Privileged {
		all, err := find("/dev")
		if err != nil {
			return nil, nil, err
		}
		for _, d := range all {
			if !slices.ContainsFunc(notDevices, func(p string) bool { return d.Path == p || strings.HasPrefix(d.Path, p+"/") }) {
				devs = append(devs, d)
			}
		}
		rules = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
	} else {
		rules = baseDevices()
	}
	for _, m := range hc.Devices {
		if hc.Privileged && m.PathInContainer == m.PathOnHost {
			continue // there already
		}
		found, err := find(m.PathOnHost)
		if err != nil {
			return nil, nil, err
		}
		for _, d := range found {
			rules = append(rules, specs.LinuxDeviceCgroup{Allow: true, Type: d.Type, Major: ptr(d.Major), Minor: ptr(d.Minor), Access: m.CgroupPermissions})
			d.Path = m.PathInContainer + strings.TrimPrefix(d.Path, m.PathOnHost)
			devs = append(devs, d)
		}
	}
	for _, r := range hc.DeviceCgroupRules {
		rule, err := parseDeviceRule(r)
		if err != nil {
			return nil, nil, err
		}
		rules = append(rules, rule)
	}
	return devs, rules, nil
}
