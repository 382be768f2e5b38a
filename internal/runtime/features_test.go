package runtime_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"wharf/internal/model"
	"wharf/internal/runtime"
	"wharf/internal/runtime/prepare"
)

func wantOutput(t *testing.T, b *model.Bundle, want string) {
	t.Helper()
	out, code := run(t, b)
	if out != want || code != 0 {
		t.Errorf("code %d, got:\n%s\nwant:\n%s", code, out, want)
	}
}

func TestUsers(t *testing.T) {
	needRoot(t)
	for _, c := range []struct {
		user string
		add  []string
		want string
	}{
		{"", nil, "uid=0(root) gid=0(root) groups=0(root),10(wheel)\n/root\n"},
		{"www", nil, "uid=33(www) gid=33(www) groups=10(wheel),33(www)\n/var/www\n"},
		{"33:0", nil, "uid=33(www) gid=0(root) groups=0(root)\n/var/www\n"},
		{"1234:www", []string{"video", "77"}, "uid=1234 gid=33(www) groups=33(www),44(video),77\n/\n"},
	} {
		b := bundle(t, "sh", "-c", "id; echo $HOME")
		b.User, b.GroupAdd = c.user, c.add
		wantOutput(t, b, c.want)
	}
}

func TestCapabilities(t *testing.T) {
	needRoot(t)
	const caps = "00000000a80425fb"
	b := bundle(t, "grep", "Cap\\|NoNewPrivs\\|Seccomp:", "/proc/self/status")
	wantOutput(t, b, "CapInh:\t0000000000000000\nCapPrm:\t"+caps+"\nCapEff:\t"+caps+"\nCapBnd:\t"+caps+"\nCapAmb:\t0000000000000000\nNoNewPrivs:\t0\nSeccomp:\t0\n")
	b = bundle(t, "grep", "Cap\\|NoNewPrivs\\|Seccomp:", "/proc/self/status")
	b.User, b.Spec.Process.NoNewPrivileges = "33", true
	wantOutput(t, b, "CapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapBnd:\t"+caps+"\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t0\n")
	b = bundle(t, "grep", "CapAmb\\|CapEff", "/proc/self/status")
	b.User = "33"
	b.Spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: defaultCaps, Effective: []string{"CAP_NET_RAW"},
		Permitted: []string{"CAP_NET_RAW"}, Inheritable: []string{"CAP_NET_RAW"}, Ambient: []string{"CAP_NET_RAW"}}
	wantOutput(t, b, "CapEff:\t0000000000002000\nCapAmb:\t0000000000002000\n")
}

func dockerProfile(t testing.TB, b *model.Bundle) {
	t.Helper()
	p, err := seccomp.GetDefaultProfile(b.Spec)
	if err != nil {
		t.Fatal(err)
	}
	b.Spec.Linux.Seccomp = p
}

func TestSeccomp(t *testing.T) {
	needRoot(t)
	// The profile refuses mount(2) and unshare(2) without CAP_SYS_ADMIN, and
	// lets everything usual through.
	b := bundle(t, "sh", "-c", "grep Seccomp: /proc/self/status; mount -t tmpfs x /tmp; touch /tmp/a && ls /tmp; kill -0 1 && echo ok")
	dockerProfile(t, b)
	out, code := run(t, b)
	if code != 0 || !strings.HasPrefix(out, "Seccomp:\t2\n") || !strings.HasSuffix(out, "a\nok\n") || !strings.Contains(out, "Operation not permitted") && !strings.Contains(out, "permission denied") {
		t.Errorf("code %d: %s", code, out)
	}
	b = bundle(t, "mkdir", "/x")
	b.Spec.Process.NoNewPrivileges = true
	b.Spec.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{
		{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActErrno, ErrnoRet: ptr(uint(unix.EXDEV))}}}
	if out, _ := run(t, b); !strings.Contains(out, "link") {
		t.Errorf("mkdir: %s", out)
	}
	b = bundle(t, "mkdir", "/x")
	b.Spec.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{
		{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActKillProcess}}}
	proc := startedWith(t, b, runtime.Files{})
	if st, _ := proc.Wait(); !st.Signaled() || st.Signal() != unix.SIGSYS {
		t.Errorf("status %v", st)
	}
}

