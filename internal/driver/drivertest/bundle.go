package drivertest

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"wharf/internal/model"
)

// Busybox is Debian's busybox-static.
const Busybox = "/bin/busybox"

// Layer makes a layer directory with busybox and the files of /etc that user
// look-ups need, and returns it. It is removed with the test.
func Layer(t testing.TB) string {
	t.Helper()
	b, err := os.ReadFile(Busybox)
	if err != nil {
		t.Skipf("no %s: apt-get install busybox-static", Busybox)
	}
	dir := t.TempDir()
	for _, d := range []string{"bin", "etc", "dev", "proc", "sys", "tmp", "root"} {
		must(t, os.Mkdir(filepath.Join(dir, d), 0o755))
	}
	must(t, os.Chmod(filepath.Join(dir, "tmp"), 0o1777))
	must(t, os.WriteFile(filepath.Join(dir, "bin/busybox"), b, 0o755))
	for _, a := range []string{"sh", "true", "false", "echo", "cat", "sleep", "id", "ls", "seq", "yes", "head", "stty", "kill", "ps", "test", "dd", "hostname", "tail", "mkfifo", "printf"} {
		must(t, os.Symlink("busybox", filepath.Join(dir, "bin", a)))
	}
	must(t, os.WriteFile(filepath.Join(dir, "etc/passwd"), []byte("root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/tmp:/bin/sh\n"), 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "etc/group"), []byte("root:x:0:\nuser:x:1000:\n"), 0o644))
	return dir
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Bundles makes bundles on one layer, each with a writable layer and a log of
// its own below dir.
type Bundles struct {
	Layer string
	Dir   string
	n     uint32
}

// New returns a bundle that runs args as the image's root in a user namespace
// of its own, with a network namespace, Docker's usual mounts and
// capabilities, and a json-file log.
func (m *Bundles) New(t testing.TB, args ...string) *model.Bundle {
	t.Helper()
	id := model.NewID()
	m.n++
	dir := filepath.Join(m.Dir, string(id))
	for _, d := range []string{"upper", "work"} {
		must(t, os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	ids := model.IDRange{Host: 1_000_000 + 65536*(m.n%1000), Size: 65536}
	b := &model.Bundle{
		ID: id, IDs: ids,
		Rootfs: model.Rootfs{Lower: []string{m.Layer}, Upper: filepath.Join(dir, "upper"), Work: filepath.Join(dir, "work")},
		Log:    model.LogPlan{Driver: "json-file", Path: filepath.Join(dir, "log"), ContainerName: "test"},
		Spec: &specs.Spec{
			Version:  specs.Version,
			Hostname: id.Short(),
			Root:     &specs.Root{Path: "rootfs"},
			Process: &specs.Process{
				Args: args, Cwd: "/", Env: []string{"PATH=/bin"},
				Capabilities: capabilities(), NoNewPrivileges: false,
			},
			Mounts: mounts(),
			Linux: &specs.Linux{
				MaskedPaths:   []string{"/proc/kcore", "/proc/keys", "/proc/timer_list"},
				ReadonlyPaths: []string{"/proc/bus", "/proc/sys"},
				UIDMappings:   []specs.LinuxIDMapping{{HostID: ids.Host, Size: ids.Size}},
				GIDMappings:   []specs.LinuxIDMapping{{HostID: ids.Host, Size: ids.Size}},
				Resources:     &specs.LinuxResources{},
			},
		},
	}
	for _, n := range []specs.LinuxNamespaceType{specs.MountNamespace, specs.PIDNamespace, specs.IPCNamespace,
		specs.UTSNamespace, specs.NetworkNamespace, specs.UserNamespace, specs.CgroupNamespace} {
		b.Spec.Linux.Namespaces = append(b.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: n})
	}
	return b
}

// Exec returns an exec of args as root.
func Exec(args ...string) *model.ExecSpec {
	return &model.ExecSpec{ID: model.NewID(), Process: &specs.Process{
		Args: args, Cwd: "/", Env: []string{"PATH=/bin"}, Capabilities: capabilities()}}
}

func capabilities() *specs.LinuxCapabilities {
	c := strings.Fields("CAP_CHOWN CAP_DAC_OVERRIDE CAP_FSETID CAP_FOWNER CAP_MKNOD CAP_NET_RAW CAP_SETGID CAP_SETUID " +
		"CAP_SETFCAP CAP_SETPCAP CAP_NET_BIND_SERVICE CAP_SYS_CHROOT CAP_KILL CAP_AUDIT_WRITE")
	return &specs.LinuxCapabilities{Bounding: c, Effective: c, Permitted: c}
}

func mounts() []specs.Mount {
	return []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
	}
}

// logged waits until a json-file log has text.
func logged(t testing.TB, path, text string) {
	t.Helper()
	for end := time.Now().Add(limit + slow); ; time.Sleep(5 * time.Millisecond) {
		b, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(b), text) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("the log does not show %q: %v", text, err)
		}
	}
}

// logText is what a json-file log has of each stream.
func logText(t testing.TB, path string) (out, errs string) {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	var streams [2]strings.Builder
	for line := range strings.Lines(string(b)) {
		var r struct{ Log, Stream string }
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("log line %q: %v", line, err)
		}
		streams[map[string]int{"stdout": 0, "stderr": 1}[r.Stream]].WriteString(r.Log)
	}
	return streams[0].String(), streams[1].String()
}
