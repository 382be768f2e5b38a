package dockerapi

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/containerd/errdefs"
)

// statusError is an error that knows its status code: for the few answers
// that are HTTP's own and no kind of errdefs.
type statusError struct {
	code int
	text string
}

func (e *statusError) Error() string { return e.text }
func (e *statusError) status() int   { return e.code }

var errPageNotFound = &statusError{http.StatusNotFound, "page not found"}

// invalid makes a 400.
func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}

// kinds maps errdefs kinds to status codes, in the order in which they are
// tried.
var kinds = []struct {
	is   func(error) bool
	code int
}{
	{errdefs.IsNotFound, http.StatusNotFound},
	{errdefs.IsInvalidArgument, http.StatusBadRequest},
	{errdefs.IsConflict, http.StatusConflict},
	{errdefs.IsAlreadyExists, http.StatusConflict},
	{errdefs.IsUnauthorized, http.StatusUnauthorized},
	{errdefs.IsUnavailable, http.StatusServiceUnavailable},
	{errdefs.IsPermissionDenied, http.StatusForbidden},
	{errdefs.IsNotModified, http.StatusNotModified},
	{errdefs.IsNotImplemented, http.StatusNotImplemented},
	{errdefs.IsFailedPrecondition, http.StatusBadRequest},
	{errdefs.IsOutOfRange, http.StatusBadRequest},
}

// status is the one place where an error becomes a status code. In a chain
// of wrapped errors the outermost kind counts.
func status(err error) int {
	var own interface{ status() int }
	if errors.As(err, &own) {
		return own.status()
	}
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		return http.StatusRequestEntityTooLarge
	}
	resolved := errdefs.Resolve(err)
	for _, k := range kinds {
		if k.is(resolved) {
			return k.code
		}
	}
	return http.StatusInternalServerError
}
