package volume

import "fmt"

// fault is an error for a person, of a kind for the door: the kind decides the
// status code and is not in the text.
type fault struct {
	error
	kind error
}

func (f fault) Unwrap() []error { return []error{f.error, f.kind} }

// refuse makes an error of the kind (one of errdefs') with the text.
func refuse(kind error, format string, args ...any) error {
	return fault{fmt.Errorf(format, args...), kind}
}