func startedWith(t testing.TB, b *model.Bundle, f runtime.Files) *runtime.Process {
	t.Helper()
	proc, err := runtime.Create(prepared(t, b), f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = proc.Signal(syscall.SIGKILL); _, _ = proc.Wait(); _ = proc.Close() })
	if err := proc.Start(); err != nil {
		t.Fatal(err)
	}
	return proc
}

func TestTerminal(t *testing.T) {
	needRoot(t)
	b := bundle(t, "sh", "-c", "tty; stat -c '%u %t' /dev/console; stty size 2>/dev/null; echo end")
	b.Spec.Process.Terminal, b.ConsoleSize = true, [2]uint{33, 99}
	proc := startedWith(t, b, runtime.Files{})
	out := readConsole(t, proc)
	if !strings.HasPrefix(out, "/dev/pts/0\r\n0 88\r\n") || !strings.HasSuffix(out, "end\r\n") {
		t.Errorf("got %q", out)
	}
	b = bundle(t, "sleep", "100")
	main := started(t, b)
	e := execSpec("sh", "-c", "tty; stat -c %u /dev/pts/0")
	e.User, e.Process.Terminal = "www", true
	x, err := runtime.Exec(main.Pid, preparedExec(t, b, e), runtime.Files{})
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	if err := x.Start(); err != nil {
		t.Fatal(err)
	}
	if out := readConsole(t, x); out != "/dev/pts/0\r\n33\r\n" {
		t.Errorf("exec: %q", out)
	}
	_, _ = x.Wait()
}

func readConsole(t testing.TB, p *runtime.Process) string {
	t.Helper()
	defer p.Console.Close()
	timer := time.AfterFunc(10*time.Second, func() { _ = p.Signal(syscall.SIGKILL) })
	defer timer.Stop()
	data, _ := io.ReadAll(p.Console) // EIO at the end
	return string(data)
}

