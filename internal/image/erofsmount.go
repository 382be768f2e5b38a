package image

import (
	"os"

	"golang.org/x/sys/unix"
)

// mountLayers mounts layers, topmost first, as one read-only tree at dir.
func mountLayers(dir string, layers []string) error {
	fd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("fsopen", err)
	}
	defer unix.Close(fd)
	set := func(key, value string) {
		if err == nil {
			err = unix.FsconfigSetString(fd, key, value)
		}
	}
	set("source", "overlay")
	for _, l := range layers {
		set("lowerdir+", l)
	}
	set("metacopy", "off")
	if err == nil {
		err = unix.FsconfigSetFlag(fd, "ro")
	}
	if err == nil {
		err = unix.FsconfigCreate(fd)
	}
	if err != nil {
		return os.NewSyscallError("fsconfig overlay", err)
	}
	m, err := unix.Fsmount(fd, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return os.NewSyscallError("fsmount", err)
	}
	defer unix.Close(m)
	return os.NewSyscallError("move_mount", unix.MoveMount(m, "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH))
}
