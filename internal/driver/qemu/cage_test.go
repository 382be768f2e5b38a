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
	if err := os.Mkdir(filepath.Join(root, "share"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/shadow", filepath.Join(share, "link")); err != nil {
		t.Fatal(err)
	}
	const script = `cd /share 2>/dev/null
for try in "mknod dev b 7 0" "mknod null c 1 3" "mount -t tmpfs x /tmp" "mount -o remount,rw /" "umount -l /usr" "touch /x" "touch /usr/x" "cat /etc/shadow" "cat link" \
	"cat /proc/1/root/etc/shadow" "chroot /proc/1/root cat /etc/shadow" "unshare -m true" "ip link add x type veth" "reboot -f" "hostname x" "sh -c 'echo 1 >/proc/sys/kernel/panic'"; do
	busybox $try >/dev/null 2>&1 && echo "reached: $try"
done
touch own && echo made; grep -E "^(NoNewPrivs|CapEff):" /proc/self/status; cat /proc/net/dev | wc -l`
	for name, c := range map[string]cage{
		"virtiofsd": {caps: shareCaps, binds: []specs.Mount{{Destination: "/share", Type: "bind", Source: share, Options: []string{"rbind", "rprivate", "nosuid", "nodev"}}}},
		"qemu":      {user: 1000},
	} {
		c.root, c.ids, c.name, c.cgroup = root, model.IDRange{Host: 1 << 20, Size: 65536}, "cage", "wharf-test/cage-"+name
		c.args = []string{"/bin/busybox", "sh", "-c", script}
		out := inCage(t, &c)
		if err := cgroup.Open(c.cgroup).Remove(); err != nil {
			t.Error(err)
		}
		if strings.Contains(out, "reached") {
			t.Errorf("%s: %s", name, out)
		}
		if !strings.Contains(out, "NoNewPrivs:\t1") || name == "qemu" && !strings.Contains(out, "CapEff:\t0000000000000000") {
			t.Errorf("%s: %s", name, out)
		}
	}
	// What is made belongs to the host's root, as what a container makes in a
	// bind does.
	if st, err := os.Stat(filepath.Join(share, "own")); err != nil || st.Sys().(*syscall.Stat_t).Uid != 0 {
		t.Errorf("own file: %v", err)
	}
}

func inCage(t *testing.T, c *cage) string {
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
	_, _ = proc.Wait()
	return string(out)
}
