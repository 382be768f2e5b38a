package volume

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/volume"
	"golang.org/x/sys/unix"

	"wharf/internal/archive"
	"wharf/internal/model"
)

// tree makes a volume with everything that a copy could lose.
func tree(t testing.TB, r *Room, name string) string {
	t.Helper()
	v, err := r.Create(ctx, volume.CreateRequest{Name: name, Labels: map[string]string{"l": "v"}})
	must(t, err)
	p := v.Mountpoint
	must(t, os.MkdirAll(p+"/d/e", 0o2750))
	must(t, os.Chmod(p+"/d", 0o2750))
	must(t, os.WriteFile(p+"/d/file", bytes.Repeat([]byte("text"), 100<<10), 0o640))
	must(t, os.Chown(p+"/d/file", 1000, 2000))
	must(t, os.Link(p+"/d/file", p+"/z-link"))
	must(t, os.Symlink("/etc/passwd", p+"/sym"))
	must(t, os.Lchown(p+"/sym", 5, 6))
	must(t, unix.Mkfifo(p+"/fifo", 0o600))
	f, err := os.Create(p + "/holes")
	must(t, err)
	_, err = f.WriteAt([]byte("end"), 50<<20)
	must(t, err)
	must(t, f.Truncate(60<<20))
	must(t, f.Close())
	must(t, unix.Setxattr(p+"/d/file", "user.note", []byte("x"), 0))
	must(t, unix.Setxattr(p+"/d", "system.posix_acl_default", []byte("\x02\x00\x00\x00\x01\x00\x07\x00\xff\xff\xff\xff\x04\x00\x05\x00\xff\xff\xff\xff\x20\x00\x05\x00\xff\xff\xff\xff"), 0))
	must(t, os.Chown(p, 70, 70))
	must(t, os.Chmod(p, 0o700))
	return p
}

// same compares two trees in all that Lstat and the attributes say.
func same(t testing.TB, want, got string) {
	t.Helper()
	n := 0
	must(t, filepath.Walk(want, func(p string, _ os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(want, p)
		q := filepath.Join(got, rel)
		var a, b unix.Stat_t
		must(t, unix.Lstat(p, &a))
		if err := unix.Lstat(q, &b); err != nil {
			t.Errorf("%s: %v", rel, err)
			return nil
		}
		n++
		if a.Uid != b.Uid || a.Gid != b.Gid || a.Mode != b.Mode || a.Mtim != b.Mtim || a.Nlink != b.Nlink || a.Mode&unix.S_IFMT != unix.S_IFDIR && a.Size != b.Size || b.Blocks > a.Blocks+600 {
			t.Errorf("%s: %+v, want %+v", rel, b, a)
		}
		if a.Mode&unix.S_IFMT == unix.S_IFREG {
			x, _ := os.ReadFile(p)
			y, _ := os.ReadFile(q)
			if !bytes.Equal(x, y) {
				t.Errorf("%s: other content", rel)
			}
		}
		return nil
	}))
	if n < 8 {
		t.Errorf("only %d files compared", n)
	}
	val := make([]byte, 64)
	if k, err := unix.Getxattr(got+"/d/file", "user.note", val); err != nil || string(val[:k]) != "x" {
		t.Errorf("attribute: %q %v", val[:max(k, 0)], err)
	}
}

func room(t testing.TB, dir string) *Room {
	t.Helper()
	r, err := Open(Options{Dir: dir, Archives: archive.New()})
	must(t, err)
	t.Cleanup(func() { _ = r.Close() })
	return r
}

func TestCloneAndSnapshots(t *testing.T) {
	needRoot(t)
	for name, dir := range map[string]string{"here": t.TempDir(), "xfs with reflink": loop(t, "loop", "mkfs.xfs", "-q", "-m", "reflink=1")} {
		t.Run(name, func(t *testing.T) {
			if dir == "" {
				t.Skip("no loop device, or no mkfs.xfs: apt-get install xfsprogs")
			}
			r := room(t, filepath.Join(dir, "volumes"))
			src := tree(t, r, "src")
			var told int64
			v, err := r.Clone(ctx, model.VolumeClone{Source: "src", Name: "copy", Labels: map[string]string{"a": "b"}}, func(m any) { told = m.(model.VolumeProgress).Bytes })
			must(t, err)
			if v.Name != "copy" || v.Labels["a"] != "b" || len(v.Labels) != 1 || told < 400<<10 {
				t.Errorf("%+v, %d bytes told", v, told)
			}
			same(t, src, v.Mountpoint)
			k := make([]byte, 64)
			if _, err := unix.Getxattr(v.Mountpoint+"/d", "system.posix_acl_default", k); err != nil {
				t.Errorf("access list: %v", err)
			}
			snapshots(t, r, src)
		})
	}
}

