package qemu

import (
	"errors"
	"os"
	"testing"

	"wharf/internal/model"
)

// A template that has been good is not thrown away for one clone that did not
// come up: the host may have been busy. One that never was is.
func TestTemplateFails(t *testing.T) {
	bad := errors.New("the machine did not answer")
	for name, c := range map[string]struct {
		starts []error
		kept   bool
	}{
		"never good":                 {[]error{bad}, false},
		"good once":                  {[]error{nil, bad, bad}, true},
		"good, and not any more":     {[]error{nil, bad, bad, bad}, false},
		"good again in between":      {[]error{nil, bad, bad, nil, bad, bad}, true},
		"all good":                   {[]error{nil, nil}, true},
		"not good before it is good": {[]error{bad, nil}, false},
	} {
		t.Run(name, func(t *testing.T) {
			file := func() *os.File {
				f, err := memfd("test")
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = f.Close() })
				return f
			}
			ts := &templates{byKey: map[string]*ready{"k": {ram: file(), state: file()}}, failed: map[string]int{},
				uses: map[model.ID]use{}, wanted: map[model.ID]want{}}
			for _, err := range c.starts {
				ts.uses["i"] = use{key: "k"}
				if again := ts.started("i", err); again != (err != nil) {
					t.Errorf("%v: started cold again: %v", err, again)
				}
			}
			if kept := ts.byKey["k"] != nil; kept != c.kept {
				t.Errorf("kept: %v", kept)
			}
		})
	}
}
