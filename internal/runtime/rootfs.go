package runtime

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"wharf/internal/undo"
)

// rootMaker makes the detached mounts of one container. The caller's side
// does this with the host's view; the stage only moves them into place.
type rootMaker struct {
	user     int // descriptor of the user namespace, -1 for the host's
	uid, gid uint32
	label    string     // SELinux context of new file systems
	fds      undo.Stack // what is open only meanwhile
	clones   []int      // detached mounts that the layers being opened are on
	warnings []string
}

func (m *rootMaker) warn(format string, args ...any) {
	m.warnings = append(m.warnings, fmt.Sprintf(format, args...))
}

func (m *rootMaker) close() { _ = m.fds.Run() }

func (m *rootMaker) temp(fd int) int {
	m.fds.Push(func() error { return unix.Close(fd) })
	return fd
}

// root makes the root as a detached mount.
//
// A directory's clone is a slave of the mount that it comes from: as a peer of
// a shared one (the root of every host with systemd) it would show the host
// what the stage mounts in it.
func (m *rootMaker) root(r *Root) (int, error) {
	switch {
	case r.Dir != "":
		return m.bind(&HostMount{Kind: HostBind, Source: r.Dir, Recursive: true, IDMap: r.IDMap, RecProp: unix.MS_SLAVE})
	case len(r.Lower) == 0 && r.Upper == "":
		return -1, errors.New("the root has neither layers nor a directory")
	case len(r.Lower) == 0:
		return m.bind(&HostMount{Kind: HostBind, Source: r.Upper, IDMap: r.IDMap, Prop: unix.MS_SLAVE})
	case len(r.Lower) == 1 && r.Upper == "":
		return m.bind(&HostMount{Kind: HostBind, Source: r.Lower[0], IDMap: r.IDMap, Set: unix.MOUNT_ATTR_RDONLY, Prop: unix.MS_SLAVE})
	}
	return m.overlay(r)
}

// bind clones a path as a detached mount.
func (m *rootMaker) bind(h *HostMount) (fd int, err error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	if h.Recursive {
		flags |= unix.AT_RECURSIVE
	}
	pid, inside, foreign := inContainer(h.Source)
	if foreign {
		// Made inside its user namespace: the ids are right as they are, and
		// the kernel refuses to map them again.
		own := *h
		own.IDMap, h = false, &own
		fd, err = openTreeIn(pid, inside, flags)
	} else if h.Subpath != "" {
		fd, err = openTreeBelow(h.Source, h.Subpath, flags)
	} else {
		fd, err = unix.OpenTree(unix.AT_FDCWD, h.Source, flags)
	}
	if err != nil {
		return -1, &os.PathError{Op: "open_tree", Path: h.Source, Err: err}
	}
	if err = m.attributes(fd, h); err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func (m *rootMaker) attributes(fd int, h *HostMount) error {
	if h.IDMap && (m.user >= 0 || len(h.Own) > 0) {
		user := m.user
		if len(h.Own) > 0 {
			f, _, err := NewNamespaces(h.Own, h.OwnGID, false)
			if err != nil {
				return err
			}
			defer f.Close()
			user = int(f.Fd())
		}
		if err := m.mapIDs(fd, user, h); err != nil {
			return err
		}
	}
	if h.RecSet|h.RecClear|h.RecProp != 0 {
		if err := setAttr(fd, h.RecSet, h.RecClear, h.RecProp, unix.AT_RECURSIVE); err != nil {
			return fmt.Errorf("mount options of %s, recursively: %w", h.Source, err)
		}
	}
	if h.Set|h.Clear|h.Prop != 0 {
		if err := setAttr(fd, h.Set, h.Clear, h.Prop, 0); err != nil {
			return fmt.Errorf("mount options of %s: %w", h.Source, err)
		}
	}
	return nil
}

// mapIDs idmaps a bind. Kernel file systems, which have no owners worth
// mapping, and those that belong to the user namespace already (another
// container's tmpfs) are shown as they are. Of a tree with such mounts in it
// only the top is mapped.
func (m *rootMaker) mapIDs(fd, user int, h *HostMount) error {
	err := idmap(fd, user, h.Source, h.Recursive && !h.TopOnly)
	if err == nil {
		return nil
	}
	var not *NotIdmappableError
	if !errors.As(err, &not) {
		return err
	}
	if h.Recursive && idmap(fd, user, h.Source, false) == nil {
		m.warn("bind of %s: mounts below it keep the host's ids (%v)", h.Source, not.Err)
		return nil
	}
	if kernelFS[not.FS] || not.FS == "tmpfs" && ofKernel(h.Source) {
		return nil
	}
	return err
}

// ofKernel reports whether a path is in the host's /dev, whose devtmpfs calls
// itself tmpfs and cannot be mapped, or in /proc.
func ofKernel(path string) bool {
	return path == "/dev" || strings.HasPrefix(path, "/dev/") || strings.HasPrefix(path, "/proc/")
}

// kernelFS are file systems of the kernel's own.
var kernelFS = map[string]bool{
	"proc": true, "sysfs": true, "devpts": true, "cgroup": true, "cgroup2": true, "mqueue": true, "debugfs": true,
	"tracefs": true, "bpf": true, "securityfs": true, "nsfs": true, "hugetlbfs": true,
}

// setAttr changes a mount by its descriptor. The kernel takes access time
// modes only together with a clear of all of them.
func setAttr(fd int, set, clear, prop uint64, flags uint) error {
	if (set|clear)&atimeBits != 0 {
		clear |= unix.MOUNT_ATTR__ATIME
	}
	return unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|flags, &unix.MountAttr{Attr_set: set, Attr_clr: clear, Propagation: prop})
}

