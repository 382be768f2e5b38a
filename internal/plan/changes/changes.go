// Package changes applies Dockerfile instructions to an image's
// configuration, as commit and import take them (--change). It is pure: text
// and a configuration go in, a configuration comes out.
package changes

import (
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/sys/signal"
)

func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}

// Apply returns a copy of base with the instructions applied in order. base
// nil is an empty configuration. The error names the instruction.
func Apply(base *container.Config, instructions []string) (*container.Config, error) {
	if base == nil {
		base = &container.Config{}
	}
	a := &applier{c: clone(base)}
	for _, text := range instructions {
		for _, line := range logicalLines(text) {
			if err := a.line(line); err != nil {
				return nil, err
			}
		}
	}
	return a.c, nil
}

func clone(c *container.Config) *container.Config {
	out := *c
	out.ExposedPorts = maps.Clone(c.ExposedPorts)
	out.Volumes = maps.Clone(c.Volumes)
	out.Labels = maps.Clone(c.Labels)
	out.Env = slices.Clone(c.Env)
	out.OnBuild = slices.Clone(c.OnBuild)
	return &out
}

// logicalLines joins lines that end in a backslash and leaves out comments
// and empty ones.
func logicalLines(text string) []string {
	var out []string
	var pending strings.Builder
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		if t := strings.TrimSpace(line); t == "" || t[0] == '#' {
			continue
		}
		head, more := strings.CutSuffix(strings.TrimRight(line, " \t"), `\`)
		if more {
			pending.WriteString(head)
			continue
		}
		pending.WriteString(line)
		out = append(out, strings.TrimSpace(pending.String()))
		pending.Reset()
	}
	if s := strings.TrimSpace(pending.String()); s != "" {
		out = append(out, s)
	}
	return out
}

type applier struct {
	c      *container.Config
	cmdSet bool
}

// line applies one instruction.
func (a *applier) line(line string) error {
	word, _, _ := strings.Cut(strings.ReplaceAll(line, "\t", " "), " ")
	name, rest := strings.ToUpper(word), strings.TrimSpace(line[len(word):])
	apply, ok := map[string]func(string) error{
		"CMD": a.cmd, "ENTRYPOINT": a.entrypoint, "ENV": a.env, "EXPOSE": a.expose, "HEALTHCHECK": a.healthcheck,
		"LABEL": a.label, "ONBUILD": a.onbuild, "STOPSIGNAL": a.stopsignal, "USER": a.user, "VOLUME": a.volume, "WORKDIR": a.workdir,
	}[name]
	if !ok {
		return invalid("%s is not a valid change command", name)
	}
	if rest == "" && name != "CMD" && name != "ENTRYPOINT" {
		return invalid("%s requires at least one argument", name)
	}
	if err := apply(rest); err != nil {
		return invalid("change %q: %s", line, err)
	}
	return nil
}

// list reads the JSON form of a command.
func list(s string) ([]string, bool) {
	var out []string
	if !strings.HasPrefix(s, "[") || json.Unmarshal([]byte(s), &out) != nil {
		return nil, false
	}
	return out, true
}

// command reads a command: a JSON list, or a text for the shell.
func (a *applier) command(s string) []string {
	if l, ok := list(s); ok {
		return l
	}
	if s == "" {
		return nil
	}
	shell := a.c.Shell
	if len(shell) == 0 {
		shell = []string{"/bin/sh", "-c"}
	}
	return append(slices.Clone(shell), s)
}

func (a *applier) cmd(s string) error {
	a.c.Cmd = a.command(s)
	a.cmdSet = true
	return nil
}

// entrypoint makes a command that was not given with it meaningless.
func (a *applier) entrypoint(s string) error {
	a.c.Entrypoint = a.command(s)
	if !a.cmdSet {
		a.c.Cmd = nil
	}
	return nil
}

func (a *applier) env(s string) error {
	pairs, err := a.pairs(s)
	for _, p := range pairs {
		if i := slices.IndexFunc(a.c.Env, func(e string) bool { return strings.HasPrefix(e, p[0]+"=") }); i >= 0 {
			a.c.Env[i] = p[0] + "=" + p[1]
		} else {
			a.c.Env = append(a.c.Env, p[0]+"="+p[1])
		}
	}
	return err
}

func (a *applier) label(s string) error {
	pairs, err := a.pairs(s)
	for _, p := range pairs {
		if a.c.Labels == nil {
			a.c.Labels = map[string]string{}
		}
		a.c.Labels[p[0]] = p[1]
	}
	return err
}

// pairs reads "a=b c='d e'", or in the old form "a b c": one pair.
func (a *applier) pairs(s string) ([][2]string, error) {
	raw, err := split(s)
	if err != nil {
		return nil, err
	}
	if !strings.Contains(raw[0], "=") {
		if len(raw) < 2 {
			return nil, invalid("must have two arguments")
		}
		value, err := a.expand(strings.TrimSpace(s[strings.Index(s, raw[0])+len(raw[0]):]))
		return [][2]string{{raw[0], value}}, err
	}
	var out [][2]string
	for _, w := range raw {
		k, v, ok := strings.Cut(w, "=")
		if !ok {
			return nil, invalid("cannot read %q: want name=value", w)
		}
		if k, err = a.expand(k); err != nil {
			return nil, err
		}
		if v, err = a.expand(v); err != nil {
			return nil, err
		}
		if k == "" {
			return nil, invalid("a name must not be empty")
		}
		out = append(out, [2]string{k, v})
	}
	return out, nil
}

// words reads words, with quotes and variables.
func (a *applier) words(s string) ([]string, error) {
	raw, err := split(s)
	if err != nil {
		return nil, err
	}
	for i, w := range raw {
		if raw[i], err = a.expand(w); err != nil {
			return nil, err
		}
	}
	return raw, nil
}

func (a *applier) expose(s string) error {
	ports, err := a.words(s)
	if err != nil {
		return err
	}
	for _, p := range ports {
		r, err := network.ParsePortRange(p)
		if err != nil || r.Start() == 0 {
			return invalid("invalid containerPort: %s", p)
		}
		switch r.Proto() {
		case network.TCP, network.UDP, network.SCTP:
		default:
			return invalid("invalid protocol: %s", r.Proto())
		}
		for port := range r.All() {
			if a.c.ExposedPorts == nil {
				a.c.ExposedPorts = network.PortSet{}
			}
			a.c.ExposedPorts[port] = struct{}{}
		}
	}
	return nil
}

func (a *applier) volume(s string) error {
	dirs, ok := list(s)
	if !ok {
		var err error
		if dirs, err = a.words(s); err != nil {
			return err
		}
	}
	for _, d := range dirs {
		if d = strings.TrimSpace(d); d == "" {
			return invalid("VOLUME specified can not be an empty string")
		}
		if a.c.Volumes == nil {
			a.c.Volumes = map[string]struct{}{}
		}
		a.c.Volumes[d] = struct{}{}
	}
	return nil
}

func (a *applier) user(s string) (err error) {
	a.c.User, err = a.expand(s)
	return err
}

func (a *applier) workdir(s string) error {
	dir, err := a.expand(s)
	if err != nil {
		return err
	}
	if !path.IsAbs(dir) {
		dir = path.Join("/", a.c.WorkingDir, dir)
	}
	a.c.WorkingDir = path.Clean(dir)
	return nil
}

func (a *applier) stopsignal(s string) error {
	sig, err := a.expand(s)
	if err != nil {
		return err
	}
	if _, err := signal.ParseSignal(sig); err != nil {
		return err
	}
	a.c.StopSignal = sig
	return nil
}

func (a *applier) onbuild(s string) error {
	word, _, _ := strings.Cut(s, " ")
	switch strings.ToUpper(word) {
	case "ONBUILD":
		return invalid("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
	case "MAINTAINER", "FROM":
		return invalid("%s isn't allowed as an ONBUILD trigger", strings.ToUpper(word))
	}
	a.c.OnBuild = append(a.c.OnBuild, s)
	return nil
}

// healthcheck reads NONE, or flags and CMD.
func (a *applier) healthcheck(s string) error {
	h := &container.HealthConfig{}
	for strings.HasPrefix(s, "--") {
		flag, rest, _ := strings.Cut(s, " ")
		s = strings.TrimSpace(rest)
		if err := healthFlag(h, flag); err != nil {
			return err
		}
	}
	kind, rest, _ := strings.Cut(s, " ")
	rest = strings.TrimSpace(rest)
	switch strings.ToUpper(kind) {
	case "NONE":
		if rest != "" || !isZero(h) {
			return invalid("HEALTHCHECK NONE takes no arguments")
		}
		h.Test = []string{"NONE"}
	case "CMD":
		if rest == "" {
			return invalid("Missing command after HEALTHCHECK CMD")
		}
		if l, ok := list(rest); ok {
			h.Test = append([]string{"CMD"}, l...)
		} else {
			h.Test = []string{"CMD-SHELL", rest}
		}
	default:
		return invalid("Unknown type %q in HEALTHCHECK (try CMD)", kind)
	}
	a.c.Healthcheck = h
	return nil
}

func isZero(h *container.HealthConfig) bool {
	return h.Interval == 0 && h.Timeout == 0 && h.StartPeriod == 0 && h.StartInterval == 0 && h.Retries == 0
}

func healthFlag(h *container.HealthConfig, flag string) error {
	name, value, ok := strings.Cut(flag, "=")
	if !ok {
		return invalid("%s needs a value: %s=...", name, name)
	}
	if name == "--retries" {
		n, err := strconv.Atoi(value)
		if err != nil || n < 0 {
			return invalid("--retries must be a number, not %q", value)
		}
		h.Retries = n
		return nil
	}
	to := map[string]*time.Duration{
		"--interval": &h.Interval, "--timeout": &h.Timeout, "--start-period": &h.StartPeriod, "--start-interval": &h.StartInterval,
	}[name]
	if to == nil {
		return invalid("unknown flag: %s", name)
	}
	d, err := time.ParseDuration(value)
	if err != nil || d < 0 || d > 0 && d < container.MinimumDuration {
		return invalid("%s=%s: not a duration of at least %s", name, value, container.MinimumDuration)
	}
	*to = d
	return nil
}
