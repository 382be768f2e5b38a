package image

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// describeTree says everything of a tree that a layer can set.
func describeTree(t testing.TB, root string) map[string]string {
	t.Helper()
	out := map[string]string{}
	first := map[uint64]string{}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, p)
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		s := fmt.Sprintf("%o %d:%d", st.Mode, st.Uid, st.Gid)
		if time.Since(time.Unix(st.Mtim.Unix())) > time.Hour { // others are of directories without an entry
			s += fmt.Sprintf(" %d.%d", st.Mtim.Sec, st.Mtim.Nsec)
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			s += fmt.Sprintf(" %d %q", len(b), fmt.Sprintf("%.60s", b))
			if st.Nlink > 1 {
				if first[st.Ino] == "" {
					first[st.Ino] = rel
				}
				s += " =" + first[st.Ino]
			}
		case unix.S_IFLNK:
			l, _ := os.Readlink(p)
			s += " ->" + l
		case unix.S_IFCHR, unix.S_IFBLK:
			s += fmt.Sprintf(" dev %d", st.Rdev)
		}
		for _, x := range []string{"user.a", "security.capability", xattrOpaque} {
			v := make([]byte, 200)
			if n, err := unix.Lgetxattr(p, x, v); err == nil {
				s += fmt.Sprintf(" %s=%q", x, v[:n])
			}
		}
		out[rel] = s
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// richLayer has all that a layer may have, in unkind order.
func richLayer(t testing.TB) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	at := time.Unix(1_600_000_000, 123_000_000)
	put := func(h tar.Header, content string) {
		h.Size, h.ModTime, h.Format = int64(len(content)), at, tar.FormatPAX
		at = at.Add(time.Second)
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	put(tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755}, "")
	put(tar.Header{Name: "etc/", Typeflag: tar.TypeDir, Mode: 0o750, Uid: 5, Gid: 6}, "")
	put(tar.Header{Name: "etc/passwd", Typeflag: tar.TypeReg, Uid: 7}, "root:x:0:0\n")
	put(tar.Header{Name: "deep/er/than/entries", Typeflag: tar.TypeReg, Mode: 0o4755, Uid: 9}, strings.Repeat("x", 300<<10))
	put(tar.Header{Name: "abs", Typeflag: tar.TypeSymlink, Linkname: "/etc"}, "")
	put(tar.Header{Name: "abs/through", Typeflag: tar.TypeReg}, "by an absolute link")
	put(tar.Header{Name: "up", Typeflag: tar.TypeSymlink, Linkname: "../../../../etc"}, "")
	put(tar.Header{Name: "up/through2", Typeflag: tar.TypeReg}, "by a link that climbs")
	put(tar.Header{Name: "dangling", Typeflag: tar.TypeSymlink, Linkname: "/not/yet"}, "")
	put(tar.Header{Name: "dangling/file", Typeflag: tar.TypeReg}, "behind a dangling link")
	put(tar.Header{Name: "../../climbs", Typeflag: tar.TypeReg}, "by its name")
	put(tar.Header{Name: "hard", Typeflag: tar.TypeLink, Linkname: "etc/passwd", Uid: 7}, "")
	put(tar.Header{Name: "hard2", Typeflag: tar.TypeLink, Linkname: "/abs/passwd", Uid: 7}, "")
	put(tar.Header{Name: "hardsym", Typeflag: tar.TypeLink, Linkname: "abs"}, "")
	put(tar.Header{Name: "twice", Typeflag: tar.TypeReg}, "first")
	put(tar.Header{Name: "twice", Typeflag: tar.TypeReg}, "second")
	put(tar.Header{Name: "was/dir/file", Typeflag: tar.TypeReg}, "goes")
	put(tar.Header{Name: "was", Typeflag: tar.TypeReg}, "a file now")
	put(tar.Header{Name: "link", Typeflag: tar.TypeSymlink, Linkname: "etc"}, "")
	put(tar.Header{Name: "link", Typeflag: tar.TypeDir, Mode: 0o711}, "")
	put(tar.Header{Name: "link/in", Typeflag: tar.TypeReg}, "not in etc")
	put(tar.Header{Name: "fifo", Typeflag: tar.TypeFifo, Mode: 0o622}, "")
	put(tar.Header{Name: "null", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 3}, "")
	put(tar.Header{Name: "attr", Typeflag: tar.TypeReg, PAXRecords: map[string]string{"SCHILY.xattr.user.a": "v",
		"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"}}, "capable")
	put(tar.Header{Name: "attrlink", Typeflag: tar.TypeSymlink, Linkname: "x", PAXRecords: map[string]string{"SCHILY.xattr.user.a": "v"}}, "")
	put(tar.Header{Name: "sticky/", Typeflag: tar.TypeDir, Mode: 0o1777}, "")
	put(tar.Header{Name: "sticky/later", Typeflag: tar.TypeReg}, "changes its directory's time")
	put(tar.Header{Name: "long/" + strings.Repeat("n", 200), Typeflag: tar.TypeReg}, "a long name")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// Our extractor makes what containerd's makes.
