package e2e

import (
	"archive/tar"
	"bytes"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// machineLimit is how long one command may take on a machine: without KVM it
// is emulated, and the tests beside it want the same two processors.
const machineLimit = 5 * time.Minute

// machines skips where there is nothing to run machines with.
func machines(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("boots virtual machines; run without -short")
	}
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		t.Skip("no qemu-system-x86_64: bash test/setup.sh test")
	}
}

// slow is ok for what a machine takes part in.
func (s *scene) slow(args ...string) string {
	s.Helper()
	r := s.d.command(machineLimit, nil, tools.docker, s.args(args)...)
	if r.Code != 0 {
		s.Fatalf("%s", r)
	}
	return r.out()
}

// TestMachine is a life of an instance in a virtual machine beside a container
// on one network and one volume: every verb, one machine.
func TestMachine(t *testing.T) {
	machines(t)
	s := newScene(t)
	network, volume, db, web := s.name("net"), s.name("vol"), s.name("db"), s.name("web")
	s.ok("network", "create", network)
	s.ok("volume", "create", volume)
	t.Cleanup(func() {
		s.docker("rm", "-f", db, web)
		s.docker("network", "rm", network)
		s.docker("volume", "rm", volume)
	})
	s.running("--name", web, "--network", network, "-v", volume+":/vol", "busybox", "sh", "-c", "mkdir /www; echo from-web >/www/index.html; httpd -f -p 80 -h /www")
	s.slow("run", "-d", "--name", db, "--isolation", "vm", "--hostname", "the-db", "-m", "200m", "--cpus", "1", "--network", network, "-p", "127.0.0.1::80",
		"-v", volume+":/vol", "--tmpfs", "/scratch", "-e", "WORD=hi", "-w", "/tmp", "--ulimit", "nofile=200:300", "--sysctl", "net.ipv4.ip_forward=1", "--init", "busybox",
		"sh", "-c", `mkdir /www; echo from-db >/www/index.html; echo started $WORD; trap 'echo bye; exit 3' TERM; httpd -f -p 80 -h /www & wait`)
	s.equal("isolation", s.inspect(db, "{{.HostConfig.Isolation}}"), "vm")
	s.insideMachine(db)
	s.machineNetwork(db, web, network)
	s.machineFiles(db, web)
	s.machineVerbs(db)
	s.stoppedMachine(db)
}

// insideMachine looks around with exec.
func (s *scene) insideMachine(db string) {
	s.Helper()
	host := s.ok("run", "--rm", "busybox", "uname", "-r")
	look := s.slow("exec", db, "sh", "-c", "uname -r; hostname; pwd; ulimit -n; nproc; cat /proc/sys/net/ipv4/ip_forward; cat /proc/1/comm; df /scratch | tail -1; id -u; ip link")
	if strings.HasPrefix(look, host+"\n") {
		s.Errorf("the machine runs the host's kernel %s", host)
	}
	s.contains("inside", look, "the-db\n/tmp\n200\n1\n1\n", "tmpfs", "\n0\n", "eth0")
	if strings.Contains(look, "eth1") || strings.Contains(look, "spare") {
		s.Errorf("spare interfaces are seen: %s", look)
	}
	if r := s.d.command(machineLimit, nil, tools.docker, "exec", db, "sh", "-c", "exit 9"); r.Code != 9 {
		s.Errorf("exit code: %s", r)
	}
	if r := s.d.command(machineLimit, nil, tools.docker, "exec", db, "nothing-here"); r.Code != 127 {
		s.Errorf("no such program: %s", r)
	}
	if r := s.d.command(machineLimit, strings.NewReader("in\n"), tools.docker, "exec", "-i", "-u", "1000:7", db, "sh", "-c", "cat; id -u; id -g"); r.out() != "in\n1000\n7" {
		s.Errorf("exec -i -u: %s", r)
	}
}

// machineNetwork: names and addresses both ways, the published port, a second
// network while it runs.
func (s *scene) machineNetwork(db, web, network string) {
	s.Helper()
	s.equal("from container to machine", s.slow("exec", web, "wget", "-q", "-O-", "http://"+db), "from-db")
	s.equal("from machine to container", s.slow("exec", db, "wget", "-q", "-O-", "http://"+web), "from-web")
	port := s.inspect(db, `{{(index (index .NetworkSettings.Ports "80/tcp") 0).HostPort}}`)
	get := &http.Client{Timeout: time.Minute}
	r, err := get.Get("http://127.0.0.1:" + port)
	if err != nil {
		s.Errorf("published port: %v", err)
	} else {
		text, _ := io.ReadAll(r.Body)
		_ = r.Body.Close()
		s.equal("published port", string(text), "from-db\n")
	}
	second := s.name("second")
	s.ok("network", "create", second)
	s.slow("network", "connect", "--alias", "other-name", second, db)
	peer := s.running("--network", second, "busybox", "sleep", "1000")
	s.equal("through the second network", s.slow("exec", peer, "wget", "-q", "-O-", "http://other-name"), "from-db")
	s.contains("second interface", s.slow("exec", db, "ip", "addr"), "eth1")
	s.slow("network", "disconnect", second, db)
	if out := s.slow("exec", db, "ip", "addr"); strings.Contains(out, "eth1") {
		s.Errorf("after the disconnect: %s", out)
	}
	s.equal("after the disconnect", s.slow("exec", web, "wget", "-q", "-O-", "http://"+db), "from-db")
	s.ok("rm", "-f", peer)
	s.ok("network", "rm", second)
}

