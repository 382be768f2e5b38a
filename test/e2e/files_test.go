package e2e

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
)

func TestCopy(t *testing.T) {
	for _, state := range []string{"running", "stopped", "never started"} {
		t.Run(state, func(t *testing.T) {
			s := newScene(t)
			var id string
			if state == "never started" {
				id = s.ok("create", "busybox", "sleep", "1000")
			} else {
				id = s.idle()
				s.ok("exec", id, "sh", "-c", "mkdir -p /d/sub && echo a >/d/a && echo b >/d/sub/b && ln -s a /d/link && chown 33:33 /d/a")
				if state == "stopped" {
					s.ok("stop", "-t", "0", id)
				}
			}
			dir := t.TempDir()
			file := filepath.Join(dir, "file")
			if err := os.WriteFile(file, []byte("hello"), 0o640); err != nil {
				t.Fatal(err)
			}
			s.ok("cp", file, id+":/tmp/")
			s.ok("cp", id+":/tmp/file", filepath.Join(dir, "back"))
			if b, _ := os.ReadFile(filepath.Join(dir, "back")); string(b) != "hello" {
				t.Errorf("back: %q", b)
			}
			s.ok("cp", file, id+":/tmp/renamed")
			s.ok("cp", dir, id+":/tmp/tree")
			s.fails(1, "", "cp", file, id+":/no/such/dir/x")
			s.fails(1, "Could not find the file /no/such in container "+id, "cp", id+":/no/such", dir)
			s.fails(1, "No such container", "cp", "nonesuch:/x", dir)
			s.fails(1, "", "cp", dir, id+":/tmp/file")
			s.equal("to stdout", tarNames(t, s.docker("cp", id+":/tmp/tree", "-").Stdout), "tree/ tree/back tree/file")
			if state == "running" {
				s.equal("inside", s.ok("exec", id, "sh", "-c", "cat /tmp/renamed; stat -c %u:%g:%a /tmp/renamed"), "hello0:0:640")
			}
			if state != "never started" {
				s.ok("cp", id+":/d", filepath.Join(dir, "d"))
				if l, _ := os.Readlink(filepath.Join(dir, "d/link")); l != "a" {
					t.Errorf("link: %q", l)
				}
				s.ok("cp", "-L", id+":/d/link", filepath.Join(dir, "followed"))
				if b, _ := os.ReadFile(filepath.Join(dir, "followed")); string(b) != "a\n" {
					t.Errorf("followed link: %q", b)
				}
				h, err := tar.NewReader(strings.NewReader(s.docker("cp", id+":/d/a", "-").Stdout)).Next()
				if err != nil || h.Uid != 33 || h.Gid != 33 {
					t.Errorf("owner in the archive: %+v, %v; want 33:33", h, err)
				}
			}
		})
	}
}

// TestCopyStaysInside asks for a file through a link that points out of the
// container's root.
func TestCopyStaysInside(t *testing.T) {
	s := newScene(t)
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("host"), 0o644); err != nil {
		t.Fatal(err)
	}
	id := s.idle()
	s.ok("exec", id, "sh", "-c", "ln -s "+secret+" /out; ln -s / /rootdir; ln -s ../../../../../../../.. /up")
	s.fails(1, "", "cp", "-L", id+":/out", "-")
	s.fails(1, "", "cp", id+":/up"+secret, "-")
	s.fails(1, "", "cp", id+":/rootdir"+secret, "-")
	s.ok("stop", "-t", "0", id)
	s.fails(1, "", "cp", id+":/up"+secret, "-")
}

func tarNames(t *testing.T, s string) string {
	t.Helper()
	r := tar.NewReader(bytes.NewReader([]byte(s)))
	var names []string
	for {
		h, err := r.Next()
		if err != nil {
			break
		}
		names = append(names, h.Name)
	}
	sort.Strings(names)
	return strings.Join(names, " ")
}

func TestDiff(t *testing.T) {
	s := newScene(t)
	id := s.idle()
	s.ok("exec", id, "sh", "-c", "echo x >/new; rm /etc/group; echo y >>/etc/passwd; mkdir -p /d/e")
	want := "A /d\nA /d/e\nA /new\nC /etc\nC /etc/passwd\nD /etc/group"
	got := strings.Split(s.ok("diff", id), "\n")
	sort.Strings(got)
	s.equal("running", strings.Join(got, "\n"), want)
	s.ok("stop", "-t", "0", id)
	got = strings.Split(s.ok("diff", id), "\n")
	sort.Strings(got)
	s.equal("stopped", strings.Join(got, "\n"), want)
	s.fails(1, "No such container: nonesuch", "diff", "nonesuch")
}

func TestCommit(t *testing.T) {
	s := newScene(t)
	id := s.idle("-e", "A=1")
	s.ok("exec", id, "sh", "-c", "echo kept >/kept; chown 33:33 /kept; rm /etc/group")
	ref := "committed:" + s.name("x")
	t.Cleanup(func() { s.docker("rmi", "-f", ref) })
	image := s.ok("commit", "-a", "me", "-m", "why", "-c", "ENV B=2", "-c", `CMD ["cat","/kept"]`, "-c", "LABEL k=v", id, ref)
	s.contains("id", image, "sha256:")
	s.equal("runs", s.ok("run", "--rm", ref), "kept")
	s.equal("owner, deletion, environment", s.ok("run", "--rm", ref, "sh", "-c", "stat -c %u:%g /kept; test -e /etc/group || echo gone; echo $A$B"), "33:33\ngone\n12")
	s.equal("config", s.inspect(ref, "{{.Author}} {{.Comment}} {{.Config.Labels.k}}"), "me why v")
	s.contains("history", s.ok("history", ref), "why")
}

func TestExportImport(t *testing.T) {
	s := newScene(t)
	id := s.ok("run", "-d", "busybox", "sh", "-c", "echo kept >/kept; chown 33:33 /kept")
	s.ok("wait", id)
	file := filepath.Join(t.TempDir(), "root.tar")
	s.ok("export", "-o", file, id)
	ref := "imported:" + s.name("x")
	t.Cleanup(func() { s.docker("rmi", "-f", ref) })
	s.ok("import", "-c", "CMD cat /kept", "-m", "from a file", file, ref)
	s.equal("runs", s.ok("run", "--rm", ref), "kept")
	s.equal("owner", s.ok("run", "--rm", ref, "stat", "-c", "%u:%g", "/kept"), "33:33")
	running := s.idle()
	s.contains("running", tarNames(t, s.docker("export", running).Stdout), "bin/busybox")
}
