package runtime

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cgroupWork makes cgroup directories beside the rest of Create.
type cgroupWork struct {
	done     chan struct{}
	err      error
	warnings []string
	plan     *Cgroup
	made     []string // directories that did not exist before
	left     []bool   // hierarchies left out, with a warning
}

// startCgroup begins to make the directories. Nothing may be read from the
// result before join or remove.
func startCgroup(plan *Cgroup) *cgroupWork {
	w := &cgroupWork{done: make(chan struct{}), plan: plan}
	if plan == nil || len(plan.Dirs) == 0 {
		close(w.done)
		return w
	}
	go func() {
		defer close(w.done)
		w.left = make([]bool, len(plan.Dirs))
		for i := range plan.Dirs {
			if w.left[i], w.err = w.dir(&plan.Dirs[i]); w.err != nil {
				return
			}
		}
	}()
	return w
}

// wait waits until the directories are there.
func (w *cgroupWork) wait() error {
	<-w.done
	return w.err
}

// enter makes the forked child move itself into the directories. A single
// thread that moves itself ("0" into v1's tasks, or CLONE_INTO_CGROUP on v2)
// does not wait for the RCU grace period (5-10 ms) that a write of another
// process's id to cgroup.procs costs.
func (l *launch) enter(dirs []string) error {
	for _, dir := range dirs {
		fd, err := unix.Open(dir+"/tasks", unix.O_WRONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			l.opened.Push(func() error { return unix.Close(fd) })
			l.program.before = append(l.program.before, call{nr: unix.SYS_WRITE,
				a: [6]uintptr{uintptr(fd), l.program.ptr("0"), 1}, name: "join cgroup " + dir})
			continue
		}
		if err != unix.ENOENT {
			return &os.PathError{Op: "join cgroup", Path: dir, Err: err}
		}
		fd, err = unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return &os.PathError{Op: "join cgroup", Path: dir, Err: err}
		}
		l.opened.Push(func() error { return unix.Close(fd) })
		l.program.into = &cloneArgs{flags: unix.CLONE_INTO_CGROUP, cgroup: uint64(fd)}
	}
	return nil
}

// dirs are the directories to join.
func (w *cgroupWork) dirs() []string {
	if w.plan == nil {
		return nil
	}
	var out []string
	for i := range w.plan.Dirs {
		if d := &w.plan.Dirs[i]; d.Join && !w.left[i] {
			out = append(out, filepath.Join(d.Base, d.Path))
		}
	}
	return out
}

func joinCgroup(dir string, pid int) error {
	if err := writeFile(dir+"/cgroup.procs", strconv.Itoa(pid)); err != nil {
		return fmt.Errorf("join cgroup: %w", err)
	}
	return nil
}

// remove removes what was made; after a failure only.
func (w *cgroupWork) remove() error {
	<-w.done
	var errs []error
	for i := len(w.made) - 1; i >= 0; i-- {
		errs = append(errs, removeDir(w.made[i]))
	}
	return errors.Join(errs...)
}

// removeDir removes an empty cgroup. It is busy for a moment after its last
// process was reaped.
func removeDir(dir string) error {
	var err error
	for wait := time.Millisecond; wait < 300*time.Millisecond; wait *= 2 {
		err = unix.Rmdir(dir)
		if err == nil || err == unix.ENOENT {
			return nil
		}
		if err != unix.EBUSY && err != unix.EINTR {
			break
		}
		time.Sleep(wait)
	}
	return &os.PathError{Op: "remove cgroup", Path: dir, Err: err}
}

// dir makes one directory and writes its limits. left: the hierarchy cannot
// be used, and nothing depends on it.
func (w *cgroupWork) dir(d *CgroupDir) (left bool, err error) {
	full := filepath.Join(d.Base, d.Path)
	if err := w.mkdir(d, full); err != nil {
		return true, w.excuse(d, err)
	}
	warnings, err := WriteLimits(full, d.Writes)
	w.warnings = append(w.warnings, warnings...)
	if err == nil && len(d.Program) > 0 {
		err = attachDevices(full, d.Program)
	}
	return false, err
}

// WriteLimits writes limits into a cgroup directory, in order. A strict one
// that fails is an error, any other a warning.
func WriteLimits(dir string, writes []CgroupWrite) (warnings []string, err error) {
	fd, open := -1, ""
	defer func() { closeValid(fd) }()
	for i := range writes {
		w := &writes[i]
		if w.File != open {
			closeValid(fd)
			fd, err = unix.Open(dir+"/"+w.File, unix.O_WRONLY|unix.O_CLOEXEC, 0)
			if err == unix.ENOENT && w.Or != "" {
				fd, err = unix.Open(dir+"/"+w.Or, unix.O_WRONLY|unix.O_CLOEXEC, 0)
			}
			open = w.File
		} else {
			err = nil
		}
		if err == nil {
			_, err = unix.Write(fd, []byte(w.Value))
		} else {
			fd, open = -1, ""
		}
		if err == nil {
			continue
		}
		err = fmt.Errorf("%s: write %q to %s/%s: %w", w.Option, w.Value, dir, w.File, err)
		if w.Strict {
			return warnings, err
		}
		warnings = append(warnings, err.Error())
	}
	return warnings, nil
}

