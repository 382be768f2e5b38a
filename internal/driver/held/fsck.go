package held

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"wharf/api/monitorapi"
	"wharf/internal/model"
)

// Kinds of what Fsck finds.
const (
	thingMonitor = "monitor"
	thingExit    = "exit"
)

// overdue is how long a recorded exit may wait for the daemon to take it.
const overdue = 10 * time.Second

// Fsck finds monitors without a running container's record, and running
// containers that no monitor holds. What has a directory or cgroup is compared
// by List already.
func (d *Driver) Fsck(ctx context.Context, records []model.Container) ([]model.Finding, error) {
	var out []model.Finding
	running := map[model.ID]bool{}
	for i := range records {
		c := &records[i]
		if !c.State.Running() || isolationOf(c) != d.Isolation() {
			continue
		}
		running[c.ID] = true
		if f, bad := d.checkRunning(c.ID); bad {
			out = append(out, f)
		}
	}
	ms, err := d.monitors()
	if err != nil {
		return nil, err
	}
	seen := map[model.ID]int{}
	for _, m := range ms {
		detail := "monitor of a container that has no record or does not run"
		if running[m.id] && !m.lost {
			if seen[m.id] == 0 {
				seen[m.id] = m.pid
				continue
			}
			detail = fmt.Sprintf("a second monitor; the other one is process %d", seen[m.id])
		}
		out = append(out, model.Finding{Thing: thingMonitor, Name: "process " + strconv.Itoa(m.pid), ID: m.id, Detail: detail,
			Remedy: "end the process and what it holds"})
	}
	return out, ctx.Err()
}

// checkRunning looks at a container that is recorded as running.
func (d *Driver) checkRunning(id model.ID) (f model.Finding, bad bool) {
	f = model.Finding{Name: string(id), ID: id}
	if st, err := os.Stat(filepath.Join(d.dir(id), monitorapi.ExitName)); err == nil && time.Since(st.ModTime()) > overdue {
		f.Thing, f.Detail = thingExit, "the monitor recorded its end, but the record says that it runs"
		return f, true
	}
	return f, false
}

// runningMonitor is a wharf-monitor process that works in one of our
// instances' directories.
type runningMonitor struct {
	pid  int
	id   model.ID
	lost bool // the directory was removed
}

// monitors reads /proc. The name alone costs one read for each process; only
// what has ours is looked at closer.
func (d *Driver) monitors() ([]runningMonitor, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	name := filepath.Base(d.opts.Monitor)
	if len(name) > 15 { // TASK_COMM_LEN
		name = name[:15]
	}
	var out []runningMonitor
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if b, err := os.ReadFile("/proc/" + e.Name() + "/comm"); err != nil || strings.TrimSpace(string(b)) != name {
			continue
		}
		if m, ok := d.monitorAt(pid); ok {
			out = append(out, m)
		}
	}
	return out, nil
}

func (d *Driver) monitorAt(pid int) (runningMonitor, bool) {
	dir, err := os.Readlink("/proc/" + strconv.Itoa(pid) + "/cwd")
	if err != nil {
		return runningMonitor{}, false
	}
	dir, lost := strings.CutSuffix(dir, " (deleted)")
	if filepath.Dir(dir) != d.instances {
		return runningMonitor{}, false
	}
	return runningMonitor{pid: pid, id: model.ID(filepath.Base(dir)), lost: lost}, true
}

// Repair ends a monitor that Fsck found. Its container's processes end with
// Release.
func (d *Driver) Repair(ctx context.Context, f model.Finding) error {
	if f.Thing != thingMonitor {
		return errors.New("there is no repair for this")
	}
	p, _ := strings.CutPrefix(f.Name, "process ")
	pid, err := strconv.Atoi(p)
	if err != nil {
		return fmt.Errorf("%q names no process", f.Name)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return os.NewSyscallError("pidfd_open", err)
	}
	defer unix.Close(fd)
	if m, ok := d.monitorAt(pid); !ok || m.id != f.ID { // looked at after the descriptor was had
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, syscall.ESRCH) {
		return os.NewSyscallError("pidfd_send_signal", err)
	}
	if strings.HasPrefix(f.Detail, "a second") {
		return nil // the container is the other's
	}
	return d.Release(ctx, f.ID)
}

// isolationOf is the record's; those of the first version have none.
func isolationOf(c *model.Container) model.Isolation {
	if c.Isolation == "" {
		return model.IsolationContainer
	}
	return c.Isolation
}
