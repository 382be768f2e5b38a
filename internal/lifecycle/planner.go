package lifecycle

import (
	"context"
	"os"

	"github.com/moby/moby/api/types/container"

	"wharf/internal/model"
	"wharf/internal/plan"
)

// planner is internal/plan with the machine's facts and the defaults filled
// in; tests have their own.
type planner interface {
	CheckName(name string) error
	Create(in plan.CreateInput) (model.Container, []string, error)
	Start(c model.Container, in plan.StartInput) (*model.Bundle, []string, error)
	Exec(c model.Container, id model.ID, r model.ExecRequest) (*model.ExecSpec, error)
	Update(c model.Container, u container.UpdateConfig) (model.Container, []string, error)
	Files(in plan.FilesInput) plan.EtcFiles
	Joins(c model.Container) plan.Joined
	Log(c model.Container) model.LogPlan
	// Changes applies Dockerfile instructions to a copy of base.
	Changes(base *container.Config, instructions []string) (*container.Config, error)
}

// pure is the real planner.
type pure struct {
	facts    plan.Facts
	defaults plan.Defaults
}

func (p pure) CheckName(name string) error { return plan.CheckName(name) }

func (p pure) Create(in plan.CreateInput) (model.Container, []string, error) {
	return plan.Create(in, p.facts, p.defaults)
}

func (p pure) Start(c model.Container, in plan.StartInput) (*model.Bundle, []string, error) {
	return plan.Start(c, in, p.facts, p.defaults)
}

func (p pure) Exec(c model.Container, id model.ID, r model.ExecRequest) (*model.ExecSpec, error) {
	return plan.Exec(c, id, r, p.facts, p.defaults)
}

func (p pure) Update(c model.Container, u container.UpdateConfig) (model.Container, []string, error) {
	return plan.Update(c, u, p.facts)
}

func (p pure) Files(in plan.FilesInput) plan.EtcFiles { return plan.Files(in, p.defaults) }
func (p pure) Joins(c model.Container) plan.Joined    { return plan.Joins(c) }

func (p pure) Log(c model.Container) model.LogPlan { return plan.Log(c, p.defaults) }

// lookup answers plan's questions from this daemon's table and host.
func (c *core) lookup() plan.Lookup {
	return plan.Lookup{
		Container: func(ref string) (model.Container, error) {
			e, err := c.index.find(ref)
			if err != nil {
				return model.Container{}, mistaken(err)
			}
			return *e.record(), nil
		},
		Exists: func(path string) bool {
			_, err := os.Stat(path)
			return err == nil
		},
		Devices: c.opts.Devices, CDI: c.opts.CDI,
		Image: func(ref string) (model.Image, error) {
			img, err := c.images.Resolve(context.Background(), ref, nil)
			return img, mistaken(err) // a 404 would have the docker CLI pull the wrong image
		},
	}
}

// Changes applies Dockerfile instructions to a copy of base.
func (p pure) Changes(base *container.Config, instructions []string) (*container.Config, error) {
	return plan.Changes(base, instructions)
}
