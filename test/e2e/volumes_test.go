package e2e

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// own runs our CLI, which must succeed.
func (s *scene) own(args ...string) string {
	s.Helper()
	r := s.wharf(args...)
	if r.Code != 0 {
		s.Fatalf("%s", r)
	}
	return r.out()
}

// refused runs our CLI, which must fail and say text.
func (s *scene) refused(text string, args ...string) {
	s.Helper()
	if r := s.wharf(args...); r.Code == 0 || !strings.Contains(r.Stderr, text) {
		s.Errorf("want an error with %q from %s", text, r)
	}
}

// volumeOf makes a volume of the scene's own, which goes with it.
func (s *scene) volumeOf(suffix string, options ...string) string {
	s.Helper()
	name := s.name(suffix)
	s.ok(append(append([]string{"volume", "create"}, options...), name)...)
	s.forget(name)
	return name
}

func (s *scene) forget(name string) {
	s.Cleanup(func() { s.d.docker("volume", "rm", "-f", name) })
}

// in runs a shell in a container that has the volume at /v.
func (s *scene) in(volume, script string) string {
	s.Helper()
	return s.ok("run", "--rm", "-v", volume+":/v", "-w", "/v", "busybox", "sh", "-c", script)
}

const fill = `echo one >a; ln a hard; ln -s /etc/passwd sym; mkdir -m 2750 d; echo two >d/b; chown 1000:2000 d d/b; chmod 640 d/b; dd if=/dev/zero of=hole bs=1 count=1 seek=99999999 2>/dev/null; chown 70:70 .; chmod 700 .`
const show = `stat -c '%n %F %a %u:%g %h %s' . a hard sym d/b hole; stat -c '%n %a %u' d; cat a d/b; readlink sym; [ $(stat -c %b hole) -lt 1000 ] && echo holes`

func TestVolumeCopies(t *testing.T) {
	s := newScene(t)
	src := s.volumeOf("src", "--label", "a=b")
	s.in(src, fill)
	want := s.in(src, show)
	s.contains("source", want, "d/b regular file 640 1000:2000 1 4", "holes")

	clone := s.name("clone")
	s.forget(clone)
	s.equal("name", s.own("volume", "clone", "--label", "c=d", src, clone), clone)
	s.equal("clone", s.in(clone, show), want)
	s.equal("labels", s.ok("volume", "inspect", "-f", "{{json .Labels}}", clone), `{"c":"d"}`)
	s.refused("a volume of that name exists", "volume", "clone", src, clone)
	s.refused("no such volume", "volume", "clone", s.name("nonesuch"), s.name("x"))

	file := filepath.Join(t.TempDir(), "v.tar")
	s.own("volume", "export", "-o", file, src)
	if fi, err := os.Stat(file); err != nil || fi.Size() > 1<<20 {
		t.Errorf("%v %v", fi, err)
	}
	imported := s.name("imported")
	s.forget(imported)
	s.own("volume", "import", "-i", file, imported)
	s.equal("imported", s.in(imported, show), want)
	s.refused("is not empty", "volume", "import", "-i", file, imported)
	empty := s.volumeOf("empty", "--label", "kept=yes")
	s.own("volume", "import", "-i", file, empty)
	s.equal("filled", s.in(empty, show), want)
	s.equal("its labels", s.ok("volume", "inspect", "-f", "{{.Labels.kept}}", empty), "yes")

	evil := filepath.Join(t.TempDir(), "evil.tar")
	dir := t.TempDir()
	if out, err := exec.Command("sh", "-c", "cd "+dir+" && mkdir in && echo x >out && cd in && tar -P -cf "+evil+" ../out").CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	s.refused("leads out", "volume", "import", "-i", evil, s.name("evil"))
	s.fails(1, "no such volume", "volume", "inspect", s.name("evil"))
	s.contains("usage", s.own("volume", "usage", src), src, "100MB")
}

func TestVolumeSnapshots(t *testing.T) {
	s := newScene(t)
	v := s.volumeOf("v")
	box := s.running("--name", s.name("writer"), "-v", v+":/v", "busybox", "sh", "-c", "i=0; while :; do i=$((i+1)); echo $i >/v/x; echo $i >/v/y; done")
	s.ok("exec", box, "sh", "-c", "until [ -e /v/y ]; do sleep 0.01; done")
	for i := range 5 { // of one moment: y never runs ahead of x, and never lags by two
		name := "s" + itoa(int64(i))
		s.own("volume", "snapshot", "--pause", "--name", name, v)
		clone := s.name("of" + itoa(int64(i)))
		s.forget(clone)
		s.own("volume", "clone", "--snapshot", name, v, clone)
		s.equal("of one moment", s.in(clone, `[ -s x ] && [ -s y ] || { echo ok; exit; }; d=$(($(cat x) - $(cat y))); [ $d = 0 ] || [ $d = 1 ] && echo ok || echo $d`), "ok")
	}
	s.equal("goes on", s.inspect(box, "{{.State.Status}}"), "running")
	var all []struct {
		Name   string
		Paused []string
	}
	if err := json.Unmarshal([]byte(s.own("volume", "snapshot", "ls", "--format", "json", v)), &all); err != nil || len(all) != 5 || all[0].Name != "s0" || all[0].Paused[0] != s.name("writer") {
		t.Errorf("%+v %v", all, err)
	}
	s.refused("in use by the running container "+s.name("writer"), "volume", "snapshot", "restore", v, "s0")
	s.ok("rm", "-f", box)
	s.in(v, "echo spoilt >x; rm y; touch new")
	s.own("volume", "snapshot", "restore", v, "s0")
	s.equal("restored", s.in(v, "ls"), "x\ny")
	s.own("volume", "snapshot", "rm", v, "s1", "s2", "s3", "s4")
	s.refused("has no snapshot s1", "volume", "snapshot", "rm", v, "s1")
	s.equal("left", itoa(int64(strings.Count(s.own("volume", "snapshot", "ls", v), "\n"))), "1")
}

