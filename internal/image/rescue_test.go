package image

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"

	"wharf/internal/model"
)

// garble writes nonsense over a part of a file.
func garble(t *testing.T, file string, from, n int64) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(bytes.Repeat([]byte{0xa5, 0x5a, 0x13}, int(n/3+1)), from); err != nil {
		t.Fatal(err)
	}
}

// TestRescue: whatever happens to the databases, the room opens, the images
// have their names, and a container that was there can start.
func TestRescue(t *testing.T) {
	for name, harm := range map[string]func(t *testing.T, root string){
		"metadata all of it":   func(t *testing.T, root string) { garble(t, filepath.Join(root, "meta.db"), 0, 1<<20) },
		"metadata tables":      func(t *testing.T, root string) { garble(t, filepath.Join(root, "meta.db"), 8192, 1<<20) },
		"metadata one page":    func(t *testing.T, root string) { garble(t, filepath.Join(root, "meta.db"), rootPage(t, root), 4096) },
		"layers all of it":     func(t *testing.T, root string) { garble(t, filepath.Join(root, "layers/metadata.db"), 0, 1<<20) },
		"layers tables":        func(t *testing.T, root string) { garble(t, filepath.Join(root, "layers/metadata.db"), 8192, 1<<20) },
		"metadata cut to zero": func(t *testing.T, root string) { must(t, os.Truncate(filepath.Join(root, "meta.db"), 0)) },
		"metadata cut short":   func(t *testing.T, root string) { must(t, os.Truncate(filepath.Join(root, "meta.db"), 12000)) },
		"metadata gone":        func(t *testing.T, root string) { must(t, os.Remove(filepath.Join(root, "meta.db"))) },
		"all of layers gone":   func(t *testing.T, root string) { must(t, os.RemoveAll(filepath.Join(root, "layers"))) },
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			one := open(t, root)
			one.load(t, layered(t).dockerTar(t, "busybox:test"))
			img, err := one.Resolve(t.Context(), "busybox:test", nil)
			must(t, err)
			id := model.NewID()
			must(t, one.Prepare(t.Context(), id, img))
			wrote := filepath.Join(root, "containers", string(id), "upper", "wrote")
			must(t, os.WriteFile(wrote, []byte("x"), 0o600))
			must(t, one.Close())
			harm(t, root)

			two := open(t, root)
			two.users = []User{{ID: id, Image: img.ID}}
			must(t, two.Collect(t.Context()))
			again, err := two.Resolve(t.Context(), "busybox:test", nil)
			if err != nil || again.ID != img.ID {
				t.Fatalf("%v %v, was %v", again.ID, err, img.ID)
			}
			fs, err := two.Rootfs(t.Context(), id)
			must(t, err)
			if b, err := os.ReadFile(filepath.Join(fs.Lower[0], "d", "new")); err != nil || string(b) != "new" {
				t.Errorf("%q %v", b, err)
			}
			if !exists(wrote) {
				t.Error("what the container wrote is gone")
			}
			found, err := two.Fsck(t.Context(), []model.Container{{ID: id}})
			must(t, err)
			for _, f := range found {
				if f.Thing != thingAside {
					t.Errorf("%+v", f)
				}
				must(t, two.Repair(t.Context(), f))
			}
			if left, _ := filepath.Glob(filepath.Join(root, damagedPrefix+"*")); len(left) != 0 {
				t.Errorf("left: %v", left)
			}
			two.load(t, layered(t).dockerTar(t, "busybox:test")) // and all works on
			must(t, two.Close())
			three := open(t, root)
			if three.rescued {
				t.Error("rescued once more")
			}
		})
	}
}

// rootPage is where the page of the present root bucket begins.
func rootPage(t *testing.T, root string) int64 {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, "meta.db"))
	must(t, err)
	var best metaHead
	for _, at := range []int{0, 4096} {
		m := metaHead(b[at : at+metaHeadLen])
		if m.valid() && (best == nil || m.txid() > best.txid()) {
			best = m
		}
	}
	if best == nil {
		t.Fatal("no meta page where one was due")
	}
	return int64(binary.LittleEndian.Uint64(best[32:])) * 4096
}

// TestRescueWithoutNames: without the copy of the names images are there
// without one.
func TestRescueWithoutNames(t *testing.T) {
	root := t.TempDir()
	one := open(t, root)
	one.load(t, layered(t).dockerTar(t, "busybox:test"))
	img, err := one.Resolve(t.Context(), "busybox:test", nil)
	must(t, err)
	must(t, one.Close())
	must(t, os.Remove(filepath.Join(root, namesFile)))
	must(t, os.Remove(filepath.Join(root, "meta.db")))
	two := open(t, root)
	must(t, two.Collect(t.Context()))
	if again, err := two.Resolve(t.Context(), img.ID.String(), nil); err != nil || again.ID != img.ID {
		t.Errorf("%v %v", again.ID, err)
	}
	if _, err := digest.Parse(img.ID.String()); err != nil {
		t.Error(err)
	}
}
