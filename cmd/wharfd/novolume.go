package main

import (
	"context"

	"github.com/containerd/errdefs"

	"wharf/internal/model"
)

// noVolumes stands in until internal/volume is there.
type noVolumes struct{}

var errNoVolumes = errdefs.ErrNotImplemented.WithMessage("volumes are not there yet")

func (noVolumes) Use(context.Context, model.ID, model.Mount) (string, error) { return "", errNoVolumes }
func (noVolumes) CopyUp(context.Context, model.Mount, string) error          { return errNoVolumes }
func (noVolumes) Unuse(context.Context, model.ID, []model.Mount, bool) error { return nil }
func (noVolumes) Restore(context.Context, model.ID, []model.Mount) error     { return nil }
