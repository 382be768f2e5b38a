package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"wharf/internal/runtime"
)

// Group is one container's cgroups, seen from the daemon. The zero cost of
// making one: nothing is opened. Methods may be called at any time, also for
// a path that does not exist (nothing is there, then).
type Group struct {
	l    Layout
	path string
}

// Open names the cgroups at path ("wharf/<id>", or a spec's cgroupsPath)
// below each hierarchy of this machine.
func Open(path string) *Group { return New(Detect(), path) }

// New is Open with a given layout.
func New(l Layout, path string) *Group {
	return &Group{l: l, path: filepath.Join("/", path)}
}

// dir is the directory for a controller and the version, 0 if there is none.
func (g *Group) dir(controller string) (string, int) {
	if base, ok := g.l.V1[controller]; ok {
		return base + g.path, 1
	}
	if g.l.V2 != "" && (g.l.Unified() || g.l.V2Controllers[controller]) {
		return g.l.V2 + g.path, 2
	}
	return "", 0
}

// all are the directories that exist, deepest hierarchies' order.
func (g *Group) all() []string {
	seen := map[string]bool{}
	var out []string
	add := func(base string) {
		if base == "" || seen[base] {
			return
		}
		seen[base] = true
		if _, err := os.Stat(base + g.path); err == nil {
			out = append(out, base+g.path)
		}
	}
	for _, c := range sortedKeys(g.l.V1) {
		add(g.l.V1[c])
	}
	add(g.l.V2)
	return out
}

// Exists reports whether any hierarchy has the group.
func (g *Group) Exists() bool { return len(g.all()) > 0 }

// Dirs are the existing directories, for a process to join.
func (g *Group) Dirs() []string { return g.all() }

// Pids lists all processes in the group and in groups below it.
func (g *Group) Pids() ([]int, error) {
	seen := map[int]bool{}
	for _, dir := range g.all() {
		err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
			if err != nil {
				return nil // gone meanwhile
			}
			if d.IsDir() {
				addPids(p, seen)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		if len(seen) > 0 {
			break
		}
	}
	out := make([]int, 0, len(seen))
	for p := range seen {
		out = append(out, p)
	}
	sort.Ints(out)
	return out, nil
}

func addPids(dir string, seen map[int]bool) {
	data, err := os.ReadFile(dir + "/cgroup.procs")
	if err != nil {
		return
	}
	for _, f := range bytes.Fields(data) {
		if n, err := strconv.Atoi(string(f)); err == nil && n > 0 {
			seen[n] = true
		}
	}
}

// Freeze stops every process; it returns when they are stopped.
func (g *Group) Freeze() error { return g.freezer(true) }

// Thaw lets them go on.
func (g *Group) Thaw() error { return g.freezer(false) }

func (g *Group) freezer(freeze bool) error {
	dir, v := g.dir("freezer")
	if g.l.Unified() {
		dir, v = g.l.V2+g.path, 2
	}
	switch v {
	case 1:
		return g.freeze1(dir, freeze)
	case 2:
		return g.freeze2(dir, freeze)
	}
	return fmt.Errorf("pause: this machine has no freezer cgroup: %w", errdefs.ErrNotImplemented)
}

// freezeTime is for a machine under load, where processes are slow to notice.
const freezeTime = 10 * time.Second

func (g *Group) freeze1(dir string, freeze bool) error {
	want := "THAWED"
	if freeze {
		want = "FROZEN"
	}
	for end := time.Now().Add(freezeTime); ; {
		if err := os.WriteFile(dir+"/freezer.state", []byte(want), 0); err != nil {
			return notFound(err)
		}
		state, err := os.ReadFile(dir + "/freezer.state")
		if err != nil {
			return notFound(err)
		}
		if strings.TrimSpace(string(state)) == want {
			return nil
		}
		if time.Now().After(end) {
			// A half frozen group would look running and hang: undo.
			_ = os.WriteFile(dir+"/freezer.state", []byte("THAWED"), 0)
			return fmt.Errorf("processes could not be frozen within %s: %w", freezeTime, errdefs.ErrUnavailable)
		}
		time.Sleep(500 * time.Microsecond)
	}
}

func (g *Group) freeze2(dir string, freeze bool) error {
	v := "0"
	if freeze {
		v = "1"
	}
	if err := os.WriteFile(dir+"/cgroup.freeze", []byte(v), 0); err != nil {
		return notFound(err)
	}
	for end := time.Now().Add(freezeTime); ; {
		if g.flag(dir+"/cgroup.events", "frozen") == v {
			return nil
		}
		if time.Now().After(end) {
			_ = os.WriteFile(dir+"/cgroup.freeze", []byte("0"), 0)
			return fmt.Errorf("processes could not be frozen within %s: %w", freezeTime, errdefs.ErrUnavailable)
		}
		time.Sleep(500 * time.Microsecond)
	}
}

// Frozen reports whether the group is paused.
func (g *Group) Frozen() bool {
	if dir, v := g.dir("freezer"); v == 1 {
		state, err := os.ReadFile(dir + "/freezer.state")
		return err == nil && strings.TrimSpace(string(state)) != "THAWED"
	}
	return g.l.V2 != "" && g.flag(g.l.V2+g.path+"/cgroup.events", "frozen") == "1"
}

func notFound(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w: %w", errdefs.ErrNotFound, err)
	}
	return err
}

