package native

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"
)

func hierarchies() []string {
	m, _ := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs")
	if len(m) == 0 {
		return []string{"/sys/fs/cgroup"}
	}
	var out []string
	for _, x := range m {
		out = append(out, filepath.Dir(x))
	}
	return out
}

func listCgroups(parent string) []string {
	var out []string
	for _, h := range hierarchies() {
		es, _ := os.ReadDir(filepath.Join(h, parent))
		for _, e := range es {
			if e.IsDir() {
				out = append(out, e.Name())
			}
		}
	}
	return out
}

func hasCgroup(path string) bool {
	for _, h := range hierarchies() {
		if _, err := os.Stat(filepath.Join(h, path)); err == nil {
			return true
		}
	}
	return false
}

func cgroupPids(path string) []int {
	var out []int
	for _, h := range hierarchies() {
		b, _ := os.ReadFile(filepath.Join(h, path, "cgroup.procs"))
		for _, f := range strings.Fields(string(b)) {
			if n, err := strconv.Atoi(f); err == nil && n > 0 {
				out = append(out, n)
			}
		}
		if len(out) > 0 {
			break
		}
	}
	return out
}

func killCgroup(path string, pid int) {
	for k := 0; k < 100; k++ {
		ps := cgroupPids(path)
		if len(ps) == 0 {
			return
		}
		for _, p := range ps {
			_ = unix.Kill(p, unix.SIGKILL)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func removeCgroup(path string) error {
	var last error
	for _, h := range hierarchies() {
		if err := os.Remove(filepath.Join(h, path)); err != nil && !os.IsNotExist(err) {
			last = err
		}
	}
	return last
}

var errLater = fmt.Errorf("cgroup abilities: %w", errdefs.ErrNotImplemented)

func (i *instance) Pause(ctx context.Context) error  { return errLater }
func (i *instance) Resume(ctx context.Context) error { return errLater }
func (i *instance) Stats(ctx context.Context) (*container.StatsResponse, error) {
	return nil, errLater
}
func (i *instance) Pids(ctx context.Context) ([]int, error)                 { return cgroupPids(i.d.cgroup(i.id)), nil }
func (i *instance) Update(ctx context.Context, r container.Resources) error { return errLater }
func (i *instance) OOM(ctx context.Context) (uint64, error)                 { return 0, errLater }
