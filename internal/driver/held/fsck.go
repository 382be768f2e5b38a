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
	"wharf/internal/runtime/cgroup"
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
	if d.Isolation() == model.IsolationContainer { // once for all drivers
		out = append(out, d.strayGroups(records)...)
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

// monitors finds our holders by the directory that they work in: one
// readlink(2) for each process of the machine.
func (d *Driver) monitors() ([]runningMonitor, error) {
	proc, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer proc.Close()
	names, err := proc.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var out []runningMonitor
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if m, ok := d.monitorAt(pid); ok {
			out = append(out, m)
		}
	}
	return out, nil
}

func (d *Driver) monitorAt(pid int) (runningMonitor, bool) {
	buf := make([]byte, 512)
	n, err := unix.Readlink("/proc/"+strconv.Itoa(pid)+"/cwd", buf)
	if err != nil || n == len(buf) {
		return runningMonitor{}, false
	}
	dir, lost := strings.CutSuffix(string(buf[:n]), " (deleted)")
	if filepath.Dir(dir) != d.instances || !d.isHolder(pid) {
		return runningMonitor{}, false
	}
	return runningMonitor{pid: pid, id: model.ID(filepath.Base(dir)), lost: lost}, true
}

// isHolder tells the holder from what it has started in the same directory.
func (d *Driver) isHolder(pid int) bool {
	name := filepath.Base(d.opts.Monitor)
	if len(name) > 15 { // TASK_COMM_LEN
		name = name[:15]
	}
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/comm")
	return err == nil && strings.TrimSpace(string(b)) == name
}

// Repair ends a monitor that Fsck found. Its container's processes end with
// Release.
func (d *Driver) Repair(ctx context.Context, f model.Finding) error {
	if f.Thing == thingGroup {
		return cgroup.Open(f.Name).Remove()
	}
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
