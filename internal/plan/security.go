package plan

import (
	"encoding/json"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// security is what --security-opt says, read. Start reads it again from the
// record.
type security struct {
	labels          []string
	apparmor        string
	seccomp         string // "", "unconfined", "builtin" or JSON
	noNewPrivs      bool
	writableCgroups *bool
	systempaths     bool // unconfined
}

// parseSecurity reads security options. The older form with ":" is taken too.
func parseSecurity(opts []string, noNewPrivs bool) (security, error) {
	s := security{noNewPrivs: noNewPrivs}
	yes := true
	for _, opt := range opts {
		switch opt {
		case "no-new-privileges":
			s.noNewPrivs = true
			continue
		case "writable-cgroups":
			s.writableCgroups = &yes
			continue
		case "disable":
			s.labels = append(s.labels, "disable")
			continue
		}
		key, value, ok := strings.Cut(opt, "=")
		if !ok {
			key, value, ok = strings.Cut(opt, ":")
		}
		if !ok {
			return s, invalid("invalid --security-opt 1: %q", opt)
		}
		switch key {
		case "label":
			s.labels = append(s.labels, value)
		case "apparmor":
			s.apparmor = value
		case "seccomp":
			s.seccomp = value
		case "systempaths":
			if value != "unconfined" {
				return s, invalid("invalid --security-opt 2: %q: systempaths knows only \"unconfined\"", opt)
			}
			s.systempaths = true
		case "no-new-privileges", "writable-cgroups":
			b, err := strconv.ParseBool(value)
			if err != nil {
				return s, invalid("invalid --security-opt 2: %q", opt)
			}
			if key == "no-new-privileges" {
				s.noNewPrivs = b
			} else {
				s.writableCgroups = &b
			}
		default:
			return s, invalid("invalid --security-opt 2: %q", opt)
		}
	}
	return s, nil
}

func (cr *creation) security() error {
	hc := cr.hc
	s, err := parseSecurity(hc.SecurityOpt, cr.d.NoNewPrivs)
	if err != nil {
		return err
	}
	cr.sec = s
	if err := cr.seccompOption(); err != nil {
		return err
	}
	switch s.apparmor {
	case "", "unconfined":
	default:
		if !cr.f.AppArmor {
			return invalid("security option apparmor=%s: AppArmor is not enabled on this machine; use apparmor=unconfined or leave it out", s.apparmor)
		}
	}
	if s.writableCgroups != nil && *s.writableCgroups && cr.c.IDs.Mapped() {
		return invalid("option writable-cgroups conflicts with the container's user namespace; add --userns=host")
	}
	if err := cr.selinux(); err != nil {
		return err
	}
	switch {
	case hc.Privileged: // both stay as they are: nil
	case s.systempaths:
		hc.MaskedPaths, hc.ReadonlyPaths = []string{}, []string{}
	default:
		if hc.MaskedPaths == nil {
			hc.MaskedPaths = slices.Concat(maskedPaths, cr.f.MaskedPaths)
		}
		if hc.ReadonlyPaths == nil {
			hc.ReadonlyPaths = slices.Clone(readonlyPaths)
		}
	}
	return nil
}

func (cr *creation) seccompOption() error {
	switch s := cr.sec.seccomp; s {
	case "", "unconfined", "builtin":
		if s == "builtin" && !cr.f.Seccomp && !cr.hc.Privileged {
			return invalid("security option seccomp=%s: this kernel has no seccomp filters", s)
		}
	default:
		if !cr.f.Seccomp {
			return invalid("security option seccomp: this kernel has no seccomp filters; use seccomp=unconfined")
		}
		var p seccomp.Seccomp
		if err := json.Unmarshal([]byte(s), &p); err != nil {
			return invalid("Decoding seccomp profile failed: %s", err)
		}
		return checkListener(&p, cr.vm())
	}
	return nil
}

// checkListener: whoever answers for the kernel waits at a socket on the host.
func checkListener(p *seccomp.Seccomp, vm bool) error {
	notify := p.DefaultAction == specs.ActNotify
	for _, c := range p.Syscalls {
		notify = notify || c != nil && c.Action == specs.ActNotify
	}
	switch {
	case p.ListenerPath != "" && !path.IsAbs(p.ListenerPath):
		return invalid("seccomp profile: listenerPath %q is not an absolute path", p.ListenerPath)
	case notify && p.ListenerPath == "":
		return invalid("seccomp profile: SCMP_ACT_NOTIFY needs a listenerPath, the socket of the agent that answers")
	case notify && vm:
		return invalid("seccomp profile: SCMP_ACT_NOTIFY cannot be had with isolation vm: the agent at %s is a process of the host, and cannot answer for another kernel", p.ListenerPath)
	case p.DefaultAction == specs.ActNotify:
		return invalid("seccomp profile: SCMP_ACT_NOTIFY cannot be the default action")
	}
	return nil
}

// selinux makes the labels, where SELinux is on.
func (cr *creation) selinux() error {
	hc := cr.hc
	if !cr.d.SELinux || cr.in.Lookup.Labels == nil {
		for _, l := range cr.sec.labels {
			if l != "disable" {
				cr.warnf("SELinux is not enabled. Security option label=" + l + " discarded.")
			}
		}
		return nil
	}
	opts := cr.sec.labels
	if len(opts) == 0 && (hc.Privileged || hc.IpcMode.IsHost() || hc.PidMode.IsHost()) {
		opts = []string{"disable"}
	}
	for _, o := range cr.joined {
		if len(opts) == 0 && o.ProcessLabel != "" {
			cr.c.ProcessLabel, cr.c.MountLabel = o.ProcessLabel, o.MountLabel
			return nil
		}
	}
	var err error
	cr.c.ProcessLabel, cr.c.MountLabel, err = cr.in.Lookup.Labels(opts)
	if err != nil {
		return invalid("security option label: %s", err)
	}
	return nil
}

// What of /proc and /sys a container does not see, or cannot write: places
// that tell about or act on the whole machine.
var (
	maskedPaths = []string{
		"/proc/acpi",
		"/proc/asound",
		"/proc/interrupts",
		"/proc/kcore",
		"/proc/keys",
		"/proc/latency_stats",
		"/proc/sched_debug",
		"/proc/scsi",
		"/proc/timer_list",
		"/proc/timer_stats",
		"/sys/devices/virtual/powercap",
		"/sys/firmware",
	}
	readonlyPaths = []string{
		"/proc/bus",
		"/proc/fs",
		"/proc/irq",
		"/proc/sys",
		"/proc/sysrq-trigger",
	}
)
