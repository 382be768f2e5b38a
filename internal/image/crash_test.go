package image

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/containerd/errdefs"

	"wharf/internal/model"
)

// stopping is a reader that calls stop once when n bytes were read.
type stopping struct {
	r    io.Reader
	n    int
	stop func()
}

func (s *stopping) Read(p []byte) (int, error) {
	n, err := s.r.Read(p[:min(len(p), 64<<10)])
	if s.n > 0 && s.n <= n {
		s.stop()
	}
	s.n -= n
	return n, err
}

// A copy of the data root, taken at any moment of a load, is what a kill
// leaves: it opens, holds whole images or nothing, and takes the load again.
func TestCopyAtAnyMoment(t *testing.T) {
	archive := layered(t).dockerTar(t, "busybox:test")
	for _, at := range []int{1, len(archive) / 3, len(archive) * 2 / 3, len(archive) - 2000, len(archive)} {
		t.Run(fmt.Sprint(at), func(t *testing.T) {
			root, copied := t.TempDir(), filepath.Join(t.TempDir(), "copy")
			ts := open(t, root)
			r := &stopping{bytes.NewReader(archive), at, func() {
				// cp may meet files that go away; that is part of the test.
				_, _ = exec.Command("cp", "-a", root, copied).CombinedOutput()
			}}
			must(t, ts.Load(t.Context(), r, nil, false, nil))
			two := open(t, copied)
			must(t, two.Collect(t.Context()))
			if _, err := two.Resolve(t.Context(), "busybox:test", nil); !errdefs.IsNotFound(err) {
				t.Errorf("half an image has a name: %v", err)
			}
			if n := countEntries(t, copied, "layers/snapshots"); n != 0 {
				t.Errorf("%d layer directories left", n)
			}
			if n := countEntries(t, copied, "content/blobs/sha256"); n != 0 {
				t.Errorf("%d blobs left", n)
			}
			two.load(t, archive)
			img, err := two.Resolve(t.Context(), "busybox:test", nil)
			must(t, err)
			must(t, two.Prepare(t.Context(), model.NewID(), img))
		})
	}
}

// Many containers are made and thrown away while images come and go: nobody
// loses a layer under its feet.
func TestPrepareAgainstCollector(t *testing.T) {
	ts := open(t, t.TempDir())
	ctx := t.Context()
	archive := layered(t).dockerTar(t, "busybox:test")
	ts.load(t, archive)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 25 {
				img, err := ts.Resolve(ctx, "busybox:test", nil)
				if errdefs.IsNotFound(err) {
					continue
				}
				id := model.NewID()
				if err := ts.Prepare(ctx, id, img); err != nil {
					if !errdefs.IsNotFound(err) {
						t.Errorf("prepare: %v", err)
					}
					_ = ts.Discard(ctx, id)
					continue
				}
				r, err := ts.Rootfs(ctx, id)
				if err != nil {
					t.Errorf("rootfs: %v", err)
				} else if _, err := os.Stat(filepath.Join(r.Lower[len(r.Lower)-1], "bin/busybox")); err != nil {
					t.Errorf("layer is gone: %v", err)
				}
				if err := ts.Discard(ctx, id); err != nil {
					t.Errorf("discard: %v", err)
				}
			}
		})
	}
	wg.Go(func() {
		for range 8 {
			if _, err := ts.Remove(ctx, "busybox:test", true, false, nil); err != nil && !errdefs.IsNotFound(err) {
				t.Errorf("remove: %v", err)
			}
			if err := ts.Load(ctx, bytes.NewReader(archive), nil, true, nil); err != nil {
				t.Errorf("load: %v", err)
			}
		}
	})
	wg.Wait()
}

// Two who load the same image at once share its layers.
func TestLoadTwiceAtOnce(t *testing.T) {
	root := t.TempDir()
	ts := open(t, root)
	archive := layered(t).dockerTar(t, "busybox:test")
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if err := ts.Load(t.Context(), bytes.NewReader(archive), nil, true, nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	must(t, ts.Collect(t.Context()))
	if n := countEntries(t, root, "layers/snapshots"); n != 3 {
		t.Errorf("%d layer directories, want 3", n)
	}
}
