package prepare

import (
	"encoding/json"
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"wharf/internal/model"
	"wharf/internal/runtime"
	"wharf/internal/runtime/cgroup"
)

// Exec prepares a further process in the container that was prepared from b
// (its Spec, IDs and cgroupPath must be those of the start).
func Exec(b *model.Bundle, e *model.ExecSpec, cgroupPath string, o Options) (*runtime.PreparedExec, error) {
	if e == nil || e.Process == nil {
		return nil, refuse("the exec has no process")
	}
	if b == nil || b.Spec == nil {
		return nil, refuse("the bundle has no spec")
	}
	p := &runtime.PreparedExec{
		OOMScoreAdj: e.Process.OOMScoreAdj, Rlimits: e.Process.Rlimits,
		Terminal: e.Process.Terminal, ConsoleSize: consoleSize(e.Process, e.ConsoleSize),
	}
	warn := func(format string, args ...any) { p.Warnings = append(p.Warnings, fmt.Sprintf(format, args...)) }
	st := runtime.Stage{Exec: true}
	host := o.host()
	if err := fillProcess(&st, e.Process, host, warn); err != nil {
		return nil, err
	}
	st.User = stageUser(e.Process, e.User, e.GroupAdd, o.SpecUser)
	if !o.NoNewKeyring {
		st.Keyring = "_ses." + string(b.ID)
	}
	if b.Spec.Linux != nil && !e.Privileged {
		sec, listener, metadata, err := seccomp(b.Spec.Linux.Seccomp)
		if err != nil {
			return nil, err
		}
		st.Seccomp, p.SeccompListener, p.SeccompListenerMetadata = sec, listener, metadata
	}
	if o.Unshifted && foreign(b.Spec.Linux) {
		p.Chroot, st.Root.Chroot = true, true
	}
	if b.Spec.Linux != nil {
		var err error
		if st.Personality, err = personality(b.Spec.Linux.Personality); err != nil {
			return nil, err
		}
		if st.MemPolicy, err = memoryPolicy(b.Spec.Linux.MemoryPolicy); err != nil {
			return nil, err
		}
	}
	dir, err := cgroupAt(b, cgroupPath)
	if err != nil {
		return nil, err
	}
	p.Cgroups = cgroup.New(host.Cgroup, dir).Dirs()
	p.Stage, err = json.Marshal(&st)
	return p, err
}

// foreign: the container has no mount namespace of its own (foreignTree).
func foreign(l *specs.Linux) bool {
	if l != nil {
		for _, n := range l.Namespaces {
			if n.Type == specs.MountNamespace {
				return n.Path != ""
			}
		}
	}
	return true
}
