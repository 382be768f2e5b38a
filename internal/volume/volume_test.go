package volume

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/volume"
	"golang.org/x/sys/unix"

	"wharf/internal/model"
)

var ctx = context.Background()

func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root, to mount and to change owners: sudo go test ./internal/volume/")
	}
}

func open(t testing.TB, dir string) *Room {
	t.Helper()
	r, err := Open(Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func use(t testing.TB, r *Room, id model.ID, m model.Mount) string {
	t.Helper()
	m.Type = "volume"
	dir, err := r.Use(ctx, id, m)
	must(t, err)
	return dir
}

func names(t testing.TB, r *Room, f model.Filters) []string {
	t.Helper()
	vs, _, err := r.List(ctx, f)
	must(t, err)
	out := []string{}
	for _, v := range vs {
		out = append(out, v.Name)
	}
	return out
}

func filter(k string, vs ...string) model.Filters {
	m := map[string]bool{}
	for _, v := range vs {
		m[v] = true
	}
	return model.Filters{k: m}
}

func TestNames(t *testing.T) {
	r := open(t, t.TempDir())
	for name, text := range map[string]string{
		"a": "volume name is too short", "a/b": "includes invalid characters for a local volume name", "../x": "includes invalid",
		".hidden": "includes invalid", "a b": "includes invalid", strings.Repeat("x", 256): "too long", "-x": "includes invalid",
	} {
		_, err := r.Create(ctx, volume.CreateRequest{Name: name})
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), text) {
			t.Errorf("%q: %v", name, err)
		}
	}
	v, err := r.Create(ctx, volume.CreateRequest{})
	if err != nil || len(v.Name) != 64 || v.Labels[labelAnonymous] != "" || len(v.Labels) != 1 {
		t.Errorf("anonymous: %+v, %v", v, err)
	}
}

func TestCreateAgainAndReopen(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir)
	a, err := r.Create(ctx, volume.CreateRequest{Name: "data", Labels: map[string]string{"a": "b"}})
	must(t, err)
	if a.Mountpoint != filepath.Join(dir, "data", "_data") || a.Scope != "local" || a.Driver != "local" {
		t.Errorf("%+v", a)
	}
	_, err = r.Create(ctx, volume.CreateRequest{Name: "data", Driver: "other"})
	if !errdefs.IsConflict(err) || !strings.Contains(err.Error(), "volume name must be unique") {
		t.Error(err)
	}
	_, err = r.Create(ctx, volume.CreateRequest{Name: "x2", Driver: "nope"})
	if !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	must(t, os.WriteFile(a.Mountpoint+"/f", []byte("kept"), 0o644))
	must(t, os.MkdirAll(filepath.Join(dir, "by-hand", "_data"), 0o755))
	must(t, os.MkdirAll(filepath.Join(dir, gonePrefix+"x", "_data"), 0o755))
	again := open(t, dir)
	b, err := again.Inspect(ctx, "data")
	must(t, err)
	if d := cmp.Diff(a, b); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"by-hand", "data"}, names(t, again, nil)); d != "" {
		t.Error(d)
	}
	must(t, again.Close())
	if _, err := os.Stat(filepath.Join(dir, gonePrefix+"x")); !errors.Is(err, os.ErrNotExist) {
		t.Error("a half-removed volume is still there")
	}
}

func TestInUse(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir)
	a, b := model.NewID(), model.NewID()
	use(t, r, a, model.Mount{Name: "shared", Destination: "/x"})
	use(t, r, a, model.Mount{Name: "shared", Destination: "/y"})
	use(t, r, b, model.Mount{Name: "shared"})
	err := r.Remove(ctx, "shared", true)
	if !errdefs.IsConflict(err) || !strings.Contains(err.Error(), "remove shared: volume is in use - [") || !strings.Contains(err.Error(), string(a)) {
		t.Error(err)
	}
	must(t, r.Unuse(ctx, a, nil, true))
	again := open(t, dir) // what b has comes back
	must(t, again.Restore(ctx, b, []model.Mount{{Type: "volume", Name: "shared"}, {Type: "bind"}}))
	if err := again.Restore(ctx, b, []model.Mount{{Type: "volume", Name: "lost"}}); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	if err := again.Remove(ctx, "shared", false); !errdefs.IsConflict(err) {
		t.Error(err)
	}
	must(t, again.Unuse(ctx, b, nil, true))
	again.SetTrash(false)
	must(t, again.Remove(ctx, "shared", false))
	if err := again.Remove(ctx, "shared", false); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "get shared: no such volume") {
		t.Error(err)
	}
	must(t, again.Remove(ctx, "shared", true))
	must(t, again.Close())
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestAnonymousGoWithTheContainer(t *testing.T) {
	r := open(t, t.TempDir())
	a, b := model.NewID(), model.NewID()
	ms := []model.Mount{
		{Type: "volume", Name: "anon1", Anonymous: true}, {Type: "volume", Name: "anon2", Anonymous: true}, {Type: "volume", Name: "named"},
	}
	for _, m := range ms {
		use(t, r, a, m)
	}
	use(t, r, b, ms[1]) // --volumes-from
	must(t, r.Unuse(ctx, a, ms, true))
	if d := cmp.Diff([]string{"anon2", "named"}, names(t, r, nil)); d != "" {
		t.Error(d)
	}
	must(t, r.Unuse(ctx, b, ms[1:2], false))
	if d := cmp.Diff([]string{"anon2"}, names(t, r, filter("label", labelAnonymous))); d != "" {
		t.Error(d)
	}
}

