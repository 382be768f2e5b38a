package runtime_test

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"wharf/internal/model"
	"wharf/internal/runtime"
	"wharf/internal/runtime/cgroup"
	"wharf/internal/runtime/prepare"
)

func group(t testing.TB, b *model.Bundle) *cgroup.Group {
	g := cgroup.Open(parent + "/" + b.ID.Short())
	t.Cleanup(func() {
		if err := g.Remove(); err != nil {
			t.Error(err)
		}
		l := cgroup.Detect()
		for _, base := range l.V1 {
			_ = os.Remove(filepath.Join(base, parent))
		}
		if l.V2 != "" {
			_ = os.Remove(filepath.Join(l.V2, parent))
		}
	})
	return g
}

func ptr[T any](v T) *T { return &v }

func TestLimits(t *testing.T) {
	needRoot(t)
	b := bundle(t, "sh", "-c", "while :; do :; done")
	b.Spec.Linux.Resources = &specs.LinuxResources{
		Memory:  &specs.LinuxMemory{Limit: ptr(int64(64 << 20)), Swap: ptr(int64(64 << 20))},
		CPU:     &specs.LinuxCPU{Shares: ptr(uint64(512)), Quota: ptr(int64(50000)), Period: ptr(uint64(100000)), Cpus: "0"},
		Pids:    &specs.LinuxPids{Limit: ptr(int64(50))},
		Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}},
	}
	g := group(t, b)
	started(t, b)
	pids, err := g.Pids()
	if err != nil || len(pids) != 1 {
		t.Fatal(pids, err)
	}
	s, err := g.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if s.MemoryStats.Limit != 64<<20 || s.PidsStats.Limit != 50 || s.PidsStats.Current < 1 || s.CPUStats.OnlineCPUs == 0 {
		t.Errorf("stats %+v", s)
	}
	if err := g.Freeze(); err != nil {
		t.Fatal(err)
	}
	if !g.Frozen() {
		t.Error("not frozen")
	}
	first, _ := g.Stats()
	time.Sleep(20 * time.Millisecond)
	second, _ := g.Stats()
	if first.CPUStats.CPUUsage.TotalUsage != second.CPUStats.CPUUsage.TotalUsage {
		t.Error("runs while frozen")
	}
	if err := g.Thaw(); err != nil {
		t.Fatal(err)
	}
	for _, limit := range []int64{128 << 20, 32 << 20} {
		err := g.Update(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(limit), Swap: ptr(limit)}, Pids: &specs.LinuxPids{Limit: ptr(int64(-1))}})
		if err != nil {
			t.Fatal(err)
		}
		if s, _ = g.Stats(); s.MemoryStats.Limit != uint64(limit) || s.PidsStats.Limit != 0 {
			t.Errorf("after update: %+v %+v", s.MemoryStats.Limit, s.PidsStats)
		}
	}
}

func TestOOM(t *testing.T) {
	needRoot(t)
	b := bundle(t, "sh", "-c", "dd if=/dev/zero of=/dev/shm/x bs=1M count=60; echo $?")
	b.Spec.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(16 << 20)), Swap: ptr(int64(16 << 20))}}
	g := group(t, b)
	out, _ := run(t, b)
	n, err := g.OOM()
	if err != nil || n == 0 || !strings.Contains(out, "137") {
		t.Errorf("%d OOM kills, %v: %s", n, err, out)
	}
}

func TestMissingController(t *testing.T) {
	b := &model.Bundle{ID: model.NewID()}
	_ = b
	_, _, err := cgroup.Plan(&cgroup.Layout{}, "wharf/x", &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(5))}})
	if err == nil || !strings.Contains(err.Error(), "pids limit") {
		t.Error(err)
	}
}

func TestDeviceRules(t *testing.T) {
	needRoot(t)
	b := bundle(t, "sh", "-c", "cat /dev/kmsg; : > /dev/null && echo null")
	b.Spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/kmsg", Type: "c", Major: 1, Minor: 11, FileMode: ptr(os.FileMode(0o666))}}
	b.Spec.Linux.Resources = &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}}
	group(t, b)
	out, _ := run(t, b)
	if !strings.Contains(out, "Operation not permitted") || !strings.Contains(out, "null") {
		t.Errorf("device cgroup does not hold: %s", out)
	}
}

