package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestMachineDisk: a volume that is a disk (type=block), and an image mount, in
// a machine: filled from the image, exclusive also after the daemon was killed,
// read and written while nobody runs, handed on to the next machine.
func TestMachineDisk(t *testing.T) {
	machines(t)
	s := ownDaemon(t)
	volume, copied := s.name("disk"), s.name("copy")
	s.fails(1, "size", "volume", "create", "--opt", "type=block", volume)
	s.ok("volume", "create", "--opt", "type=block", "--opt", "size=128m", volume)
	s.fails(1, "--isolation vm", "create", "-v", volume+":/v", "busybox")
	id := s.slow("run", "-d", "--isolation", "vm", "-v", volume+":/etc", "--mount", "type=image,src=busybox,dst=/img,image-subpath=bin", "busybox",
		"sh", "-c", "echo mine >/etc/mine; sleep 1000")
	got := s.slow("exec", id, "sh", "-c", "until [ -e /etc/mine ]; do sleep 1; done; grep -c root: /etc/passwd; cat /etc/mine; ls /img/sh; touch /img/x 2>&1; mount | grep -E ' /(etc|img) '; ls -d /etc/lost+found || true")
	s.contains("inside", got, "1\nmine\n/img/sh\n", "Read-only file system", "on /etc type ext4 (rw", "on /img type erofs (ro")
	if strings.Contains(got, "\n/etc/lost+found") {
		t.Errorf("the file system's own directory is in the volume: %s", got)
	}
	dir := t.TempDir()
	file := func(name, text string) string {
		at := filepath.Join(dir, name)
		if err := os.WriteFile(at, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return at
	}
	s.slow("cp", file("put", "put\n"), id+":/etc/put")
	next := s.ok("create", "--isolation", "vm", "-v", volume+":/v", "busybox", "cat", "/v/mine", "/v/put", "/v/later")
	if err := s.d.kill(); err != nil {
		t.Fatal(err)
	}
	if err := s.d.start(); err != nil {
		t.Fatal(err)
	}
	s.fails(1, "container "+id[:12]+" has it", "start", next)
	s.fails(1, "has it", "cp", next+":/v/put", dir)
	if r := s.wharf("volume", "export", volume); r.Code == 0 || !strings.Contains(r.Stderr, "has it") {
		t.Errorf("export while a machine has the disk: %s", r)
	}
	s.slow("stop", "-t", "30", id)
	s.slow("cp", id+":/etc/put", filepath.Join(dir, "back"))
	if text, _ := os.ReadFile(filepath.Join(dir, "back")); string(text) != "put\n" {
		t.Errorf("copied out of the disk of one that does not run: %q", text)
	}
	s.slow("cp", file("later", "later\n"), next+":/v/later")
	out := filepath.Join(dir, "export.tar")
	if r := s.wharf("volume", "export", "-o", out, volume); r.Code != 0 {
		t.Fatalf("%s", r)
	}
	data, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"mine": "mine\n", "put": "put\n", "later": "later\n"} {
		s.equal("exported "+name, tarFile(data, name), want)
	}
	if r := s.wharf("volume", "clone", "--size", "256m", volume, copied); r.Code != 0 {
		t.Errorf("%s", r)
	}
	s.equal("the next machine", s.slow("start", "-a", next), "mine\nput\nlater")
	s.ok("rm", "-f", next, id)
	s.ok("volume", "rm", volume, copied)
}