func TestMounts(t *testing.T) {
	needRoot(t)
	host := t.TempDir()
	write(t, filepath.Join(host, "file"), "hello\n", 0o600)
	if err := os.Mkdir(filepath.Join(host, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	b := bundle(t, "sh", "-c", "cat /data/file /one; touch /ro/x; touch /data/sub/new; stat -c %u /data/sub/new; ls /up; mount | grep -c ' /up '")
	b.Spec.Mounts = append(b.Spec.Mounts,
		specs.Mount{Destination: "/data", Type: "bind", Source: host, Options: []string{"rbind", "rprivate"}},
		specs.Mount{Destination: "/ro", Type: "bind", Source: host, Options: []string{"rbind", "ro", "rro"}},
		specs.Mount{Destination: "/one", Type: "bind", Source: filepath.Join(host, "file"), Options: []string{"bind", "ro"}},
		specs.Mount{Destination: "/up", Type: "tmpfs", Source: "tmpfs", Options: []string{"tmpcopyup"}},
	)
	up := filepath.Join(b.Rootfs.Lower[0], "up")
	if err := os.Mkdir(up, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(up, "copied"), "x", 0o644)
	wantOutput(t, b, "hello\nhello\ntouch: /ro/x: Read-only file system\n0\ncopied\n1\n")
	if st, err := os.Stat(filepath.Join(host, "sub/new")); err != nil || owner(st) != 0 {
		t.Error("file made in the bind belongs to", owner(st), err)
	}
}

// TestSymlinkOut: a link of the image never leads a mount out of the root.
func TestSymlinkOut(t *testing.T) {
	needRoot(t)
	for _, to := range []string{"../../../../../..", ""} { // and an absolute one
		symlinkOut(t, to, "/made")
		symlinkOut(t, to, "/there")
	}
}

func symlinkOut(t *testing.T, to, name string) {
	out := t.TempDir()
	if err := os.Mkdir(out+"/there", 0o755); err != nil {
		t.Fatal(err)
	}
	b := bundle(t, "sh", "-c", "ls /evil/ | grep inside; readlink /evil")
	b.IDs = model.IDRange{} // whom nothing else keeps from the host's files
	if err := os.Symlink(to+out+name, filepath.Join(b.Rootfs.Lower[0], "evil")); err != nil {
		t.Fatal(err)
	}
	src := t.TempDir()
	write(t, filepath.Join(src, "inside"), "", 0o644)
	b.Spec.Mounts = append(b.Spec.Mounts, specs.Mount{Destination: "/evil", Type: "bind", Source: src, Options: []string{"bind"}})
	text, _ := run(t, b)
	if !strings.HasPrefix(text, "inside\n") {
		t.Errorf("got %s", text)
	}
	if _, err := os.Lstat(filepath.Join(out, "made")); err == nil {
		t.Error("the mount point was made outside")
	}
}

func TestReadOnlyRoot(t *testing.T) {
	needRoot(t)
	b := bundle(t, "sh", "-c", "touch /x; touch /dev/shm/y && echo shm")
	b.Spec.Root = &specs.Root{Readonly: true}
	wantOutput(t, b, "touch: /x: Read-only file system\nshm\n")
	b = bundle(t, "sh", "-c", "touch /x; id -u")
	b.Rootfs.Upper, b.Rootfs.Work = "", ""
	wantOutput(t, b, "touch: /x: Read-only file system\n0\n")
}

func TestReadOnlyDev(t *testing.T) {
	needRoot(t)
	b := bundle(t, "sh", "-c", "touch /dev/x; echo y > /dev/null && stat -c %a /root")
	b.Spec.Mounts[1].Options = append(b.Spec.Mounts[1].Options, "ro")
	b.Spec.Mounts = append(b.Spec.Mounts, specs.Mount{Destination: "/root", Type: "tmpfs", Source: "tmpfs"})
	if err := os.Chmod(filepath.Join(b.Rootfs.Lower[0], "root"), 0o710); err != nil {
		t.Fatal(err)
	}
	wantOutput(t, b, "touch: /dev/x: Read-only file system\n710\n")
}

func TestDirectoryRoot(t *testing.T) {
	needRoot(t)
	b := bundle(t, "sh", "-c", "touch /x; stat -c %u /x")
	b.Rootfs = model.Rootfs{Dir: layer(t)}
	wantOutput(t, b, "0\n")
}

func TestHostUsers(t *testing.T) {
	needRoot(t)
	b := bundle(t, "sh", "-c", "id -u; touch /x; cat /proc/self/uid_map; ls /dev | grep -c .")
	b.IDs = model.IDRange{}
	out, code := run(t, b)
	if code != 0 || !strings.HasPrefix(out, "0\n         0          0 4294967295\n") {
		t.Errorf("code %d: %s", code, out)
	}
}

// TestInitTerminal: the program of an init gets the terminal although it is not
// in the terminal's group, whatever its starter does with SIGTTOU.
func TestInitTerminal(t *testing.T) {
	needRoot(t)
	b := bundle(t, "sh", "-c", "echo end")
	b.Init, b.Spec.Process.Terminal = true, true
	if out := readConsole(t, startedWith(t, b, runtime.Files{})); out != "end\r\n" {
		t.Errorf("got %q", out)
	}
}

func TestInit(t *testing.T) {
	needRoot(t)
	b := bundle(t, "sh", "-c", "cat /proc/1/cmdline | grep -c wharf-init; grep CapBnd /proc/1/status; (sleep 0.01 &) ; echo $$; exit 5")
	b.Init = true
	out, code := run(t, b)
	if code != 5 || !strings.HasPrefix(out, "1\nCapBnd:\t00000000a80425fb\n") {
		t.Errorf("code %d: %s", code, out)
	}
	b = bundle(t, "sh", "-c", "trap 'exit 9' TERM; echo up; while :; do sleep 0.01; done")
	b.Init = true
	r, w, _ := os.Pipe()
	defer r.Close()
	proc := startedWith(t, b, runtime.Files{Stdout: w})
	_ = w.Close()
	if _, err := io.ReadFull(r, make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	_ = proc.Signal(syscall.SIGTERM)
	if st, _ := proc.Wait(); st.ExitStatus() != 9 {
		t.Errorf("status %v", st)
	}
	b = bundle(t, "/etc/passwd")
	b.Init = true
	_, _, err := tryRun(t, b)
	var e *runtime.ExecError
	if !errors.As(err, &e) || e.Code != 126 {
		t.Error(err)
	}
}

func TestHooks(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil { // hooks of the container's side have its ids
		t.Fatal(err)
	}
	log := filepath.Join(dir, "log")
	write(t, log, "", 0o666)
	_ = os.Chmod(log, 0o666)
	hook := func(name string) []specs.Hook {
		return []specs.Hook{{Path: busybox, Args: []string{"sh", "-c", "echo " + name + " $(readlink /proc/self/ns/uts) >> " + log}}}
	}
	b := bundle(t, "sh", "-c", "echo process")
	b.Rootfs = model.Rootfs{Dir: layer(t)}
	b.Spec.Hooks = &specs.Hooks{
		Prestart: hook("prestart"), CreateRuntime: hook("createRuntime"), CreateContainer: hook("createContainer"), Poststart: hook("poststart"),
		StartContainer: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "cat > /state"}}},
	}
	if out, code := run(t, b); code != 0 || out != "process\n" {
		t.Errorf("code %d: %s", code, out)
	}
	data, _ := os.ReadFile(log)
	var order []string
	uts := map[string]string{}
	for _, l := range strings.Split(strings.TrimSpace(string(data)), "\n") {
		name, ns, _ := strings.Cut(l, " ")
		order = append(order, name)
		uts[name] = ns
	}
	if strings.Join(order, " ") != "prestart createRuntime createContainer poststart" {
		t.Error(order)
	}
	if uts["prestart"] == uts["createContainer"] {
		t.Error("createContainer ran in the host's namespaces")
	}
	var st specs.State
	state, err := os.ReadFile(filepath.Join(b.Rootfs.Dir, "state"))
	if err != nil || json.Unmarshal(state, &st) != nil || st.ID != string(b.ID) {
		t.Errorf("startContainer's state: %s %v", state, err)
	}
	b = bundle(t, "true")
	b.Spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: busybox, Args: []string{"sh", "-c", "echo bad luck; exit 3"}}}}
	if _, _, err := tryRun(t, b); err == nil || !strings.Contains(err.Error(), "bad luck") {
		t.Error(err)
	}
}

