// Package prepare turns a bundle into the data that internal/runtime performs.
package prepare

import (
	"errors"

	"wharf/internal/model"
	"wharf/internal/runtime"
)

// Options are what the bundle does not say. The zero value is what wharfd
// uses.
type Options struct {
	// SpecUser takes user and groups as numbers from the spec's process
	// instead of looking up Bundle.User inside.
	SpecUser bool
	// Bundle is the bundle directory that hooks are told about.
	Bundle string
	// NoNewKeyring keeps the caller's session keyring.
	NoNewKeyring bool
}

// Container prepares b's first process. cgroupPath is below each hierarchy's
// mount point, for example "wharf/<id>"; "" takes the spec's cgroupsPath, or
// else "wharf/<id>".
func Container(b *model.Bundle, cgroupPath string, o Options) (*runtime.Prepared, error) {
	return nil, errors.New("not there yet")
}

// Exec prepares a further process in the container that was prepared from b
// (its Spec, IDs and cgroupPath must be those of the start).
func Exec(b *model.Bundle, e *model.ExecSpec, cgroupPath string, o Options) (*runtime.PreparedExec, error) {
	return nil, errors.New("not there yet")
}
