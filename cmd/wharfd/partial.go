package main

import (
	"context"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/registry"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	images "wharf/internal/image"
	"wharf/internal/model"
)

// partialImages stands in for what the image room has not yet.
type partialImages struct{ *images.Store }

var errNotYet = errdefs.ErrNotImplemented.WithMessage("not there yet")

func (partialImages) Pull(context.Context, string, *ocispec.Platform, *registry.AuthConfig, model.Progress) error {
	return errNotYet
}
func (partialImages) Push(context.Context, string, *ocispec.Platform, *registry.AuthConfig, model.Progress) error {
	return errNotYet
}
func (partialImages) Distribution(context.Context, string, *registry.AuthConfig) (registry.DistributionInspect, error) {
	return registry.DistributionInspect{}, errNotYet
}
func (partialImages) Login(context.Context, registry.AuthConfig) (string, string, error) {
	return "", "", errNotYet
}
