package plan

import (
	"encoding/json"
	"path"
	"regexp"
	"slices"
	"strings"
	"text/template"

	"github.com/moby/moby/api/types/container"

	"wharf/internal/logs/logopts"
	"wharf/internal/model"
)

// logging fills in the log driver and checks its options.
func (cr *creation) logging() error {
	l := &cr.hc.LogConfig
	def := cr.d.LogDriver
	if def == "" {
		def = logopts.JSONFile
	}
	if l.Type == "" {
		l.Type = def
	}
	if l.Config == nil {
		l.Config = map[string]string{}
	}
	if l.Type == def {
		for k, v := range cr.d.LogOptions {
			if _, ok := l.Config[k]; !ok {
				l.Config[k] = v
			}
		}
	}
	if !slices.Contains(logopts.Drivers, l.Type) {
		return invalid("logger: no log driver named '%s' is registered", l.Type) // clients compare the whole text
	}
	if err := logopts.Check(l.Type, l.Config); err != nil {
		return err
	}
	if l.Type == logopts.Fluentd && l.Config["fluentd-buffer-limit"] != "" {
		cr.warnf("fluentd-buffer-limit has no effect: what the collector has not taken yet waits in the log's copy, whose size is cache-max-size times cache-max-file")
	}
	for _, key := range []string{"labels-regex", "env-regex"} {
		if _, err := regexp.Compile(l.Config[key]); err != nil {
			return invalid("log-opt %s=%q: %s", key, l.Config[key], err)
		}
	}
	if _, err := logTag(cr.c, l.Config["tag"]); err != nil {
		return invalid("log-opt tag=%q: %s", l.Config["tag"], err)
	}
	return nil
}

// Log says where c's output goes. It is what Start puts into the bundle.
func Log(c model.Container, d Defaults) model.LogPlan {
	l := c.HostConfig.LogConfig
	p := model.LogPlan{
		Driver:        l.Type,
		Options:       l.Config,
		Attrs:         logAttrs(c),
		ContainerName: c.Name,
		ImageName:     c.ImageRef,
	}
	p.Path = logPath(c, l, d)
	if logopts.Cached(l.Type) {
		p.ImageID, p.Created = string(c.Image.ID), c.Created
		p.Command = strings.Join(slices.Concat(c.Config.Entrypoint, c.Config.Cmd), " ")
	}
	tag, named := l.Config["tag"]
	switch {
	case tag == "" && (l.Type == logopts.JSONFile || l.Type == logopts.Local):
		return p
	case tag == "":
		tag = "{{.ID}}"
	}
	expanded, err := logTag(c, tag)
	if err != nil { // it was checked at create; an old record may differ
		expanded = c.ID.Short()
	}
	p.Tag = expanded
	if named && l.Type == logopts.JSONFile {
		p.Attrs["tag"] = expanded
	}
	return p
}

// logPath is the file that output is written to, or copied to on its way
// elsewhere.
func logPath(c model.Container, l container.LogConfig, d Defaults) string {
	dir := path.Join(d.ContainersDir, string(c.ID))
	switch {
	case l.Type == logopts.JSONFile:
		return path.Join(dir, string(c.ID)+"-json.log")
	case l.Type == logopts.Local:
		return path.Join(dir, "container.log")
	case logopts.Cached(l.Type):
		if cache, err := logopts.ParseCache(l.Config); err == nil && !cache.Disabled {
			return path.Join(dir, "container-cached.log")
		}
	}
	return ""
}

// logAttrs chooses the labels and variables that go with each entry.
func logAttrs(c model.Container) map[string]string {
	opts, out := c.HostConfig.LogConfig.Config, map[string]string{}
	choose := func(names, pattern string, have map[string]string) {
		for _, n := range strings.Split(names, ",") {
			if v, ok := have[n]; ok && n != "" {
				out[n] = v
			}
		}
		if pattern == "" {
			return
		}
		if re, err := regexp.Compile(pattern); err == nil {
			for k, v := range have {
				if re.MatchString(k) {
					out[k] = v
				}
			}
		}
	}
	choose(opts["labels"], opts["labels-regex"], c.Config.Labels)
	if opts["env"] != "" || opts["env-regex"] != "" {
		env := make(map[string]string, len(c.Config.Env))
		for _, e := range c.Config.Env {
			if k, v, ok := strings.Cut(e, "="); ok {
				env[k] = v
			}
		}
		choose(opts["env"], opts["env-regex"], env)
	}
	return out
}

// tagFields are the names that a tag template may use, as Docker's.
type tagFields struct {
	ID, FullID, Name, ImageName, ImageID, ImageFullID, DaemonName, Command string
}

var tagFuncs = template.FuncMap{
	"json": func(v any) (string, error) {
		b, err := json.Marshal(v)
		return string(b), err
	},
	"split": strings.Split,
	"join":  strings.Join,
	"lower": strings.ToLower,
	"upper": strings.ToUpper,
	"truncate": func(s string, n int) string {
		return s[:min(len(s), max(n, 0))]
	},
}

// logTag expands a tag template.
func logTag(c model.Container, tag string) (string, error) {
	if !strings.Contains(tag, "{{") {
		return tag, nil
	}
	t, err := template.New("tag").Funcs(tagFuncs).Parse(tag)
	if err != nil {
		return "", err
	}
	_, full, _ := strings.Cut(c.Image.ID.String(), ":")
	var b strings.Builder
	err = t.Execute(&b, tagFields{
		ID: c.ID.Short(), FullID: string(c.ID), Name: c.Name,
		ImageName: c.ImageRef, ImageID: full[:min(12, len(full))], ImageFullID: full,
		DaemonName: "docker", Command: strings.Join(slices.Concat(c.Config.Entrypoint, c.Config.Cmd), " "),
	})
	return b.String(), err
}
