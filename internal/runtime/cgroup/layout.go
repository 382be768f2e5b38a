// Package cgroup knows control groups, of v1, v2 and hybrid hosts: it plans
// the directories and limits of a container as data (runtime.Cgroup), and
// reads, freezes, limits and removes them afterwards. It runs in the planner's
// process. It touches only directories below the path that it is given.
package cgroup

import (
	"bufio"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"
	"sync"

	"fmt"
	"github.com/containerd/errdefs"
)

// Layout is where the machine's hierarchies are mounted. It is data.
type Layout struct {
	V1            map[string]string // controller -> mount point
	V2            string            // mount point of cgroup2, "" if none
	V2Controllers map[string]bool   // what v2 controls
}

// Unified reports whether there is v2 only.
func (l *Layout) Unified() bool { return l.V2 != "" && len(l.V1) == 0 }

// Detect reads the machine's layout, once per process.
var Detect = sync.OnceValue(func() Layout {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return Layout{}
	}
	defer f.Close()
	l := Layout{V1: map[string]string{}, V2Controllers: map[string]bool{}}
	for s := bufio.NewScanner(f); s.Scan(); {
		l.mount(s.Text())
	}
	if l.V2 != "" {
		data, _ := os.ReadFile(filepath.Join(l.V2, "cgroup.controllers"))
		for _, c := range strings.Fields(string(data)) {
			l.V2Controllers[c] = true
		}
	}
	return l
})

// mount takes in one line of mountinfo (proc_pid_mountinfo(5)).
func (l *Layout) mount(line string) {
	head, tail, ok := strings.Cut(line, " - ")
	fields, fs := strings.Fields(head), strings.Fields(tail)
	if !ok || len(fields) < 5 || len(fs) < 3 {
		return
	}
	point := fields[4]
	switch fs[0] {
	case "cgroup2":
		if l.V2 == "" {
			l.V2 = point
		}
	case "cgroup":
		for _, o := range strings.Split(fs[2], ",") {
			if o == "rw" || o == "ro" || o == "none" || strings.Contains(o, "=") || o == "xattr" || o == "clone_children" || o == "noprefix" || o == "cpuset_v2_mode" || o == "favordynmods" || o == "nofavordynmods" {
				continue
			}
			if _, have := l.V1[o]; !have {
				l.V1[o] = point
			}
		}
	}
}

// basic are the controllers that every container joins where they are: for
// limits that may come later, statistics, devices and pausing.
var basic = []string{"memory", "cpu", "cpuacct", "pids", "blkio", "devices", "freezer"}

// bases are the mount points of the hierarchies that a container with these
// extra controllers is in; "" stands for v2.
func (l *Layout) bases(extra map[string]bool) []string {
	seen := map[string]bool{}
	var out []string
	add := func(c string) {
		if p, ok := l.V1[c]; ok && !seen[p] {
			seen[p] = true
			out = append(out, p)
		}
	}
	for _, c := range basic {
		add(c)
	}
	names := make([]string, 0, len(extra))
	for c := range extra {
		names = append(names, c)
	}
	sort.Strings(names)
	for _, c := range names {
		add(c)
	}
	return out
}

// Clean makes a spec's cgroupsPath a path below the mount points.
func Clean(p, id string) (string, error) {
	if p == "" {
		p = "wharf/" + id
	}
	if strings.Count(p, ":") == 2 {
		return "", fmt.Errorf("cgroups path %q is systemd's form, which is not there; use a path: %w", p, errdefs.ErrInvalidArgument)
	}
	out := strings.TrimPrefix(path.Clean("/"+p), "/")
	if out == "" {
		return "", fmt.Errorf("cgroups path %q is the root cgroup: %w", p, errdefs.ErrInvalidArgument)
	}
	return out, nil
}

// Views are the directories that a container may be shown as
// /sys/fs/cgroup: name below it -> directory on the host. v2 is the single
// directory of a unified host.
func (l *Layout) Views(p string) (v1 map[string]string, links map[string][]string, v2 string) {
	if l.Unified() {
		return nil, nil, filepath.Join(l.V2, p)
	}
	v1, links = map[string]string{}, map[string][]string{}
	for _, b := range l.bases(nil) {
		v1[filepath.Base(b)] = filepath.Join(b, p)
	}
	for c, b := range l.V1 {
		name := filepath.Base(b)
		if _, shown := v1[name]; shown && name != c {
			links[name] = append(links[name], c)
		}
	}
	return v1, links, ""
}
