package runtime

import (
	"fmt"
	"path"

	"golang.org/x/sys/unix"
)

// nodes fills a /dev. (Without CAP_MKNOD prepare asks for empty files and
// binds the host's nodes on them.)
func (m *rootMaker) nodes(dev int, nodes []Node) error {
	for i := range nodes {
		if err := m.node(dev, &nodes[i]); err != nil {
			return fmt.Errorf("make /dev/%s: %w", nodes[i].Path, err)
		}
	}
	return nil
}

func (m *rootMaker) node(dev int, n *Node) error {
	if dir := path.Dir(n.Path); dir != "." {
		if err := mkdirs(dev, dir); err != nil {
			return err
		}
	}
	switch n.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		return unix.Symlinkat(n.Link, dev, n.Path)
	case unix.S_IFDIR:
		if err := unix.Mkdirat(dev, n.Path, n.Mode&0o7777); err != nil && err != unix.EEXIST {
			return err
		}
	case unix.S_IFREG:
		fd, err := unix.Openat(dev, n.Path, unix.O_CREAT|unix.O_CLOEXEC|unix.O_NOFOLLOW, n.Mode&0o7777)
		if err != nil {
			return err
		}
		_ = unix.Close(fd)
	default:
		number := int(unix.Mkdev(n.Major, n.Minor))
		if err := unix.Mknodat(dev, n.Path, n.Mode, number); err != nil {
			return err
		}
	}
	if n.Mode&0o022 != 0 { // the umask may have taken these
		if err := unix.Fchmodat(dev, n.Path, n.Mode&0o7777, 0); err != nil {
			return err
		}
	}
	if n.UID|n.GID == 0 {
		return nil
	}
	return unix.Fchownat(dev, n.Path, int(m.uid+n.UID), int(m.gid+n.GID), unix.AT_SYMLINK_NOFOLLOW)
}

func mkdirs(at int, dir string) error {
	if parent := path.Dir(dir); parent != "." {
		if err := mkdirs(at, parent); err != nil {
			return err
		}
	}
	if err := unix.Mkdirat(at, dir, 0o755); err != nil && err != unix.EEXIST {
		return err
	}
	return nil
}

func fsName(fd int) string {
	var st unix.Statfs_t
	if unix.Fstatfs(fd, &st) != nil {
		return "unknown"
	}
	if name, ok := fsNames[int64(st.Type)]; ok {
		return name
	}
	return fmt.Sprintf("0x%x", st.Type)
}

var fsNames = map[int64]string{
	unix.EXT4_SUPER_MAGIC:      "ext4",
	unix.XFS_SUPER_MAGIC:       "xfs",
	unix.BTRFS_SUPER_MAGIC:     "btrfs",
	unix.TMPFS_MAGIC:           "tmpfs",
	unix.OVERLAYFS_SUPER_MAGIC: "overlay",
	unix.NFS_SUPER_MAGIC:       "nfs",
	unix.PROC_SUPER_MAGIC:      "proc",
	unix.SYSFS_MAGIC:           "sysfs",
	unix.FUSE_SUPER_MAGIC:      "fuse",
	unix.V9FS_MAGIC:            "9p",
	unix.SQUASHFS_MAGIC:        "squashfs",
	unix.DEVPTS_SUPER_MAGIC:    "devpts",
	unix.CGROUP_SUPER_MAGIC:    "cgroup",
	unix.CGROUP2_SUPER_MAGIC:   "cgroup2",
	unix.DEBUGFS_MAGIC:         "debugfs",
	unix.TRACEFS_MAGIC:         "tracefs",
	unix.BPF_FS_MAGIC:          "bpf",
	unix.SECURITYFS_MAGIC:      "securityfs",
	unix.NSFS_MAGIC:            "nsfs",
	unix.HUGETLBFS_MAGIC:       "hugetlbfs",
	0x19800202:                 "mqueue",
	0x2fc12fc1:                 "zfs",
}