// machineFiles: the volume that a container shares, copies both ways, changes.
func (s *scene) machineFiles(db, web string) {
	s.Helper()
	s.ok("exec", web, "sh", "-c", "echo c >/vol/of-web; chown 1000:7 /vol/of-web")
	s.equal("volume in the machine", s.slow("exec", db, "sh", "-c", "cat /vol/of-web; stat -c %u:%g /vol/of-web; echo m >/vol/of-db; chown 33:44 /vol/of-db"), "c\n1000:7")
	s.equal("volume in the container", s.ok("exec", web, "sh", "-c", "cat /vol/of-db; stat -c %u:%g /vol/of-db"), "m\n33:44")
	// The server of a share has an open file for each that the guest knows of.
	s.equal("many files in a volume", s.slow("exec", db, "sh", "-c", "mkdir /vol/many && cd /vol/many && i=0; while [ $i -lt 1200 ]; do i=$((i+1)); : >$i || exit; done; ls | wc -l"), "1200")
	dir := s.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "put"), []byte("put\n"), 0o644); err != nil {
		s.Fatal(err)
	}
	s.slow("cp", filepath.Join(dir, "put"), db+":/etc/put")
	s.slow("exec", db, "sh", "-c", "grep -q put /etc/put && echo got >/etc/got && rm /etc/passwd")
	s.slow("cp", db+":/etc/got", filepath.Join(dir, "got"))
	if text, _ := os.ReadFile(filepath.Join(dir, "got")); string(text) != "got\n" {
		s.Errorf("copied out: %q", text)
	}
	s.contains("diff", s.slow("diff", db), "A /etc/put", "A /etc/got", "D /etc/passwd", "C /etc")
}

// machineVerbs: what else is done to a running container.
func (s *scene) machineVerbs(db string) {
	s.Helper()
	s.contains("top", s.slow("top", db), "httpd")
	stats := s.slow("stats", "--no-stream", "--format", "{{.MemUsage}} {{.PIDs}} {{.NetIO}}", db)
	if !strings.Contains(stats, "/ 200MiB") || strings.HasPrefix(stats, "0B") || strings.Contains(stats, " 0B / 0B") {
		s.Errorf("stats: %s", stats)
	}
	s.contains("logs", s.slow("logs", db), "started hi")
	s.slow("pause", db)
	s.equal("paused", s.inspect(db, "{{.State.Status}}"), "paused")
	s.slow("unpause", db)
	image := s.name("committed")
	s.slow("commit", db, image)
	s.equal("committed", s.ok("run", "--rm", image, "sh", "-c", "cat /etc/put /etc/got; ls /etc/passwd 2>/dev/null; ls /scratch"), "put\ngot")
	s.ok("rmi", "-f", image)
	s.contains("ps", s.ok("ps", "--filter", "name="+db), "Up")
	if r := s.d.command(machineLimit, nil, tools.docker, "stop", "-t", "60", db); r.Code != 0 {
		s.Errorf("stop: %s", r)
	}
	s.equal("its handler's code", s.inspect(db, "{{.State.ExitCode}}"), "3")
	s.contains("its last words", s.ok("logs", db), "bye")
}

// stoppedMachine: files of one that does not run, and its next start.
func (s *scene) stoppedMachine(db string) {
	s.Helper()
	dir := s.TempDir()
	s.slow("cp", db+":/etc/got", filepath.Join(dir, "got"))
	if text, _ := os.ReadFile(filepath.Join(dir, "got")); string(text) != "got\n" {
		s.Errorf("copied out of the stopped machine: %q", text)
	}
	s.slow("cp", filepath.Join(dir, "got"), db+":/etc/later")
	s.contains("diff of the stopped machine", s.slow("diff", db), "A /etc/later", "D /etc/passwd")
	out := filepath.Join(dir, "export.tar")
	s.slow("export", "-o", out, db)
	data, err := os.ReadFile(out)
	if err != nil {
		s.Fatal(err)
	}
	if got := tarFile(data, "etc/later"); got != "got\n" {
		s.Errorf("exported: %q", got)
	}
	s.slow("start", db)
	s.equal("kept", s.slow("exec", db, "cat", "/etc/put", "/etc/later"), "put\ngot")
	s.slow("rm", "-f", db)
}

// tarFile is a file's content, or why there is none.
func tarFile(data []byte, name string) string {
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if err != nil {
			return err.Error()
		}
		if strings.TrimPrefix(h.Name, "./") == name {
			text, _ := io.ReadAll(r)
			return string(text)
		}
	}
}

