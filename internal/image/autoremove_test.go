package image

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"wharf/internal/model"
)

// TestAutoRemoval has its own time and disk: each image is ten percent.
func TestAutoRemoval(t *testing.T) {
	root := t.TempDir()
	ts := open(t, root)
	ctx := ts.ctx(t.Context())
	for i := range 5 {
		img := testImage{layers: [][]byte{tarOf(t, file{name: "f", body: fmt.Sprint(i)})}}
		ts.load(t, img.dockerTar(t, fmt.Sprintf("auto:%d", i)))
	}
	names := func() (out []string) {
		t.Helper()
		es, err := ts.entries(ctx)
		must(t, err)
		for _, e := range es {
			out = append(out, e.tags...)
		}
		slices.Sort(out)
		return out
	}
	disk := func(string) (int64, int64, error) { return 100, 30 + 10*int64(len(names())), nil }
	a := &ts.auto
	on := func(mark int64) {
		ts.SetAutoRemoval(AutoRemoval{Age: 100 * time.Hour, Mark: func(int64) int64 { return mark }})
	}
	on(60)
	defer a.end()
	resolve := func(name string) model.Image {
		t.Helper()
		img, err := ts.Resolve(ctx, name, nil)
		must(t, err)
		return img
	}
	trashed := model.NewID() // a layer without a record, as in the trash
	must(t, ts.Prepare(ctx, trashed, resolve("auto:1")))
	ts.users = []User{{ID: "x", Image: resolve("auto:2").ID}}
	now := time.Now()
	look := func(after time.Duration, want ...string) {
		t.Helper()
		must(t, a.look(ctx, now.Add(after), disk))
		if got := names(); !slices.Equal(got, want) {
			t.Errorf("after %s there are %v, want %v", after, got, want)
		}
	}
	look(0, "auto:0", "auto:1", "auto:2", "auto:3", "auto:4")
	look(99*time.Hour, "auto:0", "auto:1", "auto:2", "auto:3", "auto:4")
	a.note(now.Add(2*time.Hour), resolve("auto:3").ID) // used by a container that is gone
	a.note(now.Add(time.Hour), resolve("auto:4").ID)
	// auto:0 first; then the disk is at 70 of 60: nothing else is old enough.
	look(100*time.Hour+time.Minute, "auto:1", "auto:2", "auto:3", "auto:4")
	// What is known outlives the daemon.
	a.end()
	must(t, ts.Close())
	users := ts.users
	ts = open(t, root)
	ts.users = users
	a = &ts.auto
	on(60)
	ctx = ts.ctx(t.Context())
	look(101*time.Hour+time.Minute, "auto:1", "auto:2", "auto:3")
	look(500*time.Hour, "auto:1", "auto:2", "auto:3") // at the mark: it stays
	on(0)
	look(500*time.Hour, "auto:1", "auto:2")
	ts.Discard(ctx, trashed)
	look(500*time.Hour, "auto:1", "auto:2") // used until just now
	look(601*time.Hour, "auto:2")
}
