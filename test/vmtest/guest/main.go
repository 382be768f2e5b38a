// Command guest is process 1 of the machine in which make vmtest runs test
// binaries: it mounts what they need, with cgroup v2 only, runs what
// /tests/list names, one after the other, and turns the machine off. Its
// output is theirs, with a line "vmtest: ..." around each of them.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	failed, err := run()
	if err != nil {
		fmt.Println("vmtest: error:", err)
		failed++
	}
	fmt.Printf("vmtest: done, %d failed\n", failed)
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	select {}
}

func run() (failed int, err error) {
	if err := setup(); err != nil {
		return 0, err
	}
	list, err := os.ReadFile("/tests/list")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(list)) {
		if f := strings.Fields(line); len(f) > 0 && !test(f) {
			failed++
		}
	}
	return failed, nil
}

// test runs one line of the list: VARIABLE=VALUE..., a program, its arguments.
func test(words []string) bool {
	env := []string{"PATH=/bin", "HOME=/work", "TMPDIR=/work/tmp", "USER=root"}
	for len(words) > 1 && strings.Contains(words[0], "=") && !strings.HasPrefix(words[0], "/") {
		env, words = append(env, words[0]), words[1:]
	}
	c := exec.Command(words[0], words[1:]...)
	c.Dir, c.Env, c.Stdout, c.Stderr = "/work", env, os.Stdout, os.Stdout
	began := time.Now()
	err := c.Run()
	word := "ok"
	if err != nil {
		word = "FAIL"
	}
	fmt.Printf("vmtest: %s %s %.1fs\n", word, filepath.Base(words[0]), time.Since(began).Seconds())
	return err == nil
}

// setup makes the machine what tests expect of one.
func setup() error {
	// The kernel's first root cannot be pivoted away from: stand on a bind
	// mount of it.
	for i, f := range []func() error{
		func() error { return unix.Mount("/", "/tmp", "", unix.MS_BIND, "") },
		func() error { return unix.Chdir("/tmp") },
		func() error { return unix.Mount(".", "/", "", unix.MS_MOVE, "") },
		func() error { return unix.Chroot(".") },
		func() error { return unix.Chdir("/") },
	} {
		if err := f(); err != nil {
			return fmt.Errorf("root, step %d: %w", i, err)
		}
	}
	early := []mount{
		{"devtmpfs", "devtmpfs", "/dev", ""}, {"proc", "proc", "/proc", ""}, {"sysfs", "sysfs", "/sys", ""}, {"tmpfs", "tmpfs", "/run", "mode=0755"},
		{"devpts", "devpts", "/dev/pts", "ptmxmode=0666,mode=0620,gid=5"}, {"tmpfs", "tmpfs", "/dev/shm", "mode=1777"},
		{"mqueue", "mqueue", "/dev/mqueue", ""}, {"cgroup2", "cgroup2", "/sys/fs/cgroup", ""},
	}
	if err := mountAll(early); err != nil {
		return err
	}
	if err := modules(); err != nil {
		return err
	}
	if err := mountAll([]mount{{"ext4", "/dev/vda", "/work", "prjquota"}, {"xfs", "/dev/vdb", "/xfs", "prjquota"}}); err != nil {
		return err
	}
	for _, d := range []string{"/work/tmp", "/work/quota", "/xfs/quota"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	if out, err := exec.Command("/bin/busybox", "--install", "-s", "/bin").CombinedOutput(); err != nil {
		return fmt.Errorf("busybox: %w: %s", err, out)
	}
	if err := errors.Join(os.MkdirAll("/etc", 0o755), os.WriteFile("/etc/passwd", []byte("root:x:0:0:root:/work:/bin/sh\n"), 0o644),
		os.WriteFile("/etc/group", []byte("root:x:0:\n"), 0o644)); err != nil {
		return err
	}
	for link, to := range map[string]string{"/dev/fd": "/proc/self/fd", "/dev/stdin": "/proc/self/fd/0", "/dev/stdout": "/proc/self/fd/1", "/dev/stderr": "/proc/self/fd/2"} {
		_ = os.Symlink(to, link)
	}
	if err := unix.Mount("", "/", "", unix.MS_SHARED|unix.MS_REC, ""); err != nil { // as systemd does
		return err
	}
	return exec.Command("/bin/busybox", "ip", "link", "set", "lo", "up").Run()
}

type mount struct{ fs, source, dir, data string }

func mountAll(list []mount) error {
	for _, m := range list {
		if err := os.MkdirAll(m.dir, 0o755); err != nil {
			return err
		}
		err := unix.Mount(m.source, m.dir, m.fs, 0, m.data)
		for end := time.Now().Add(20 * time.Second); errors.Is(err, unix.ENOENT) && time.Now().Before(end); {
			time.Sleep(time.Millisecond) // the disk is not there yet
			err = unix.Mount(m.source, m.dir, m.fs, 0, m.data)
		}
		if err != nil {
			return fmt.Errorf("mount %s at %s: %w", m.source, m.dir, err)
		}
	}
	return nil
}

// modules loads the list of package boot, then our own further ones.
func modules() error {
	for _, file := range []string{"/lib/modules/list", "/tests/modules"} {
		list, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(list)) {
			name := strings.TrimSpace(line)
			if name == "" {
				continue
			}
			if err := load("/lib/modules/" + name + ".ko"); err != nil {
				return fmt.Errorf("module %s: %w", name, err)
			}
		}
	}
	return nil
}

func load(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}
