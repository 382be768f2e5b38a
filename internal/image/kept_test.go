package image

import (
	"testing"

	"wharf/internal/model"
)

// TestKept: an image without a name that only containers in the trash stand
// on counts for the newest of them, and for none while somebody else needs it.
func TestKept(t *testing.T) {
	ts := open(t, t.TempDir())
	img, old := prepared(t, ts)
	young := model.NewID()
	must(t, ts.Prepare(t.Context(), young, img))
	removed := []model.ID{young, old}
	if got, err := ts.Kept(t.Context(), removed); err != nil || len(got) != 0 {
		t.Errorf("while the image has its name: %v, %v", got, err)
	}
	_, err := ts.Remove(t.Context(), "busybox:test", true, false, nil)
	must(t, err)
	got, err := ts.Kept(t.Context(), removed)
	if err != nil || len(got) != 1 || got[young] <= 0 {
		t.Errorf("without its name: %v, %v; want bytes for the newest alone", got, err)
	}
	if got, err := ts.Kept(t.Context(), []model.ID{old}); err != nil || len(got) != 0 {
		t.Errorf("while another container stands on it: %v, %v", got, err)
	}
	must(t, ts.Discard(t.Context(), young))
	if got, err := ts.Kept(t.Context(), []model.ID{old}); err != nil || got[old] <= 0 {
		t.Errorf("the last one: %v, %v", got, err)
	}
	if c, err := ts.Chains(t.Context(), img.ChainID); err != nil || len(c) < 2 || c[0] != img.ChainID {
		t.Errorf("its layers are still here: %v, %v", c, err)
	}
}
