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

// order knows which containers need which.
type order struct {
	*core
	services map[service][]model.ID
}

// service is one of Compose's.
type service struct{ project, name string }

// order looks at every container once.
func (r *recoverer) order() order {
	o := order{r.core, map[service][]model.ID{}}
	for _, e := range r.index.all() {
		l := e.record().Config.Labels
		if s := (service{l[composeProject], l[composeService]}); s.project != "" {
			o.services[s] = append(o.services[s], e.id)
		}
	}
	return o
}

// needs are the containers that c needs to run before it: those whose
// namespaces it shares, that it links to, whose volumes it uses, and those
// that Compose says.
func (o order) needs(c *model.Container) []model.ID {
	var out []model.ID
	j := o.plan.Joins(*c)
	for _, id := range []model.ID{j.Net, j.IPC, j.Pid} {
		if id != "" {
			out = append(out, id)
		}
	}
	var refs []string
	for _, l := range c.HostConfig.Links {
		if ref, _, err := plan.ParseLink(l); err == nil {
			refs = append(refs, ref)
		}
	}
	for _, v := range c.HostConfig.VolumesFrom {
		ref, _, _ := strings.Cut(v, ":") // the mode
		refs = append(refs, ref)
	}
	for _, ref := range refs {
		if e, err := o.index.find(ref); err == nil {
			out = append(out, e.id)
		}
	}
	return append(out, o.composeNeeds(c)...)
}

// composeNeeds reads "service:condition:restart,...".
func (o order) composeNeeds(c *model.Container) []model.ID {
	project, depends := c.Config.Labels[composeProject], c.Config.Labels[composeDepends]
	if project == "" || depends == "" {
		return nil
	}
	var out []model.ID
	for _, d := range strings.Split(depends, ",") {
		name, _, _ := strings.Cut(d, ":")
		out = append(out, o.services[service{project, name}]...)
	}
	return out
}
