package lifecycle

import (
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"wharf/internal/driver"
	"wharf/internal/model"
)

// Errors here carry an errdefs kind and exactly the text given, because
// Docker's clients look for some of these texts.

func conflict(format string, args ...any) error {
	return errdefs.ErrConflict.WithMessage(fmt.Sprintf(format, args...))
}

func notFound(format string, args ...any) error {
	return errdefs.ErrNotFound.WithMessage(fmt.Sprintf(format, args...))
}

func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}

func notModified(text string) error { return errdefs.ErrNotModified.WithMessage(text) }

func noSuchContainer(ref string) error { return notFound("No such container: %s", ref) }

func nameInUse(name string, id model.ID) error {
	return conflict("Conflict. The container name %q is already in use by container %q. You have to remove (or rename) that container to be able to reuse that name.", "/"+name, id)
}

func notRunning(id model.ID) error { return conflict("container %s is not running", id) }

func isPaused(id model.ID) error {
	return conflict("Container %s is paused, unpause the container before exec", id)
}

func isRestarting(id model.ID) error {
	return conflict("Container %s is restarting, wait until the container is running", id)
}

// wrapped puts a text in front of err and keeps its kind.
type wrapped struct {
	text string
	err  error
}

func (w *wrapped) Error() string { return w.text + ": " + plain(w.err) }
func (w *wrapped) Unwrap() error { return w.err }

func wrap(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return &wrapped{text: fmt.Sprintf(format, args...), err: err}
}

// kinds are the errdefs kinds whose own words may end a text.
var kinds = []error{
	errdefs.ErrInvalidArgument, errdefs.ErrNotFound, errdefs.ErrConflict, errdefs.ErrNotImplemented, errdefs.ErrUnavailable,
	errdefs.ErrPermissionDenied, errdefs.ErrFailedPrecondition, errdefs.ErrAlreadyExists, errdefs.ErrInternal, errdefs.ErrResourceExhausted,
}

// plain is err's text without the words of its kind at the end: they are for
// programs, not for people.
func plain(err error) string {
	text := err.Error()
	for _, k := range kinds {
		if s, ok := strings.CutSuffix(text, ": "+k.Error()); ok && errors.Is(err, k) {
			return s
		}
	}
	return text
}

// cleaned is err with a plain text.
type cleaned struct{ err error }

func (c *cleaned) Error() string { return plain(c.err) }
func (c *cleaned) Unwrap() error { return c.err }

// mistaken keeps a "not found" that is not the image's from looking like it:
// docker run answers any "not found" at create by pulling the image.
func mistaken(err error) error {
	if errdefs.IsNotFound(err) {
		return invalid("%s", err)
	}
	return err
}

// taskFailed and execFailed begin the texts of failed starts, as Docker's do.
const (
	taskFailed = "failed to create task for container"
	execFailed = "OCI runtime exec failed"
)

// startError gives a failed start its exit code and the text by which Docker's
// clients tell 125, 126 and 127 apart: run looks for "executable file not
// found", "no such file or directory" (127), "permission denied", "is a
// directory" (126); everything else is 125.
func startError(what string, err error) (code int, out error) {
	var se *driver.StartError
	if !errors.As(err, &se) {
		return 128, &cleaned{err}
	}
	text := plain(err)
	switch {
	case se.Code == 127 && !containsAny(text, "executable file not found", "no such file or directory"):
		text += ": executable file not found in $PATH"
	case se.Code == 126 && !strings.Contains(text, "permission denied"):
		text += ": permission denied" // also "is a directory": older clients do not know it
	}
	code = se.Code
	if what == execFailed && code == 128 { // an exec knows only 126 and 127
		code = 126
	}
	return code, errdefs.ErrInvalidArgument.WithMessage(what + ": " + text)
}

func containsAny(s string, words ...string) bool {
	for _, w := range words {
		if strings.Contains(s, w) {
			return true
		}
	}
	return false
}

// phaseError says why a container in phase p cannot do what needs a process.
func phaseError(c *model.Container) error {
	switch c.State.Phase {
	case container.StateRunning, container.StatePaused:
		return nil
	case container.StateRestarting:
		return isRestarting(c.ID)
	default:
		return notRunning(c.ID)
	}
}