// TestUnified runs a container as on a host with cgroup v2 only, on the v2
// hierarchy that hybrid hosts have beside v1: it is born in its cgroup
// (CLONE_INTO_CGROUP) and its devices are limited by an eBPF program.
func TestUnified(t *testing.T) {
	needRoot(t)
	l := cgroup.Detect()
	if l.V2 == "" {
		t.Skip("needs a cgroup2 mount")
	}
	host := *prepare.Detect()
	host.Cgroup = cgroup.Layout{V2: l.V2, V2Controllers: l.V2Controllers}
	b := bundle(t, "sh", "-c", "cat /dev/kmsg; : > /dev/null && echo null; grep ^0: /proc/self/cgroup; ls /sys/fs/cgroup | grep -c cgroup.procs; sleep 100")
	b.Spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/kmsg", Type: "c", Major: 1, Minor: 11, FileMode: ptr(os.FileMode(0o666))}}
	b.Spec.Linux.Resources = &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}}
	b.Spec.Mounts = append(b.Spec.Mounts, specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"ro"}})
	p, err := prepare.Container(b, parent+"/"+b.ID.Short(), prepare.Options{Host: &host})
	if err != nil {
		t.Fatal(err)
	}
	g := cgroup.New(host.Cgroup, parent+"/"+b.ID.Short())
	r, w, _ := os.Pipe()
	defer r.Close()
	proc, err := runtime.Create(p, runtime.Files{Stdout: w, Stderr: w})
	_ = w.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer proc.Close()
	if err := proc.Start(); err != nil {
		t.Fatal(err)
	}
	const want = "cat: can't open '/dev/kmsg': Operation not permitted\nnull\n0::/\n1\n"
	buf := make([]byte, len(want))
	_, _ = io.ReadFull(r, buf)
	if string(buf) != want {
		t.Errorf("got %s", buf)
	}
	if err := g.Freeze(); err != nil || !g.Frozen() {
		t.Error("freeze:", err)
	}
	if err := g.Thaw(); err != nil {
		t.Error(err)
	}
	if err := g.Remove(); err != nil {
		t.Error(err)
	}
	if st, _ := proc.Wait(); !st.Signaled() {
		t.Error(st)
	}
}

// TestControllers2 sets a limit of every controller that a host with cgroup v2
// only has, and looks at the kernel's files.
func TestControllers2(t *testing.T) {
	needRoot(t)
	l := cgroup.Detect()
	if !l.Unified() {
		t.Skip("needs cgroup v2 only: make vmtest")
	}
	var disk unix.Stat_t
	if err := unix.Stat("/dev/vda", &disk); err != nil {
		t.Skip("needs a disk /dev/vda: make vmtest")
	}
	b := bundle(t, "sleep", "100")
	rate := specs.LinuxThrottleDevice{Rate: 1 << 20}
	rate.Major, rate.Minor = int64(unix.Major(disk.Rdev)), int64(unix.Minor(disk.Rdev))
	b.Spec.Linux.Resources = &specs.LinuxResources{
		Memory:         &specs.LinuxMemory{Limit: ptr(int64(64 << 20)), Reservation: ptr(int64(32 << 20)), Swap: ptr(int64(96 << 20))},
		CPU:            &specs.LinuxCPU{Shares: ptr(uint64(512)), Quota: ptr(int64(50000)), Period: ptr(uint64(100000)), Burst: ptr(uint64(10000)), Cpus: "0", Mems: "0"},
		Pids:           &specs.LinuxPids{Limit: ptr(int64(50))},
		BlockIO:        &specs.LinuxBlockIO{ThrottleReadBpsDevice: []specs.LinuxThrottleDevice{rate}},
		HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 4 << 20}},
		Unified:        map[string]string{"memory.high": "52428800"},
	}
	for _, c := range []string{"memory", "cpu", "cpuset", "io", "pids", "hugetlb", "rdma", "misc"} {
		if !l.V2Controllers[c] {
			t.Logf("this kernel has no controller %s", c)
		}
	}
	if !l.V2Controllers["hugetlb"] {
		b.Spec.Linux.Resources.HugepageLimits = nil
	}
	started(t, b)
	for file, want := range map[string]string{
		"memory.max": "67108864", "memory.low": "33554432", "memory.swap.max": "33554432", "memory.high": "52428800",
		"cpu.weight": "20", "cpu.max": "50000 100000", "cpu.max.burst": "10000", "cpuset.cpus": "0", "cpuset.mems": "0", "pids.max": "50",
		"io.max": itoa(int(rate.Major)) + ":" + itoa(int(rate.Minor)) + " rbps=1048576", "hugetlb.2MB.max": "4194304",
	} {
		data, err := os.ReadFile(filepath.Join(l.V2, parent, b.ID.Short(), file))
		if os.IsNotExist(err) && (strings.HasPrefix(file, "hugetlb") && !l.V2Controllers["hugetlb"] || file == "memory.swap.max") {
			t.Logf("this kernel has no %s", file)
			continue
		}
		if err != nil || !strings.HasPrefix(string(data), want) {
			t.Errorf("%s: %q %v, want %q", file, data, err, want)
		}
	}
}