func snapshots(t *testing.T, r *Room, src string) {
	s, err := r.Snapshot(ctx, "src", "first", []string{"box"}, nil)
	must(t, err)
	must(t, os.WriteFile(src+"/later", nil, 0o600))
	if _, err := r.Snapshot(ctx, "src", "first", nil, nil); !errdefs.IsConflict(err) {
		t.Error(err)
	}
	_, err = r.Snapshot(ctx, "src", "", nil, nil)
	must(t, err)
	all, err := r.Snapshots(ctx, "")
	must(t, err)
	if len(all) != 2 || !all[0].Created.Equal(s.Created) || all[0].Paused[0] != "box" || all[0].Size <= 0 || all[0].Volume != "src" {
		t.Errorf("%+v", all)
	}
	v, err := r.Clone(ctx, model.VolumeClone{Source: "src", Snapshot: "first", Name: "of-first"}, nil)
	must(t, err)
	if _, err := os.Stat(v.Mountpoint + "/later"); err == nil {
		t.Error("the snapshot has what came later")
	}
	busy := errors.New("busy")
	if err := r.RestoreSnapshot(ctx, "src", "first", func() error { return busy }, nil); !errors.Is(err, busy) {
		t.Error(err)
	}
	before := len(measured(t, r))
	must(t, r.RestoreSnapshot(ctx, "src", "first", nil, nil))
	if _, err := os.Stat(src + "/later"); err == nil {
		t.Error("not restored")
	}
	same(t, v.Mountpoint, src)
	got := measured(t, r)
	if len(got) != before+1 || got[len(got)-1].Name != "src" {
		t.Fatalf("the replaced data are not in the trash: %+v", got)
	}
	back, err := r.RestoreTrashed(ctx, got[len(got)-1].ID, "undone")
	must(t, err)
	if _, err := os.Stat(back.Mountpoint + "/later"); err != nil {
		t.Error(err)
	}
	must(t, r.RemoveSnapshot(ctx, "src", "first"))
	if err := r.RemoveSnapshot(ctx, "src", "first"); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	for _, bad := range []string{"../src", "", "nope"} {
		if err := r.RestoreSnapshot(ctx, "src", bad, nil, nil); !errdefs.IsNotFound(err) && !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	got = measured(t, r)
	if got[len(got)-1].Name != "src-first" {
		t.Errorf("%+v", got)
	}
	must(t, r.Remove(ctx, "src", false)) // with the snapshot that is left
	got = measured(t, r)
	_, err = r.RestoreTrashed(ctx, got[len(got)-1].ID, "src")
	must(t, err)
	if all, _ := r.Snapshots(ctx, "src"); len(all) != 1 {
		t.Errorf("%+v", all)
	}
}

// A copy that is given up leaves nothing, and a volume that is being copied
// is not removed.
func TestCloneGivenUp(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	r := room(t, dir)
	tree(t, r, "src")
	c, cancel := context.WithCancel(ctx)
	in, err := r.Export(c, "src", "")
	must(t, err)
	if err := r.Remove(ctx, "src", false); !errdefs.IsConflict(err) || !strings.Contains(err.Error(), "export") {
		t.Error(err)
	}
	cancel()
	_, err = io.ReadAll(in)
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	must(t, in.Close())
	if _, err := r.Clone(c, model.VolumeClone{Source: "src", Name: "copy"}, nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := r.Snapshot(c, "src", "s1", nil, nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := r.Clone(ctx, model.VolumeClone{Source: "src", Name: "src"}, nil); !errdefs.IsConflict(err) {
		t.Error(err)
	}
	must(t, r.Close())
	left, _ := os.ReadDir(dir)
	if len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
	must(t, r.Remove(ctx, "src", false))
}

func TestExportImport(t *testing.T) {
	needRoot(t)
	r := room(t, t.TempDir())
	src := tree(t, r, "src")
	export := func() io.ReadCloser {
		in, err := r.Export(ctx, "src", "")
		must(t, err)
		return in
	}
	in := export()
	v, err := r.Import(ctx, model.VolumeImport{Name: "new", Labels: map[string]string{"a": "b"}}, in, nil)
	must(t, err)
	must(t, in.Close())
	same(t, src, v.Mountpoint)
	if d := cmp.Diff(map[string]string{"a": "b"}, v.Labels); d != "" {
		t.Error(d)
	}
	for _, c := range []struct {
		q    model.VolumeImport
		text string
	}{
		{model.VolumeImport{Name: "new"}, "not empty"},
		{model.VolumeImport{Name: "x/y"}, "includes invalid"},
		{model.VolumeImport{Name: "other", Options: map[string]string{"type": "nfs"}}, "option type"},
	} {
		if _, err := r.Import(ctx, c.q, strings.NewReader(""), nil); err == nil || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%+v: %v", c.q, err)
		}
	}
	empty, err := r.Create(ctx, volume.CreateRequest{Name: "empty", Labels: map[string]string{"k": "kept"}})
	must(t, err)
	in = export()
	v, err = r.Import(ctx, model.VolumeImport{Name: "empty"}, in, nil)
	must(t, err)
	must(t, in.Close())
	same(t, src, empty.Mountpoint)
	if v.Labels["k"] != "kept" {
		t.Errorf("%+v", v)
	}
}

// What leads out, or ends in the middle, leaves no volume.
func TestImportRefuses(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	r := room(t, dir)
	for _, script := range []string{
		`cd $0 && mkdir in && echo x >out && cd in && tar -P -cf - ../out`,
		`cd $0 && mkdir d2 && ln -s / d2/l && tar -C d2 -cf - l && exit 0`, // harmless: only a link
		`cd $0 && head -c 100000 /dev/zero >f && tar -cf - f | head -c 50000`,
		`cd $0 && mknod dev c 1 3 && tar -cf - dev`,
	} {
		tar, _ := exec.Command("sh", "-c", script, t.TempDir()).Output()
		_, err := r.Import(ctx, model.VolumeImport{Name: "bad"}, bytes.NewReader(tar), nil)
		if strings.Contains(script, "harmless") || strings.Contains(script, "ln -s") {
			must(t, err)
			must(t, r.Remove(ctx, "bad", false))
			continue
		}
		if err == nil {
			t.Errorf("%s: no error", script)
		}
	}
	// A link first, and then what would be behind it.
	out := t.TempDir()
	tar, err := exec.Command("sh", "-c", `cd $0 && ln -s $1 l && tar -cf t l && rm l && mkdir l && echo bad >l/new && tar -rf t l/new && cat t`, t.TempDir(), out).Output()
	must(t, err)
	_, err = r.Import(ctx, model.VolumeImport{Name: "bad"}, bytes.NewReader(tar), nil)
	if names, _ := os.ReadDir(out); len(names) != 0 {
		t.Errorf("written through a link: %v, and the error is %v", names, err)
	}
	if err == nil {
		must(t, r.Remove(ctx, "bad", false))
	}
	must(t, r.Close())
	if _, err := os.Stat(filepath.Join(dir, "bad")); err == nil {
		t.Error("a volume was made")
	}
	if left, _ := filepath.Glob(dir + "/" + newPrefix + "*"); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// loop mounts a new file system; "" when that cannot be had.
func loop(t testing.TB, options string, mkfs ...string) string {
	t.Helper()
	img, dir := filepath.Join(t.TempDir(), "img"), t.TempDir()
	must(t, os.WriteFile(img, nil, 0o600))
	must(t, os.Truncate(img, 400<<20))
	if out, err := exec.Command(mkfs[0], append(mkfs[1:], img)...).CombinedOutput(); err != nil {
		t.Logf("%v: %v %s", mkfs, err, out)
		return ""
	}
	if out, err := exec.Command("mount", "-o", options, img, dir).CombinedOutput(); err != nil {
		t.Logf("mount: %v %s", err, out)
		return ""
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
			_ = unix.Unmount(dir, unix.MNT_DETACH)
		}
	})
	return dir
}
