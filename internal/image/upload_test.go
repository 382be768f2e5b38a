package image

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestUploadGoesOn: an upload that is cut goes on where it was, one that is
// forgotten begins anew, and a registry without parts gets the whole.
func TestUploadGoesOn(t *testing.T) {
	quick(t)
	noise := make([]byte, 3<<20)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(noise)
	img := testImage{layers: [][]byte{tarOf(t, file{name: "noise", body: string(noise)})}}
	tar := img.dockerTar(t, "big:1")
	whole := int64(len(img.layers[0]))
	for name, c := range map[string]struct {
		cuts    int
		lost    bool
		noParts bool
		sent    int64 // about
		ranges  []string
	}{
		"plain":     {sent: whole, ranges: []string{""}},
		"cut":       {cuts: 2, sent: whole, ranges: []string{"", fmt.Sprintf("%d-%d", 1<<20, whole-1), fmt.Sprintf("%d-%d", 2<<20, whole-1)}},
		"often":     {cuts: 1, lost: true, sent: whole + 1<<20, ranges: []string{"", ""}},
		"all whole": {noParts: true, sent: whole},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFakeRegistry()
			f.cuts, f.cutUp, f.lost, f.noParts = c.cuts, 1<<20, c.lost, c.noParts
			ref := f.serve(t) + "/big:1"
			ts := open(t, t.TempDir())
			ts.load(t, tar)
			must(t, ts.Tag(t.Context(), "big:1", ref))
			must(t, ts.Push(t.Context(), ref, nil, nil, nil))
			if f.took < c.sent || f.took > c.sent+64<<10 {
				t.Errorf("%d bytes came, want about %d", f.took, c.sent)
			}
			if !slices.Equal(f.patches, c.ranges) {
				t.Errorf("parts %q, want %q", f.patches, c.ranges)
			}
			two := open(t, t.TempDir())
			must(t, two.Pull(t.Context(), ref, nil, nil, nil))
		})
	}
}

func TestReceived(t *testing.T) {
	for text, want := range map[string]int64{"0-99": 100, "bytes=0-99": 100, "0-0": 0, "": 0, "5-9": 0, "0--1": 0, "0-x": 0} {
		n, ok := received(text)
		if ok != (want > 0) || ok && n != want {
			t.Errorf("%q: %d %v", text, n, ok)
		}
	}
}

func TestMountFrom(t *testing.T) {
	for known, want := range map[string]string{"": "", "team/app": "", "team/app,x": "x", "a,team/base,b": "team/base"} {
		if got := mountFrom("team/app", known); got != want {
			t.Errorf("%q: %q, want %q", known, got, want)
		}
	}
}
