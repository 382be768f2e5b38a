package prepare

import (
	"strings"
	"unicode"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"wharf/internal/runtime"
)

func (c *container) process() error {
	p := c.spec.Process
	if err := fillProcess(&c.st, p, c.host, c.warn); err != nil {
		return err
	}
	c.st.Init = c.b.Init
	if c.b.Init {
		if _, ok := c.ns["pid"]; !ok {
			c.warn("init is not process 1 of a pid namespace of its own: it reaps no orphans of others")
		}
	}
	c.st.User = stageUser(p, c.b.User, c.b.GroupAdd, c.o.SpecUser)
	if !c.o.NoNewKeyring {
		c.st.Keyring = "_ses." + string(c.b.ID)
	}
	var err error
	if c.st.Personality, err = personality(c.spec.Linux.Personality); err != nil {
		return err
	}
	if c.st.MemPolicy, err = memoryPolicy(c.spec.Linux.MemoryPolicy); err != nil {
		return err
	}
	c.p.OOMScoreAdj, c.p.Rlimits = p.OOMScoreAdj, p.Rlimits
	c.p.Terminal, c.p.ConsoleSize = p.Terminal, consoleSize(p, c.b.ConsoleSize)
	sec, listener, metadata, err := seccomp(c.spec.Linux.Seccomp)
	if err != nil {
		return err
	}
	c.st.Seccomp, c.p.SeccompListener, c.p.SeccompListenerMetadata = sec, listener, metadata
	if c.spec.Linux.MountLabel != "" && !c.host.SELinux {
		c.warn("mount label %q: SELinux is not on this machine; left out", c.spec.Linux.MountLabel)
	} else if c.spec.Linux.MountLabel != "" {
		c.p.MountLabel = c.spec.Linux.MountLabel
	}
	return nil
}

func consoleSize(p *specs.Process, size [2]uint) [2]uint {
	if p.ConsoleSize != nil && size == ([2]uint{}) {
		return [2]uint{p.ConsoleSize.Height, p.ConsoleSize.Width}
	}
	return size
}

func stageUser(p *specs.Process, name string, add []string, fromSpec bool) runtime.StageUser {
	u := runtime.StageUser{Umask: p.User.Umask}
	if fromSpec {
		u.UID, u.GID, u.Groups = p.User.UID, p.User.GID, p.User.AdditionalGids
		return u
	}
	u.Lookup, u.Name, u.GroupAdd, u.Groups = true, name, add, p.User.AdditionalGids
	return u
}

// words refuses what would end early, or become a second variable or line.
func words(p *specs.Process) error {
	for _, e := range p.Env {
		if strings.IndexByte(e, 0) >= 0 || !strings.Contains(e, "=") {
			return refuse("environment variable %q", e)
		}
	}
	for _, a := range append(append([]string{}, p.Args...), p.Cwd) {
		if strings.IndexByte(a, 0) >= 0 {
			return refuse("%q has a NUL byte", a)
		}
	}
	for _, l := range []string{p.SelinuxLabel, p.ApparmorProfile} {
		if strings.ContainsFunc(l, unicode.IsControl) { // it becomes a line that the kernel parses
			return refuse("label or profile %q", l)
		}
	}
	return nil
}

// fillProcess is what a container's first process and an exec have in common.
func fillProcess(st *runtime.Stage, p *specs.Process, host *Host, warn func(string, ...any)) error {
	if len(p.Args) == 0 {
		return refuse("no command specified")
	}
	if !strings.HasPrefix(p.Cwd, "/") {
		return refuse("the working directory %q is invalid, it needs to be an absolute path", p.Cwd)
	}
	if err := words(p); err != nil {
		return err
	}
	st.Args, st.Env, st.Cwd = p.Args, lastOfEach(p.Env), p.Cwd
	st.Terminal, st.NoNewPrivs = p.Terminal, p.NoNewPrivileges
	var err error
	if st.Caps, err = capabilities(p.Capabilities, warn); err != nil {
		return err
	}
	if st.Scheduler, err = scheduler(p.Scheduler); err != nil {
		return err
	}
	if st.IOPriority, err = ioPriority(p.IOPriority); err != nil {
		return err
	}
	if a := p.ExecCPUAffinity; a != nil && st.Exec {
		if st.Affinity, err = affinity(firstOf(a.Final, a.Initial)); err != nil {
			return err
		}
	}
	for _, r := range p.Rlimits {
		if !runtime.KnownRlimit(r.Type) {
			return refuse("unknown rlimit %q", r.Type)
		}
		if r.Soft > r.Hard {
			return refuse("rlimit %s: soft limit %d is above the hard limit %d", r.Type, r.Soft, r.Hard)
		}
	}
	switch {
	case p.SelinuxLabel != "" && host.SELinux:
		st.Label = p.SelinuxLabel
	case p.SelinuxLabel != "":
		warn("SELinux label %q: SELinux is not on this machine; left out", p.SelinuxLabel)
	}
	switch {
	case p.ApparmorProfile != "" && p.ApparmorProfile != "unconfined" && host.AppArmor:
		st.AppArmor = p.ApparmorProfile
	case p.ApparmorProfile != "" && p.ApparmorProfile != "unconfined":
		warn("AppArmor profile %q: AppArmor is not on this machine; left out", p.ApparmorProfile)
	}
	return nil
}

func firstOf(list ...string) string {
	for _, s := range list {
		if s != "" {
			return s
		}
	}
	return ""
}

// lastOfEach keeps, of variables that are set several times, the last one.
func lastOfEach(env []string) []string {
	at := make(map[string]int, len(env))
	out := make([]string, 0, len(env))
	for _, e := range env {
		key, _, _ := strings.Cut(e, "=")
		if i, ok := at[key]; ok {
			out[i] = e
			continue
		}
		at[key] = len(out)
		out = append(out, e)
	}
	return out
}