// TestVolumeCopyCutOff: a client that goes and a daemon that dies in the
// middle leave no volume, and no container paused.
func TestVolumeCopyCutOff(t *testing.T) {
	s := ownDaemon(t)
	v := s.volumeOf("v")
	s.in(v, "dd if=/dev/zero of=big bs=1M count=300 2>/dev/null")
	box := s.running("-v", v+":/v", "busybox", "sleep", "1000")

	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Millisecond)
	defer cancel()
	cmd := exec.CommandContext(ctx, tools.wharf, "volume", "clone", "--pause", v, "half")
	cmd.Env = s.d.env()
	_ = cmd.Run()
	s.until(box, "{{.State.Status}}", "running")
	if err := eventually(5*time.Second, func() error { return s.noDrafts() }); err != nil {
		t.Error(err)
	}
	cmd = exec.Command(tools.wharf, "volume", "clone", "--pause", v, "half")
	cmd.Env = s.d.env()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(80 * time.Millisecond)
	if err := s.d.kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if err := s.d.start(); err != nil {
		t.Fatal(err)
	}
	s.until(box, "{{.State.Status}}", "running")
	if err := eventually(5*time.Second, func() error { return s.noDrafts() }); err != nil {
		t.Error(err)
	}
	if r := s.docker("volume", "inspect", "half"); r.Code == 0 { // done before the kill: then it is whole
		s.equal("whole", s.in("half", "stat -c %s big"), "314572800")
	}
}

func (s *scene) noDrafts() error {
	left, err := filepath.Glob(filepath.Join(s.d.dir, "data/volumes/.[np]*"))
	if err == nil && len(left) > 0 {
		err = &os.PathError{Op: "left", Path: strings.Join(left, " "), Err: os.ErrExist}
	}
	return err
}

// TestVolumeOptions: what the local driver takes and what it says otherwise.
func TestVolumeOptions(t *testing.T) {
	s := newScene(t)
	s.fails(1, "invalid option", "volume", "create", "-o", "colour=red", s.name("x"))
	s.fails(1, "missing required option", "volume", "create", "-o", "type=tmpfs", s.name("x"))
	s.fails(1, "o=size=10m", "volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "-o", "size=10m", s.name("x"))
	if r := s.docker("volume", "create", "-o", "size=10m", s.name("sized")); r.Code == 0 {
		s.forget(s.name("sized")) // this file system can
	} else {
		s.contains("remedy", r.Stderr, "project quotas", "prjquota")
	}
	nfs := s.volumeOf("nfs", "-o", "type=nfs", "-o", "device=:/x", "-o", "o=addr=127.0.0.1,nolock")
	s.fails(125, "failed to mount local volume: mount :/x", "run", "-v", nfs+":/v", "busybox", "true")
	tmp := s.volumeOf("tmp", "-o", "type=tmpfs", "-o", "device=tmpfs", "-o", "o=size=1m,uid=1000")
	s.contains("full", s.in(tmp, "stat -c %u .; dd if=/dev/zero of=x bs=1M count=2 2>&1 | head -1"), "1000", "No space left")
}

// TestVolumeSharedOwners: two containers with ranges of ids of their own see
// the same owners in a volume that both have.
func TestVolumeSharedOwners(t *testing.T) {
	s := newScene(t)
	v := s.volumeOf("v")
	a, b := s.idle("-v", v+":/v"), s.idle("-v", v+":/v")
	if x, y := s.ok("exec", a, "cat", "/proc/self/uid_map"), s.ok("exec", b, "cat", "/proc/self/uid_map"); x == y && !onMachines {
		t.Errorf("both have %s", x)
	}
	s.ok("exec", a, "sh", "-c", "echo a >/v/a; chown 1234:5678 /v/a; echo r >/v/r")
	s.equal("in the other", s.ok("exec", b, "stat", "-c", "%n %u:%g", "/v/a", "/v/r"), "/v/a 1234:5678\n/v/r 0:0")
	c := s.idle("--volumes-from", a+":ro")
	s.equal("from", s.ok("exec", c, "stat", "-c", "%u", "/v/a"), "1234")
	s.fails(1, "Read-only file system", "exec", c, "touch", "/v/x")
}