func (g *Group) flag(file, key string) string {
	data, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	for _, line := range strings.Split(string(data), "\n") {
		if k, v, ok := strings.Cut(line, " "); ok && k == key {
			return v
		}
	}
	return ""
}

// OOM counts the processes that the kernel killed for this group's memory
// limit.
func (g *Group) OOM() (uint64, error) {
	dir, v := g.dir("memory")
	var s string
	switch v {
	case 1:
		s = g.flag(dir+"/memory.oom_control", "oom_kill")
	case 2:
		s = g.flag(dir+"/memory.events", "oom_kill")
	}
	if s == "" {
		return 0, nil
	}
	return strconv.ParseUint(s, 10, 64)
}

// Update changes limits of a running container. An error leaves those before
// it changed.
func (g *Group) Update(r *specs.LinuxResources) error {
	copied := *r
	copied.Devices = nil
	p, err := collect(&g.l, strings.Trim(g.path, "/"), &copied)
	if err != nil {
		return err
	}
	delete(p.v1, "devices")
	for c, writes := range p.v1 {
		base := g.l.V1[c]
		if c == "cpuset" {
			if err := g.lateJoin(base); err != nil {
				return err
			}
		}
		if err := g.apply(base+g.path, writes); err != nil {
			return err
		}
	}
	if len(p.v2) > 0 {
		return g.apply(g.l.V2+g.path, p.v2)
	}
	return nil
}

// apply writes limits. Memory and memory+swap bound each other: whichever has
// to move first depends on the direction, so a first failure is tried again
// in the other order.
func (g *Group) apply(dir string, writes []runtime.CgroupWrite) error {
	for i := range writes {
		writes[i].Strict = true
	}
	_, err := runtime.WriteLimits(dir, writes)
	if err == nil {
		return nil
	}
	back := make([]runtime.CgroupWrite, 0, len(writes))
	for i := len(writes) - 1; i >= 0; i-- {
		back = append(back, writes[i])
	}
	if _, again := runtime.WriteLimits(dir, back); again == nil {
		return nil
	}
	return notFound(err)
}

// lateJoin makes the group in a hierarchy that it was not in so far, and
// moves its processes there.
func (g *Group) lateJoin(base string) error {
	dir := base + g.path
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	pids, err := g.Pids()
	if err != nil {
		return err
	}
	return runtime.JoinLate(base, strings.Trim(g.path, "/"), pids)
}

// Remove kills what is left in the group and removes it from every hierarchy.
// It succeeds when there is nothing.
func (g *Group) Remove() error {
	// The usual case: all have ended. rmdir(2) fails where a process or a group
	// is left, so nobody needs to look for them first.
	idle := true
	for _, dir := range g.all() {
		if err := unix.Rmdir(dir); err != nil && err != unix.ENOENT {
			idle = false
		}
	}
	if idle {
		return nil
	}
	if err := g.Kill(); err != nil {
		return err
	}
	var errs []error
	for _, dir := range g.all() {
		errs = append(errs, removeTree(dir))
	}
	return errors.Join(errs...)
}