// TestMachineForeground: streams, codes and terminals of docker run.
func TestMachineForeground(t *testing.T) {
	machines(t)
	s := newScene(t)
	r := s.d.command(machineLimit, strings.NewReader("word\n"), tools.docker, s.args([]string{"run", "--rm", "-i", "--runtime", "vm", "--read-only", "--cap-drop", "ALL", "-u", "1000", "busybox",
		"sh", "-c", "cat; echo err >&2; touch /x 2>/dev/null && echo writable; grep CapBnd /proc/self/status; grep Seccomp: /proc/self/status; exit 5"})...)
	if r.Code != 5 || !strings.Contains(r.Stderr, "err") {
		t.Errorf("%s", r)
	}
	s.contains("inside", r.Stdout, "word\n", "CapBnd:\t0000000000000000", "Seccomp:\t2")
	if strings.Contains(r.Stdout, "writable") {
		t.Errorf("the root is writable: %s", r)
	}
}

// TestMachineRefusals: what cannot be is refused at create, with the reason.
func TestMachineRefusals(t *testing.T) {
	machines(t)
	s := newScene(t)
	peer := s.idle()
	for _, option := range [][]string{{"--pid", "host"}, {"--ipc", "host"}, {"--ipc", "container:" + peer}, {"--network", "host"}, {"--network", "container:" + peer},
		{"--uts", "host"}, {"--userns", "host"}, {"--device", "/dev/null"}} {
		s.fails(1, "a virtual machine has a kernel of its own", append(append([]string{"create", "--isolation", "vm"}, option...), "busybox")...)
	}
	vm := s.ok("create", "--isolation", "vm", "busybox")
	s.equal("isolation", s.inspect(vm, "{{.HostConfig.Isolation}}"), "vm")
	s.fails(1, "whose namespaces are its own kernel's", "create", "--network", "container:"+vm, "busybox")
}

// TestMachinePolicy: an operator says what runs in a machine.
func TestMachinePolicy(t *testing.T) {
	machines(t)
	s := ownDaemon(t, "--isolation-policy", "vm:label=tenant=acme")
	for args, want := range map[string]string{"tenant=acme": "vm", "tenant=other": ""} {
		id := s.ok("create", "--label", args, "busybox")
		s.equal(args, s.inspect(id, "{{.HostConfig.Isolation}}"), want)
	}
	if r := s.docker("create", "--label", "tenant=acme", "--network", "host", "busybox"); r.Code != 1 || !strings.Contains(r.Stderr, "kernel of its own") {
		t.Errorf("%s", r)
	}
}

// qemuOf is the process id of an instance's QEMU.
func (s *scene) qemuOf(id string) int {
	s.Helper()
	for pid, line := range processes() {
		if strings.Contains(line, "qemu-system") && s.holderOf(id) == parentOf(pid) {
			return pid
		}
	}
	s.Fatalf("no QEMU of %s", id)
	return 0
}

func (s *scene) holderOf(id string) int {
	for pid, line := range processes() {
		if strings.HasPrefix(line, "wharf-vmm") && strings.Contains(line, id) {
			return pid
		}
	}
	return -1
}

func parentOf(pid int) int {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0
	}
	f := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	n, _ := strconv.Atoi(f[1])
	return n
}

// TestMachineFaults: the daemon killed, QEMU killed, the console flooded.
func TestMachineFaults(t *testing.T) {
	machines(t)
	s := ownDaemon(t)
	id := s.slow("run", "-d", "--isolation", "vm", "--restart", "on-failure:1", "busybox", "sh", "-c", "echo up; while :; do sleep 1; done")
	if err := s.d.kill(); err != nil {
		t.Fatal(err)
	}
	if err := s.d.start(); err != nil {
		t.Fatal(err)
	}
	s.equal("after kill -9 of the daemon", s.inspect(id, "{{.State.Status}}"), "running")
	s.equal("exec", s.slow("exec", id, "echo", "alive"), "alive")
	s.contains("log", s.ok("logs", id), "up")
	// Whoever has root in there may write to the kernel's log and to the channel.
	s.slow("exec", "--privileged", id, "sh", "-c", "i=0; while [ $i -lt 300 ]; do echo 'a flood of the console, line after line after line' >/dev/kmsg || exit 0; i=$((i+1)); done")
	s.equal("after a flood", s.slow("exec", id, "echo", "alive"), "alive")
	if err := syscall.Kill(s.qemuOf(id), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(machineLimit)
	for s.inspect(id, "{{.RestartCount}} {{.State.Status}}") != "1 running" && time.Now().Before(deadline) {
		time.Sleep(200 * time.Millisecond)
	}
	s.equal("restarted by its policy", s.inspect(id, "{{.RestartCount}} {{.State.Status}}"), "1 running")
	if err := syscall.Kill(s.qemuOf(id), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	s.until(id, "{{.State.Status}}", "exited")
	if e := s.inspect(id, "{{.State.Error}}"); e == "" {
		t.Errorf("a killed machine says nothing: %s", s.inspect(id, "{{json .State}}"))
	}
}
