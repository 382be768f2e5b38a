package vmm

import (
	"math"
	"strings"
	"testing"
	"time"

	"wharf/api/guestapi"
)

// What a guest says of its steps is bounded, and lies between what the host
// saw before and after.
func TestTraceInside(t *testing.T) {
	for name, steps := range map[string][]guestapi.Step{
		"usual":         {{Name: "a", At: 1_000}, {Name: "b", At: 2_000}},
		"backwards":     {{Name: "a", At: 2_000}, {Name: "b", At: 1_000}},
		"out of reach":  {{Name: "a", At: math.MinInt64}, {Name: "b", At: math.MaxInt64}},
		"a long name":   {{Name: strings.Repeat("x\x1b[31m", 1000), At: 1}},
		"far too many":  make([]guestapi.Step, 10_000),
		"none":          nil,
		"all the same":  make([]guestapi.Step, 5),
		"in the future": {{Name: "a", At: time.Now().Add(time.Hour).UnixNano()}},
	} {
		t.Run(name, func(t *testing.T) {
			var tr trace
			tr.add("before")
			tr.inside(steps)
			tr.add("after")
			if len(tr) > 40 {
				t.Errorf("%d steps", len(tr))
			}
			for i, s := range tr {
				if i > 0 && s.At < tr[i-1].At {
					t.Errorf("%q is %d ns before %q", s.Name, tr[i-1].At-s.At, tr[i-1].Name)
				}
				if len(s.Name) > 100 || strings.ContainsRune(s.Name, '\x1b') {
					t.Errorf("name %q", s.Name)
				}
			}
		})
	}
}