const atimeBits = unix.MOUNT_ATTR__ATIME

// idmap shows the files of a detached mount with the ids of a user namespace.
func idmap(fd, user int, path string, recursive bool) error {
	flags := uint(unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	err := unix.MountSetattr(fd, "", flags, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(user)})
	if err == nil {
		return nil
	}
	if err == unix.EINVAL || err == unix.EOPNOTSUPP || err == unix.EPERM {
		return &NotIdmappableError{Path: path, FS: fsName(fd), Err: err}
	}
	return fmt.Errorf("map ids of %s: %w", path, err)
}

// NotIdmappableError says that a file system cannot show its files with a
// container's ids. The remedy is --userns=host for the container, or another
// place for the directory.
type NotIdmappableError struct {
	Path, FS string
	Err      error
}

func (e *NotIdmappableError) Error() string {
	return "file system " + e.FS + " at " + e.Path + " (or one mounted below it) cannot be idmapped (" + e.Err.Error() +
		"); use --userns=host for this container or keep the directory on ext4, xfs, btrfs or tmpfs"
}

func (e *NotIdmappableError) Unwrap() error { return e.Err }

// overlay mounts the layers. With a user namespace it mounts idmapped clones,
// and with the file system ids of the mapped root, because the kernel makes
// overlay's work directory with the mounter's: the host's root has no id
// there (EOVERFLOW, and a read-only mount).
func (m *rootMaker) overlay(r *Root) (int, error) {
	dirs := append([]string{}, r.Lower...)
	if r.Upper != "" {
		dirs = append(dirs, r.Upper, r.Work)
	}
	fds, err := m.layers(dirs, r.IDMap && m.user >= 0)
	if err != nil {
		return -1, err
	}
	paths := make([]string, len(fds))
	for i, fd := range fds {
		paths[i] = fdDir + strconv.Itoa(fd)
	}
	n := len(r.Lower)
	var mnt int
	mount := func(lower func(int, []string) error) error {
		return m.asRoot(func() (err error) {
			mnt, err = mountOverlay(lower, paths[:n], paths[n:], m.label)
			return err
		})
	}
	ways := []func() error{
		func() error { return mount(lowerOneByOne) },
		func() error { return atFDs(m.clones, func() error { return mount(lowerOneByOne) }) },
		func() error { return atFDs(m.clones, func() error { return mount(lowerAtOnce) }) },
	}
	for _, way := range ways[overlayWay(len(m.clones) > 0):] {
		// A kernel whose overlay has not the new interface at all (before Linux
		// 6.5) takes any option and refuses the whole at the end.
		if err = way(); !errors.Is(err, errOneByOne) && !errors.Is(err, unix.EINVAL) {
			break
		}
	}
	if err != nil {
		return -1, fmt.Errorf("mount overlay of %d layers (upper %q): %w", n, r.Upper, err)
	}
	return mnt, nil
}

