package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// bb puts `run --rm OPTIONS busybox COMMAND` together; "--" ends the options.
func bb(words ...string) []string {
	args := []string{"run", "--rm"}
	for i, w := range words {
		if w == "--" {
			return append(append(args, "busybox"), words[i+1:]...)
		}
		args = append(args, w)
	}
	return append(args, "busybox")
}

func TestRunExitCodes(t *testing.T) {
	rows(t, []row{
		{name: "zero", args: bb("--", "true")},
		{name: "one", args: bb("--", "false"), code: 1},
		{name: "given", args: bb("--", "sh", "-c", "exit 42"), code: 42},
		{name: "signal", args: bb("--init", "--", "sh", "-c", "kill -9 $$"), code: 137},
		{name: "not found", args: bb("--", "nonesuch"), code: 127, stderr: "nonesuch"},
		{name: "not found path", args: bb("--", "/no/such"), code: 127, stderr: "/no/such"},
		{name: "directory", args: bb("--", "/etc"), code: 126, stderr: "/etc"},
		{name: "not executable", args: bb("--", "/etc/passwd"), code: 126, stderr: "permission denied"},
		{name: "unknown flag", args: bb("--nonesuch", "--", "true"), code: 125, stderr: "unknown flag"},
		{name: "bad name", args: bb("--name", "a/b", "--", "true"), code: 125, stderr: "Invalid container name"},
		{name: "bad memory", args: bb("-m", "1k", "--", "true"), code: 125, stderr: "emory"},
		{name: "missing image", args: []string{"run", "--rm", "--pull", "never", "nonesuch:1", "true"}, code: 125, stderr: "No such image: nonesuch:1"},
		{name: "image command", args: []string{"run", "--rm", "hello-world"}, stdout: "Hello from wharf!"},
		{name: "debian", args: []string{"run", "--rm", "debian:bookworm", "cat", "/etc/debian_version"}, stdout: "~^12"},
	})
}

func TestRunStreams(t *testing.T) {
	rows(t, []row{
		{name: "stdin", args: bb("-i", "--", "cat"), stdin: "hello\nworld\n", stdout: "hello\nworld"},
		{name: "no stdin", args: bb("--", "cat"), stdin: "hello", stdout: "~^$"},
		{name: "stderr apart", args: bb("--", "sh", "-c", "echo out; echo err >&2"), stdout: "out", stderr: "err"},
		{name: "no newline at end", args: bb("--", "printf", "x"), stdout: "x"},
		{name: "binary", args: bb("-i", "--", "sh", "-c", "head -c 100000 /dev/zero | wc -c; wc -c"), stdin: strings.Repeat("\x00\xff", 50000), stdout: "100000\n100000"},
		{name: "attach only stderr", args: bb("-a", "stderr", "--", "sh", "-c", "echo out; echo err >&2"), stdout: "~^$", stderr: "err"},
		{name: "closed stdout", args: bb("--", "sh", "-c", "exec >&- 2>&-; exit 3"), code: 3},
	})
}

func TestRunProcessOptions(t *testing.T) {
	rows(t, []row{
		{name: "env", args: bb("-e", "A=1", "-e", "B=two words", "--", "sh", "-c", "echo $A:$B"), stdout: "1:two words"},
		{name: "default env", args: bb("-h", "box", "--", "sh", "-c", "echo $HOME $HOSTNAME; echo $PATH"), stdout: "~^/root box\n/usr/local/sbin:"},
		{name: "workdir", args: bb("-w", "/tmp", "--", "pwd"), stdout: "/tmp"},
		{name: "workdir made", args: bb("-w", "/a/b/c", "--", "pwd"), stdout: "/a/b/c"},
		{name: "workdir relative", args: bb("-w", "tmp", "--", "pwd"), code: 125, stderr: "absolute"},
		{name: "hostname", args: bb("-h", "box.example", "--", "hostname"), stdout: "box.example"},
		{name: "hosts file", args: bb("-h", "box", "--add-host", "peer:10.1.2.3", "--", "cat", "/etc/hosts"), stdout: `~10\.1\.2\.3\s+peer[\s\S]*box`},
		{name: "dns", args: bb("--dns", "192.0.2.1", "--dns-search", "example.org", "--dns-option", "ndots:3", "--", "cat", "/etc/resolv.conf"), stdout: `~192\.0\.2\.1|127\.0\.0\.11`},
		{name: "entrypoint", args: bb("--entrypoint", "echo", "--", "a", "b"), stdout: "a b"},
		{name: "entrypoint cleared", args: []string{"run", "--rm", "--entrypoint", "", "rich", "echo", "x"}, stdout: "x"},
		{name: "user name", args: bb("-u", "user", "--", "id"), stdout: "uid=1000(user) gid=1000(user) groups=4(adm),1000(user)"},
		{name: "user id", args: bb("-u", "4321", "--", "sh", "-c", "id -u; id -g"), stdout: "4321\n0"},
		{name: "user and group", args: bb("-u", "www-data:adm", "--", "sh", "-c", "id -u; id -g"), stdout: "33\n4"},
		{name: "unknown user", args: bb("-u", "nonesuch", "--", "true"), code: 125, stderr: "nonesuch"},
		{name: "group add", args: bb("--group-add", "www-data", "--group-add", "777", "--", "id", "-G"), stdout: "~33.* 777|777"},
		{name: "init", args: bb("--init", "--", "sh", "-c", "cat /proc/1/comm; test $$ -ne 1 && echo child"), stdout: "~child$"},
		{name: "pid one", args: bb("--", "sh", "-c", "echo $$"), stdout: "1"},
		{name: "image config", args: []string{"run", "--rm", "rich"}, stdout: "entry one two"},
		{name: "image user, dir, env", args: []string{"run", "--rm", "--entrypoint", "sh", "rich", "-c", "id -u; pwd; echo $COLOUR"}, stdout: "1000\n/work/space\nblue"},
		{name: "label", args: bb("--label", "a=b", "--label-file", "/dev/null", "--", "true")},
		{name: "annotation", args: bb("--annotation", "a=b", "--", "true")},
	})
}

