package erofs

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// What the kernel shows of an EROFS image is the tree that it was made of.
func TestErofsAsMounted(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("this test mounts and needs root: run it as root (make test)")
	}
	dir := t.TempDir()
	src, at := filepath.Join(dir, "src"), filepath.Join(dir, "image")
	makeTree(t, src)
	f, err := os.Create(at)
	if err != nil {
		t.Fatal(err)
	}
	if err := Write(context.Background(), f, src); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	mnt := filepath.Join(dir, "mnt")
	if err := os.Mkdir(mnt, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mount", "-t", "erofs", "-o", "ro,loop", at, mnt).CombinedOutput(); err != nil {
		t.Skipf("this machine cannot mount EROFS from a file: %v %s", err, out)
	}
	defer func() {
		if err := unix.Unmount(mnt, 0); err != nil {
			t.Error(err)
		}
	}()
	want, got := listing(t, src), listing(t, mnt)
	for name, w := range want {
		if got[name] != w {
			t.Errorf("%s\n is %s\nwas %s", name, got[name], w)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d files of %d", len(got), len(want))
	}
}

// makeTree makes one of everything.
func makeTree(t *testing.T, dir string) {
	t.Helper()
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	p := func(name string) string { return filepath.Join(dir, name) }
	do(os.MkdirAll(p("many"), 0o755))
	do(os.MkdirAll(p("a/b/c/d"), 0o700))
	for i := range 700 { // more than a block of names
		do(os.WriteFile(p(fmt.Sprintf("many/%s-%d", strings.Repeat("n", i%200), i)), []byte(fmt.Sprint(i)), 0o644))
	}
	for _, size := range []int{0, 1, 4095, 4096, 4097, 100_000, 3 << 20} {
		do(os.WriteFile(p(fmt.Sprintf("size-%d", size)), bytes.Repeat([]byte("0123456789abcdef"), size/16+1)[:size], 0o640))
	}
	do(os.Truncate(p("size-100000"), 500_000)) // a hole at the end
	do(os.WriteFile(p("suid"), nil, 0o755))
	do(os.Chown(p("suid"), 70_000, 1234))
	do(unix.Chmod(p("suid"), 0o6755))
	do(unix.Chmod(p("a/b"), 0o1777))
	do(os.Symlink("size-1", p("link")))
	do(os.Symlink(strings.Repeat("long/", 300), p("long-link")))
	do(os.Lchown(p("link"), 5, 6))
	do(unix.Mknod(p("char"), unix.S_IFCHR|0o600, int(unix.Mkdev(5, 300))))
	do(unix.Mknod(p("block"), unix.S_IFBLK|0o660, int(unix.Mkdev(259, 70_000))))
	do(unix.Mkfifo(p("pipe"), 0o622))
	do(unix.Mknod(p("socket"), unix.S_IFSOCK|0o700, 0))
	do(os.Link(p("size-4097"), p("a/hard")))
	do(os.Link(p("size-4097"), p("a/b/harder")))
	do(unix.Setxattr(p("size-1"), "user.note", []byte("value"), 0))
	do(unix.Setxattr(p("size-1"), "user.empty", nil, 0))
	do(unix.Setxattr(p("suid"), "security.capability", []byte("\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0))
	do(unix.Setxattr(p("a"), "trusted.mine", bytes.Repeat([]byte("x"), 900), 0))
	old := []unix.Timespec{{Sec: 1, Nsec: 0}, {Sec: 1_000_000_001, Nsec: 123_456_789}}
	do(unix.UtimesNanoAt(unix.AT_FDCWD, p("size-1"), old, unix.AT_SYMLINK_NOFOLLOW))
}

// listing describes every file below dir. Names of hard links are told by the
// first of them.
func listing(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	first := map[uint64]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		text := fmt.Sprintf("mode %o owner %d:%d time %d.%d", st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			if first[st.Ino] == "" {
				first[st.Ino] = name
			}
			text += fmt.Sprintf(" links %d size %d sum %x same as %s", st.Nlink, st.Size, checksum(b), first[st.Ino])
		case unix.S_IFLNK:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			text += " to " + to
		case unix.S_IFDIR:
			text += fmt.Sprintf(" links %d", st.Nlink)
		default:
			text += fmt.Sprintf(" device %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		}
		attrs, err := attributes(path)
		if err != nil {
			return err
		}
		out[name] = text + fmt.Sprintf(" attributes %q", sorted(attrs))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func checksum(b []byte) (sum uint32) {
	for _, c := range b {
		sum = sum*31 + uint32(c)
	}
	return sum
}

// sorted is the encoded attributes in an order that does not depend on the
// file system's.
func sorted(b []byte) []string {
	var out []string
	for len(b) > attributeHeader {
		n := 4 + int(b[attributeHeader]) + int(le.Uint16(b[attributeHeader+2:]))
		n = (n + 3) / 4 * 4
		out = append(out, string(b[attributeHeader:attributeHeader+n]))
		b = append(b[:attributeHeader:attributeHeader], b[attributeHeader+n:]...)
	}
	slices.Sort(out)
	return out
}