func TestFiltersAndPrune(t *testing.T) {
	r := open(t, t.TempDir())
	id := model.NewID()
	_, err := r.Create(ctx, volume.CreateRequest{Name: "named", Labels: map[string]string{"k": "v"}})
	must(t, err)
	use(t, r, id, model.Mount{Name: "used", Anonymous: true})
	dir := use(t, r, id, model.Mount{Name: "anon", Anonymous: true})
	must(t, os.WriteFile(dir+"/f", make([]byte, 1000), 0o644))
	must(t, os.Link(dir+"/f", dir+"/g"))
	must(t, r.Unuse(ctx, id, nil, false))
	use(t, r, id, model.Mount{Name: "used"})
	for _, c := range []struct {
		f    model.Filters
		want []string
	}{
		{filter("name", "se"), []string{"used"}}, {filter("dangling", "true"), []string{"anon", "named"}}, {filter("dangling", "0"), []string{"used"}},
		{filter("label", "k=v"), []string{"named"}}, {filter("label", "k=w"), []string{}}, {filter("driver", "x"), []string{}},
	} {
		if d := cmp.Diff(c.want, names(t, r, c.f)); d != "" {
			t.Errorf("%v: %s", c.f, d)
		}
	}
	for _, f := range []model.Filters{filter("until", "1h"), filter("dangling", "maybe")} {
		if _, _, err := r.List(ctx, f); !errdefs.IsInvalidArgument(err) {
			t.Error(err)
		}
	}
	du, err := r.DiskUsage(ctx, true)
	must(t, err)
	if du.TotalSize != 1000 || du.Reclaimable != 1000 || du.ActiveCount != 1 || du.TotalCount != 3 || du.Items[2].UsageData.RefCount != 1 {
		t.Errorf("%+v", du)
	}
	rep, err := r.Prune(ctx, nil)
	must(t, err)
	if d := cmp.Diff(volume.PruneReport{VolumesDeleted: []string{"anon"}, SpaceReclaimed: 1000}, rep); d != "" {
		t.Error(d)
	}
	rep, err = r.Prune(ctx, model.Filters{"all": {"1": true}, "label!": {"k": true}})
	must(t, err)
	if len(rep.VolumesDeleted) != 0 {
		t.Error(rep)
	}
	rep, err = r.Prune(ctx, filter("all", "true"))
	must(t, err)
	if d := cmp.Diff([]string{"named"}, rep.VolumesDeleted); d != "" {
		t.Error(d)
	}
}

func TestOptions(t *testing.T) {
	for _, c := range []struct {
		opts map[string]string
		text string
		is   func(error) bool
	}{
		{map[string]string{"size": "1"}, "invalid size", errdefs.IsInvalidArgument},
		{map[string]string{"size": "1g", "type": "tmpfs", "device": "tmpfs"}, "o=size=1g", errdefs.IsInvalidArgument},
		{map[string]string{"colour": "red"}, `invalid option: "colour"`, errdefs.IsInvalidArgument},
		{map[string]string{"type": "tmpfs"}, `missing required option: "device"`, errdefs.IsInvalidArgument},
		{map[string]string{"type": "x", "device": "y", "o": "remount"}, "remount", errdefs.IsInvalidArgument},
	} {
		if err := checkOptions(c.opts); !c.is(err) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%v: %v", c.opts, err)
		}
	}
	f, p, d, err := mountWords("bind,ro,nosuid,suid,addr=1.2.3.4,rslave,size=1m")
	if err != nil || f != unix.MS_BIND|unix.MS_RDONLY || p != unix.MS_SLAVE|unix.MS_REC || strings.Join(d, ",") != "addr=1.2.3.4,size=1m" {
		t.Errorf("%x %x %v %v", f, p, d, err)
	}
}

