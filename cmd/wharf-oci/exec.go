package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"

	"wharf/internal/model"
	"wharf/internal/runtime"
	"wharf/internal/runtime/prepare"
)

type execOptions struct {
	processFile, cwd, user, pidFile, consoleSocket string
	pidfdSocket                                    string
	env, caps, groups, cgroups                     []string
	tty, detach, noNewPrivs, ignorePaused          bool
	preserveFDs                                    int
	apparmor, label                                string
}

func execCommand(g *global) *cobra.Command {
	var o execOptions
	cmd := &cobra.Command{Use: "exec ID COMMAND [ARG...]", Short: "run a further process in a container", Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return g.exec(args[0], args[1:], &o) }}
	f := cmd.Flags()
	f.SetInterspersed(false)
	f.StringVarP(&o.processFile, "process", "p", "", "process.json")
	f.StringVar(&o.cwd, "cwd", "", "working directory")
	f.StringVarP(&o.user, "user", "u", "", "UID[:GID]")
	f.StringVar(&o.pidFile, "pid-file", "", "file for the process id")
	f.StringVar(&o.consoleSocket, "console-socket", "", "unix socket that gets the terminal")
	f.StringVar(&o.pidfdSocket, "pidfd-socket", "", "unix socket that gets a descriptor of the process")
	f.StringArrayVar(&o.cgroups, "cgroup", nil, "[CONTROLLER,...:]PATH below the container's cgroup")
	f.StringArrayVarP(&o.env, "env", "e", nil, "environment")
	f.StringArrayVarP(&o.caps, "cap", "c", nil, "add a capability")
	f.StringArrayVarP(&o.groups, "additional-gids", "g", nil, "further groups")
	f.BoolVarP(&o.tty, "tty", "t", false, "terminal")
	f.BoolVarP(&o.detach, "detach", "d", false, "do not wait")
	f.BoolVar(&o.noNewPrivs, "no-new-privs", false, "no_new_privs")
	f.BoolVar(&o.ignorePaused, "ignore-paused", false, "also in a paused container")
	f.IntVar(&o.preserveFDs, "preserve-fds", 0, "pass on so many descriptors after standard error")
	f.StringVar(&o.apparmor, "apparmor", "", "AppArmor profile")
	f.StringVar(&o.label, "process-label", "", "SELinux label")
	return cmd
}

func (g *global) exec(id string, args []string, o *execOptions) error {
	c, err := g.load(id)
	if err != nil {
		return err
	}
	if err := o.allowed(c); err != nil {
		return err
	}
	process, err := o.process(c, args)
	if err != nil {
		return err
	}
	if process.Terminal && o.detach && o.consoleSocket == "" {
		return errors.New("cannot allocate tty if runc will detach without setting console socket")
	}
	p, err := prepare.Exec(c.bundle(), &model.ExecSpec{Process: process}, c.Cgroup, prepare.Options{SpecUser: true, Unshifted: true})
	if err != nil {
		return err
	}
	if p.Cgroups, err = subCgroups(p.Cgroups, o.cgroups); err != nil {
		return err
	}
	files := runtime.Files{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}
	if files.Extra, err = extraFiles(o.preserveFDs); err != nil {
		return err
	}
	proc, err := runtime.Exec(c.Pid, p, files)
	if err != nil {
		return fmt.Errorf("exec failed: unable to start container process: %w", err)
	}
	g.warn(proc.Warnings)
	g.trace(proc.Trace)
	if o.consoleSocket != "" && proc.Console != nil {
		if err := sendConsole(proc.Console, o.consoleSocket); err != nil {
			return errors.Join(err, proc.Close())
		}
		proc.Console = nil
	}
	if proc.Console != nil {
		plainNewlines(proc.Console)
	}
	if err := proc.Start(); err != nil {
		return fmt.Errorf("exec failed: unable to start container process: %w", err)
	}
	if err := sendPidfd(proc.Pid, o.pidfdSocket); err != nil {
		return err
	}
	if err := writePidFile(o.pidFile, proc.Pid); err != nil {
		return err
	}
	if o.detach {
		proc.Detach()
		return nil
	}
	code, err := attend(proc)
	if err == nil && code != 0 {
		return exitError(code)
	}
	return err
}

