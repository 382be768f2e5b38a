package host

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// probeBase is the first host id of the probe's id range. Nothing with these
// ids outlives the probe.
const probeBase = 1_000_000_000

// probeStorage tries idmapped and overlay mounts on the file system of dir.
// All mounts are detached: nothing else ever sees them.
func probeStorage(dir string) Storage {
	s := Storage{Path: nearest(dir)}
	s.FSType, s.ProjectQuota = mountOf(s.Path)
	tmp, err := os.MkdirTemp(s.Path, ".wharf-probe-")
	if err != nil {
		s.Error = err.Error()
		return s
	}
	defer os.RemoveAll(tmp)
	for _, d := range []string{"lower", "plain/upper", "plain/work", "mapped/upper", "mapped/work"} {
		if err := os.MkdirAll(filepath.Join(tmp, d), 0o700); err != nil {
			s.Error = err.Error()
			return s
		}
	}
	s.Reflink = reflink(tmp)
	note := func(err error) bool {
		if err != nil && s.Error == "" {
			s.Error = err.Error()
		}
		return err == nil
	}
	s.Overlay = note(overlay(filepath.Join(tmp, "lower"), filepath.Join(tmp, "plain")))
	idmap, over := probeIdmap(tmp)
	s.Idmap = note(idmap)
	s.OverlayIdmap = s.Idmap && note(over)
	return s
}

// probeIdmap tries an idmapped clone of tmp's directories, then an overlay over
// two of them.
func probeIdmap(tmp string) (idmap, over error) {
	userns, err := userNamespace()
	if err != nil {
		return err, nil
	}
	defer userns.Close()
	var paths []string
	var clones []int
	for _, d := range []string{"lower", "mapped"} {
		fd, err := idmapped(filepath.Join(tmp, d), int(userns.Fd()))
		if err != nil {
			return err, nil
		}
		defer unix.Close(fd)
		clones = append(clones, fd)
		paths = append(paths, fmt.Sprintf("/proc/self/fd/%d", fd))
	}
	onOwnThread(func() {
		// The kernel makes overlay's work directory as the mounting thread's
		// file system user, whom the idmapping must know.
		if over = becomeFSUser(probeBase); over == nil {
			over = overlay(paths[0], paths[1])
		}
		if errors.Is(over, unix.EINVAL) {
			if over = attach(clones); over == nil {
				over = overlay(paths[0], paths[1])
			}
		}
	})
	return nil, over
}

// attach puts detached mounts into a mount namespace of this thread's own, as
// the runtime does: before Linux 6.15 overlay takes no layer from a mount that
// is attached nowhere. The thread has to end after it.
func attach(clones []int) error {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("make / private: %w", err)
	}
	for _, fd := range clones { // on top of the root: who stands in it does not see them
		// The next one lies on this one, and would come out on the host where
		// this one is a peer of a shared mount.
		attr := &unix.MountAttr{Propagation: unix.MS_PRIVATE}
		if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, attr); err != nil {
			return fmt.Errorf("make private: %w", err)
		}
		if err := unix.MoveMount(fd, "", unix.AT_FDCWD, "/", unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return fmt.Errorf("attach: %w", err)
		}
	}
	return nil
}

// overlay makes an overlay of lower and dir's upper and work, and drops it.
func overlay(lower, dir string) error {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fmt.Errorf("overlay: %w", err)
	}
	defer unix.Close(fs)
	for _, kv := range [][2]string{
		{"source", "wharf-probe"}, {"lowerdir", lower},
		{"upperdir", dir + "/upper"}, {"workdir", dir + "/work"},
	} {
		if err := unix.FsconfigSetString(fs, kv[0], kv[1]); err != nil {
			return fmt.Errorf("overlay %s: %w", kv[0], err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return fmt.Errorf("overlay: %w", err)
	}
	mnt, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("overlay: %w", err)
	}
	defer unix.Close(mnt)
	var st unix.Statfs_t
	if err := unix.Fstatfs(mnt, &st); err != nil {
		return fmt.Errorf("overlay: %w", err)
	}
	if st.Flags&unix.ST_RDONLY != 0 {
		return errors.New("overlay: the kernel could only mount it read-only")
	}
	return nil
}

// idmapped returns a detached, idmapped clone of the directory's mount.
func idmapped(dir string, userns int) (int, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("open_tree: %w", err)
	}
	attr := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(userns)}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, attr); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("mount_setattr idmap: %w", err)
	}
	return fd, nil
}

// userNamespace makes a user namespace with ids 0..65535 mapped to probeBase.
// A child carries it that is stopped at its exec and never runs.
func userNamespace() (*os.File, error) {
	var file *os.File
	var err error
	onOwnThread(func() { // ptrace(2) ties the child to this thread
		ids := []syscall.SysProcIDMap{{HostID: probeBase, Size: 65536}}
		cmd := &exec.Cmd{Path: "/proc/self/exe", Args: []string{"wharf-probe"}, SysProcAttr: &syscall.SysProcAttr{
			Ptrace: true, Cloneflags: syscall.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids,
			Pdeathsig: syscall.SIGKILL,
		}}
		if err = cmd.Start(); err != nil {
			err = fmt.Errorf("user namespace: %w", err)
			return
		}
		file, err = os.Open(fmt.Sprintf("/proc/%d/ns/user", cmd.Process.Pid))
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // "killed" is what was asked for
	})
	runtime.KeepAlive(file)
	return file, err
}

// becomeFSUser sets the calling thread's file system ids and raises the
// effective capabilities that setfsuid(2) lowers.
func becomeFSUser(id int) error {
	if err := unix.Setfsgid(id); err != nil {
		return fmt.Errorf("setfsgid: %w", err)
	}
	if err := unix.Setfsuid(id); err != nil {
		return fmt.Errorf("setfsuid: %w", err)
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return fmt.Errorf("capget: %w", err)
	}
	for i := range data {
		data[i].Effective = data[i].Permitted
	}
	if err := unix.Capset(&hdr, &data[0]); err != nil {
		return fmt.Errorf("capset: %w", err)
	}
	return nil
}

// reflink tries FICLONE between two files in dir.
func reflink(dir string) bool {
	a, err := os.Create(filepath.Join(dir, "a"))
	if err != nil {
		return false
	}
	defer a.Close()
	b, err := os.Create(filepath.Join(dir, "b"))
	if err != nil {
		return false
	}
	defer b.Close()
	if _, err := a.WriteString("wharf"); err != nil {
		return false
	}
	return unix.IoctlFileClone(int(b.Fd()), int(a.Fd())) == nil
}

// mountOf returns the type of the file system that path is on and whether it
// is mounted with project quotas.
func mountOf(path string) (fstype string, prjquota bool) {
	infos, err := mountinfo.GetMounts(mountinfo.ParentsFilter(path))
	if err != nil || len(infos) == 0 {
		return "", false
	}
	best := infos[0]
	for _, i := range infos {
		if len(i.Mountpoint) >= len(best.Mountpoint) {
			best = i
		}
	}
	opts := strings.Split(best.VFSOptions, ",")
	return best.FSType, slices.Contains(opts, "prjquota") || slices.Contains(opts, "pquota")
}
