package host

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/sys/mountinfo"
)

func TestParseRelease(t *testing.T) {
	for in, want := range map[string][2]int{
		"6.18.44-fc-v595": {6, 18}, "6.1.0-18-amd64": {6, 1}, "5.19": {5, 19}, "4": {4, 0}, "": {0, 0}, "next-20260101": {20260101, 0},
	} {
		major, minor := parseRelease(in)
		if got := [2]int{major, minor}; got != want {
			t.Errorf("parseRelease(%q) = %v, want %v", in, got, want)
		}
	}
}

func TestParseOSRelease(t *testing.T) {
	for _, c := range []struct {
		in   string
		want OS
	}{
		{"PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\nVERSION_ID=\"12\"\n", OS{"debian", "Debian GNU/Linux 12 (bookworm)", "12"}},
		{"ID='alpine'\n# PRETTY_NAME=no\nnonsense\n", OS{ID: "alpine", Name: "Linux"}},
		{"", OS{ID: "linux", Name: "Linux"}},
		{"ID=\"", OS{ID: "\"", Name: "Linux"}},
	} {
		if diff := cmp.Diff(c.want, parseOSRelease(c.in)); diff != "" {
			t.Errorf("%q: %s", c.in, diff)
		}
	}
}

func TestCapabilities(t *testing.T) {
	file := filepath.Join(t.TempDir(), "status")
	if err := os.WriteFile(file, []byte("Name:\tx\nCapEff:\t000001fffeffffff\nCapBnd:\t0000000000000021\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := capabilities(file)
	if c.Has("CAP_SYS_RESOURCE") || !c.Has("CAP_SYS_ADMIN") || len(c.Effective) != 40 {
		t.Errorf("effective: %v", c.Effective)
	}
	if diff := cmp.Diff([]string{"CAP_CHOWN", "CAP_KILL"}, c.Bounding); diff != "" {
		t.Error(diff)
	}
	if got := capabilities("/nonexistent"); got.Effective != nil {
		t.Errorf("missing file: %v", got)
	}
}

func TestLayout(t *testing.T) {
	unified := t.TempDir()
	if err := os.WriteFile(filepath.Join(unified, "cgroup.controllers"), []byte("hugetlb memory\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	v1 := func(dir, opts string) *mountinfo.Info {
		return &mountinfo.Info{FSType: "cgroup", Mountpoint: dir, VFSOptions: opts}
	}
	v2 := &mountinfo.Info{FSType: "cgroup2", Mountpoint: unified, VFSOptions: "rw"}
	for _, c := range []struct {
		name   string
		mounts []*mountinfo.Info
		want   Cgroup
	}{
		{"none", nil, Cgroup{Layout: LayoutNone}},
		{"v2", []*mountinfo.Info{v2}, Cgroup{Layout: LayoutV2, Unified: unified, Controllers: map[string]Controller{
			"hugetlb": {Version: 2, Mount: unified}, "memory": {Version: 2, Mount: unified}}}},
		{"v1 joint and named", []*mountinfo.Info{v1("/a", "rw,cpu,cpuacct"), v1("/s", "rw,xattr,name=systemd")},
			Cgroup{Layout: LayoutV1, Named: map[string]string{"systemd": "/s"}, Controllers: map[string]Controller{
				"cpu": {Version: 1, Mount: "/a"}, "cpuacct": {Version: 1, Mount: "/a"}}}},
		{"hybrid, first mount counts", []*mountinfo.Info{v1("/p", "rw,pids"), v1("/q", "rw,pids"), v2}, Cgroup{Layout: LayoutHybrid, Unified: unified,
			Controllers: map[string]Controller{"pids": {Version: 1, Mount: "/p"}, "hugetlb": {Version: 2, Mount: unified}, "memory": {Version: 2, Mount: unified}}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := layout(c.mounts)
			if c.want.Controllers == nil {
				c.want.Controllers = map[string]Controller{}
			}
			if c.want.Named == nil {
				c.want.Named = map[string]string{}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestReport(t *testing.T) {
	items := func(f Facts) map[string]Item {
		m := map[string]Item{}
		for _, i := range Report(f) {
			if _, dup := m[i.Name]; dup {
				t.Errorf("%s is reported twice", i.Name)
			}
			m[i.Name] = i
			if i.State != OK && i.Cost == "" {
				t.Errorf("%s is %s without saying what that costs", i.Name, i.State)
			}
		}
		return m
	}
	empty := items(Facts{})
	for _, name := range []string{"kernel", "root", "user namespaces", "overlay", "idmapped mounts", "control groups", "cgroup memory", "seccomp", "nftables"} {
		if empty[name].State == OK || empty[name].State == "" {
			t.Errorf("a machine with nothing: %s is %q", name, empty[name].State)
		}
	}
	f := Facts{Capabilities: Capabilities{Effective: []string{"CAP_SYS_ADMIN"}}}
	if got := items(f)["capabilities"]; got.State != Missing || !strings.Contains(got.Cost, "CAP_NET_ADMIN") || strings.Contains(got.Cost, "CAP_SYS_ADMIN") {
		t.Errorf("capabilities: %+v", got)
	}
	f.Cgroup = Cgroup{Layout: LayoutHybrid, Controllers: map[string]Controller{"memory": {Version: 1, Mount: "/m"}, "io": {Version: 2, Mount: "/u", Writable: true}}}
	got := items(f)
	if m := got["cgroup memory"]; m.State != Missing || !strings.Contains(m.Remedy, "Delegate") {
		t.Errorf("memory that cannot be written: %+v", m)
	}
	if got["cgroup blkio"].State != OK {
		t.Errorf("io stands for blkio: %+v", got["cgroup blkio"])
	}
}

func TestWarnings(t *testing.T) {
	got := Warnings(Facts{})
	if !slices.ContainsFunc(got, func(s string) bool { return strings.HasPrefix(s, "WARNING: seccomp is missing: ") }) {
		t.Errorf("no warning about seccomp in %q", got)
	}
	for _, w := range got {
		if strings.Contains(w, "SELinux") || strings.Contains(w, "KVM") {
			t.Errorf("optional feature in a warning: %s", w)
		}
	}
}

// TestDetect runs the probes for real and sees that they leave nothing behind.
func TestDetect(t *testing.T) {
	root := t.TempDir()
	nsBefore, _ := os.Readlink("/proc/self/ns/net")
	f := Detect(Options{DataRoot: filepath.Join(root, "not", "yet")})
	if f.DataRoot.Path != root {
		t.Errorf("probed %s, want the nearest parent %s", f.DataRoot.Path, root)
	}
	if f.Kernel.Major < 3 || f.CPUs < 1 || f.Memory == 0 || f.Hostname == "" || f.DataRoot.FSType == "" {
		t.Errorf("implausible: %+v", f)
	}
	if left, _ := os.ReadDir(root); len(left) != 0 {
		t.Errorf("left in the data root: %v", left)
	}
	if left, _ := filepath.Glob(fmt.Sprintf("/sys/fs/cgroup/*/wharf-probe-%d", os.Getpid())); len(left) != 0 {
		t.Errorf("left groups: %v", left)
	}
	if nsAfter, _ := os.Readlink("/proc/self/ns/net"); nsAfter != nsBefore {
		t.Errorf("the process's network namespace changed from %s to %s", nsBefore, nsAfter)
	}
	b, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	var back Facts
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(f, back); diff != "" {
		t.Errorf("JSON there and back: %s", diff)
	}
	if testing.Verbose() {
		pretty, _ := json.MarshalIndent(f, "", " ")
		t.Logf("%s\n%s", pretty, strings.Join(Warnings(f), "\n"))
	}
}

func BenchmarkDetect(b *testing.B) {
	root := b.TempDir()
	for b.Loop() {
		Detect(Options{DataRoot: root})
	}
}