func (o *execOptions) allowed(c *container) error {
	switch c.status() {
	case specs.StateStopped:
		return errors.New("cannot exec in a stopped container")
	case "paused":
		if !o.ignorePaused {
			return errors.New("cannot exec in a paused container (use --ignore-paused to override)")
		}
	}
	return nil
}

// process is process.json, or the container's own with the flags applied.
func (o *execOptions) process(c *container, args []string) (*specs.Process, error) {
	if o.processFile != "" {
		data, err := os.ReadFile(o.processFile)
		if err != nil {
			return nil, err
		}
		var p specs.Process
		return &p, json.Unmarshal(data, &p)
	}
	p := *c.spec.Process
	if len(args) == 0 {
		return nil, errors.New("exec args cannot be empty")
	}
	p.Args, p.Terminal = args, o.tty
	if o.cwd != "" {
		p.Cwd = o.cwd
	}
	p.Env = append(append([]string{}, p.Env...), o.env...)
	p.NoNewPrivileges = p.NoNewPrivileges || o.noNewPrivs
	if o.apparmor != "" {
		p.ApparmorProfile = o.apparmor
	}
	if o.label != "" {
		p.SelinuxLabel = o.label
	}
	if err := o.ids(&p); err != nil {
		return nil, err
	}
	o.capabilities(&p)
	return &p, nil
}

func (o *execOptions) ids(p *specs.Process) error {
	if o.user != "" {
		uid, gid, both := strings.Cut(o.user, ":")
		n, err := strconv.ParseUint(uid, 10, 32)
		if err != nil {
			return fmt.Errorf("parsing %s as int for uid failed: %w", uid, err)
		}
		p.User.UID = uint32(n)
		if both {
			if n, err = strconv.ParseUint(gid, 10, 32); err != nil {
				return fmt.Errorf("parsing %s as int for gid failed: %w", gid, err)
			}
			p.User.GID = uint32(n)
		}
	}
	for _, group := range o.groups {
		n, err := strconv.ParseUint(group, 10, 32)
		if err != nil {
			return fmt.Errorf("parsing %s as int for gid failed: %w", group, err)
		}
		p.User.AdditionalGids = append(p.User.AdditionalGids, uint32(n))
	}
	return nil
}

// capabilities adds --cap as runc does: not to the inheritable set unless
// something is there.
func (o *execOptions) capabilities(p *specs.Process) {
	if len(o.caps) == 0 {
		return
	}
	var caps specs.LinuxCapabilities
	if p.Capabilities != nil {
		caps = *p.Capabilities
	}
	add := func(set []string) []string { return append(append([]string{}, set...), o.caps...) }
	caps.Bounding, caps.Effective, caps.Permitted = add(caps.Bounding), add(caps.Effective), add(caps.Permitted)
	if len(caps.Inheritable) > 0 {
		caps.Inheritable = add(caps.Inheritable)
		caps.Ambient = add(caps.Ambient)
	}
	p.Capabilities = &caps
}

// subCgroups moves the directories that an exec joins further down: all of
// them, or with controllers named those of these.
func subCgroups(dirs, flags []string) ([]string, error) {
	out := append([]string{}, dirs...)
	for _, flag := range flags {
		names, sub, named := strings.Cut(flag, ":")
		if !named {
			names, sub = "", flag
		}
		if sub = strings.Trim(sub, "/"); sub != "" && !filepath.IsLocal(sub) {
			return nil, fmt.Errorf("bad sub cgroup path: %s", sub)
		}
		for _, name := range strings.Split(names, ",") {
			found := false
			for i, dir := range dirs {
				if name == "" || inHierarchy(dir, name) {
					out[i], found = filepath.Join(dir, sub), true
				}
			}
			if !found {
				return nil, fmt.Errorf("unknown controller %s in --cgroup %s", name, flag)
			}
		}
	}
	for _, dir := range out {
		if _, err := os.Stat(dir); err != nil {
			return nil, fmt.Errorf("error adding pid to sub cgroup: %w", err)
		}
	}
	return out, nil
}

// inHierarchy: a v1 hierarchy is mounted under its controllers' names.
func inHierarchy(dir, controller string) bool {
	rest, ok := strings.CutPrefix(dir, "/sys/fs/cgroup/")
	mounted, _, _ := strings.Cut(rest, "/")
	return ok && slices.Contains(strings.Split(strings.TrimPrefix(mounted, "name="), ","), controller)
}