// layers opens the directories, through clones that are idmapped if asked.
// One clone of their common parent serves all, if they are on one mount.
func (m *rootMaker) layers(dirs []string, mapped bool) ([]int, error) {
	fds := make([]int, len(dirs))
	m.clones = nil
	top, one := commonMount(dirs)
	if !mapped {
		for i, d := range dirs {
			fd, err := unix.Open(d, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			if err != nil {
				return nil, &os.PathError{Op: "open layer", Path: d, Err: err}
			}
			fds[i] = m.temp(fd)
		}
		return fds, nil
	}
	if !one {
		// Upper and work have to be on one mount: theirs is the parent's.
		return m.cloneEach(dirs)
	}
	clone, err := m.bind(&HostMount{Source: top, IDMap: true})
	if err != nil {
		return nil, err
	}
	m.clones = []int{m.temp(clone)}
	for i, d := range dirs {
		if fds[i], err = m.below(clone, top, d); err != nil {
			return nil, err
		}
	}
	return fds, nil
}

func (m *rootMaker) cloneEach(dirs []string) ([]int, error) {
	fds := make([]int, len(dirs))
	clones := map[string]int{}
	for i, d := range dirs {
		parent := filepath.Dir(d)
		clone, ok := clones[parent]
		if !ok {
			var err error
			if clone, err = m.bind(&HostMount{Source: parent, IDMap: true}); err != nil {
				return nil, err
			}
			clones[parent] = m.temp(clone)
			m.clones = append(m.clones, clone)
		}
		fd, err := m.below(clone, parent, d)
		if err != nil {
			return nil, err
		}
		fds[i] = fd
	}
	return fds, nil
}

func (m *rootMaker) below(clone int, top, dir string) (int, error) {
	rel, err := filepath.Rel(top, dir)
	if err != nil {
		return -1, err
	}
	fd, err := unix.Openat(clone, rel, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open layer", Path: dir, Err: err}
	}
	return m.temp(fd), nil
}

// commonMount returns the deepest directory above all dirs, and whether it
// and they are on the same mount.
func commonMount(dirs []string) (string, bool) {
	top := filepath.Dir(dirs[0])
	for _, d := range dirs[1:] {
		for top != "/" && !strings.HasPrefix(d, top+"/") {
			top = filepath.Dir(top)
		}
	}
	id, ok := mountID(top)
	if !ok {
		return top, false
	}
	for _, d := range dirs {
		if other, ok := mountID(d); !ok || other != id {
			return top, false
		}
	}
	return top, true
}

func mountID(path string) (uint64, bool) {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_STATX_DONT_SYNC, unix.STATX_MNT_ID, &st)
	return st.Mnt_id, err == nil && st.Mask&unix.STATX_MNT_ID != 0
}

// overlayOptions keep the upper layer what diff and commit can read by
// themselves: whole files and directories at their own names, whatever the
// kernel's defaults are; and layers shared by containers without an index.
var overlayOptions = [][2]string{{"source", "overlay"}, {"redirect_dir", "nofollow"}, {"metacopy", "off"}, {"index", "off"}}