func TestMountedVolumes(t *testing.T) {
	needRoot(t)
	dir, src := t.TempDir(), t.TempDir()
	must(t, os.WriteFile(src+"/f", []byte("host"), 0o644))
	r := open(t, dir)
	id := model.NewID()
	tmp := use(t, r, id, model.Mount{Name: "tmp", DriverOptions: map[string]string{"type": "tmpfs", "device": "tmpfs", "o": "size=1m,mode=0700,noexec"}})
	bound := use(t, r, id, model.Mount{Name: "bound", DriverOptions: map[string]string{"type": "none", "device": src, "o": "bind,ro"}})
	var st unix.Statfs_t
	must(t, unix.Statfs(tmp, &st))
	if st.Type != unix.TMPFS_MAGIC || st.Blocks*uint64(st.Bsize) != 1<<20 || st.Flags&unix.ST_NOEXEC == 0 {
		t.Errorf("%+v", st)
	}
	if b, err := os.ReadFile(bound + "/f"); err != nil || string(b) != "host" {
		t.Error(err)
	}
	if err := os.WriteFile(bound+"/g", nil, 0o644); !errors.Is(err, unix.EROFS) {
		t.Error(err)
	}
	use(t, r, id, model.Mount{Name: "tmp"}) // again: not a second mount
	r = open(t, dir)                        // the daemon starts anew, the mounts are there
	must(t, r.Restore(ctx, id, []model.Mount{{Type: "volume", Name: "tmp"}}))
	must(t, r.Sweep(ctx))
	for name, want := range map[string]bool{"tmp": true, "bound": false} {
		if is, err := mounted(filepath.Join(dir, name, "_data")); err != nil || is != want {
			t.Errorf("%s mounted: %v, %v", name, is, err)
		}
	}
	must(t, r.Unuse(ctx, id, nil, false))
	must(t, r.Remove(ctx, "tmp", false))
	must(t, r.Remove(ctx, "bound", false))
	must(t, r.Close())
	if _, err := os.Stat(src + "/f"); err != nil {
		t.Error("removing the volume removed what it was bound to:", err)
	}
	_, err := r.Use(ctx, id, model.Mount{Name: "bad", DriverOptions: map[string]string{"type": "none", "device": "/no/such", "o": "bind"}})
	if err == nil || !strings.Contains(err.Error(), "failed to mount local volume") {
		t.Error(err)
	}
	must(t, r.Remove(ctx, "bad", false))
}

func TestSubpath(t *testing.T) {
	needRoot(t)
	r := open(t, t.TempDir())
	id := model.NewID()
	dir := use(t, r, id, model.Mount{Name: "vol"})
	must(t, os.MkdirAll(dir+"/a/b", 0o755))
	must(t, os.WriteFile(dir+"/a/b/f", []byte("x"), 0o644))
	must(t, os.Symlink("/../../../etc", dir+"/out"))
	must(t, os.Symlink("../a", dir+"/a/again"))
	must(t, os.Symlink("a/again", dir+"/in"))
	must(t, os.Symlink("/a", dir+"/whole"))
	sub := use(t, r, id, model.Mount{Name: "vol", Subpath: "in/b"})
	if b, err := os.ReadFile(sub + "/f"); err != nil || string(b) != "x" {
		t.Error(err)
	}
	file := use(t, r, id, model.Mount{Name: "vol", Subpath: "a/b/f"})
	if b, err := os.ReadFile(file); err != nil || string(b) != "x" {
		t.Error(err)
	}
	for p, want := range map[string]string{
		"out": "escapes the base directory", "whole": "escapes the base directory", "nope": "cannot access path",
		"../x": "must be a relative path", "/abs": "must be a relative path",
	} {
		if got, err := r.Use(ctx, id, model.Mount{Name: "vol", Subpath: p}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s gave %s, %v; want %q", p, got, err, want)
		}
	}
	must(t, r.Unuse(ctx, id, nil, false))
	must(t, r.Remove(ctx, "vol", false))
}