func TestRunLimits(t *testing.T) {
	rows(t, []row{
		{name: "memory", args: bb("-m", "64m", "--", "sh", "-c", "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; true"), stdout: "67108864"},
		{name: "oom", args: bb("-m", "16m", "--memory-swap", "16m", "--", "sh", "-c", "exec tail -c 256000000 /dev/zero"), code: 137},
		{name: "cpus", args: bb("--cpus", "0.5", "--", "sh", "-c", "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu.max 2>/dev/null; true"), stdout: "~^50000"},
		{name: "cpu shares", args: bb("-c", "512", "--", "sh", "-c", "cat /sys/fs/cgroup/cpu/cpu.shares /sys/fs/cgroup/cpu.weight 2>/dev/null; true"), stdout: "~^(512|20)$"},
		{name: "cpuset", args: bb("--cpuset-cpus", "0", "--", "grep", "Cpus_allowed_list", "/proc/self/status"), stdout: "~:\\s*0$"},
		{name: "pids limit", args: bb("--pids-limit", "5", "--", "sh", "-c", "for i in 1 2 3 4 5 6 7 8; do sleep 1 & done; wait"), stderr: "can't fork", code: 2},
		{name: "too many cpus", args: bb("--cpus", "1000", "--", "true"), code: 125, stderr: "ange of CPUs"},
		{name: "memory below swap", args: bb("-m", "64m", "--memory-swap", "32m", "--", "true"), code: 125, stderr: "emory"},
		{name: "ulimit", args: bb("--ulimit", "nofile=100:200", "--", "sh", "-c", "ulimit -Sn; ulimit -Hn"), stdout: "100\n200"},
		{name: "sysctl", args: bb("--sysctl", "net.ipv4.ip_unprivileged_port_start=80", "--", "cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start"), stdout: "80"},
		{name: "sysctl of the host", args: bb("--sysctl", "vm.overcommit_memory=1", "--", "true"), code: 125, stderr: "vm.overcommit_memory"},
		{name: "oom score", args: bb("--oom-score-adj", "500", "--", "cat", "/proc/self/oom_score_adj"), stdout: "500"},
		{name: "shm size", args: bb("--shm-size", "8m", "--", "sh", "-c", "df -k /dev/shm | tail -1 | awk '{print $2}'"), stdout: "8192"},
		{name: "shm default", args: bb("--", "sh", "-c", "df -k /dev/shm | tail -1 | awk '{print $2}'"), stdout: "65536"},
	})
}

