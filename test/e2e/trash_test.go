package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"wharf/internal/model"
)

// trash is what can come back.
func (s *scene) trash() model.TrashReport {
	s.Helper()
	resp, err := s.d.http().Get("http://wharf/wharf/v1/trash")
	if err != nil {
		s.Fatal(err)
	}
	defer resp.Body.Close()
	var rep model.TrashReport
	if err := json.NewDecoder(resp.Body).Decode(&rep); err != nil || resp.StatusCode != http.StatusOK {
		s.Fatalf("trash: %s, %v", resp.Status, err)
	}
	return rep
}

// wharfOK runs our own CLI, which must succeed.
func (s *scene) wharfOK(args ...string) string {
	s.Helper()
	r := s.wharf(args...)
	if r.Code != 0 {
		s.Fatalf("%s", r)
	}
	return r.out()
}

// An accidental rm -v, undone; Docker's clients see what they see of Docker.
func TestTrashUndo(t *testing.T) {
	s := newScene(t)
	name := s.name("db")
	id := s.ok("run", "-d", "--name", name, "-v", "/data", "busybox", "sh", "-c", "[ -e /y ] || { echo precious >/data/x; echo said; echo layer >/y; }; exec sleep 1000")
	s.until(name, "{{.State.Running}}", "true")
	deadline := time.Now().Add(busy)
	for s.docker("exec", name, "cat", "/y").out() != "layer" && time.Now().Before(deadline) {
		time.Sleep(20 * time.Millisecond)
	}
	volume := s.inspect(name, "{{(index .Mounts 0).Name}}")
	s.ok("rm", "-f", "-v", name)
	s.fails(1, "No such", "inspect", name)
	s.fails(1, "no such volume", "volume", "inspect", volume)
	s.fails(1, "No such container", "logs", id)
	s.equal("ps", s.ok("ps", "-aq", "--filter", "name="+name), "")

	other := s.idle("--name", name) // the name is free at once
	r := s.wharf("trash", "restore", name)
	if r.Code == 0 || !strings.Contains(r.Stderr, "--name") {
		t.Errorf("the name is taken: %s", r)
	}
	s.ok("rm", "-f", other)
	s.ok("create", "--name", name, "busybox")
	s.equal("restored", s.wharfOK("trash", "restore", "--name", name+"2", id[:12]), name+"2")
	s.equal("its id", s.inspect(name+"2", "{{.Id}}"), id)
	s.equal("its state", s.inspect(name+"2", "{{.State.Status}} {{.State.ExitCode}}"), "exited 137")
	s.contains("its log", s.ok("logs", name+"2"), "said")
	s.ok("start", name+"2")
	s.equal("its volume", s.ok("exec", name+"2", "cat", "/data/x"), "precious")
	s.equal("its layer", s.ok("exec", name+"2", "cat", "/y"), "layer")
}

// docker system prune by accident: containers, volumes, and the images too.
func TestTrashPrune(t *testing.T) {
	s := ownDaemon(t)
	s.ok("volume", "create", "named")
	s.ok("run", "--name", "job", "-v", "named:/n", "-v", "/anon", "busybox", "sh", "-c", "echo n >/n/f; echo a >/anon/f; echo l >/f")
	out := s.ok("system", "prune", "-af", "--volumes")
	s.contains("prune", out, "Deleted Containers:", "Deleted Images:", "Total reclaimed space:")
	s.ok("volume", "prune", "-af")
	s.equal("images", s.ok("images", "-q"), "")
	s.equal("volumes", s.ok("volume", "ls", "-q"), "")
	s.contains("df", s.ok("system", "df"), "Containers      0")
	if err := s.d.ask(); err != nil {
		t.Errorf("fsck with a full trash: %v", err)
	}
	s.wharfOK("trash", "restore", "job")
	s.ok("start", "-a", "job") // on layers of an image without a name
	for path, want := range map[string]string{"/n/f": "n", "/anon/f": "a", "/f": "l"} {
		tar := s.docker("cp", "job:"+path, "-")
		if !strings.Contains(tar.Stdout, want) {
			t.Errorf("%s is lost: %s", path, tar)
		}
	}
	s.ok("rm", "-v", "job")
	s.ok("volume", "rm", "named")
	s.contains("ls", s.wharfOK("trash", "ls"), "job", "named", "exited with code 0", "removed with container")
	s.contains("empty", s.wharfOK("trash", "empty", "-f"), "Deleted Containers:", "Deleted Volumes:")
	if rep := s.trash(); len(rep.Items) != 0 || rep.Size != 0 {
		t.Errorf("after emptying: %+v", rep)
	}
}

// The daemon dies in the middle of removals and restorations, again and
// again: each container is there or in the trash, whole.
func TestTrashKilled(t *testing.T) {
	s := ownDaemon(t)
	const n = 4
	for i := range n {
		s.ok("run", "--name", fmt.Sprint("c", i), "-v", "/data", "busybox", "sh", "-c", fmt.Sprintf("echo %d >/data/x; echo %d >/y", i, i))
	}
	rounds := 6
	if onMachines { // a look into each container is a boot
		rounds = 1
	}
	for range rounds {
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				name := fmt.Sprint("c", i)
				for range 3 {
					s.d.docker("rm", "-f", "-v", name)
					s.d.wharf("trash", "restore", "--type", "container", name)
				}
			})
		}
		time.Sleep(time.Duration(rand.IntN(250)) * time.Millisecond)
		if err := s.d.kill(); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		if err := s.d.start(); err != nil {
			t.Fatal(err)
		}
		s.allThere(n)
	}
	if err := s.d.ask(); err != nil {
		t.Error(err)
	}
	for i := range n {
		s.ok("rm", "-v", fmt.Sprint("c", i))
	}
}

