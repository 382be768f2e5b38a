package image

import "fmt"

// fault is an error of a kind whose text does not end in the kind's own words:
// clients show it as it is, and some look for exactly it.
type fault struct {
	error
	kind error
}

func (f *fault) Unwrap() []error { return []error{f.kind, f.error} }

// refuse makes an error of an errdefs kind with just this text.
func refuse(kind error, format string, args ...any) error {
	return &fault{fmt.Errorf(format, args...), kind}
}