// mountOverlay mounts an overlay, detached. upper is empty or the upper and
// the work directory; setLower names the lower ones.
func mountOverlay(setLower func(fs int, lower []string) error, lower, upper []string, label string) (int, error) {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("overlay file system (kernel module overlay missing?): %w", err)
	}
	defer unix.Close(fs)
	for _, o := range overlayOptions {
		if err := unix.FsconfigSetString(fs, o[0], o[1]); err != nil {
			return -1, fmt.Errorf("overlay option %s=%s: %w", o[0], o[1], fsError(fs, err))
		}
	}
	if label != "" {
		if err := unix.FsconfigSetString(fs, "context", label); err != nil {
			return -1, fmt.Errorf("mount label %q: %w", label, fsError(fs, err))
		}
	}
	if err := setLower(fs, lower); err != nil {
		return -1, fsError(fs, err)
	}
	if len(upper) == 2 {
		if err := unix.FsconfigSetString(fs, "upperdir", upper[0]); err != nil {
			return -1, fsError(fs, err)
		}
		if err := unix.FsconfigSetString(fs, "workdir", upper[1]); err != nil {
			return -1, fsError(fs, err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, fsError(fs, err)
	}
	return unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
}

const fdDir = "/proc/self/fd/"

// errOneByOne: the kernel does not know "lowerdir+" (before Linux 6.8).
var errOneByOne = errors.New("this kernel takes no lower layers one by one")

func lowerOneByOne(fs int, lower []string) error {
	for i, l := range lower {
		if err := unix.FsconfigSetString(fs, "lowerdir+", l); err != nil {
			if i == 0 {
				return fmt.Errorf("%w: %w", errOneByOne, err)
			}
			return err
		}
	}
	return nil
}

// lowerAtOnce names all lower layers in one string, which fsconfig(2) limits
// to 255 bytes. As numbers, on a thread that stands in /proc/self/fd, some 80
// fit.
func lowerAtOnce(fs int, lower []string) error {
	names := make([]string, len(lower))
	for i, l := range lower {
		names[i] = strings.TrimPrefix(l, fdDir)
	}
	all := strings.Join(names, ":")
	if len(all) > 255 {
		return fmt.Errorf("%d layers are too many for this kernel (Linux 6.8 lifts this limit)", len(lower))
	}
	return unix.FsconfigSetString(fs, "lowerdir", all)
}

// fsError adds what the kernel's file system context has to say.
func fsError(fs int, err error) error {
	var buf [512]byte
	n, e := unix.Read(fs, buf[:])
	if e != nil || n < 3 {
		return err
	}
	return fmt.Errorf("%w (%s)", err, strings.TrimSpace(string(buf[2:n])))
}

// asRoot runs f with the file system ids of the container's root, on one
// thread, with all capabilities that the process has.
func (m *rootMaker) asRoot(f func() error) error {
	if m.user < 0 {
		return f()
	}
	runtime.LockOSThread()
	setFSID(m.uid, m.gid)
	if err := raiseEffective(); err != nil {
		return err // the thread stays locked and ends with the goroutine
	}
	err := f()
	setFSID(0, 0)
	if e := raiseEffective(); e != nil {
		return errors.Join(err, e)
	}
	runtime.UnlockOSThread()
	return err
}

func setFSID(uid, gid uint32) {
	_, _, _ = unix.RawSyscall(unix.SYS_SETFSGID, uintptr(gid), 0, 0)
	_, _, _ = unix.RawSyscall(unix.SYS_SETFSUID, uintptr(uid), 0, 0)
}

// raiseEffective makes the thread's permitted capabilities effective again:
// leaving fsuid 0 dropped those that concern files.
func raiseEffective() error {
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

// dev makes a container's /dev with the host's right to make device nodes,
// which a user namespace does not have.
func (m *rootMaker) dev(h *HostMount) (int, error) {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("tmpfs for /dev: %w", err)
	}
	defer unix.Close(fs)
	options := append([]string{"source=tmpfs"}, h.Data...)
	if m.label != "" {
		options = append(options, "context="+m.label)
	}
	for _, o := range options {
		k, v, _ := strings.Cut(o, "=")
		if err := unix.FsconfigSetString(fs, k, v); err != nil {
			return -1, fmt.Errorf("tmpfs option %q for /dev: %w", o, fsError(fs, err))
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, fmt.Errorf("tmpfs for /dev: %w", fsError(fs, err))
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, int(h.Set))
	if err != nil {
		return -1, fmt.Errorf("tmpfs for /dev: %w", err)
	}
	if m.user >= 0 {
		err = unix.Fchownat(fd, "", int(m.uid), int(m.gid), unix.AT_EMPTY_PATH)
	}
	if err == nil {
		err = m.asRoot(func() error { return m.nodes(fd, h.Nodes) })
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}
