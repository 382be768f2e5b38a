package archive

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"wharf/internal/model"
)

var (
	ctx    = context.Background()
	mapped = model.IDRange{Host: 1000000, Size: 65536}
	when   = time.Date(2020, 2, 3, 4, 5, 6, 789, time.UTC)
)

func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root, to change owners and make devices: sudo go test ./internal/archive/")
	}
}

// grow makes files in dir: "name/" a directory, "name -> target" a symlink,
// "name = other" a hard link, "name: text" a file.
func grow(t testing.TB, dir string, lines ...string) {
	t.Helper()
	for _, l := range lines {
		var err error
		if n, target, ok := strings.Cut(l, " -> "); ok {
			err = os.Symlink(target, filepath.Join(dir, n))
		} else if n, other, ok := strings.Cut(l, " = "); ok {
			err = os.Link(filepath.Join(dir, other), filepath.Join(dir, n))
		} else if n, text, ok := strings.Cut(l, ": "); ok {
			err = os.WriteFile(filepath.Join(dir, n), []byte(text), 0o644)
		} else {
			err = os.MkdirAll(filepath.Join(dir, l), 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// unroll lists a tar: "type name uid:gid mode link or content".
func unroll(t testing.TB, r io.Reader) []string {
	t.Helper()
	var got []string
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return got
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, strings.TrimSpace(fmt.Sprintf("%c %s %s%s", h.Typeflag, h.Name, h.Linkname, b)))
	}
}

func roll(t testing.TB, hs ...tar.Header) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range hs {
		body := h.PAXRecords["body"]
		delete(h.PAXRecords, "body")
		h.Size = int64(len(body))
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

func body(s string) map[string]string { return map[string]string{"body": s} }

func TestStat(t *testing.T) {
	dir := t.TempDir()
	grow(t, dir, "etc", "etc/passwd: x", "abs -> /etc/passwd", "climb -> ../../../etc/passwd", "sub", "sub/up -> ../etc", "loop -> loop", "dangling -> /no/thing")
	for _, c := range []struct{ path, name, link string }{
		{"/", "/", ""}, {"", "/", ""}, {"/etc", "etc", ""}, {"etc/", "etc", ""}, {"/etc/.", ".", ""},
		{"/abs", "abs", "/etc/passwd"}, {"/climb", "climb", "/etc/passwd"}, {"/sub/up", "up", "/etc"},
		{"/sub/up/", "up", ""}, {"/sub/up/passwd", "passwd", ""}, {"../../etc", "etc", ""}, {"/dangling", "dangling", "/no/thing"},
	} {
		st, err := New().Stat(ctx, model.Root{Dir: dir}, c.path)
		if err != nil || st.Name != c.name || st.LinkTarget != c.link {
			t.Errorf("%q: %+v, %v; want %q %q", c.path, st, err, c.name, c.link)
		}
	}
	for _, p := range []string{"/nope", "/etc/passwd/x", "/nope/x", "/dangling/"} {
		if _, err := New().Stat(ctx, model.Root{Dir: dir}, p); !errdefs.IsNotFound(err) {
			t.Errorf("%q: %v", p, err)
		}
	}
	for _, p := range []string{"/etc/passwd/", "/etc/passwd/.", "/abs/"} {
		if _, err := New().Stat(ctx, model.Root{Dir: dir}, p); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "not a directory") {
			t.Errorf("%q: %v", p, err)
		}
	}
	if _, err := New().Stat(ctx, model.Root{Dir: dir}, "/loop/"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("loop: %v", err)
	}
	st, err := New().Stat(ctx, model.Root{Dir: dir}, "/loop")
	if err != nil || st.Mode&fs.ModeSymlink == 0 {
		t.Errorf("loop itself: %+v, %v", st, err)
	}
}

func TestGetNames(t *testing.T) {
	dir := t.TempDir()
	grow(t, dir, "a", "a/b", "a/b/f: hello", "a/g = a/b/f", "a/l -> b/f", "to -> a/b")
	for _, c := range []struct {
		path string
		want []string
	}{
		{"/a/b/f", []string{"0 f hello"}},
		{"/a", []string{"5 a/", "5 a/b/", "0 a/b/f hello", "1 a/g a/b/f", "2 a/l b/f"}},
		{"/a/b/.", []string{"5 ./", "0 ./f hello"}},
		{"/a/b/./", []string{"5 ./", "0 ./f hello"}},
		{"/.", []string{"5 ./", "5 ./a/", "5 ./a/b/", "0 ./a/b/f hello", "1 ./a/g ./a/b/f", "2 ./a/l b/f", "2 ./to a/b"}},
		{"/to", []string{"2 to a/b"}},
		{"/to/", []string{"5 to/", "0 to/f hello"}},
		{"/", []string{"5 /", "5 /a/", "5 /a/b/", "0 /a/b/f hello", "1 /a/g /a/b/f", "2 /a/l b/f", "2 /to a/b"}},
	} {
		r, _, err := New().Get(ctx, model.Root{Dir: dir}, c.path)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(c.want, unroll(t, r)); d != "" {
			t.Errorf("%s: %s", c.path, d)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
	r, err := New().Export(ctx, model.Root{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if d := cmp.Diff([]string{"5 a/", "5 a/b/", "0 a/b/f hello", "1 a/g a/b/f", "2 a/l b/f", "2 to a/b"}, unroll(t, r)); d != "" {
		t.Error(d)
	}
}

// A tree with everything goes out of one root and into another and is the
// same, whatever ids either shows.
func TestRoundTrip(t *testing.T) {
	needRoot(t)
	for _, ids := range []model.IDRange{{}, mapped} {
		src, dst := t.TempDir(), t.TempDir()
		base := int(ids.Host)
		long := strings.Repeat("long", 60)
		grow(t, src, "d", "d/"+long, "d/f: text", "d/h = d/f", "d/l -> /nowhere/"+long)
		sparse, _ := os.Create(filepath.Join(src, "d/sparse"))
		_, _ = sparse.WriteAt([]byte("end"), 50<<20)
		sparse.Close()
		must(t, unix.Mkfifo(filepath.Join(src, "d/fifo"), 0o640))
		must(t, os.Lchown(filepath.Join(src, "d/l"), base+7, base+8))
		must(t, os.Lchown(filepath.Join(src, "d/f"), base+1000, base+1001))
		must(t, os.Chmod(filepath.Join(src, "d/f"), 0o751|fs.ModeSetuid))
		must(t, os.Lchown(filepath.Join(src, "d"), base, base))
		caps, _ := hex.DecodeString("0100000200040000000000000000000000000000")
		if ids.Mapped() {
			caps, _ = hex.DecodeString("010000030004000000000000000000000000000040420f00")
		}
		must(t, unix.Setxattr(filepath.Join(src, "d/f"), capXattr, caps, 0))
		must(t, os.Chtimes(filepath.Join(src, "d/f"), when, when))
		must(t, os.Chtimes(filepath.Join(src, "d"), when, when))
		r, _, err := New().Get(ctx, model.Root{Dir: src, IDs: ids}, "/d")
		must(t, err)
		// into the other kind of root
		to := mapped
		if ids.Mapped() {
			to = model.IDRange{}
		}
		must(t, New().Put(ctx, model.Root{Dir: dst, IDs: to}, "/", model.PutOptions{}, r))
		must(t, r.Close())
		var st unix.Stat_t
		must(t, unix.Lstat(filepath.Join(dst, "d/f"), &st))
		if st.Uid != to.Host+1000 || st.Gid != to.Host+1001 || st.Mode&0o7777 != 0o4751 || st.Nlink != 2 || st.Mtim.Nano() != when.UnixNano() {
			t.Errorf("f: %+v", st)
		}
		must(t, unix.Lstat(filepath.Join(dst, "d/l"), &st))
		if st.Uid != to.Host+7 {
			t.Errorf("l: %+v", st)
		}
		must(t, unix.Lstat(filepath.Join(dst, "d"), &st))
		if st.Mtim.Nano() != when.UnixNano() {
			t.Errorf("d: %+v", st.Mtim)
		}
		must(t, unix.Lstat(filepath.Join(dst, "d/sparse"), &st))
		if st.Size != 50<<20+3 || st.Blocks > 1000 {
			t.Errorf("sparse: %d bytes in %d blocks", st.Size, st.Blocks)
		}
		v := make([]byte, 64)
		n, err := unix.Getxattr(filepath.Join(dst, "d/f"), capXattr, v)
		if err != nil || to.Mapped() && (n != capSize3 || v[3] != 3) || !to.Mapped() && (n != capSize2 || v[3] != 2) {
			t.Errorf("capabilities %x, %v", v[:n], err)
		}
		if _, err := os.Lstat(filepath.Join(dst, "d", long)); err != nil {
			t.Error(err)
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestPutSemantics(t *testing.T) {
	needRoot(t)
	for _, c := range []struct {
		name, path string
		opts       model.PutOptions
		have       []string
		tar        []tar.Header
		want, err  string // what "find" prints after, or a part of the error
		is         func(error) bool
	}{
		{name: "file replaces symlink, not its target", path: "/", have: []string{"t: old", "l -> t"},
			tar: []tar.Header{{Name: "l", PAXRecords: body("new")}}, want: "l=new t=old"},
		{name: "file replaces directory", path: "/", have: []string{"d", "d/x: 1"},
			tar: []tar.Header{{Name: "d", PAXRecords: body("f")}}, want: "d=f"},
		{name: "unless it must not", path: "/", have: []string{"d", "d/x: 1"}, opts: model.PutOptions{NoOverwriteDirNonDir: true},
			tar: []tar.Header{{Name: "d", PAXRecords: body("f")}}, err: `cannot overwrite directory "/d" with non-directory`, is: errdefs.IsInvalidArgument},
		{name: "nor the other way", path: "/", have: []string{"d: 1"}, opts: model.PutOptions{NoOverwriteDirNonDir: true},
			tar: []tar.Header{{Name: "d/", Typeflag: tar.TypeDir}}, err: `cannot overwrite non-directory "/d" with directory`, is: errdefs.IsInvalidArgument},
		{name: "directories merge", path: "/", have: []string{"d", "d/x: 1"},
			tar: []tar.Header{{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o755}, {Name: "d/y", PAXRecords: body("2")}}, want: "d/ d/x=1 d/y=2"},
		{name: "into a symlink to a directory", path: "/l", have: []string{"real", "l -> /real"},
			tar: []tar.Header{{Name: "f", PAXRecords: body("1")}}, want: "l->/real real/ real/f=1"},
		{name: "parents are made", path: "/", tar: []tar.Header{{Name: "a/b/c", PAXRecords: body("1")}}, want: "a/ a/b/ a/b/c=1"},
		{name: "not a directory", path: "/f", have: []string{"f: 1"}, err: "extraction point is not a directory", is: errdefs.IsInvalidArgument},
		{name: "no such directory", path: "/nope", err: "Could not find the file /nope", is: errdefs.IsNotFound},
		{name: "whiteouts are plain names", path: "/", have: []string{"a: 1"}, tar: []tar.Header{{Name: ".wh.a"}}, want: ".wh.a= a=1"},
		{name: "climbing", path: "/", tar: []tar.Header{{Name: "../x"}}, err: "leads out", is: errdefs.IsInvalidArgument},
		{name: "climbing later", path: "/", tar: []tar.Header{{Name: "a/../../x"}}, err: "leads out", is: errdefs.IsInvalidArgument},
		{name: "absolute is relative", path: "/d", have: []string{"d"}, tar: []tar.Header{{Name: "/etc/x", PAXRecords: body("1")}}, want: "d/ d/etc/ d/etc/x=1"},
		{name: "hard link out", path: "/", tar: []tar.Header{{Name: "x", Typeflag: tar.TypeLink, Linkname: "../../etc/passwd"}}, err: "leads out", is: errdefs.IsInvalidArgument},
		{name: "hard link to nothing", path: "/", tar: []tar.Header{{Name: "x", Typeflag: tar.TypeLink, Linkname: "/etc/passwd"}}, err: "Could not find"},
		{name: "through a symlink out", path: "/", tar: []tar.Header{{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "/../../.."}, {Name: "l/x", PAXRecords: body("1")}},
			want: "l->/../../.. x=1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			grow(t, dir, c.have...)
			err := New().Put(ctx, model.Root{Dir: dir}, c.path, c.opts, roll(t, c.tar...))
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) || c.is != nil && !c.is(err) {
					t.Fatalf("got %v, want %q", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := find(t, dir); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func find(t testing.TB, dir string) string {
	t.Helper()
	var all []string
	_ = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		must(t, err)
		n, _ := filepath.Rel(dir, p)
		switch {
		case n == ".":
		case d.IsDir():
			all = append(all, n+"/")
		case d.Type()&fs.ModeSymlink != 0:
			l, _ := os.Readlink(p)
			all = append(all, n+"->"+l)
		default:
			b, _ := os.ReadFile(p)
			all = append(all, n+"="+string(b))
		}
		return nil
	})
	return strings.Join(all, " ")
}

func TestPutOwners(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	grow(t, dir, "etc", "etc/passwd: app:x:1234:1235::/:/bin/sh\n", "etc/group: app:x:1235:\n")
	root := model.Root{Dir: dir, IDs: mapped}
	must(t, New().Put(ctx, root, "/", model.PutOptions{CopyUIDGID: true, User: "app"}, roll(t, tar.Header{Name: "p/f", Uid: 5, Gid: 6})))
	must(t, New().Put(ctx, root, "/", model.PutOptions{}, roll(t, tar.Header{Name: "q/f", Uid: 99999, Gid: -1})))
	for name, want := range map[string][2]uint32{
		"p": {1001234, 1001235}, "p/f": {1001234, 1001235}, "q": {1000000, 1000000}, "q/f": {1065534, 1065534},
	} {
		var st unix.Stat_t
		must(t, unix.Lstat(filepath.Join(dir, name), &st))
		if st.Uid != want[0] || st.Gid != want[1] {
			t.Errorf("%s belongs to %d:%d, want %v", name, st.Uid, st.Gid, want)
		}
	}
	err := New().Put(ctx, root, "/", model.PutOptions{}, roll(t, tar.Header{Name: "null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}))
	if !errdefs.IsPermissionDenied(err) {
		t.Errorf("device into a mapped container: %v", err)
	}
	must(t, New().Put(ctx, model.Root{Dir: dir}, "/", model.PutOptions{}, roll(t, tar.Header{Name: "null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3})))
	if out := unix.Getuid(); out != 0 {
		t.Error("the process changed its ids")
	}
}

func TestBrokenTars(t *testing.T) {
	dir := t.TempDir()
	whole := roll(t, tar.Header{Name: "f", PAXRecords: body(strings.Repeat("x", 5000))}).Bytes()
	for name, in := range map[string][]byte{"cut off": whole[:3000], "noise": []byte(strings.Repeat("noise ", 200)), "bad gzip": {0x1f, 0x8b, 0, 0, 0, 0, 0, 0, 0, 0, 0}} {
		if err := New().Put(ctx, model.Root{Dir: dir}, "/", model.PutOptions{}, bytes.NewReader(in)); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	_, _ = w.Write(whole)
	w.Close()
	if os.Getuid() == 0 {
		must(t, New().Put(ctx, model.Root{Dir: dir}, "/", model.PutOptions{}, &z))
	}
	must(t, New().Put(ctx, model.Root{Dir: dir}, "/", model.PutOptions{}, bytes.NewReader(nil)))
}

func TestPutXz(t *testing.T) {
	needRoot(t)
	whole, err := os.ReadFile("testdata/hi.tar.xz")
	must(t, err)
	dir := t.TempDir()
	must(t, New().Put(ctx, model.Root{Dir: dir}, "/", model.PutOptions{}, bytes.NewReader(whole)))
	if b, err := os.ReadFile(filepath.Join(dir, "hi")); err != nil || string(b) != "hi\n" {
		t.Errorf("%q, %v", b, err)
	}
	for _, bad := range [][]byte{whole[:100], append(bytes.Clone(whole[:6]), 1, 2, 3, 4, 5, 6)} {
		if err := New().Put(ctx, model.Root{Dir: dir}, "/", model.PutOptions{}, bytes.NewReader(bad)); !errdefs.IsInvalidArgument(err) {
			t.Errorf("damaged: %v", err)
		}
	}
}

// A process inside exchanges a directory for a symlink as fast as it can.
// Nothing outside may be written or read.
func TestExchangeWhileCopying(t *testing.T) {
	needRoot(t)
	top := t.TempDir()
	dir, out := filepath.Join(top, "root"), filepath.Join(top, "outside")
	grow(t, top, "root", "root/d", "root/d/sub", "outside", "outside/sub", "outside/sub/secret: s")
	grow(t, dir, "l -> "+out)
	var stop atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		for !stop.Load() {
			_ = unix.Renameat2(unix.AT_FDCWD, dir+"/d", unix.AT_FDCWD, dir+"/l", unix.RENAME_EXCHANGE)
		}
	})
	for end := time.Now().Add(500 * time.Millisecond); time.Now().Before(end); {
		_ = New().Put(ctx, model.Root{Dir: dir}, "/", model.PutOptions{}, roll(t,
			tar.Header{Name: "d/sub/f", PAXRecords: body("1")}, tar.Header{Name: "d/g", PAXRecords: body("1")}, tar.Header{Name: "d/sub/h"}))
		r, _, err := New().Get(ctx, model.Root{Dir: dir}, "/d/")
		if err != nil {
			continue
		}
		b, _ := io.ReadAll(r)
		r.Close()
		if bytes.Contains(b, []byte("secret")) {
			t.Fatal("read a file outside of the root")
		}
	}
	stop.Store(true)
	wg.Wait()
	if got := find(t, out); got != "sub/ sub/secret=s" {
		t.Errorf("outside is now: %s", got)
	}
}

func TestCloseEndsTheCopying(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "big"), nil, 0o644))
	must(t, os.Truncate(filepath.Join(dir, "big"), 1<<40))
	before := fds(t)
	r, _, err := New().Get(ctx, model.Root{Dir: dir}, "/")
	must(t, err)
	_, err = io.CopyN(io.Discard, r, 1<<20)
	must(t, err)
	must(t, r.Close())
	if after := fds(t); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
	c, cancel := context.WithCancel(ctx)
	r, err = New().Export(c, model.Root{Dir: dir})
	must(t, err)
	cancel()
	if _, err := io.Copy(io.Discard, r); !errors.Is(err, context.Canceled) {
		t.Errorf("after cancel: %v", err)
	}
	must(t, r.Close())
}

func fds(t testing.TB) int {
	es, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(es)
}

func FuzzPut(f *testing.F) {
	f.Add(roll(f, tar.Header{Name: "../a"}, tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "/.."}).Bytes())
	f.Add(roll(f, tar.Header{Name: "d/", Typeflag: tar.TypeDir}, tar.Header{Name: "d/x", PAXRecords: map[string]string{paxXattr + "user.x": "y"}}).Bytes())
	f.Add(roll(f, tar.Header{Name: "f"}, tar.Header{Name: "h", Typeflag: tar.TypeLink, Linkname: "f"}).Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		top := t.TempDir()
		grow(t, top, "root", "canary: alive")
		_ = New().Put(ctx, model.Root{Dir: top + "/root"}, "/", model.PutOptions{NoDevices: true}, bytes.NewReader(b))
		es, err := os.ReadDir(top)
		must(t, err)
		if c, _ := os.ReadFile(top + "/canary"); string(c) != "alive" || len(es) != 2 {
			t.Fatalf("something outside of the root changed: %v", es)
		}
	})
}

// What is mounted in a root: an export has mount points only, a copy has
// volumes but nothing of the kernel's.
func TestMounts(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	grow(t, dir, "vol", "proc", "dev", "etc", "etc/hosts: image", "hosts: mounted")
	mount := func(src, to, typ string, flags uintptr) {
		to = filepath.Join(dir, to)
		must(t, unix.Mount(src, to, typ, flags, ""))
		t.Cleanup(func() { must(t, unix.Unmount(to, unix.MNT_DETACH)) })
	}
	mount("tmpfs", "vol", "tmpfs", 0)
	mount("tmpfs", "dev", "tmpfs", 0)
	mount("proc", "proc", "proc", 0)
	mount(filepath.Join(dir, "hosts"), "etc/hosts", "", unix.MS_BIND)
	grow(t, dir, "vol/f: 1", "dev/null: 1")
	r, err := New().Export(ctx, model.Root{Dir: dir})
	must(t, err)
	if d := cmp.Diff([]string{"5 dev/", "5 etc/", "0 etc/hosts", "0 hosts mounted", "5 proc/", "5 vol/"}, unroll(t, r)); d != "" {
		t.Error(d)
	}
	must(t, r.Close())
	r, _, err = New().Get(ctx, model.Root{Dir: dir, Name: "top"}, "/")
	must(t, err)
	if d := cmp.Diff([]string{"5 top/", "5 top/dev/", "5 top/etc/", "0 top/etc/hosts mounted", "0 top/hosts mounted", "5 top/proc/", "5 top/vol/", "0 top/vol/f 1"}, unroll(t, r)); d != "" {
		t.Error(d)
	}
	must(t, r.Close())
	// A file that is mounted is written into, a file of the kernel is not.
	must(t, New().Put(ctx, model.Root{Dir: dir}, "/etc", model.PutOptions{}, roll(t, tar.Header{Name: "hosts", PAXRecords: body("new")})))
	if b, _ := os.ReadFile(filepath.Join(dir, "hosts")); string(b) != "new" {
		t.Errorf("hosts: %s", b)
	}
	err = New().Put(ctx, model.Root{Dir: dir}, "/proc", model.PutOptions{}, roll(t, tar.Header{Name: "sysrq-trigger", PAXRecords: body("h")}))
	if !errdefs.IsPermissionDenied(err) {
		t.Errorf("written into /proc: %v", err)
	}
}

func TestSparseBomb(t *testing.T) {
	needRoot(t)
	if _, err := exec.LookPath("tar"); err != nil {
		t.Skip("needs GNU tar, to write sparse files")
	}
	src, dst := t.TempDir(), t.TempDir()
	must(t, os.WriteFile(src+"/f", []byte("x"), 0o644))
	must(t, os.Truncate(src+"/f", 2<<40))
	for _, format := range []string{"gnu", "pax"} {
		b, err := exec.Command("tar", "-C", src, "-S", "--format="+format, "-cf", "-", "f").Output()
		must(t, err)
		err = New().Put(ctx, model.Root{Dir: dst}, "/", model.PutOptions{}, bytes.NewReader(b))
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "sparse") {
			t.Errorf("%s: %d bytes: %v", format, len(b), err)
		}
	}
}
