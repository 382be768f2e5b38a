package vmm

import (
	"errors"
	"testing"
	"time"
)

func TestBootTwice(t *testing.T) {
	silent := errSilent{errors.New("silent")}
	other := errors.New("no such disk")
	for _, c := range []struct {
		name  string
		errs  []error
		tries int
		hung  bool
		fails bool
	}{
		{"the first boot answers", []error{nil}, 1, false, false},
		{"the first boot hangs", []error{silent, nil}, 2, true, false},
		{"both hang", []error{silent, silent}, 2, true, true},
		{"what fails for a reason fails again", []error{other}, 1, false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			const limit = 100 * time.Second
			var given time.Duration
			tries := 0
			m, hung, err := bootTwice(limit, func(l time.Duration) (int, error) {
				given += l
				tries++
				return tries, c.errs[tries-1]
			})
			if tries != c.tries || m != tries || given > limit {
				t.Errorf("%d boots, the machine of boot %d, %v in all", tries, m, given)
			}
			if (hung != nil) != c.hung || (err != nil) != c.fails {
				t.Errorf("hung %v, error %v", hung, err)
			}
		})
	}
}
