package network

import (
	"slices"
	"testing"

	"github.com/moby/moby/api/types/container"

	"wharf/internal/model"
)

// things are "thing name" of what Fsck finds.
func things(t *testing.T, r *Room, records []model.Container) (out []string, all []model.Finding) {
	t.Helper()
	all, err := r.Fsck(t.Context(), records)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		out = append(out, f.Thing+" "+f.Name)
	}
	slices.Sort(out)
	return out, all
}

func TestFsck(t *testing.T) {
	r := open(t, Options{})
	a := newBox(t)
	eps := attach(t, r, a.request("bridge"))
	running := []model.Container{{ID: a.id, State: model.State{Phase: container.StateRunning}, Attached: eps}}
	if got, _ := things(t, r, running); len(got) != 0 {
		t.Fatalf("all is well, but: %v", got)
	}
	// A link of nobody, and what is held for a container that has ended.
	sh(t, "ip link add whdddddddddddd0 type veth peer name zz9 && ip link set whdddddddddddd0 master "+r.opts.Bridge)
	want := []string{thingEndpoint + " " + string(a.id), thingLink + " whdddddddddddd0"}
	got, all := things(t, r, nil)
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	for _, f := range all {
		if err := r.Repair(t.Context(), f); err != nil {
			t.Errorf("repair %+v: %v", f, err)
		}
	}
	if got, _ := things(t, r, nil); len(got) != 0 {
		t.Errorf("after the repair: %v", got)
	}
	// The record of a running container that the room does not know.
	if got, _ := things(t, r, running); !slices.Equal(got, []string{thingEndpoint + " " + string(a.id) + " on bridge"}) {
		t.Errorf("unknown endpoint: %v", got)
	}
}

func TestFsckOfLostLinks(t *testing.T) {
	r := open(t, Options{})
	a := newBox(t)
	eps := attach(t, r, a.request("bridge"))
	running := []model.Container{{ID: a.id, State: model.State{Phase: container.StateRunning}, Attached: eps}}
	sh(t, "ip link del "+eps[0].HostLink)
	if got, all := things(t, r, running); !slices.Equal(got, []string{thingLink + " " + eps[0].HostLink}) || all[0].Remedy != "" {
		t.Errorf("link gone: %+v", all)
	}
	if err := r.Detach(t.Context(), a.id); err != nil {
		t.Fatal(err)
	}
	sh(t, "ip link del "+r.opts.Bridge)
	got, all := things(t, r, nil)
	if !slices.Equal(got, []string{thingBridge + " " + r.opts.Bridge}) {
		t.Fatalf("bridge gone: %v", got)
	}
	if err := r.Repair(t.Context(), all[0]); err != nil {
		t.Error(err)
	}
	if got, _ := things(t, r, nil); len(got) != 0 {
		t.Errorf("after the repair: %v", got)
	}
}
