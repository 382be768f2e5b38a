package qemu

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"

	"wharf/api/monitorapi"
	"wharf/internal/vmm/vmmapi"
)

// A host without memory: an idle machine gives what it does not need, and an
// update takes more of it.
func TestBalloon(t *testing.T) {
	g, bundle := target(t)
	d := g.Driver.(*Driver)
	d.m.o.Pressure, d.m.templates.off = 1<<62, true
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	b := bundle(t, "/bin/sleep", "1000")
	sb, err := d.Sandbox(ctx, b)
	if err != nil {
		t.Fatal(err)
	}
	x, err := d.Start(ctx, b, sb)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Release(context.Background(), b.ID) })
	i := x.(*instance)
	actual := func() int64 {
		body, _ := json.Marshal(vmmapi.QMP{Execute: "query-balloon"})
		c, err := i.Open(ctx, monitorapi.Request{Op: vmmapi.OpQMP, Body: body})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		var v struct{ Actual int64 }
		if err := json.Unmarshal(c.Reply.Body, &v); err != nil {
			t.Fatal(err)
		}
		return v.Actual >> 20
	}
	below := func(mib int64) {
		t.Helper()
		for end := time.Now().Add(90 * time.Second); actual() > mib; time.Sleep(500 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("the machine has %d MiB, want at most %d", actual(), mib)
			}
		}
		t.Logf("the machine has %d MiB", actual())
	}
	if n := actual(); n != 256 {
		t.Errorf("at the start: %d MiB", n)
	}
	below(230)
	if err := i.Update(ctx, container.Resources{Memory: 10 << 20}); err != nil {
		t.Fatal(err)
	}
	below(int64(guestExtra>>20) + 10)
}