func TestSysctlAndNames(t *testing.T) {
	needRoot(t)
	b := bundle(t, "sh", "-c", "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shm_rmid_forced /proc/sys/kernel/domainname; pwd; umask; cat /proc/self/oom_score_adj; cat /proc/uptime | grep -c '^[0-9]\\{6,\\}'")
	b.Spec.Domainname = "harbour"
	b.Spec.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "1", "kernel.shm_rmid_forced": "1"}
	b.Spec.Process.Cwd = "/made/deep"
	b.Spec.Process.User.Umask = ptr(uint32(0o27))
	b.Spec.Process.OOMScoreAdj = ptr(500)
	b.Spec.Linux.Namespaces = append(b.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: "time"})
	b.Spec.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 1000000}}
	wantOutput(t, b, "1\n1\nharbour\n/made/deep\n0027\n500\n1\n")
}

func TestRlimits(t *testing.T) {
	needRoot(t)
	b := bundle(t, "sh", "-c", "ulimit -n; ulimit -Hn; ulimit -u")
	b.Spec.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 100, Hard: 200}, {Type: "RLIMIT_NPROC", Soft: 5, Hard: 5}}
	wantOutput(t, b, "100\n200\n5\n")
}

func TestGivenNamespaces(t *testing.T) {
	needRoot(t)
	m := []runtime.IDMap{{Host: 1000000, Size: 65536}}
	user, net, err := runtime.NewNamespaces(m, m, true)
	if err != nil {
		t.Fatal(err)
	}
	defer user.Close()
	defer net.Close()
	b := bundle(t, "sh", "-c", "readlink /proc/self/ns/net; ls /sys/class/net")
	out, code, err := runPrepared(t, prepared(t, b), runtime.Files{User: user, Net: net})
	var st unix.Stat_t
	_ = unix.Fstat(int(net.Fd()), &st)
	if err != nil || code != 0 || !strings.Contains(out, "lo\n") {
		t.Fatalf("%d %v %s", code, err, out)
	}
	// A second container joins the first one's namespaces by path.
	b = bundle(t, "sleep", "100")
	first := started(t, b)
	proc := "/proc/" + itoa(first.Pid) + "/ns/"
	c := bundle(t, "sh", "-c", "cat /proc/1/cmdline; hostname; readlink /proc/self/ns/net")
	c.Spec.Hostname = ""
	c.Spec.Linux.Namespaces = []specs.LinuxNamespace{{Type: "mount"}, {Type: "user", Path: proc + "user"},
		{Type: "pid", Path: proc + "pid"}, {Type: "network", Path: proc + "net"}, {Type: "ipc", Path: proc + "ipc"}, {Type: "uts", Path: proc + "uts"}}
	link, _ := os.Readlink(proc + "net")
	wantOutput(t, c, "sleep\x00100\x00box\n"+link+"\n")
	// The host's network and process ids, with a user namespace.
	h := bundle(t, "sh", "-c", "ls /sys/class/net | grep -c lo; cat /proc/1/comm >/dev/null && readlink /proc/self/ns/net")
	h.Spec.Hostname = ""
	h.Spec.Linux.Namespaces = []specs.LinuxNamespace{{Type: "mount"}}
	link, _ = os.Readlink("/proc/self/ns/net")
	wantOutput(t, h, "1\n"+link+"\n")
}

