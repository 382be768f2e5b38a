package plan

import (
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/opencontainers/runtime-spec/specs-go"

	"wharf/internal/model"
	"wharf/internal/plan/changes"
)

// Exec describes a further process in the running container c.
func Exec(c model.Container, id model.ID, r model.ExecRequest, f Facts, d Defaults) (*model.ExecSpec, error) {
	if err := checkExec(r); err != nil {
		return nil, err
	}
	sec, err := parseSecurity(c.HostConfig.SecurityOpt, d.NoNewPrivs)
	if err != nil {
		return nil, err
	}
	mapped := c.IDs.Mapped()
	caps, err := capabilitySet(c.HostConfig, f, mapped)
	if err != nil {
		return nil, err
	}
	if r.Privileged {
		caps = slices.Clone(available(f, mapped))
	}
	cwd := r.WorkingDir
	if cwd == "" {
		cwd = c.Config.WorkingDir
	}
	if cwd == "" {
		cwd = "/"
	}
	user := r.User
	if user == "" {
		user = c.Config.User
	}
	e := &model.ExecSpec{
		ID:         id,
		User:       user,
		GroupAdd:   c.HostConfig.GroupAdd,
		OpenStdin:  r.AttachStdin,
		Privileged: r.Privileged,
		Process: &specs.Process{
			Terminal:        r.Tty,
			Args:            r.Cmd,
			Env:             overrideEnv(environment(c, r.Tty, r.LinkEnv), r.Env),
			Cwd:             cwd,
			Capabilities:    &specs.LinuxCapabilities{Bounding: caps, Permitted: caps, Effective: caps},
			NoNewPrivileges: sec.noNewPrivs,
			SelinuxLabel:    c.ProcessLabel,
			Rlimits:         rlimits(c.HostConfig.Ulimits, d.Ulimits),
			User:            specs.User{Umask: c.HostConfig.Umask},
		},
	}
	if f.AppArmor {
		e.Process.ApparmorProfile = sec.apparmor
	}
	if r.Tty && r.ConsoleSize != nil {
		e.ConsoleSize = *r.ConsoleSize
		e.Process.ConsoleSize = &specs.Box{Height: r.ConsoleSize[0], Width: r.ConsoleSize[1]}
	}
	return e, nil
}

func checkExec(r model.ExecRequest) error {
	if len(r.Cmd) == 0 {
		return invalid("No exec command specified")
	}
	for _, e := range r.Env {
		if e == "" || e[0] == '=' || strings.ContainsRune(e, 0) {
			return invalid("invalid environment variable: %q", e)
		}
	}
	if r.WorkingDir != "" && r.WorkingDir[0] != '/' {
		return invalid("the working directory '%s' is invalid, it needs to be an absolute path", r.WorkingDir)
	}
	if r.DetachKeys != "" {
		return checkDetachKeys(r.DetachKeys)
	}
	return nil
}

// checkDetachKeys checks a sequence as "ctrl-p,ctrl-q": single characters, or
// ctrl- with a letter or one of @ [ \ ] ^ _.
func checkDetachKeys(keys string) error {
	for _, k := range strings.Split(keys, ",") {
		c, isCtrl := strings.CutPrefix(k, "ctrl-")
		ok := len(k) == 1
		if isCtrl && len(c) == 1 {
			ok = c[0] >= 'a' && c[0] <= 'z' || strings.Contains(`@[\]^_`, c)
		}
		if !ok {
			return invalid("Invalid escape keys (%s) provided", keys)
		}
	}
	return nil
}

// Changes applies Dockerfile instructions to a copy of base, for commit and
// import; see package changes.
func Changes(base *container.Config, instructions []string) (*container.Config, error) {
	return changes.Apply(base, instructions)
}