// excuse makes a hierarchy that cannot be used a warning, unless a limit that
// somebody asked for depends on it.
func (w *cgroupWork) excuse(d *CgroupDir, err error) error {
	for _, wr := range d.Writes {
		if wr.Strict {
			return fmt.Errorf("%s needs the cgroup %s: %w", wr.Option, d.Path, err)
		}
	}
	w.warnings = append(w.warnings, fmt.Sprintf("cgroup hierarchy %s left out: %v", d.Base, err))
	return nil
}

// mkdir makes the directory and those above it up to Base.
func (w *cgroupWork) mkdir(d *CgroupDir, full string) error {
	if len(d.Enable) == 0 && !d.Inherit {
		err := unix.Mkdir(full, 0o755)
		switch err {
		case nil:
			w.made = append(w.made, full)
			return nil
		case unix.EEXIST:
			return nil
		case unix.ENOENT: // the levels above, below
		default:
			return &os.PathError{Op: "mkdir", Path: full, Err: err}
		}
	}
	dir := d.Base
	for _, name := range strings.Split(strings.Trim(d.Path, "/"), "/") {
		w.enable(dir, d.Enable)
		parent := dir
		dir = filepath.Join(dir, name)
		err := unix.Mkdir(dir, 0o755)
		if err != nil && err != unix.EEXIST {
			return &os.PathError{Op: "mkdir", Path: dir, Err: err}
		}
		if err == nil {
			w.made = append(w.made, dir)
		}
		if d.Inherit {
			if err := inheritCpuset(parent, dir); err != nil {
				return err
			}
		}
	}
	return nil
}

// enable switches controllers on for the level below. What fails shows up at
// the write of the limit that needs it.
func (w *cgroupWork) enable(dir string, controllers []string) {
	if len(controllers) == 0 {
		return
	}
	on, err := os.ReadFile(dir + "/cgroup.subtree_control")
	if err != nil {
		return
	}
	have := strings.Fields(string(on))
	for _, c := range controllers {
		if contains(have, c) {
			continue
		}
		if err := writeFile(dir+"/cgroup.subtree_control", "+"+c); err != nil {
			w.warnings = append(w.warnings, fmt.Sprintf("cgroup controller %s cannot be enabled in %s: %v", c, dir, err))
		}
	}
}

func contains(list []string, s string) bool {
	for _, e := range list {
		if e == s {
			return true
		}
	}
	return false
}

// inheritCpuset fills a new cpuset of v1, which is empty and takes no process
// until it has cpus and mems.
func inheritCpuset(parent, dir string) error {
	for _, f := range []string{"/cpuset.cpus", "/cpuset.mems"} {
		now, err := os.ReadFile(dir + f)
		if err != nil {
			return err
		}
		if strings.TrimSpace(string(now)) != "" {
			continue
		}
		above, err := os.ReadFile(parent + f)
		if err != nil {
			return err
		}
		if err := writeFile(dir+f, strings.TrimSpace(string(above))); err != nil {
			return err
		}
	}
	return nil
}

// JoinLate makes a cgroup in a v1 hierarchy that a container was not in so
// far (a CPU set, say) and moves its processes there.
func JoinLate(base, path string, pids []int) error {
	w := &cgroupWork{}
	full := filepath.Join(base, path)
	if err := w.mkdir(&CgroupDir{Base: base, Path: path, Inherit: true}, full); err != nil {
		return err
	}
	for _, pid := range pids {
		if err := joinCgroup(full, pid); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	return nil
}

// Move makes the cgroups of plan with their limits and moves a running process
// there, with all its threads. What it has used stays counted where it was.
func Move(plan *Cgroup, pid int) (warnings []string, err error) {
	w := startCgroup(plan)
	if err := w.wait(); err != nil {
		return nil, errors.Join(err, w.remove())
	}
	for _, dir := range w.dirs() {
		if err := joinCgroup(dir, pid); err != nil {
			return nil, err // what has moved already cannot be in what is removed
		}
	}
	return w.warnings, nil
}

// RemoveCgroups removes the directories of plan that are empty.
func RemoveCgroups(plan *Cgroup) error {
	var errs []error
	for i := range plan.Dirs {
		errs = append(errs, removeDir(filepath.Join(plan.Dirs[i].Base, plan.Dirs[i].Path)))
	}
	return errors.Join(errs...)
}
