package lifecycle

import (
	"errors"
	"fmt"
	"testing"

	"github.com/containerd/errdefs"
)

func TestPlainErrors(t *testing.T) {
	err := fmt.Errorf("cgroup abilities: %w", errdefs.ErrNotImplemented)
	got := wrap(err, "cannot pause container %s", "x")
	if got.Error() != "cannot pause container x: cgroup abilities" || !errdefs.IsNotImplemented(got) {
		t.Errorf("%v", got)
	}
	if _, got := startError(taskFailed, err); got.Error() != "cgroup abilities" || !errdefs.IsNotImplemented(got) {
		t.Errorf("%v", got)
	}
	// Words that only look like a kind's stay.
	if got := wrap(errors.New("open x: permission denied"), "start"); got.Error() != "start: open x: permission denied" {
		t.Errorf("%v", got)
	}
}
