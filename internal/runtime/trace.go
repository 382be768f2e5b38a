package runtime

import "time"

// Step is a point that Create or its stage came to, in Unix nanoseconds.
type Step struct {
	Name string `json:"n"`
	At   int64  `json:"t"`
}

// Trace says where the time of a start went.
type Trace []Step

func (t *Trace) add(name string) { *t = append(*t, Step{name, time.Now().UnixNano()}) }
