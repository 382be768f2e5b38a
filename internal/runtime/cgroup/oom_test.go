package cgroup

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// hear collects what a watch tells.
func hear(t *testing.T, w *OOMWatch, g *Group, told bool) (<-chan bool, func()) {
	t.Helper()
	ch := make(chan bool, 16)
	stop, err := w.Add(g, told, func(killed bool) { ch <- killed })
	if err != nil {
		t.Fatal(err)
	}
	return ch, stop
}

func told(t *testing.T, ch <-chan bool, want bool) {
	t.Helper()
	select {
	case got := <-ch:
		if got != want {
			t.Fatalf("told killed=%v, want %v", got, want)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("nothing was told")
	}
}

func silent(t *testing.T, ch <-chan bool) {
	t.Helper()
	select {
	case got := <-ch:
		t.Fatalf("told killed=%v, want nothing", got)
	case <-time.After(300 * time.Millisecond):
	}
}

// Version 2 by files that look like the kernel's: inotify tells of a write.
func TestOOMWatch2(t *testing.T) {
	root := t.TempDir()
	group := func(name string) (*Group, func(kills int)) {
		dir := filepath.Join(root, name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		set := func(n int) {
			if err := os.WriteFile(dir+"/memory.events", fmt.Appendf(nil, "low 0\noom 9\noom_kill %d\n", n), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		set(0)
		return New(Layout{V2: root, V2Controllers: map[string]bool{"memory": true}}, name), set
	}
	w := &OOMWatch{}
	a, setA := group("a")
	b, setB := group("b")
	setB(3)
	chA, stopA := hear(t, w, a, false)
	chB, _ := hear(t, w, b, true)
	c, setC := group("c")
	setC(1)
	chC, _ := hear(t, w, c, false)
	told(t, chC, true) // from before
	setA(1)
	told(t, chA, true)
	silent(t, chB)
	setA(1) // as when it changes for another reason
	silent(t, chA)
	setA(2)
	told(t, chA, true)
	setB(4)
	told(t, chB, true)
	stopA()
	stopA()
	setA(3)
	silent(t, chA)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	setB(5)
	silent(t, chB)
	if _, err := w.Add(a, false, nil); err == nil {
		t.Error("a closed watch takes groups")
	}
}

// A real group of version 1, in which a real process is killed.
func TestOOMWatch1(t *testing.T) {
	base := Detect().V1["memory"]
	if base == "" || os.Getuid() != 0 {
		t.Skip("needs root and the memory controller of cgroup version 1")
	}
	dir := base + "/wharf-test-oom-" + strconv.Itoa(os.Getpid())
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Skip("cannot make a cgroup: ", err)
	}
	g := New(Detect(), filepath.Base(dir))
	defer func() {
		if err := g.Remove(); err != nil {
			t.Error(err)
		}
	}()
	for _, f := range []string{"memory.limit_in_bytes", "memory.memsw.limit_in_bytes"} {
		if err := os.WriteFile(dir+"/"+f, []byte("8388608"), 0); err != nil {
			t.Log(err) // without swap accounting
		}
	}
	w := &OOMWatch{}
	defer w.Close()
	ch, stop := hear(t, w, g, false)
	for range 2 {
		cmd := exec.Command("sh", "-c", "echo $$ >"+dir+"/cgroup.procs; x=$(head -c 64000000 /dev/zero | tr '\\0' x); echo ${#x}")
		if out, err := cmd.CombinedOutput(); err == nil {
			t.Fatalf("not killed: %s", out)
		}
		told(t, ch, true)
	}
	stop()
}
