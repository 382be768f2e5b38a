// Command floor is the least that a container's start can cost on a machine,
// for the bench to compare with: an overlay, a process in new namespaces, the
// usual mounts, pivot_root, exec of /bin/true, and the wait. No user
// namespace, network, limits, filter, log or record.
//
//	floor DIR    DIR has lower/ (a root file system), upper/, work/, root/
//
// It prints nothing and ends with the program's code.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

func main() {
	if len(os.Args) == 3 && os.Args[1] == "init" {
		fmt.Fprintln(os.Stderr, "floor:", inside(os.Args[2]))
		os.Exit(125)
	}
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: floor DIR")
		os.Exit(2)
	}
	os.Exit(outside(os.Args[1]))
}

func outside(dir string) int {
	cmd := exec.Command("/proc/self/exe", "init", dir)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC |
		unix.CLONE_NEWUTS | unix.CLONE_NEWNET | unix.CLONE_NEWCGROUP}
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "floor:", err)
		return 125
	}
	return 0
}

// inside never returns without an error.
func inside(dir string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	root := dir + "/root"
	opts := "lowerdir=" + dir + "/lower,upperdir=" + dir + "/upper,workdir=" + dir + "/work"
	if err := unix.Mount("overlay", root, "overlay", 0, opts); err != nil {
		return fmt.Errorf("overlay: %w", err)
	}
	const safe = unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NODEV
	for _, m := range []struct {
		typ, at string
		flags   uintptr
		opts    string
	}{
		{"proc", "/proc", safe, ""}, {"sysfs", "/sys", safe | unix.MS_RDONLY, ""},
		{"tmpfs", "/dev", unix.MS_NOSUID, "mode=755"}, {"devpts", "/dev/pts", unix.MS_NOSUID | unix.MS_NOEXEC, "newinstance,ptmxmode=0666"},
		{"tmpfs", "/dev/shm", safe, "size=64m"}, {"mqueue", "/dev/mqueue", safe, ""},
	} {
		if err := os.MkdirAll(root+m.at, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.typ, root+m.at, m.typ, m.flags, m.opts); err != nil {
			return fmt.Errorf("%s: %w", m.at, err)
		}
	}
	if err := os.Chdir(root); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return err
	}
	return unix.Exec("/bin/true", []string{"true"}, nil)
}
