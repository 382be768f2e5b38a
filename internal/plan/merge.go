package plan

import (
	"maps"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
)

func cloneConfig(c *container.Config) *container.Config {
	out := *c
	out.ExposedPorts = maps.Clone(c.ExposedPorts)
	out.Env = slices.Clone(c.Env)
	out.Cmd = slices.Clone(c.Cmd)
	out.Entrypoint = slices.Clone(c.Entrypoint)
	out.Volumes = maps.Clone(c.Volumes)
	out.Labels = maps.Clone(c.Labels)
	if c.Healthcheck != nil {
		h := *c.Healthcheck
		out.Healthcheck = &h
	}
	return &out
}

func cloneHostConfig(hc *container.HostConfig) *container.HostConfig {
	if hc == nil {
		return &container.HostConfig{PortBindings: network.PortMap{}}
	}
	out := *hc
	out.PortBindings = maps.Clone(hc.PortBindings)
	out.Sysctls = maps.Clone(hc.Sysctls)
	out.LogConfig.Config = maps.Clone(hc.LogConfig.Config)
	out.SecurityOpt = slices.Clone(hc.SecurityOpt)
	out.Mounts = slices.Clone(hc.Mounts)
	for i := range out.Mounts {
		if o := out.Mounts[i].BindOptions; o != nil {
			copied := *o
			out.Mounts[i].BindOptions = &copied
		}
	}
	out.Devices = slices.Clone(hc.Devices)
	return &out
}

// mergeImage fills in from the image what the request leaves open.
func (cr *creation) mergeImage() error {
	user, img := cr.cfg, &cr.in.Image.Config
	if user.User == "" {
		user.User = img.User
	}
	if user.WorkingDir == "" {
		user.WorkingDir = img.WorkingDir
	}
	if user.StopSignal == "" {
		user.StopSignal = img.StopSignal
	}
	user.ExposedPorts = addMissing(user.ExposedPorts, img.ExposedPorts)
	user.Volumes = addMissing(user.Volumes, img.Volumes)
	user.Labels = addMissing(user.Labels, img.Labels)
	if user.Labels == nil {
		user.Labels = map[string]string{}
	}
	user.Env = mergeEnv(user.Env, img.Env)

	// The user's entrypoint makes the image's command meaningless.
	if len(user.Entrypoint) == 0 {
		if len(user.Cmd) == 0 {
			user.Cmd = slices.Clone(img.Cmd)
		}
		if user.Entrypoint == nil {
			user.Entrypoint = slices.Clone(img.Entrypoint)
		}
	}
	if len(user.Entrypoint) == 1 && user.Entrypoint[0] == "" { // --entrypoint ""
		user.Entrypoint = nil
	}
	if len(user.Entrypoint) == 0 && len(user.Cmd) == 0 {
		return invalid("no command specified")
	}
	if user.Shell == nil {
		user.Shell = slices.Clone(img.Shell)
	}
	if user.OnBuild == nil {
		user.OnBuild = slices.Clone(img.OnBuild)
	}
	user.Healthcheck = mergeHealth(user.Healthcheck, img.Healthcheck)
	return nil
}

// addMissing adds to own those entries of more that it has not.
func addMissing[K comparable, V any](own, more map[K]V) map[K]V {
	if len(own) == 0 {
		return maps.Clone(more)
	}
	for k, v := range more {
		if _, ok := own[k]; !ok {
			own[k] = v
		}
	}
	return own
}

// mergeEnv keeps the user's variables first and adds the image's others.
func mergeEnv(user, image []string) []string {
	if len(user) == 0 {
		return slices.Clone(image)
	}
	have := make(map[string]bool, len(user))
	for _, e := range user {
		key, _, _ := strings.Cut(e, "=")
		have[key] = true
	}
	for _, e := range image {
		if key, _, _ := strings.Cut(e, "="); !have[key] {
			user = append(user, e)
		}
	}
	return user
}

func mergeHealth(user, image *container.HealthConfig) *container.HealthConfig {
	if image == nil {
		return user
	}
	out := *image
	if user == nil {
		return &out
	}
	if len(user.Test) > 0 {
		out.Test = user.Test
	}
	for _, p := range []struct {
		set  bool
		copy func()
	}{
		{user.Interval != 0, func() { out.Interval = user.Interval }},
		{user.Timeout != 0, func() { out.Timeout = user.Timeout }},
		{user.StartPeriod != 0, func() { out.StartPeriod = user.StartPeriod }},
		{user.StartInterval != 0, func() { out.StartInterval = user.StartInterval }},
		{user.Retries != 0, func() { out.Retries = user.Retries }},
	} {
		if p.set {
			p.copy()
		}
	}
	return &out
}