// Kill kills every process in the group, thawed if need be, and waits until
// they are gone (3 seconds at most: whose parent does not reap it stays as a
// zombie, which does not count).
func (g *Group) Kill() error {
	for wait, spent := time.Millisecond, time.Duration(0); ; wait *= 2 {
		pids, err := g.Pids()
		if err != nil {
			return err
		}
		if pids = living(pids); len(pids) == 0 {
			return nil
		}
		if spent > 3*time.Second {
			return fmt.Errorf("processes %v of cgroup %s do not end: %w", pids, g.path, errdefs.ErrUnavailable)
		}
		g.killOnce(pids)
		time.Sleep(wait)
		spent += wait
	}
}

func (g *Group) killOnce(pids []int) {
	if g.l.V2 != "" && os.WriteFile(g.l.V2+g.path+"/cgroup.kill", []byte("1"), 0) == nil && g.l.Unified() {
		return
	}
	for _, p := range pids {
		_ = unix.Kill(p, unix.SIGKILL)
	}
	if g.Frozen() {
		_ = g.Thaw()
	}
}

// living leaves zombies out.
func living(pids []int) []int {
	out := pids[:0]
	for _, p := range pids {
		stat, err := os.ReadFile("/proc/" + strconv.Itoa(p) + "/stat")
		if err != nil {
			continue
		}
		if i := bytes.LastIndexByte(stat, ')'); i >= 0 && i+2 < len(stat) && (stat[i+2] == 'Z' || stat[i+2] == 'X') {
			continue
		}
		out = append(out, p)
	}
	return out
}

// removeTime is how long what was killed may hold its cgroup: a machine with a
// gigabyte gives that back before it is gone, on a busy host for seconds.
const removeTime = 5 * time.Second

// removeTree removes a cgroup and those that were made below it.
func removeTree(dir string) error {
	began := time.Now()
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		err := removeOnce(dir)
		if err == nil || errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if time.Since(began) > removeTime || !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("remove cgroup: %w", err)
		}
		time.Sleep(wait)
	}
}

func removeOnce(dir string) error {
	err := unix.Rmdir(dir)
	if err == nil || err == unix.ENOENT {
		return nil
	}
	entries, e := os.ReadDir(dir)
	if e != nil {
		return e
	}
	for _, d := range entries {
		if d.IsDir() {
			if err := removeOnce(filepath.Join(dir, d.Name())); err != nil {
				return err
			}
		}
	}
	if err := unix.Rmdir(dir); err != nil && err != unix.ENOENT {
		return &os.PathError{Op: "rmdir", Path: dir, Err: err}
	}
	return nil
}

// FromDocker turns the limits of Docker's API into the spec's.
func FromDocker(r *container.Resources) *specs.LinuxResources {
	mem, cpu, io := &specs.LinuxMemory{}, &specs.LinuxCPU{Cpus: r.CpusetCpus, Mems: r.CpusetMems}, &specs.LinuxBlockIO{}
	out := &specs.LinuxResources{Memory: mem, CPU: cpu, BlockIO: io}
	if r.Memory != 0 {
		mem.Limit = &r.Memory
	}
	if r.MemorySwap != 0 {
		mem.Swap = &r.MemorySwap
	}
	if r.MemoryReservation != 0 {
		mem.Reservation = &r.MemoryReservation
	}
	if r.CPUShares > 0 {
		v := uint64(r.CPUShares)
		cpu.Shares = &v
	}
	if r.CPUPeriod > 0 {
		v := uint64(r.CPUPeriod)
		cpu.Period = &v
	}
	if r.CPUQuota != 0 {
		cpu.Quota = &r.CPUQuota
	}
	if r.NanoCPUs > 0 {
		period := uint64(100000)
		quota := r.NanoCPUs * int64(period) / 1e9
		cpu.Period, cpu.Quota = &period, &quota
	}
	if r.CPURealtimePeriod != 0 {
		v := uint64(r.CPURealtimePeriod)
		cpu.RealtimePeriod = &v
	}
	if r.CPURealtimeRuntime != 0 {
		cpu.RealtimeRuntime = &r.CPURealtimeRuntime
	}
	if r.PidsLimit != nil {
		v := *r.PidsLimit
		if v == 0 {
			v = -1 // Docker: 0 lifts the limit
		}
		out.Pids = &specs.LinuxPids{Limit: &v}
	}
	if r.BlkioWeight > 0 {
		io.Weight = &r.BlkioWeight
	}
	return out
}
