package runtime_test

import (
	"bytes"
	"debug/elf"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"wharf/internal/model"
	"wharf/internal/runtime"
	"wharf/internal/runtime/cgroup"
	"wharf/internal/runtime/prepare"
)

func TestMain(m *testing.M) {
	runtime.Main()
	code := m.Run()
	_ = cgroup.Open(parent).Remove()
	os.Exit(code)
}

const busybox = "/bin/busybox"

// parent is the control group of this process's containers: other packages'
// tests run meanwhile, and an empty parent is removed.
var parent = "wharf-test-" + strconv.Itoa(os.Getpid())

// needRoot skips where the machine does not let us make containers.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: run as root (go test in a root shell)")
	}
	if _, err := os.Stat(busybox); err != nil {
		t.Skip("needs a static busybox: apt-get install busybox-static")
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// The stage is this program: it runs in roots without a dynamic loader,
	// and a mapped root has to be able to execute it.
	if bin, err := elf.Open(exe); err != nil {
		t.Fatal(err)
	} else if libs, _ := bin.ImportedLibraries(); len(libs) > 0 {
		t.Fatal("the test is linked dynamically: run it with CGO_ENABLED=0, as make does")
	}
	_ = os.Chmod(exe, 0o755)
}

// layer makes a busybox root in a fresh directory.
func layer(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "layer")
	for _, d := range []string{"bin", "etc", "tmp", "proc", "sys", "dev", "root"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "bin/busybox"), string(data), 0o755)
	for _, n := range []string{"sh", "true", "id", "cat", "ls", "mount", "sleep", "stat", "hostname", "ps", "echo", "grep", "tty", "mkdir", "touch", "env", "pwd", "readlink", "kill", "sysctl", "dd", "false", "umask", "chown"} {
		if err := os.Symlink("busybox", filepath.Join(dir, "bin", n)); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(dir, "etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nwww:x:33:33:www:/var/www:/bin/sh\n", 0o644)
	write(t, filepath.Join(dir, "etc/group"), "root:x:0:\nwheel:x:10:root,www\nwww:x:33:\nvideo:x:44:\n", 0o644)
	return dir
}

func write(t testing.TB, name, data string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(name, []byte(data), mode); err != nil {
		t.Fatal(err)
	}
}

var defaultCaps = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID",
	"CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
}

// bundle is what Docker asks for by default, as an overlay of one layer.
func bundle(t testing.TB, args ...string) *model.Bundle {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{"upper", "work"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	b := &model.Bundle{
		ID:     model.NewID(),
		IDs:    model.IDRange{Host: 1000000, Size: 65536},
		Rootfs: model.Rootfs{Lower: []string{layer(t)}, Upper: filepath.Join(dir, "upper"), Work: filepath.Join(dir, "work")},
		Spec:   defaultSpec(args...),
	}
	group(t, b) // for its cleanup
	return b
}

func defaultSpec(args ...string) *specs.Spec {
	return &specs.Spec{
		Version:  specs.Version,
		Hostname: "box",
		Process: &specs.Process{
			Args: args, Cwd: "/", Env: []string{"PATH=/bin:/usr/bin"}, NoNewPrivileges: false,
			Capabilities: &specs.LinuxCapabilities{Bounding: defaultCaps, Effective: defaultCaps, Permitted: defaultCaps},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
			{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
		},
		Linux: &specs.Linux{
			MaskedPaths:   []string{"/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware"},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
			Namespaces:    []specs.LinuxNamespace{{Type: "mount"}, {Type: "network"}, {Type: "uts"}, {Type: "pid"}, {Type: "ipc"}, {Type: "cgroup"}},
		},
	}
}

// prepared runs the data through JSON, as between daemon and monitor.
func prepared(t testing.TB, b *model.Bundle) *runtime.Prepared {
	t.Helper()
	p, err := prepare.Container(b, parent+"/"+b.ID.Short(), prepare.Options{})
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	var out runtime.Prepared
	if err := json.Unmarshal(data, &out); err != nil {
		t.Fatal(err)
	}
	return &out
}

// run runs the bundle to its end and returns its output and exit code.
func run(t testing.TB, b *model.Bundle) (string, int) {
	t.Helper()
	out, code, err := tryRun(t, b)
	if err != nil {
		t.Fatalf("run: %v\n%s", err, out)
	}
	return out, code
}

func tryRun(t testing.TB, b *model.Bundle) (string, int, error) {
	t.Helper()
	return runPrepared(t, prepared(t, b), runtime.Files{})
}

func runPrepared(t testing.TB, p *runtime.Prepared, files runtime.Files) (string, int, error) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	files.Stdout, files.Stderr = w, w
	var out bytes.Buffer
	done := make(chan struct{})
	go func() { _, _ = io.Copy(&out, r); close(done) }()
	proc, err := runtime.Create(p, files)
	if err != nil {
		_ = w.Close()
		<-done
		return out.String(), -1, err
	}
	defer proc.Close()
	for _, warning := range proc.Warnings {
		t.Log("warning:", warning)
	}
	err = proc.Start()
	_ = w.Close()
	st, werr := proc.Wait()
	<-done
	if err == nil {
		err = werr
	}
	return out.String(), st.ExitStatus(), err
}

func TestRunTrue(t *testing.T) {
	needRoot(t)
	b := bundle(t, "/bin/true")
	out, code := run(t, b)
	if code != 0 {
		t.Fatalf("exit code %d: %s", code, out)
	}
}

func TestMappedRoot(t *testing.T) {
	needRoot(t)
	b := bundle(t, "sh", "-c", "id -u; cat /proc/self/uid_map; hostname; touch /made; stat -c %u /made /bin/busybox; echo $HOME; ps; ls -l /dev; mount")
	out, code := run(t, b)
	t.Log(out)
	if code != 0 || !strings.HasPrefix(out, "0\n         0    1000000      65536\nbox\n0\n0\n/root\n") {
		t.Fatalf("exit code %d", code)
	}
	st, err := os.Stat(filepath.Join(b.Rootfs.Upper, "made"))
	if err != nil {
		t.Fatal(err)
	}
	if uid := owner(st); uid != 0 {
		t.Errorf("owner on disk is %d, want 0", uid)
	}
}