// The image's content also fills an empty directory of a volume, and nothing
// beside it.
func TestCopyUpIntoSubpath(t *testing.T) {
	needRoot(t)
	root, state := t.TempDir(), t.TempDir()
	must(t, os.MkdirAll(root+"/bin", 0o755))
	must(t, os.WriteFile(root+"/bin/sh", []byte("shell"), 0o755))
	r := open(t, state)
	id := model.NewID()
	dir := use(t, r, id, model.Mount{Name: "vol"})
	must(t, os.WriteFile(dir+"/keep", nil, 0o644))
	must(t, os.MkdirAll(dir+"/fresh", 0o755))
	must(t, os.MkdirAll(dir+"/half/cut", 0o755))
	must(t, os.MkdirAll(dir+"/full/own", 0o755))
	must(t, os.Symlink("/", dir+"/out"))
	must(t, os.WriteFile(filepath.Join(state, "vol", "copying"), []byte("half"), 0o600))
	for _, sub := range []string{"fresh", "half", "full", "none", "out", "keep"} {
		must(t, r.CopyUp(ctx, model.Mount{Name: "vol", Destination: "/bin", Subpath: sub}, root))
	}
	for p, there := range map[string]bool{"keep": true, "fresh/sh": true, "half/sh": true, "half/cut": false, "full/own": true, "full/sh": false, "none": false} {
		if _, err := os.Lstat(filepath.Join(dir, p)); (err == nil) != there {
			t.Errorf("%s: %v", p, err)
		}
	}
	must(t, r.Unuse(ctx, id, nil, false))
	must(t, r.Remove(ctx, "vol", false))
}

func TestCopyUp(t *testing.T) {
	needRoot(t)
	root := t.TempDir()
	must(t, os.MkdirAll(root+"/srv/www/d", 0o755))
	must(t, os.WriteFile(root+"/srv/www/d/f", []byte("content"), 0o640))
	must(t, os.Link(root+"/srv/www/d/f", root+"/srv/www/h"))
	must(t, os.Symlink("/etc/passwd", root+"/srv/www/l"))
	must(t, unix.Mkfifo(root+"/srv/www/fifo", 0o600))
	must(t, os.Lchown(root+"/srv/www/d/f", 33, 34))
	must(t, os.Lchown(root+"/srv/www", 70, 71))
	must(t, os.Chmod(root+"/srv/www", 0o750))
	must(t, os.Symlink("/srv", root+"/link"))
	dir := t.TempDir()
	r := open(t, dir)
	id := model.NewID()
	data := use(t, r, id, model.Mount{Name: "www"})
	// A copy that a crash cut off.
	must(t, os.WriteFile(data+"/half", nil, 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "www", "copying"), nil, 0o644))
	must(t, r.CopyUp(ctx, model.Mount{Name: "www", Destination: "/link/www"}, root))
	var st unix.Stat_t
	must(t, unix.Lstat(data, &st))
	if st.Uid != 70 || st.Gid != 71 || st.Mode&0o7777 != 0o750 {
		t.Errorf("volume: %+v", st)
	}
	must(t, unix.Lstat(data+"/h", &st))
	if st.Uid != 33 || st.Gid != 34 || st.Mode&0o7777 != 0o640 || st.Nlink != 2 {
		t.Errorf("file: %+v", st)
	}
	if _, err := os.Lstat(data + "/half"); err == nil {
		t.Error("the cut off copy is still there")
	}
	if l, err := os.Readlink(data + "/l"); err != nil || l != "/etc/passwd" {
		t.Error(l, err)
	}
	must(t, os.WriteFile(root+"/srv/www/new", nil, 0o644))
	must(t, r.CopyUp(ctx, model.Mount{Name: "www", Destination: "/srv/www"}, root))
	if _, err := os.Lstat(data + "/new"); err == nil {
		t.Error("copied into a volume that is not empty")
	}
	use(t, r, id, model.Mount{Name: "none"})
	must(t, r.CopyUp(ctx, model.Mount{Name: "none", Destination: "/not/there"}, root))
	// A symlink in the image cannot lead to the host.
	must(t, os.Symlink("/../../../../../../../../etc", root+"/evil"))
	must(t, r.CopyUp(ctx, model.Mount{Name: "none", Destination: "/evil"}, root))
	if names, _ := readDir(filepath.Join(dir, "none", "_data")); len(names) != 0 {
		t.Errorf("copied the host's /etc: %v", names)
	}
}

func TestUseAndRemoveAtOnce(t *testing.T) {
	var mu sync.Mutex
	counts := map[events.Action]int{}
	r, err := Open(Options{Dir: t.TempDir(), Publish: func(_ events.Type, a events.Action, _ string, _ map[string]string) {
		mu.Lock()
		counts[a]++
		mu.Unlock()
	}})
	must(t, err)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 20 {
				id := model.NewID()
				dir, err := r.Use(ctx, id, model.Mount{Name: "vol"})
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := os.Stat(dir); err != nil {
					t.Error("in use and gone:", err)
				}
				_ = r.Remove(ctx, "vol", false)
				_ = r.Unuse(ctx, id, nil, false)
				if err := r.Remove(ctx, "vol", true); err != nil && !errdefs.IsConflict(err) {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	must(t, r.Close())
	if counts[events.ActionCreate] == 0 || counts[events.ActionCreate]-counts[events.ActionDestroy] > 1 {
		t.Errorf("%v", counts)
	}
}
