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

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"wharf/internal/model"
	"wharf/internal/runtime/cgroup"
)

// pidName is a file with the main process's pid and start time, for a monitor
// that was killed where there is no cgroup to find the processes by.
const pidName = "pid"

// endTime is how long a container may take to end after it was killed.
const endTime = 10 * time.Second

// Release ends what still runs and frees everything held for id.
func (d *Driver) Release(ctx context.Context, id model.ID) error {
	if err := checkID(id); err != nil {
		return err
	}
	b, _ := d.bundle(id)
	g, err := d.group(id, b)
	if err == nil {
		err = d.end(ctx, id, g)
	}
	if err == nil {
		// Kills, too: processes that shared another container's pid
		// namespace, or the host's, do not end with the first one.
		err = g.Remove()
	}
	if err != nil {
		return fmt.Errorf("release %s: %w", id.Short(), err)
	}
	if err := os.RemoveAll(d.dir(id)); err != nil {
		return fmt.Errorf("release %s: %w", id.Short(), err)
	}
	d.mu.Lock()
	delete(d.live, id)
	d.mu.Unlock()
	return nil
}

// end kills id's processes and returns when its exit is recorded.
func (d *Driver) end(ctx context.Context, id model.ID, g *cgroup.Group) error {
	i, err := d.Find(ctx, id)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if i.Pid() == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, endTime)
	defer cancel()
	_ = i.Signal(ctx, syscall.SIGKILL)
	if err := g.Kill(); err != nil {
		return err
	}
	if _, err := i.Wait(ctx); err != nil {
		return fmt.Errorf("its process %d does not end: %w", i.pid, err)
	}
	return nil
}

// keepPid notes the main process. It is a fallback: errors are not told.
func (d *Driver) keepPid(id model.ID, pid int) {
	if t := startTime(pid); t != "" {
		_ = os.WriteFile(filepath.Join(d.dir(id), pidName), []byte(strconv.Itoa(pid)+" "+t), 0o600)
	}
}

// killNoted kills the process that keepPid noted, if it still is that one.
func (d *Driver) killNoted(id model.ID) {
	b, err := os.ReadFile(filepath.Join(d.dir(id), pidName))
	if err != nil {
		return
	}
	p, began, _ := strings.Cut(string(b), " ")
	pid, err := strconv.Atoi(p)
	if err != nil || pid <= 1 {
		return
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	if startTime(pid) != began { // looked at after the descriptor was had
		return
	}
	if unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) != nil {
		return
	}
	for {
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(endTime/time.Millisecond))
		if !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// startTime is field 22 of /proc/PID/stat, "" when there is no such process.
func startTime(pid int) string {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return ""
	}
	s := string(b)
	f := strings.Fields(s[strings.LastIndexByte(s, ')')+1:])
	if len(f) < 20 {
		return ""
	}
	return f[19]
}
