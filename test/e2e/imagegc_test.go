package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestImageGC: on a disk that fills, what no container uses goes by itself.
func TestImageGC(t *testing.T) {
	s := smallDaemon(t, "64m", "--trash-max-age", "1h")
	stopped, gone := s.image("stopped"), s.image("gone")
	for _, ref := range []string{stopped, gone} {
		grown(s, "busybox", ref, strings.TrimPrefix(ref, s.label))
	}
	id := s.ok("create", "--network", "none", stopped, "true")
	s.ok("create", "--name", s.name("thrown"), "busybox", "true")
	s.ok("rm", s.name("thrown")) // into the trash
	big := s.image("big")
	cid := s.ok("create", "busybox", "true")
	file := t.TempDir() + "/zeros"
	if err := os.WriteFile(file, make([]byte, 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	s.ok("cp", file, cid+":/zeros")
	s.ok("commit", cid, big)
	s.ok("rm", cid)
	// Not before: on a busy machine an image goes before its container comes.
	s.reload(filepath.Join(s.d.dir, "daemon.json"), `{"image-gc-age": "1s", "image-gc-mark": "1m"}`)
	for end := time.Now().Add(2 * busy); s.docker("image", "inspect", big).Code == 0 || s.docker("image", "inspect", gone).Code == 0; {
		if time.Now().After(end) {
			t.Fatal("they stay")
		}
		time.Sleep(200 * time.Millisecond)
	}
	s.ok("image", "inspect", stopped)
	s.ok("start", id)
	s.contains("log", s.d.log(1<<20), "image removed by itself: the disk is past image-gc-mark")
	if r := s.wharf("trash", "restore", s.name("thrown")); r.Code != 0 {
		t.Error(r)
	}
}

// smallDaemon has its data root on a tmpfs of so many bytes, and the tests'
// own network, where their registries are.
func smallDaemon(t *testing.T, size string, args ...string) *scene {
	t.Helper()
	if notHere != "" {
		t.Skip(notHere)
	}
	skipOnMachines(t)
	t.Parallel()
	d, err := newDaemon("small", append([]string{"--bridge", "none"}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	return onTmpfs(t, d, size)
}
