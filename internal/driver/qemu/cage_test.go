package qemu

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"wharf/internal/model"
	"wharf/internal/runtime"
	"wharf/internal/runtime/cgroup"
)

// TestCages puts a shell in the place of virtiofsd and of QEMU, as if a guest
// had taken them over: what can they reach?
func TestCages(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	if _, err := os.Stat("/bin/busybox"); err != nil {
		t.Skip("needs a static busybox: apt-get install busybox-static")
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	_ = os.Chmod(exe, 0o755) // the stage is this program
	share, root := t.TempDir(), filepath.Join(t.TempDir(), "root")
	for _, d := range []string{share, filepath.Dir(share), filepath.Dir(filepath.Dir(root)), filepath.Dir(root)} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := makeCageRoot(root); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "vm/probe"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/shadow", filepath.Join(share, "link")); err != nil {
		t.Fatal(err)
	}
	// Each by itself: a cage's program cannot start another.
	tries := []string{"mknod dev b 7 0", "mknod null c 1 3", "mount -t tmpfs x /tmp", "mount -o remount,rw /", "umount -l /usr", "touch /x", "touch /usr/x", "cat /etc/shadow",
		"cat /share/link", "cat /proc/1/root/etc/shadow", "chroot /proc/1/root /bin/busybox cat /etc/shadow", "unshare -m true", "unshare -U true", "ip link add x type veth",
		"reboot -f", "hostname x", "sh -c echo\t1\t>/proc/sys/kernel/panic", "sh -c (exit\t0)|cat"}
	const look = `grep -E "^(NoNewPrivs|CapEff|Seccomp):" /proc/self/status`
	for name, c := range cages(share) {
		c.root, c.ids, c.name, c.cgroup = root, model.IDRange{Host: 1 << 20, Size: 65536}, "cage", parent+"/cage-"+name
		c.binds = append(c.binds, specs.Mount{Destination: "/vm/probe", Type: "bind", Source: exe, Options: []string{"bind", "ro", "nosuid", "nodev"}})
		run := func(args ...string) (string, bool) {
			c.args = args
			return inCage(t, &c)
		}
		for _, try := range tries {
			args := append([]string{"/bin/busybox"}, strings.Split(try, " ")...)
			for i := range args {
				args[i] = strings.ReplaceAll(args[i], "\t", " ")
			}
			if out, well := run(args...); well {
				t.Errorf("%s reached: %s: %s", name, try, out)
			}
		}
		out, _ := run("/bin/busybox", "sh", "-c", "exec busybox "+look)
		if !strings.Contains(out, "NoNewPrivs:\t1") || !strings.Contains(out, "Seccomp:\t2") || name == "qemu" && !strings.Contains(out, "CapEff:\t0000000000000000") {
			t.Errorf("%s: %s", name, out)
		}
		if _, well := run("/bin/busybox", "touch", "/share/own"); well != (name == "virtiofsd") {
			t.Errorf("%s made a file: %v", name, well)
		}
		if out, _ := run("/vm/probe", probeArg); out != "probed\n" {
			t.Errorf("%s: %s", name, out)
		}
		if err := cgroup.Open(c.cgroup).Remove(); err != nil {
			t.Error(err)
		}
	}
	_ = cgroup.Open(parent).Remove() // unless machines are there
	// What is made belongs to the host's root, as what a container makes in a
	// bind does.
	if st, err := os.Stat(filepath.Join(share, "own")); err != nil || st.Sys().(*syscall.Stat_t).Uid != 0 {
		t.Errorf("own file: %v", err)
	}
}

func cages(share string) map[string]cage {
	return map[string]cage{
		"virtiofsd": {caps: shareCaps, binds: []specs.Mount{{Destination: "/share", Type: "bind", Source: share, Options: []string{"rbind", "rprivate", "nosuid", "nodev"}}}},
		"qemu":      {user: 1000},
	}
}

// inCage runs a cage and returns what it said, and whether it ended well.
func inCage(t *testing.T, c *cage) (string, bool) {
	t.Helper()
	p, err := c.prepare()
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	proc, err := runtime.Create(p, runtime.Files{Stdout: w, Stderr: w})
	_ = w.Close()
	if err == nil {
		defer proc.Close()
		err = proc.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	out, _ := io.ReadAll(r)
	st, err := proc.Wait()
	if err != nil {
		t.Fatal(err)
	}
	return string(out), st.ExitStatus() == 0
}
