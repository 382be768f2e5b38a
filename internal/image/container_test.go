package image

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"golang.org/x/sys/unix"

	"wharf/internal/model"
)

// prepared loads the layered image and makes a container of it.
func prepared(t testing.TB, ts *testStore) (model.Image, model.ID) {
	t.Helper()
	ts.load(t, layered(t).dockerTar(t, "busybox:test"))
	img, err := ts.Resolve(t.Context(), "busybox:test", nil)
	if err != nil {
		t.Fatal(err)
	}
	id := model.NewID()
	if err := ts.Prepare(t.Context(), id, img); err != nil {
		t.Fatal(err)
	}
	return img, id
}

// change mounts the container and lets f work in its root.
func change(t testing.TB, ts *testStore, id model.ID, f func(root string)) {
	t.Helper()
	root, release, err := ts.Mount(t.Context(), id, false)
	if err != nil {
		t.Fatal(err)
	}
	f(root)
	if err := release(); err != nil {
		t.Fatal(err)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// scramble changes files in every way that Changes tells apart.
func scramble(t testing.TB) func(string) {
	return func(root string) {
		must(t, os.WriteFile(filepath.Join(root, "etc/new"), []byte("n"), 0o600))
		must(t, os.WriteFile(filepath.Join(root, "etc/passwd"), []byte("changed"), 0o644))
		must(t, os.Remove(filepath.Join(root, "bin/sh")))
		must(t, os.RemoveAll(filepath.Join(root, "d")))
		must(t, os.Mkdir(filepath.Join(root, "d"), 0o755)) // opaque
		must(t, os.WriteFile(filepath.Join(root, "d/other"), nil, 0o644))
		must(t, os.MkdirAll(filepath.Join(root, "a/b"), 0o755))
		must(t, os.WriteFile(filepath.Join(root, "a/b/c"), []byte("one"), 0o644))
		must(t, os.Link(filepath.Join(root, "a/b/c"), filepath.Join(root, "a/link")))
		must(t, os.Chown(filepath.Join(root, "a/b"), 1000, 1000))
		must(t, unix.Mknod(filepath.Join(root, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	}
}

func TestChangesAndCommit(t *testing.T) {
	ts := open(t, t.TempDir())
	ctx := t.Context()
	img, id := prepared(t, ts)
	// What the runtime makes to mount over is no change.
	change(t, ts, id, func(root string) {
		for _, f := range []string{"etc/hosts", "etc/resolv.conf", "etc/hostname"} {
			must(t, os.WriteFile(filepath.Join(root, f), nil, 0o644))
		}
		must(t, os.MkdirAll(filepath.Join(root, "dev/pts"), 0o755))
		must(t, os.Mkdir(filepath.Join(root, "proc"), 0o755))
	})
	if cs, err := ts.Changes(ctx, id); err != nil || len(cs) != 0 {
		t.Fatalf("fresh container: %v %v", cs, err)
	}
	change(t, ts, id, scramble(t))
	cs, err := ts.Changes(ctx, id)
	must(t, err)
	var got []string
	for _, c := range cs {
		got = append(got, "CAD"[c.Kind:c.Kind+1]+" "+c.Path)
	}
	want := []string{"A /a", "A /a/b", "A /a/b/c", "A /a/link", "C /bin", "D /bin/sh", "C /d", "D /d/new", "A /d/other", "C /etc", "A /etc/new", "C /etc/passwd", "A /null"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	rw, root, err := ts.Usage(ctx, id)
	if err != nil || rw == 0 || root <= rw {
		t.Errorf("usage %d %d %v", rw, root, err)
	}
	dc := &container.Config{Cmd: []string{"/bin/true"}, Env: []string{"B=2"}, Labels: map[string]string{"x": "y"}}
	newID, err := ts.Commit(ctx, id, img, nil, dc, "made:v1", "me", "why")
	must(t, err)
	made, err := ts.Resolve(ctx, "made:v1", nil)
	must(t, err)
	if made.ID != newID || made.Config.Labels["x"] != "y" || made.Config.Cmd[0] != "/bin/true" {
		t.Errorf("made %+v", made)
	}
	other := model.NewID()
	must(t, ts.Prepare(ctx, other, made))
	change(t, ts, other, func(root string) {
		for name, there := range map[string]bool{"bin/sh": false, "bin/busybox": true, "d/new": false, "d/other": true, "a/b/c": true} {
			if exists(root, name) != there {
				t.Errorf("committed image: %s there = %v", name, !there)
			}
		}
		a, _ := os.Stat(filepath.Join(root, "a/b/c"))
		b, _ := os.Stat(filepath.Join(root, "a/link"))
		if !os.SameFile(a, b) {
			t.Error("hard link was not kept")
		}
	})
	h, err := ts.History(ctx, "made:v1", nil)
	must(t, err)
	if h[0].ID != newID.String() || h[0].Comment != "why" || len(h) != 5 || h[1].ID != "<missing>" || h[1].Size != 0 || h[2].Size == 0 {
		t.Errorf("history %+v", h)
	}
	list, err := ts.List(ctx, false, false, false, model.Filters{"reference": {"made": true}})
	if err != nil || len(list) != 1 || list[0].ParentID != img.ID.String() {
		t.Errorf("list %+v %v", list, err)
	}
}

func TestCommitWithoutChange(t *testing.T) {
	ts := open(t, t.TempDir())
	img, id := prepared(t, ts)
	newID, err := ts.Commit(t.Context(), id, img, nil, &container.Config{Cmd: []string{"x"}}, "", "", "")
	must(t, err)
	made, err := ts.Resolve(t.Context(), newID.String(), nil)
	if err != nil || made.ChainID != img.ChainID {
		t.Errorf("%v: chain %s, want that of the parent %s", err, made.ChainID, img.ChainID)
	}
	if p, err := ts.Parent(t.Context(), newID.String()); err != nil || p != img.ID.String() {
		t.Errorf("parent %q, %v", p, err)
	}
	if p, err := ts.Parent(t.Context(), img.ID.String()); err != nil || p != "" {
		t.Errorf("parent of the first image %q, %v", p, err)
	}
}

func TestMountIsSharedAndSwept(t *testing.T) {
	root := t.TempDir()
	ts := open(t, root)
	_, id := prepared(t, ts)
	a, free1, err := ts.Mount(t.Context(), id, true)
	must(t, err)
	b, free2, err := ts.Mount(t.Context(), id, true)
	must(t, err)
	if a != b {
		t.Errorf("two mounts %s %s", a, b)
	}
	if err := os.WriteFile(filepath.Join(a, "x"), nil, 0o644); err == nil {
		t.Error("read-only mount was written to")
	}
	must(t, free1())
	must(t, free1())
	if !exists(a, "bin") {
		t.Error("the second user lost the mount")
	}
	must(t, free2())
	if exists(a) {
		t.Error("mount stayed")
	}
	// A crash leaves a mount; the next Open clears it.
	left, _, err := ts.Mount(t.Context(), id, false)
	must(t, err)
	ts.Store.mounts.active = nil
	must(t, ts.Store.Close())
	if !exists(left, "bin") {
		t.Fatal("test is broken: mount is gone")
	}
	ts = open(t, root)
	if exists(left) {
		t.Error("stale mount was not swept")
	}
	if _, err := ts.Rootfs(t.Context(), id); err != nil {
		t.Error(err)
	}
}

func TestRootMode(t *testing.T) {
	ts := open(t, t.TempDir())
	img := testImage{layers: [][]byte{tarOf(t, file{name: "./", kind: '5', mode: 0o711, uid: 5, gid: 6}, file{name: "f", body: "x"})}}
	ts.load(t, img.dockerTar(t, "odd:1"))
	mi, err := ts.Resolve(t.Context(), "odd:1", nil)
	must(t, err)
	id := model.NewID()
	must(t, ts.Prepare(t.Context(), id, mi))
	r, err := ts.Rootfs(t.Context(), id)
	must(t, err)
	var st unix.Stat_t
	must(t, unix.Stat(r.Upper, &st))
	if st.Uid != 5 || st.Gid != 6 || st.Mode&0o7777 != 0o711 {
		t.Errorf("upper is %d:%d %o", st.Uid, st.Gid, st.Mode)
	}
	if _, err := ts.Prepared(t.Context()); err != nil {
		t.Error(err)
	}
	for _, bad := range []model.ID{"../x", "", "a/b"} {
		if err := ts.Prepare(t.Context(), bad, mi); !errdefs.IsInvalidArgument(err) {
			t.Errorf("id %q: %v", bad, err)
		}
	}
}

// An image without layers is what FROM scratch with only settings makes.
func TestEmptyImage(t *testing.T) {
	ts := open(t, t.TempDir())
	ts.load(t, testImage{}.dockerTar(t, "empty:1"))
	img, err := ts.Resolve(t.Context(), "empty:1", nil)
	must(t, err)
	id := model.NewID()
	must(t, ts.Prepare(t.Context(), id, img))
	change(t, ts, id, func(root string) { must(t, os.WriteFile(filepath.Join(root, "f"), nil, 0o644)) })
	cs, err := ts.Changes(t.Context(), id)
	if err != nil || len(cs) != 1 {
		t.Errorf("%v %v", cs, err)
	}
}

func TestRemoveConflicts(t *testing.T) {
	ts := open(t, t.TempDir())
	ctx := t.Context()
	img, id := prepared(t, ts)
	must(t, ts.Tag(ctx, "busybox:test", "other/name:2"))
	idText := strings.TrimPrefix(img.ID.String(), "sha256:")[:12]
	ts.users = []User{{ID: id, Image: img.ID}}
	check := func(ref string, force bool, want string) {
		t.Helper()
		_, err := ts.Remove(ctx, ref, force, false, nil)
		if !errdefs.IsConflict(err) || err.Error() != want {
			t.Errorf("remove %s: %v\nwant %s", ref, err, want)
		}
	}
	check(img.ID.String(), false, "conflict: unable to delete "+idText+" (must be forced) - image is being used by stopped container "+id.Short())
	ts.users[0].Running = true
	check(img.ID.String(), true, "conflict: unable to delete "+idText+" (cannot be forced) - image is being used by running container "+id.Short())
	ts.users = nil
	check(idText, false, "conflict: unable to delete "+idText+" (must be forced) - image is referenced in multiple repositories")
	out, err := ts.Remove(ctx, "other/name:2", false, false, nil)
	if err != nil || len(out) != 1 || out[0].Untagged != "other/name:2" {
		t.Errorf("untag: %+v %v", out, err)
	}
	ts.users = []User{{ID: id, Image: img.ID}}
	check("busybox:test", false, "conflict: unable to delete busybox:test (must be forced) - container "+id.Short()+" is using its referenced image "+idText)
	out, err = ts.Remove(ctx, "busybox:test", true, false, nil)
	if err != nil || len(out) != 1 || out[0].Untagged != "busybox:test" {
		t.Errorf("forced: %+v %v", out, err)
	}
	// The container lives on.
	change(t, ts, id, func(root string) {
		if !exists(root, "bin/busybox") {
			t.Error("layers in use were collected")
		}
	})
	list, err := ts.List(ctx, false, false, false, model.Filters{"dangling": {"true": true}})
	if err != nil || len(list) != 1 || len(list[0].RepoTags) != 0 {
		t.Errorf("dangling list %+v %v", list, err)
	}
}

// What a prepared container stands on stays, even when every name is gone and
// nobody reports the container as user.
func TestGCKeepsWhatContainersStandOn(t *testing.T) {
	root := t.TempDir()
	ts := open(t, root)
	ctx := t.Context()
	img, id := prepared(t, ts)
	out, err := ts.Remove(ctx, "busybox:test", true, false, nil)
	if err != nil || out[len(out)-1].Deleted != img.ID.String() {
		t.Fatalf("%+v %v", out, err)
	}
	must(t, ts.Store.Close())
	ts = open(t, root)
	must(t, ts.Collect(ctx))
	change(t, ts, id, func(root string) {
		if !exists(root, "bin/busybox") {
			t.Error("layers in use were collected")
		}
	})
	if _, err := ts.Commit(ctx, id, img, nil, &container.Config{}, "again:1", "", ""); err != nil {
		t.Errorf("commit after the image was removed: %v", err)
	}
	must(t, ts.Discard(ctx, id))
	_, err = ts.Remove(ctx, "again:1", false, false, nil)
	must(t, err)
	if n := countEntries(t, root, "layers/snapshots"); n != 0 {
		t.Errorf("%d layers left", n)
	}
	if n := countEntries(t, root, "content/blobs/sha256"); n != 0 {
		t.Errorf("%d blobs left", n)
	}
}

// An image that a container mounts stays as long as the container.
func TestGCKeepsWhatContainersMount(t *testing.T) {
	root := t.TempDir()
	ts := open(t, root)
	ctx := t.Context()
	img, _ := prepared(t, ts)
	id := model.NewID()
	must(t, ts.Prepare(ctx, id, model.Image{}))
	for range 2 {
		must(t, ts.Pin(ctx, id, img))
	}
	must(t, ts.Discard(ctx, "c1"))
	ids, err := ts.Prepared(ctx)
	must(t, err)
	for _, other := range ids {
		if other != id {
			must(t, ts.Discard(ctx, other))
		}
	}
	_, err = ts.Remove(ctx, "busybox:test", true, false, nil)
	must(t, err)
	must(t, ts.Store.Close())
	ts = open(t, root)
	must(t, ts.Collect(ctx))
	dirs, err := ts.Layers(ctx, img)
	if err != nil || len(dirs) == 0 || !exists(dirs[0], ".") {
		t.Errorf("%v %v", dirs, err)
	}
	must(t, ts.Discard(ctx, id))
	must(t, ts.Collect(ctx))
	if n := countEntries(t, root, "layers/snapshots"); n != 0 {
		t.Errorf("%d layers left", n)
	}
}

func countEntries(t testing.TB, p ...string) int {
	t.Helper()
	es, err := os.ReadDir(filepath.Join(p...))
	if !os.IsNotExist(err) {
		must(t, err)
	}
	return len(es)
}

func TestPruneAndUsage(t *testing.T) {
	ts := open(t, t.TempDir())
	ctx := t.Context()
	img, id := prepared(t, ts)
	_, err := ts.Commit(ctx, id, img, nil, &container.Config{Env: []string{"one=1"}}, "made:1", "", "")
	must(t, err)
	_, err = ts.Commit(ctx, id, img, nil, &container.Config{Env: []string{"two=2"}}, "made:1", "", "")
	must(t, err)
	du, err := ts.DiskUsage(ctx, true)
	must(t, err)
	if du.TotalCount != 3 || du.ActiveCount != 0 || du.Reclaimable != du.TotalSize || len(du.Items) != 3 {
		t.Errorf("usage %+v", du)
	}
	rep, err := ts.Prune(ctx, model.Filters{})
	if err != nil || len(rep.ImagesDeleted) != 1 || rep.SpaceReclaimed == 0 {
		t.Errorf("prune %+v %v", rep, err)
	}
	ts.users = []User{{ID: id, Image: img.ID}}
	rep, err = ts.Prune(ctx, model.Filters{"dangling": {"false": true}})
	if err != nil || len(rep.ImagesDeleted) != 2 {
		t.Errorf("prune all %+v %v", rep, err)
	}
	if _, err := ts.Prune(ctx, model.Filters{"bogus": {"x": true}}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("bogus filter: %v", err)
	}
	if _, err := ts.Resolve(ctx, "busybox:test", nil); err != nil {
		t.Errorf("image in use was pruned: %v", err)
	}
}

// Removing a committed image takes its untagged ancestors along.
func TestRemovePrunesParents(t *testing.T) {
	ts := open(t, t.TempDir())
	ctx := t.Context()
	img, id := prepared(t, ts)
	mid, err := ts.Commit(ctx, id, img, nil, &container.Config{Env: []string{"mid=1"}}, "", "", "")
	must(t, err)
	midImg, err := ts.Resolve(ctx, mid.String(), nil)
	must(t, err)
	_, err = ts.Commit(ctx, id, midImg, nil, &container.Config{Env: []string{"top=1"}}, "top:1", "", "")
	must(t, err)
	out, err := ts.Remove(ctx, "top:1", false, false, nil)
	if err != nil || len(out) != 3 || out[2].Deleted != mid.String() {
		t.Errorf("%+v %v", out, err)
	}
}

func TestFilters(t *testing.T) {
	ts := open(t, t.TempDir())
	prepared(t, ts)
	for _, c := range []struct {
		key, value string
		want       int
	}{
		{"label", "team", 1}, {"label", "team=blue", 1}, {"label", "team=red", 0},
		{"reference", "busy*", 1}, {"reference", "busybox:t*", 1}, {"reference", "x", 0},
		{"reference", "docker.io/library/busybox", 1}, {"reference", "docker.io/library/busybox:*", 1}, {"reference", "docker.io/busybox", 0},
		{"dangling", "false", 1}, {"dangling", "true", 0},
		{"until", "1h", 1}, {"until", "2001-01-01", 0}, {"before", "busybox:test", 0}, {"since", "busybox:test", 0},
	} {
		list, err := ts.List(t.Context(), false, false, false, model.Filters{c.key: {c.value: true}})
		if err != nil || len(list) != c.want {
			t.Errorf("%s=%s: %d images, want %d, %v", c.key, c.value, len(list), c.want, err)
		}
	}
	for _, bad := range []string{"dangling=maybe", "until=soon", "nonsense=1", "reference=["} {
		k, v, _ := strings.Cut(bad, "=")
		if _, err := ts.List(t.Context(), false, false, false, model.Filters{k: {v: true}}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func TestEvents(t *testing.T) {
	ts := open(t, t.TempDir())
	ctx := t.Context()
	ts.load(t, layered(t).dockerTar(t, "busybox:test"))
	must(t, ts.Tag(ctx, "busybox:test", "two:2"))
	_, err := ts.Remove(ctx, "two:2", false, false, nil)
	must(t, err)
	_, err = ts.Remove(ctx, "busybox:test", false, false, nil)
	must(t, err)
	var got []events.Action
	for _, e := range ts.events {
		got = append(got, e.action)
	}
	want := []events.Action{"load", "tag", "untag", "untag", "delete"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestEnsureBase(t *testing.T) {
	root := t.TempDir()
	ts := open(t, root)
	ctx := t.Context()
	p := filepath.Join(t.TempDir(), "base.tar")
	must(t, ts.EnsureBase(ctx, p))
	must(t, os.WriteFile(p, layered(t).dockerTar(t, "wharf/base:latest"), 0o644))
	must(t, ts.EnsureBase(ctx, p))
	_, err := ts.Remove(ctx, "wharf/base", false, false, nil)
	must(t, err)
	must(t, ts.EnsureBase(ctx, p))
	if _, err := ts.Resolve(ctx, "wharf/base", nil); !errdefs.IsNotFound(err) {
		t.Errorf("the user removed it, it came back: %v", err)
	}
}

func BenchmarkPrepareDiscard(b *testing.B) {
	ts := open(b, b.TempDir())
	img, _ := prepared(b, ts)
	ctx := context.Background()
	for b.Loop() {
		id := model.NewID()
		if _, err := ts.Resolve(ctx, "busybox:test", nil); err != nil {
			b.Fatal(err)
		}
		if err := ts.Prepare(ctx, id, img); err != nil {
			b.Fatal(err)
		}
		if _, err := ts.Rootfs(ctx, id); err != nil {
			b.Fatal(err)
		}
		if err := ts.Discard(ctx, id); err != nil {
			b.Fatal(err)
		}
	}
}
