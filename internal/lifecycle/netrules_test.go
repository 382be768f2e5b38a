package lifecycle

import (
	"errors"
	"slices"
	"testing"

	"github.com/containerd/errdefs"

	"wharf/internal/model"
)

// A rule is written, then carried out; what cannot be carried out is not
// written in the end; a daemon that died in between does it when it takes the
// container up.
func TestNetworkRules(t *testing.T) {
	w := newWorld(t)
	e := w.engine()
	id := started(t, e, "x", nil)
	ch := func(target string) model.NetworkRulesChange {
		return model.NetworkRulesChange{Set: []model.NetworkRule{{Direction: "egress", Verdict: "deny", Target: target}}}
	}
	got, err := e.SetNetworkRules(bg, id, ch("10.0.0.0/8"))
	if err != nil || len(got.Rules) != 1 || !got.Running || got.ID != model.ID(id) {
		t.Fatalf("%+v, %v", got, err)
	}
	w.fail["limit"] = errors.New("no nftables")
	if _, err := e.SetNetworkRules(bg, id, ch("10.1.0.0/16")); err == nil {
		t.Error("a rule that was not carried out was acknowledged")
	}
	delete(w.fail, "limit")
	if got, err := e.NetworkRules(bg, id); err != nil || len(got.Rules) != 1 || got.Rules[0].Target != "10.0.0.0/8" {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := e.SetNetworkRules(bg, "nobody", ch("10.0.0.0/8")); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	e.Close()
	w.calls = nil
	e = w.engine()
	if err := e.Recover(bg); err != nil {
		t.Fatal(err)
	}
	if got, err := e.NetworkRules(bg, id); err != nil || len(got.Rules) != 1 || !slices.Contains(w.calls, "limit") {
		t.Errorf("after a restart: %+v, %v, %v", got, err, w.calls)
	}
}
