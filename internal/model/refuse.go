package model

import "fmt"

// refusal is an error for a person, of a kind for the door: the kind decides
// the status code and is not in the text.
type refusal struct {
	error
	kind error
}

func (r refusal) Unwrap() []error { return []error{r.error, r.kind} }

// Refuse makes an error of an errdefs kind with just this text, as
// fmt.Errorf formats it (%w wraps).
func Refuse(kind error, format string, args ...any) error {
	return refusal{fmt.Errorf(format, args...), kind}
}