func TestExtractAsContainerd(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: owners and devices")
	}
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	layers := map[string][]byte{"rich": richLayer(t)}
	if b, err := os.ReadFile(os.Getenv("WHARF_LAYER")); err == nil { // a whole root file system, by hand
		layers["given"] = b
	}
	for name, layer := range layers {
		ours, theirs := t.TempDir(), t.TempDir()
		if _, err := archive.Apply(t.Context(), theirs, bytes.NewReader(layer)); err != nil {
			t.Fatal(err)
		}
		if _, err := apply(t.Context(), ours, bytes.NewReader(layer)); err != nil {
			t.Fatal(err)
		}
		want, got := describeTree(t, theirs), describeTree(t, ours)
		delete(want, ".") // the root's own entry is ours to apply
		delete(got, ".")
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s (-containerd +ours):\n%s", name, d)
		}
		if _, err := os.Stat(filepath.Join(filepath.Dir(ours), "climbs")); !errors.Is(err, os.ErrNotExist) {
			t.Error("an entry climbed out of the root")
		}
	}
}

// No more directories stay open than allowed, and none afterwards.
func TestExtractManyDirectories(t *testing.T) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for i := range 3 * cachedDirs {
		if err := w.WriteHeader(&tar.Header{Name: fmt.Sprintf("d%d/f", i), Typeflag: tar.TypeReg, Mode: 0o644, Uid: os.Getuid(), Gid: os.Getgid()}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	before, _ := os.ReadDir("/proc/self/fd")
	if _, err := apply(t.Context(), t.TempDir(), &buf); err != nil {
		t.Fatal(err)
	}
	after, _ := os.ReadDir("/proc/self/fd")
	if len(after) > len(before)+5 { // others run beside
		t.Errorf("%d descriptors before, %d after", len(before), len(after))
	}
}

func BenchmarkExtract(b *testing.B) {
	layer, err := os.ReadFile(os.Getenv("WHARF_LAYER"))
	if err != nil {
		b.Skip("WHARF_LAYER=FILE.tar names no layer: ", err)
	}
	for _, who := range []string{"ours", "containerd"} {
		b.Run(who, func(b *testing.B) {
			for range b.N {
				dir := b.TempDir()
				if who == "ours" {
					_, err = apply(b.Context(), dir, bytes.NewReader(layer))
				} else {
					_, err = archive.Apply(b.Context(), dir, bytes.NewReader(layer))
				}
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// Whatever a layer says, nothing is made or changed outside of its directory.
func FuzzExtract(f *testing.F) {
	if os.Geteuid() != 0 {
		f.Skip("needs root: owners and devices")
	}
	f.Add(richLayer(f))
	for _, names := range [][2]string{{"a", "../../outside"}, {"..", "/"}, {"a/../..", "x"}, {".", "."}} {
		var buf bytes.Buffer
		w := tar.NewWriter(&buf)
		for _, h := range []tar.Header{
			{Name: names[0], Typeflag: tar.TypeSymlink, Linkname: names[1]},
			{Name: names[0] + "/file", Typeflag: tar.TypeReg, Mode: 0o644},
			{Name: names[1], Typeflag: tar.TypeDir, Mode: 0o700},
			{Name: "hard", Typeflag: tar.TypeLink, Linkname: names[0] + "/../../sentinel"},
			{Name: names[0] + "/.wh.sentinel", Typeflag: tar.TypeReg},
			{Name: names[1] + "/.wh..wh..opq", Typeflag: tar.TypeReg},
		} {
			if err := w.WriteHeader(&h); err != nil {
				f.Fatal(err)
			}
		}
		_ = w.Close()
		f.Add(buf.Bytes())
	}
	f.Fuzz(func(t *testing.T, layer []byte) {
		outer := t.TempDir()
		root := filepath.Join(outer, "in", "root")
		if err := errors.Join(os.MkdirAll(root, 0o700), os.WriteFile(filepath.Join(outer, "sentinel"), []byte("s"), 0o600), os.WriteFile(filepath.Join(outer, "in", "sentinel"), []byte("s"), 0o600)); err != nil {
			t.Fatal(err)
		}
		look := func() map[string]string {
			all := describeTree(t, outer)
			for name := range all {
				if strings.HasPrefix(name, "in/root/") || name == "in/root" {
					delete(all, name)
				}
			}
			return all
		}
		before := look()
		_, _ = apply(t.Context(), root, bytes.NewReader(layer))
		if d := cmp.Diff(before, look()); d != "" {
			t.Errorf("outside of the root (-before +after):\n%s", d)
		}
	})
}