func TestRunSecurity(t *testing.T) {
	rows(t, []row{
		{name: "root inside", args: bb("--", "id", "-u"), stdout: "0"},
		{name: "default capabilities", args: bb("--", "grep", "CapEff", "/proc/self/status"), stdout: "~00000000a80425fb$"},
		{name: "cap drop all", args: bb("--cap-drop", "ALL", "--", "grep", "CapEff", "/proc/self/status"), stdout: "~0000000000000000$"},
		{name: "cap add", args: bb("--cap-drop", "ALL", "--cap-add", "net_admin", "--", "grep", "CapEff", "/proc/self/status"), stdout: "~0000000000001000$"},
		{name: "unknown cap", args: bb("--cap-add", "NONESUCH", "--", "true"), code: 125, stderr: "NONESUCH"},
		{name: "chown allowed", args: bb("--", "sh", "-c", "touch /x && chown 33:33 /x && stat -c %u:%g /x"), stdout: "33:33"},
		{name: "chown dropped", args: bb("--cap-drop", "CHOWN", "--", "sh", "-c", "touch /x && chown 33:33 /x"), code: 1, stderr: "not permitted"},
		{name: "seccomp on", args: bb("--", "grep", "Seccomp:", "/proc/self/status"), stdout: "~2$"},
		{name: "seccomp off", args: bb("--security-opt", "seccomp=unconfined", "--", "grep", "Seccomp:", "/proc/self/status"), stdout: "~0$"},
		{name: "no mount", args: bb("--", "mount", "-t", "tmpfs", "none", "/mnt"), code: 1, stderr: "denied"},
		{name: "no new privileges", args: bb("--security-opt", "no-new-privileges", "--", "grep", "NoNewPrivs", "/proc/self/status"), stdout: "~1$"},
		{name: "masked", args: bb("--", "sh", "-c", "find /proc/acpi /proc/scsi /sys/firmware -type f 2>/dev/null | wc -l"), stdout: "0"},
		{name: "proc sys read-only", args: bb("--", "sh", "-c", "echo 1 >/proc/sys/kernel/domainname"), code: 1, stderr: "Read-only"},
		{name: "read-only", args: bb("--read-only", "--", "touch", "/x"), code: 1, stderr: "Read-only"},
		{name: "read-only with tmpfs", args: bb("--read-only", "--tmpfs", "/run:size=1m,mode=700", "--", "sh", "-c", "touch /run/x && stat -c %a /run"), stdout: "700"},
		{name: "privileged", args: bb("--privileged", "--", "sh", "-c", "mount -t tmpfs none /tmp && grep CapEff /proc/self/status && ls /dev/kmsg"), stdout: "~/dev/kmsg"},
		{name: "privileged is host root", args: bb("--privileged", "--", "cat", "/proc/self/uid_map"), stdout: `~^0\s+0\s+4294967295`},
		{name: "userns host", args: bb("--userns", "host", "--", "cat", "/proc/self/uid_map"), stdout: `~^0\s+0\s+4294967295`},
		{name: "own user namespace", args: bb("--", "cat", "/proc/self/uid_map"), stdout: `~^0\s+[1-9]\d{4,}\s+65536$`},
		{name: "device", args: bb("--device", "/dev/fuse", "--", "sh", "-c", "test -c /dev/fuse && echo there"), stdout: "there"},
		{name: "device under another name", args: bb("--device", "/dev/zero:/dev/nought:r", "--", "sh", "-c", "head -c 3 /dev/nought | wc -c"), stdout: "3"},
		{name: "missing device", args: bb("--device", "/dev/nonesuch", "--", "true"), code: 127, stderr: "/dev/nonesuch"},
		{name: "standard devices", args: bb("--", "sh", "-c", "head -c 5 /dev/zero | wc -c; head -c 4 /dev/urandom | wc -c; echo x >/dev/null; ls -l /dev/fd /dev/ptmx >/dev/null && echo ok"), stdout: "5\n4\nok"},
	})
}

func TestRunNamespaces(t *testing.T) {
	hostUTS, _ := os.Hostname()
	rows(t, []row{
		{name: "pid own", args: bb("--", "sh", "-c", "ls -d /proc/[0-9]* | wc -l"), stdout: "~^[1-4]$"},
		{name: "pid host", args: bb("--pid", "host", "--", "sh", "-c", "ls -d /proc/[0-9]* | wc -l"), stdout: "~^[0-9]{2,}$"},
		{name: "uts host", args: bb("--uts", "host", "--", "hostname"), stdout: hostUTS},
		{name: "uts host with hostname", args: bb("--uts", "host", "-h", "x", "--", "hostname"), code: 125, stderr: "onflicting"},
		{name: "ipc host", args: bb("--ipc", "host", "--", "true")},
		{name: "ipc none", args: bb("--ipc", "none", "--", "ls", "/dev/shm"), code: 1},
		{name: "cgroup own", args: bb("--cgroupns", "private", "--", "sh", "-c", "head -1 /proc/self/cgroup"), stdout: "~:/$"},
		{name: "network none", args: bb("--network", "none", "--", "ls", "/sys/class/net"), stdout: "lo"},
		{name: "network host", args: bb("--network", "host", "--", "cat", "/proc/net/dev"), stdout: "~lo:"},
		{name: "network unknown", args: bb("--network", "nonesuch", "--", "true"), code: 125, stderr: "network nonesuch not found"},
		{name: "container unknown", args: bb("--network", "container:nonesuch", "--", "true"), code: 125, stderr: "No such container: nonesuch"},
		{name: "bridge", args: bb("--", "ls", "/sys/class/net"), stdout: "~eth0[\\s\\S]*lo"},
		{name: "bridge gateway answers", args: bb("--", "sh", "-c", "ping -c 1 -W 20 $(ip route | awk '/default/{print $3}') >/dev/null && echo pong"), stdout: "pong"},
	})
}

