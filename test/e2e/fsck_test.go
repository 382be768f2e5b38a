package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"

	"wharf/internal/model"
)

// fsckContainer looks for what a removed container left.
func (d *daemon) fsckContainer(id string) error {
	var errs []error
	// What it has on the disk may be in the trash; see emptyTrash.
	for _, of := range []string{"instances", "vms"} {
		if dir := filepath.Join(d.execDir(), of, id); exists(dir) {
			errs = append(errs, fmt.Errorf("left directory %s", dir))
		}
	}
	for _, g := range groups(id) {
		errs = append(errs, fmt.Errorf("left control group %s", g))
	}
	for pid, cmdline := range processes() {
		if strings.Contains(cmdline, id) {
			errs = append(errs, fmt.Errorf("left process %d: %s", pid, cmdline))
		}
	}
	if m := mounts(id); len(m) > 0 {
		errs = append(errs, fmt.Errorf("left mounts: %v", m))
	}
	return errors.Join(errs...)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// emptyTrash deletes what was removed, for good: afterwards nothing is left.
func (d *daemon) emptyTrash() error {
	resp, err := d.http().Post("http://wharf/wharf/v1/trash/empty", "application/json", nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("empty the trash: %s", resp.Status)
	}
	return nil
}

// ask has the daemon examine itself: all of it, or only what is about some
// containers that are gone.
func (d *daemon) ask(ids ...string) error {
	q := url.Values{"container": ids}
	resp, err := d.http().Get("http://wharf/wharf/v1/fsck?" + q.Encode())
	if err != nil {
		if d.gone != nil {
			select {
			case <-d.gone: // the test ended it
				return nil
			default:
			}
		}
		return err
	}
	defer resp.Body.Close()
	var r model.Fsck
	if err := json.NewDecoder(resp.Body).Decode(&r); err != nil {
		return err
	}
	var errs []error
	for _, f := range r.Findings {
		errs = append(errs, fmt.Errorf("%s: %s %s: %s", f.Room, f.Thing, f.Name, f.Detail))
	}
	return errors.Join(errs...)
}

// fsck looks at a daemon that runs and has no containers.
func (d *daemon) fsck() error {
	var errs []error
	for _, dir := range []string{filepath.Join(d.execDir(), "instances"), filepath.Join(d.data(), "containers")} {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			errs = append(errs, fmt.Errorf("%s without a record", filepath.Join(dir, e.Name())))
		}
	}
	errs = append(errs, d.monitors(), d.mounted(), d.groupsLeft(), d.ask())
	if d == shared { // others are in network namespaces of their own
		errs = append(errs, linksLeft())
	}
	return errors.Join(errs...)
}

func linksLeft() error {
	var errs []error
	links, _ := netlink.LinkList()
	for _, l := range links {
		if l.Type() == "veth" {
			errs = append(errs, fmt.Errorf("link %s without a container", l.Attrs().Name))
		}
	}
	return errors.Join(errs...)
}

// fsckDown looks when the daemon has ended too.
func (d *daemon) fsckDown() error {
	return errors.Join(d.monitors(), d.mounted(), d.groupsLeft())
}

// strays are monitors in this test run's mount namespace: what must not be
// there when all daemons have ended.
func strays() []int {
	own, _ := os.Readlink("/proc/self/ns/mnt")
	var pids []int
	for pid, cmdline := range processes() {
		ns, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid))
		if ns == own && (strings.HasPrefix(cmdline, "wharf-monitor") || strings.HasPrefix(cmdline, "wharf-vmm")) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// monitors are processes other than the daemon that run our binaries or have
// the daemon's directory on their command line.
func (d *daemon) monitors() error {
	var errs []error
	for pid, cmdline := range processes() {
		if pid == os.Getpid() || d.cmd != nil && pid == d.cmd.Process.Pid {
			continue
		}
		if strings.Contains(cmdline, d.dir+"/") {
			errs = append(errs, fmt.Errorf("left process %d: %s", pid, cmdline))
		}
	}
	return errors.Join(errs...)
}

func (d *daemon) mounted() error {
	m := mounts(d.dir + "/")
	// The data root may be a disk that the test made.
	m = slices.DeleteFunc(m, func(line string) bool { return strings.Contains(line, " "+d.data()+" ") })
	if len(m) > 0 {
		return fmt.Errorf("left mounts: %v", m)
	}
	return nil
}

// runs says whether the daemon was started and has not ended.
func (d *daemon) runs() bool {
	select {
	case <-d.gone:
		return false
	default:
		return d.gone != nil
	}
}

// readyGroup begins the names of control groups of machines that are kept ready.
const readyGroup = "ready-"

func (d *daemon) groupsLeft() error {
	var errs []error
	for _, g := range groups(d.parent) {
		if strings.HasPrefix(filepath.Base(g), readyGroup) && d.runs() {
			continue // the machine that is kept for the next start
		}
		if filepath.Base(g) != d.parent { // the parent itself may stay
			errs = append(errs, fmt.Errorf("left control group %s", g))
		}
	}
	return errors.Join(errs...)
}

// processes maps process ids to command lines.
func processes() map[int]string {
	found := map[int]string{}
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		b, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err == nil && len(b) > 0 {
			found[pid] = strings.ReplaceAll(strings.TrimRight(string(b), "\x00"), "\x00", " ")
		}
	}
	return found
}

// groups are the control groups whose path contains word.
func groups(word string) []string {
	var found []string
	tops, _ := filepath.Glob("/sys/fs/cgroup/*/*wharf*")
	v2, _ := filepath.Glob("/sys/fs/cgroup/*wharf*")
	for _, top := range append(tops, v2...) {
		_ = filepath.WalkDir(top, func(path string, e os.DirEntry, err error) error {
			if err == nil && e.IsDir() && strings.Contains(path, word) {
				found = append(found, path)
			}
			return nil
		})
	}
	return found
}

// removeGroups removes what is left of a cgroup parent, deepest first.
func removeGroups(word string) {
	found := groups(word)
	for i := len(found) - 1; i >= 0; i-- {
		_ = os.Remove(found[i])
	}
}

// mounts are lines of this mount namespace's mountinfo that contain word.
func mounts(word string) []string {
	b, _ := os.ReadFile("/proc/self/mountinfo")
	var found []string
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, word) {
			found = append(found, strings.TrimSpace(line))
		}
	}
	return found
}

// killStrays ends processes that were started below dir, by their ids.
func killStrays(dir string) {
	for pid, cmdline := range processes() {
		if pid != os.Getpid() && strings.Contains(cmdline, dir+"/") {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}
