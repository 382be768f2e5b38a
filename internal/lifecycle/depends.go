package lifecycle

import (
	"strings"

	"wharf/internal/model"
	"wharf/internal/plan"
)

// Compose's labels, by which it says which service needs which.
const (
	composeProject = "com.docker.compose.project"
	composeService = "com.docker.compose.service"
	composeDepends = "com.docker.compose.depends_on"
)

// needs are the containers that c needs to run before it.
func (r *recoverer) needs(c *model.Container) []model.ID {
	var out []model.ID
	j := r.plan.Joins(*c)
	for _, id := range []model.ID{j.Net, j.IPC, j.Pid} {
		if id != "" {
			out = append(out, id)
		}
	}
	for _, l := range c.HostConfig.Links {
		ref, _, err := plan.ParseLink(l)
		if err != nil {
			continue
		}
		if e, err := r.index.find(ref); err == nil {
			out = append(out, e.id)
		}
	}
	return append(out, r.composeNeeds(c)...)
}

// composeNeeds reads "service:condition:restart,...".
func (r *recoverer) composeNeeds(c *model.Container) []model.ID {
	project, depends := c.Config.Labels[composeProject], c.Config.Labels[composeDepends]
	if project == "" || depends == "" {
		return nil
	}
	var out []model.ID
	for _, d := range strings.Split(depends, ",") {
		service, _, _ := strings.Cut(d, ":")
		for _, e := range r.index.all() {
			if l := e.record().Config.Labels; l[composeProject] == project && l[composeService] == service {
				out = append(out, e.id)
			}
		}
	}
	return out
}