func TestRunSharedNamespaces(t *testing.T) {
	s := newScene(t)
	a := s.idle("--name", s.name("a"), "-h", "first", "--ipc", "shareable")
	ip := s.inspect(a, "{{.NetworkSettings.IPAddress}}{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}")
	s.contains("address", ip, ".")
	same := func(ns string, options ...string) {
		s.Helper()
		want := s.ok("exec", a, "readlink", "/proc/self/ns/"+ns)
		got := s.ok(append(append([]string{"run", "--rm"}, options...), "busybox", "readlink", "/proc/self/ns/"+ns)...)
		s.equal(ns+" namespace", got, want)
	}
	same("net", "--network", "container:"+a)
	same("pid", "--pid", "container:"+a)
	same("ipc", "--ipc", "container:"+a)
	s.equal("processes seen", s.ok("run", "--rm", "--pid", "container:"+a, "busybox", "sh", "-c", "ps -o args | grep -c '^sleep 1000'"), "1")
	s.ok("run", "--rm", "busybox", "ping", "-c", "1", "-W", "20", lastAddress(ip))
}

// lastAddress takes the last of addresses that a template wrote without a
// space between.
func lastAddress(s string) string {
	if n := len(s); n%2 == 0 && s[:n/2] == s[n/2:] {
		return s[n/2:]
	}
	return s
}

func TestRunHostUser(t *testing.T) {
	s := newScene(t)
	id := s.idle()
	pid := s.inspect(id, "{{.State.Pid}}")
	status, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		f := strings.Fields(line)
		if f[0] == "Uid:" || f[0] == "Gid:" {
			if n, _ := strconv.Atoi(f[1]); n <= 65535 {
				t.Errorf("%s of the container's root on the host is %d, want more than 65535", f[0], n)
			}
		}
	}
	s.equal("inside", s.ok("exec", id, "id", "-u"), "0")
	other := s.idle()
	a, _ := os.ReadFile("/proc/" + pid + "/uid_map")
	b, _ := os.ReadFile("/proc/" + s.inspect(other, "{{.State.Pid}}") + "/uid_map")
	if string(a) == string(b) {
		t.Errorf("two containers share their ids: %s", a)
	}
}