// allThere restores what is in the trash and looks into every container.
func (s *scene) allThere(n int) {
	s.Helper()
	for i := range n {
		name := fmt.Sprint("c", i)
		if s.docker("inspect", name).Code != 0 {
			s.wharfOK("trash", "restore", "--type", "container", name)
		}
		for _, path := range []string{"/y", "/data/x"} {
			if tar := s.docker("cp", name+":"+path, "-"); !strings.Contains(tar.Stdout, fmt.Sprint(i, "\n")) {
				s.Fatalf("%s of %s: %s", path, name, tar)
			}
		}
	}
}

// The bounds hold: number (what went by itself has a share of its own), size,
// and a change of them while the daemon runs.
func TestTrashBounds(t *testing.T) {
	s := ownDaemon(t, "--trash-max-count", "5", "--trash-max-size", "8m")
	for i := range 6 {
		s.ok("run", "--rm", "busybox", "true")
		s.ok("create", "--name", fmt.Sprint("c", i), "busybox")
		s.ok("rm", fmt.Sprint("c", i))
	}
	s.eventually("the number is trimmed", func() bool { return s.kinds()["rm"] <= 5 && s.kinds()["--rm"] <= 1 })
	s.contains("the newest stay", s.wharfOK("trash", "ls", "-q", "--filter", "name=c5")+".", s.trash().Items[0].ID[:12])
	for i := range 3 {
		s.ok("run", "--name", fmt.Sprint("big", i), "busybox", "dd", "if=/dev/zero", "of=/f", "bs=1M", "count=3")
		s.ok("rm", fmt.Sprint("big", i))
	}
	s.eventually("the size is trimmed", func() bool { return s.weighed() <= 8<<20 })
	if r := s.wharf("trash", "restore", "big0"); r.Code == 0 {
		t.Errorf("the oldest is still there: %s", r)
	}
	s.wharfOK("trash", "restore", "big2")
	s.ok("rm", "big2")
}

// weighed is the size of the trash when all of it is known; else a large one.
func (s *scene) weighed() int64 {
	rep := s.trash()
	for _, it := range rep.Items {
		if it.Size < 0 {
			return 1 << 62
		}
	}
	return rep.Size
}

// kinds counts the containers in the trash by how they went.
func (s *scene) kinds() map[string]int {
	out := map[string]int{}
	for _, it := range s.trash().Items {
		out[it.How]++
	}
	return out
}

func (s *scene) eventually(what string, ok func() bool) {
	s.Helper()
	for deadline := time.Now().Add(busy); !ok(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.Errorf("not so: %s (%+v)", what, s.trash())
			return
		}
	}
}

// A disk that is nearly full: the trash goes, and is never the reason that
// somebody cannot write.
func TestTrashNearlyFullDisk(t *testing.T) {
	s := fullDaemon(t, "64m")
	free := func() string { return s.ok("run", "--rm", "busybox", "df", "-m", "/") }
	for i := range 5 {
		name := fmt.Sprint("f", i)
		// Most of the disk each: without the trash's going the second has no room.
		r := s.docker("run", "--name", name, "busybox", "dd", "if=/dev/zero", "of=/f", "bs=1M", "count=30")
		if r.Code != 0 {
			t.Fatalf("round %d: %s\n%s", i, r, free())
		}
		s.ok("rm", name)
		s.eventually("the trash is within a tenth of the disk", func() bool { return s.weighed() <= 7<<20 })
	}
}

// Two clients at once: one restores what another deletes. Whoever is first
// wins, whole.
func TestTrashTwoClients(t *testing.T) {
	s := newScene(t)
	for i := range 4 {
		name := s.name(fmt.Sprint(i))
		id := s.ok("create", "--name", name, "-v", "/data", "busybox")
		s.ok("rm", "-v", name)
		var wg sync.WaitGroup
		var restored, again result
		wg.Go(func() { restored = s.wharf("trash", "restore", id) })
		wg.Go(func() { s.wharf("trash", "empty", "-f", id) })
		wg.Go(func() { again = s.wharf("trash", "restore", id) })
		wg.Wait()
		there := s.docker("inspect", id).Code == 0
		if won := restored.Code == 0 || again.Code == 0; won != there || restored.Code == 0 && again.Code == 0 {
			t.Errorf("there: %v; %s; %s", there, restored, again)
		}
		if there {
			s.ok("start", "-a", id)
		}
	}
}

// Turned off, removal is what it is with Docker.
func TestTrashOff(t *testing.T) {
	s := ownDaemon(t, "--trash-max-age", "0")
	s.ok("create", "--name", "xx", "-v", "/data", "busybox")
	s.ok("rm", "-v", "xx")
	s.ok("volume", "create", "vv")
	s.ok("volume", "rm", "vv")
	s.contains("ls", s.wharfOK("trash", "ls"), "off")
	if r := s.wharf("trash", "restore", "xx"); r.Code == 0 || !strings.Contains(r.Stderr, "nothing in the trash") {
		t.Errorf("restore: %s", r)
	}
}