// TestNoLeaks: the program gets its three streams and what was passed on.
func TestNoLeaks(t *testing.T) {
	needRoot(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	// One of the caller's own that it inherited: execve would not close it.
	host, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(host)
	b := bundle(t, "sh", "-c", "ls /proc/self/fd; echo three >&3")
	out, _, err := runPrepared(t, prepared(t, b), runtime.Files{Extra: []*os.File{w}})
	_ = w.Close()
	got, _ := io.ReadAll(r)
	// ls has its own descriptor on the directory.
	if err != nil || out != "0\n1\n2\n3\n4\n" || !bytes.Equal(got, []byte("three\n")) {
		t.Errorf("%v %q %q", err, out, got)
	}
}

func TestWorkingDirectoryOutside(t *testing.T) {
	needRoot(t)
	b := bundle(t, "pwd")
	b.Spec.Process.Cwd = "/proc/self/fd/5"
	b.Rootfs = model.Rootfs{Dir: layer(t)}
	for fd := 3; fd < 30; fd++ {
		b.Spec.Process.Cwd = "/proc/self/fd/" + itoa(fd)
		out, _, err := tryRun(t, b)
		if err == nil && !strings.HasPrefix(out, "/") {
			t.Errorf("fd %d: %s", fd, out)
		}
		if err == nil {
			t.Errorf("fd %d was a working directory: %s", fd, out)
		}
	}
}

func TestRefusedSpecs(t *testing.T) {
	for name, change := range map[string]func(*specs.Spec){
		"sysctl of the host": func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"kernel.panic": "1"} },
		"sysctl without netns": func(s *specs.Spec) {
			s.Linux.Namespaces = s.Linux.Namespaces[:1]
			s.Hostname = ""
			s.Linux.Sysctl = map[string]string{"net.x": "1"}
		},
		"hostname without uts": func(s *specs.Spec) { s.Linux.Namespaces = s.Linux.Namespaces[:1] },
		"no args":              func(s *specs.Spec) { s.Process.Args = nil },
		"relative cwd":         func(s *specs.Spec) { s.Process.Cwd = "x" },
		"unknown rlimit":       func(s *specs.Spec) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_X"}} },
		"mount in proc":        func(s *specs.Spec) { s.Mounts = append(s.Mounts, specs.Mount{Destination: "/proc/sys", Type: "tmpfs"}) },
		"unknown namespace": func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: "space"})
		},
		"intelRdt": func(s *specs.Spec) { s.Linux.IntelRdt = &specs.LinuxIntelRdt{} },
		"bind with fs option": func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/x", Type: "bind", Source: "/tmp", Options: []string{"size=3"}})
		},
		"time offset without ns": func(s *specs.Spec) { s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 1}} },
		"root cgroup":            func(s *specs.Spec) { s.Linux.CgroupsPath = "/../" },
	} {
		s := defaultSpec("true")
		change(s)
		b := &model.Bundle{ID: model.NewID(), Spec: s, Rootfs: model.Rootfs{Dir: "/nowhere"}, IDs: model.IDRange{Host: 1000000, Size: 65536}}
		if _, err := prepare.Container(b, "", prepare.Options{}); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

func itoa(n int) string {
	b, _ := json.Marshal(n)
	return string(b)
}
