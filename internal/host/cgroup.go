package host

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
)

// Layout is how control groups are mounted.
type Layout string

// The layouts. Hybrid: controllers on version 1 and a version 2 tree beside
// them, which may hold some controllers too.
const (
	LayoutNone   Layout = "none"
	LayoutV1     Layout = "v1"
	LayoutHybrid Layout = "hybrid"
	LayoutV2     Layout = "v2"
)

// Cgroup is what control groups there are.
type Cgroup struct {
	Layout      Layout                `json:"layout"`
	Unified     string                `json:"unified,omitempty"` // where version 2 is mounted
	Controllers map[string]Controller `json:"controllers"`       // by name: cpu, memory, io (blkio on v1), ...
	Named       map[string]string     `json:"named,omitempty"`   // version 1 hierarchies without controller, by name: systemd
}

// Controller is one cgroup controller.
type Controller struct {
	Version  int      `json:"version"`
	Mount    string   `json:"mount"`
	Writable bool     `json:"writable"`        // a group could be made there
	Files    []string `json:"files,omitempty"` // of those that decide a feature, the ones that exist
}

// Has reports whether a controller can be used.
func (c Cgroup) Has(name string) bool { return c.Controllers[name].Writable }

// HasFile reports whether one of the controller's interface files is there.
func (c Cgroup) HasFile(name, file string) bool {
	return slices.Contains(c.Controllers[name].Files, file)
}

// interfaceFiles are those whose presence depends on the kernel's
// configuration, by controller.
var interfaceFiles = map[string][]string{
	"memory": {"memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.soft_limit_in_bytes", "memory.kmem.limit_in_bytes",
		"memory.oom_control", "memory.swappiness", "memory.max", "memory.swap.max", "memory.low", "memory.oom.group"},
	"cpu": {"cpu.shares", "cpu.cfs_quota_us", "cpu.rt_runtime_us", "cpu.weight", "cpu.max", "cpu.idle"},
	"blkio": {"blkio.weight", "blkio.weight_device", "blkio.bfq.weight", "blkio.throttle.read_bps_device", "blkio.throttle.write_bps_device",
		"blkio.throttle.read_iops_device", "blkio.throttle.write_iops_device"},
	"io":      {"io.max", "io.weight", "io.bfq.weight", "io.latency"},
	"cpuset":  {"cpuset.cpus", "cpuset.mems"},
	"pids":    {"pids.max"},
	"freezer": {"freezer.state"},
	"devices": {"devices.allow"},
}

// v1Controllers are the names that a version 1 mount may carry as options.
var v1Controllers = []string{"cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "hugetlb",
	"net_cls", "net_prio", "perf_event", "rdma", "misc"}

// detectCgroup reads the mounts and tries to make a group in each.
func detectCgroup() Cgroup {
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		return Cgroup{Layout: LayoutNone, Controllers: map[string]Controller{}}
	}
	c := layout(mounts)
	probed := map[string][]string{} // by mount: files of a fresh group there; nil when none could be made
	for name, ctl := range c.Controllers {
		files, done := probed[ctl.Mount]
		if !done {
			files = freshGroup(ctl.Mount)
			probed[ctl.Mount] = files
		}
		ctl.Writable = files != nil
		if ctl.Version == 2 {
			files = append(slices.Clone(files), anyChild(ctl.Mount)...)
		}
		for _, f := range interfaceFiles[name] {
			if slices.Contains(files, f) {
				ctl.Files = append(ctl.Files, f)
			}
		}
		c.Controllers[name] = ctl
	}
	return c
}

// layout sorts mounts into controllers. A controller that is mounted twice
// counts where it is mounted first.
func layout(mounts []*mountinfo.Info) Cgroup {
	c := Cgroup{Layout: LayoutNone, Controllers: map[string]Controller{}, Named: map[string]string{}}
	v1 := false
	for _, m := range mounts {
		if m.FSType == "cgroup2" {
			if c.Unified == "" {
				c.Unified = m.Mountpoint
			}
			continue
		}
		for opt := range strings.SplitSeq(m.VFSOptions, ",") {
			if name, ok := strings.CutPrefix(opt, "name="); ok {
				c.Named[name] = m.Mountpoint
			} else if slices.Contains(v1Controllers, opt) {
				v1 = true
				if _, dup := c.Controllers[opt]; !dup {
					c.Controllers[opt] = Controller{Version: 1, Mount: m.Mountpoint}
				}
			}
		}
	}
	if c.Unified != "" {
		for _, name := range strings.Fields(readLine(filepath.Join(c.Unified, "cgroup.controllers"))) {
			c.Controllers[name] = Controller{Version: 2, Mount: c.Unified}
		}
	}
	switch {
	case v1 && c.Unified != "":
		c.Layout = LayoutHybrid
	case v1:
		c.Layout = LayoutV1
	case c.Unified != "":
		c.Layout = LayoutV2
	}
	return c
}

// freshGroup makes and removes a group and returns the names of its files; nil
// when it could not be made.
func freshGroup(mount string) []string {
	dir := filepath.Join(mount, fmt.Sprintf("wharf-probe-%d", os.Getpid()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil
	}
	defer func() { _ = os.Remove(dir) }()
	return fileNames(dir)
}

// anyChild returns the files of a group that exists below a version 2 mount: a
// fresh one has only the controllers that its parent passes down.
func anyChild(mount string) []string {
	entries, _ := os.ReadDir(mount)
	var names []string
	for _, e := range entries {
		if e.IsDir() && !strings.HasPrefix(e.Name(), "wharf-probe-") {
			names = append(names, fileNames(filepath.Join(mount, e.Name()))...)
		}
	}
	return names
}

func fileNames(dir string) []string {
	names := []string{}
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if !e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names
}