func TestRunBinds(t *testing.T) {
	s := newScene(t)
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("from the host\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	s.equal("read", s.ok("run", "--rm", "-v", dir+":/mnt", "busybox", "cat", "/mnt/file"), "from the host")
	s.equal("owner inside", s.ok("run", "--rm", "-v", dir+":/mnt", "busybox", "stat", "-c", "%u:%g", "/mnt/file"), "0:0")
	s.ok("run", "--rm", "-v", dir+":/mnt", "busybox", "sh", "-c", "echo new >/mnt/new; touch /mnt/web; chown 33:33 /mnt/web")
	for name, want := range map[string]string{"new": "0:0", "web": "33:33"} {
		out := s.d.command(commandLimit, nil, "stat", "-c", "%u:%g", filepath.Join(dir, name))
		s.equal("owner of "+name+" on the host", out.out(), want)
	}
	s.equal("as another user", s.ok("run", "--rm", "-u", "33:33", "-v", dir+":/mnt", "busybox", "sh", "-c", "echo x >/mnt/web && cat /mnt/web"), "x")
	s.fails(1, "Read-only", "run", "--rm", "-v", dir+":/mnt:ro", "busybox", "touch", "/mnt/x")
	s.fails(1, "Read-only", "run", "--rm", "--mount", "type=bind,src="+dir+",dst=/mnt,readonly", "busybox", "touch", "/mnt/x")
	s.fails(125, "does not exist", "run", "--rm", "--mount", "type=bind,src="+dir+"/none,dst=/mnt", "busybox", "true")
	s.ok("run", "--rm", "-v", dir+"/made/here:/mnt", "busybox", "touch", "/mnt/x")
	if _, err := os.Stat(filepath.Join(dir, "made/here/x")); err != nil {
		t.Errorf("-v makes the host's directory: %v", err)
	}
	s.equal("one file", s.ok("run", "--rm", "-v", file+":/etc/motd:ro", "busybox", "cat", "/etc/motd"), "from the host")
	// File systems of the kernel's own have no owners to map.
	s.equal("/dev", s.ok("run", "--rm", "-v", "/dev:/mnt", "busybox", "sh", "-c", "echo x >/mnt/null && echo written"), "written")
	s.ok("run", "--rm", "-v", "/:/mnt:ro", "busybox", "test", "-d", "/mnt/proc")
	s.fails(125, "", "run", "--rm", "-v", dir+":/mnt:bogus", "busybox", "true")
	s.fails(125, "uplicate mount point", "run", "--rm", "-v", dir+":/mnt", "-v", "/tmp:/mnt", "busybox", "true")
	s.equal("tmpfs", s.ok("run", "--rm", "--mount", "type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=1777", "busybox", "sh", "-c", "stat -c %a /t; df -k /t | tail -1 | awk '{print $2}'"), "1777\n1024")
}

func TestRunVolumes(t *testing.T) {
	s := newScene(t)
	v := s.name("vol")
	s.equal("create", s.ok("volume", "create", v), v)
	t.Cleanup(func() { s.docker("volume", "rm", "-f", v) })
	s.ok("run", "--rm", "-v", v+":/v", "busybox", "sh", "-c", "echo kept >/v/f; chown 33:33 /v/f")
	s.equal("kept", s.ok("run", "--rm", "-v", v+":/v", "busybox", "sh", "-c", "cat /v/f; stat -c %u:%g /v/f"), "kept\n33:33")
	s.equal("image content copied up", s.ok("run", "--rm", "--entrypoint", "cat", "rich", "/data/seed"), "from the image")
	id := s.idle("-v", v+":/v")
	s.fails(1, "volume is in use", "volume", "rm", v)
	s.ok("rm", "-f", id)
	s.ok("volume", "rm", v)
	s.fails(1, "no such volume", "volume", "inspect", v)
}

func TestRunDetachedAndNames(t *testing.T) {
	s := newScene(t)
	id := s.running("--name", s.name("a"), "busybox", "sleep", "1000")
	if len(id) != 64 {
		t.Errorf("-d prints %q, want the full id", id)
	}
	s.equal("name", s.inspect(id, "{{.Name}}"), "/"+s.name("a"))
	s.equal("by name and short id", s.inspect(s.name("a"), "{{.Id}}"), s.inspect(id[:12], "{{.Id}}"))
	s.fails(125, "is already in use by container", "run", "--name", s.name("a"), "busybox", "true")
	s.fails(1, "", "rm", id)
	s.ok("rm", "-f", id)
	s.fails(1, "No such object", "inspect", id)
	cid := filepath.Join(t.TempDir(), "cid")
	s.ok("run", "--cidfile", cid, "--rm", "busybox", "true")
	if b, _ := os.ReadFile(cid); len(b) != 64 {
		t.Errorf("cidfile holds %q", b)
	}
	// --rm also when detached.
	id = s.running("--rm", "busybox", "sleep", "0.2")
	if err := eventually(commandLimit/6, func() error {
		if r := s.docker("inspect", id); r.Code == 0 {
			return fmt.Errorf("%s is still there", id[:12])
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

func TestCreateStart(t *testing.T) {
	s := newScene(t)
	id := s.ok("create", "-i", "--name", s.name("a"), "busybox", "cat")
	s.equal("state", s.inspect(id, "{{.State.Status}}"), "created")
	r := s.dockerIn("typed\n", "start", "-ai", id)
	if r.Code != 0 || r.out() != "typed" {
		t.Errorf("start -ai: %s", r)
	}
	s.equal("state", s.inspect(id, "{{.State.Status}} {{.State.ExitCode}}"), "exited 0")
	id = s.ok("create", "busybox", "sh", "-c", "exit 5")
	if r := s.docker("start", "-a", id); r.Code != 5 {
		t.Errorf("start -a of exit 5: %s", r)
	}
	s.fails(1, "No such container: nonesuch", "start", "nonesuch")
	id = s.ok("create", "busybox", "nonesuch")
	s.fails(1, "nonesuch", "start", id)
	s.equal("after a failed start", s.inspect(id, "{{.State.Status}} {{.State.ExitCode}}"), "created 127")
}
