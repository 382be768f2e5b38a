package archive

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"wharf/internal/model"
)

// A tree with holes, links, attributes and owners comes back as it was, from
// our own reader and from tar(1).
func TestTree(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to change owners: sudo go test ./internal/archive/")
	}
	src := filepath.Join(t.TempDir(), "src")
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	long := strings.Repeat("long-name-", 15)
	check(os.MkdirAll(filepath.Join(src, "d", long), 0o750))
	check(os.Chown(src, 70, 71))
	check(os.Chmod(src, 0o2770))
	holes, err := os.OpenFile(filepath.Join(src, "d", long, "holes"), os.O_CREATE|os.O_RDWR, 0o640)
	check(err)
	_, err = holes.WriteAt([]byte("first"), 1<<20)
	check(err)
	_, err = holes.WriteAt([]byte("second"), 300<<20)
	check(err)
	check(holes.Truncate(1<<30 + 7))
	check(holes.Chown(1234, 2345))
	check(unix.Setxattr(holes.Name(), "user.note", []byte("a\nb=c"), 0))
	check(holes.Close())
	check(os.Link(holes.Name(), filepath.Join(src, "z-link")))
	nothing, err := os.Create(filepath.Join(src, "only-a-hole"))
	check(err)
	check(nothing.Truncate(10 << 20))
	check(nothing.Close())
	check(os.WriteFile(filepath.Join(src, "plain"), bytes.Repeat([]byte("x"), 1000), 0o600))
	old := time.Unix(1_000_000_000, 123456789)
	for _, p := range []string{holes.Name(), filepath.Join(src, "only-a-hole"), src} {
		check(os.Chtimes(p, old, old))
	}

	in, err := New().Tree(context.Background(), model.Root{Dir: src})
	check(err)
	data, err := io.ReadAll(in)
	check(err)
	check(in.Close())
	if len(data) > 1<<20 {
		t.Errorf("the holes travel: %d bytes", len(data))
	}
	ours := t.TempDir()
	check(New().Put(context.Background(), model.Root{Dir: ours}, "/", model.PutOptions{Top: true}, bytes.NewReader(data)))
	theirs := t.TempDir()
	cmd := exec.Command("tar", "-C", theirs, "--xattrs", "-xpf", "-")
	cmd.Stdin = bytes.NewReader(data)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("tar: %v\n%s", err, out)
	}
	for _, dst := range []string{ours, theirs} {
		for _, p := range []string{"", "d", "d/" + long, "d/" + long + "/holes", "z-link", "only-a-hole", "plain"} {
			var a, b unix.Stat_t
			check(unix.Lstat(filepath.Join(src, p), &a))
			check(unix.Lstat(filepath.Join(dst, p), &b))
			if a.Uid != b.Uid || a.Gid != b.Gid || a.Mode != b.Mode || a.Mtim != b.Mtim || a.Nlink != b.Nlink || a.Mode&unix.S_IFMT == unix.S_IFREG && a.Size != b.Size || b.Blocks > a.Blocks+600 {
				t.Errorf("%s: %+v, want %+v", p, b, a)
			}
		}
		f, err := os.Open(filepath.Join(dst, "z-link"))
		check(err)
		got := make([]byte, 6)
		_, err = f.ReadAt(got, 300<<20)
		check(err)
		_ = f.Close()
		val := make([]byte, 100)
		n, err := unix.Getxattr(f.Name(), "user.note", val)
		if string(got) != "second" || err != nil || string(val[:n]) != "a\nb=c" {
			t.Errorf("%s: %q, %q %v", dst, got, val[:n], err)
		}
	}
}
