package lifecycle

import (
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"wharf/internal/model"
)

// Only a missing image is "not found" at create: docker run answers that by
// pulling the image.
func TestMissingVolumeDriverIsNoMissingImage(t *testing.T) {
	w := newWorld(t)
	e := w.engine()
	w.fail["use"] = errdefs.ErrNotFound.WithMessage(`plugin "foo" not found`)
	_, err := e.Create(bg, model.CreateRequest{Config: &container.Config{Image: "busybox", Volumes: map[string]struct{}{"/data": {}}}})
	if !errdefs.IsInvalidArgument(err) || errdefs.IsNotFound(err) {
		t.Errorf("%v", err)
	}
	delete(w.fail, "use")
	w.clean()
}
