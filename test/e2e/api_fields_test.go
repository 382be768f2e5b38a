package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moby/moby/client"
	"golang.org/x/sys/unix"
)

// create asks for a container as no CLI would, and returns status and message.
func (s *scene) create(query, body string) (int, string) {
	s.Helper()
	req, err := http.NewRequest("POST", "http://wharf/containers/create"+query, strings.NewReader(body))
	if err != nil {
		s.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := s.d.http().Do(req)
	if err != nil {
		s.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	var answer struct{ Message, ID string }
	if err := json.Unmarshal(b, &answer); err != nil {
		s.Errorf("%s: no JSON: %s", cut(body), cut(string(b)))
	}
	if resp.StatusCode == http.StatusCreated {
		s.docker("rm", "-f", answer.ID)
	}
	return resp.StatusCode, answer.Message
}

// TestWrongCreate: wrong types, huge numbers, doubled mounts, bad names. The
// answer is always of the class 400, as Docker's is, says what is wrong, and
// nothing is made.
func TestWrongCreate(t *testing.T) {
	s := newScene(t)
	const huge = "99999999999999999999999"
	for field, text := range map[string]string{
		`"Cmd":{"a":1}`: "", `"Env":"A=1"`: "", `"Env":["=x"]`: "invalid environment variable", `"Env":["A\u0000=1"]`: "NUL", `"Labels":["a"]`: "",
		`"ExposedPorts":{"80/xyz":{}}`: "80/xyz", `"ExposedPorts":{"99999":{}}`: "99999", `"ExposedPorts":{"":{}}`: "",
		`"StopTimeout":"x"`: "", `"StopTimeout":` + huge: "", `"StopSignal":"SIGNOPE"`: "SIGNOPE", `"StopSignal":"-1"`: "-1",
		`"WorkingDir":"rel"`: "absolute path", `"Volumes":{"rel":{}}`: "absolute", `"Volumes":{"/":{}}`: "can't be '/'",
		`"Hostname":"` + strings.Repeat("h", 300) + `"`: "too long", `"Tty":"yes"`: "",
		`"Healthcheck":{"Test":["MAYBE","x"]}`: "MAYBE", `"Healthcheck":{"Interval":5}`: "Interval", `"Healthcheck":{"Retries":-1}`: "Retries",
		`"Healthcheck":{"Test":"x"}`:   "",
		`"HostConfig":[]`:              "",
		`"HostConfig":{"Memory":"1g"}`: "", `"HostConfig":{"Memory":` + huge + `}`: "", `"HostConfig":{"Memory":1}`: "6MB",
		`"HostConfig":{"Memory":10000000,"MemorySwap":5}`: "swap", `"HostConfig":{"NanoCpus":` + strconv.Itoa(1<<60) + `}`: "CPUs",
		`"HostConfig":{"CpuShares":-1}`: "CPU shares", `"HostConfig":{"CpusetCpus":"0-99999999999"}`: "cpus", `"HostConfig":{"CpusetCpus":"9-1"}`: "cpus",
		`"HostConfig":{"BlkioWeight":5}`: "10 to 1000", `"HostConfig":{"BlkioWeight":70000}`: "", `"HostConfig":{"PidsLimit":"many"}`: "",
		`"HostConfig":{"OomScoreAdj":2000}`: "[-1000, 1000]", `"HostConfig":{"ShmSize":-1}`: "SHM size",
		`"HostConfig":{"Binds":["/a:/x","/b:/x"]}`: "Duplicate mount point: /x", `"HostConfig":{"Binds":["/a:/x:wild"]}`: "invalid mode", `"HostConfig":{"Binds":[":"]}`: "invalid volume specification",
		`"HostConfig":{"Binds":["/a:/x"],"Mounts":[{"Type":"tmpfs","Target":"/x"}]}`: "Duplicate mount point: /x",
		`"HostConfig":{"Binds":["a/b:/x"]}`:                                          "a/b", `"HostConfig":{"Binds":["` + strings.Repeat("v", 300) + `:/x"]}`: "",
		`"HostConfig":{"Mounts":[{"Type":"bind","Source":"/nonesuch","Target":"/x"}]}`:                                   "does not exist",
		`"HostConfig":{"Mounts":[{"Type":"odd","Target":"/x"}]}`:                                                         "mount type unknown",
		`"HostConfig":{"Mounts":[{"Type":"image","Source":"nonesuch","Target":"/x"}]}`:                                   "No such image: nonesuch",
		`"HostConfig":{"Mounts":[{"Type":"image","Source":"busybox","Target":"/x","ImageOptions":{"Subpath":"../.."}}]}`: "relative path",
		`"HostConfig":{"Mounts":[{"Type":"volume","Source":"v","Target":"x"}]}`:                                          "absolute",
		`"HostConfig":{"PortBindings":{"80/tcp":[{"HostPort":"99999"}]}}`:                                                "99999",
		`"HostConfig":{"PortBindings":{"80/tcp":[{"HostPort":"9-1"}]}}`:                                                  "9-1",
		`"HostConfig":{"PortBindings":{"80/tcp":[{"HostIp":"here"}]}}`:                                                   "here",
		`"HostConfig":{"PortBindings":{"0/tcp":[{}]}}`:                                                                   "port",
		`"HostConfig":{"RestartPolicy":{"Name":"perhaps"}}`:                                                              "perhaps",
		`"HostConfig":{"RestartPolicy":{"Name":"always","MaximumRetryCount":3}}`:                                         "",
		`"HostConfig":{"RestartPolicy":{"Name":"always"},"AutoRemove":true}`:                                             "AutoRemove",
		`"HostConfig":{"NetworkMode":"container:"}`:                                                                      "container:",
		`"HostConfig":{"CapAdd":["EVERYTHING"]}`:                                                                         "EVERYTHING",
		`"HostConfig":{"SecurityOpt":["seccomp={"]}`:                                                                     "seccomp",
		`"HostConfig":{"SecurityOpt":["secret"]}`:                                                                        "secret",
		`"HostConfig":{"Sysctls":{"kernel.panic":"1"}}`:                                                                  "kernel.panic",
		`"HostConfig":{"Ulimits":[{"Name":"odd","Soft":1,"Hard":1}]}`:                                                    "odd",
		`"HostConfig":{"Ulimits":[{"Name":"nofile","Soft":9,"Hard":1}]}`:                                                 "nofile",
		`"HostConfig":{"Devices":[{"PathOnHost":"null"}]}`:                                                               "absolute",
		`"HostConfig":{"DeviceCgroupRules":["c 1:3"]}`:                                                                   "c 1:3",
		`"HostConfig":{"DeviceRequests":[{"Driver":"cdi","DeviceIDs":["none.com/such=x"]}]}`:                             "none.com/such=x",
		`"HostConfig":{"LogConfig":{"Type":"paper"}}`:                                                                    "paper",
		`"HostConfig":{"LogConfig":{"Type":"json-file","Config":{"max-size":"big"}}}`:                                    "big",
		`"HostConfig":{"Runtime":"nonesuch"}`:                                                                            "nonesuch",
		`"HostConfig":{"Isolation":"hyperv"}`:                                                                            "hyperv",
		`"HostConfig":{"ExtraHosts":["x"]}`:                                                                              "add-host",
		`"HostConfig":{"Dns":["resolver"]}`:                                                                              "resolver",
		`"NetworkingConfig":{"EndpointsConfig":{"bridge":{"IPAMConfig":{"IPv4Address":"1.2.3"}}}}`:                       "1.2.3",
		`"NetworkingConfig":{"EndpointsConfig":{"bridge":{"MacAddress":"zz"}}}`:                                          "zz",
	} {
		if onMachines && (strings.Contains(field, "kernel.panic") || strings.Contains(field, `"Devices"`)) {
			continue // its kernel is its own; --device is refused whatever it says
		}
		code, message := s.create("?name="+s.name("wrong"), `{"Image":"busybox",`+field+`}`)
		if code != http.StatusBadRequest || message == "" || !strings.Contains(message, text) {
			t.Errorf("%s: %d %q, want 400 with %q", cut(field), code, message, text)
		}
	}
	for _, name := range []string{"x", "-x", "a/b", "a b", "%C3%A4%C3%A4", "..", "a%00b", strings.Repeat("n", 256)} {
		if code, message := s.create("?name="+strings.ReplaceAll(name, " ", "%20"), `{"Image":"busybox"}`); code != 400 || !strings.Contains(message, "Invalid container name") {
			t.Errorf("name %s: %d %s", cut(name), code, message)
		}
	}
	if left := s.ok("ps", "-aq", "--filter", "name="+s.name("wrong")); left != "" {
		t.Errorf("something was made: %s", left)
	}
}

func TestImageMount(t *testing.T) {
	s := newScene(t)
	mount := "type=image,source=busybox,target=/img"
	s.equal("whole", s.ok("run", "--rm", "--mount", mount, "busybox", "sh", "-c", "test -x /img/bin/busybox && stat -c %u /img/bin && ! touch /img/x 2>/dev/null && echo ro"), "0\nro")
	s.equal("part", s.ok("run", "--rm", "--mount", mount+",image-subpath=etc", "busybox", "sh", "-c", "test -f /img/passwd && ! test -e /img/bin && echo part"), "part")
	s.equal("file", s.ok("run", "--rm", "--mount", mount+",image-subpath=etc/passwd", "busybox", "sh", "-c", "cmp /img /etc/passwd && echo same"), "same")
	s.equal("host's ids", s.ok("run", "--rm", "--userns", "host", "--mount", mount, "busybox", "stat", "-c", "%u", "/img/bin"), "0")
	s.fails(127, "cannot access path", "run", "--rm", "--mount", mount+",image-subpath=none", "busybox", "true")
	s.fails(125, "No such image: nonesuch", "run", "--rm", "--mount", "type=image,source=nonesuch,target=/x", "busybox", "true")

	// The image cannot go while a container mounts it, and its layers not even then.
	tag := s.name("tool") + ":1"
	c := s.idle()
	s.ok("exec", c, "sh", "-c", "echo tool >/made")
	s.ok("commit", c, tag)
	id := s.idle("--mount", "type=image,source="+tag+",target=/tool")
	s.contains("inspect", s.inspect(id, "{{json .Mounts}}"), `"Type":"image"`, `"Destination":"/tool"`, `"RW":false`)
	s.fails(1, "is using its referenced image", "rmi", tag)
	s.ok("stop", "-t", "0", id)
	s.fails(1, "only while the container runs", "cp", id+":/tool/made", "-")
	s.ok("rmi", "-f", tag)
	s.ok("start", id)
	s.equal("after rmi -f", s.ok("exec", id, "cat", "/tool/made"), "tool")
}

// TestCDI gives a container a device that a made-up specification names.
func TestCDI(t *testing.T) {
	dir := t.TempDir()
	spec := `{"cdiVersion":"0.6.0","kind":"acme.com/thing","containerEdits":{"env":["ACME=1"]},"devices":[{"name":"one","containerEdits":{
		"env":["THING=one"],"deviceNodes":[{"path":"/dev/thing","hostPath":"/dev/null","permissions":"rw"}],
		"mounts":[{"hostPath":"/etc/hostname","containerPath":"/etc/thing","options":["ro","bind"]}]}}]}`
	if err := os.WriteFile(filepath.Join(dir, "acme.json"), []byte(spec), 0o600); err != nil {
		t.Fatal(err)
	}
	s := ownDaemon(t, "--cdi-spec-dir", dir)
	out := s.ok("run", "--rm", "--device", "acme.com/thing=one", "busybox", "sh", "-c", "echo $ACME $THING; test -c /dev/thing && echo x >/dev/thing && test -s /etc/thing && echo there")
	s.equal("by name", out, "1 one\nthere")
	s.contains("info", s.ok("info", "-f", "{{json .}}"), `"CDISpecDirs":["`+dir+`"]`)
	s.fails(125, "unresolvable CDI devices acme.com/thing=two", "run", "--rm", "--device", "acme.com/thing=two", "busybox", "true")
	s.fails(125, `could not select device driver`, "run", "--rm", "--gpus", "all", "busybox", "true")
}

// TestSeccompNotify: the agent at a profile's listenerPath gets the
// descriptor.
func TestSeccompNotify(t *testing.T) {
	s := newScene(t)
	sock := filepath.Join(t.TempDir(), "agent")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: sock, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	got := make(chan string, 1)
	go func() {
		c, err := l.AcceptUnix()
		if err != nil {
			return
		}
		defer c.Close()
		buf, oob := make([]byte, 64<<10), make([]byte, unix.CmsgSpace(64))
		n, oobn, _, _, err := c.ReadMsgUnix(buf, oob)
		if err != nil || oobn == 0 {
			got <- fmt.Sprint("no descriptor: ", err)
			return
		}
		if msgs, err := unix.ParseSocketControlMessage(oob[:oobn]); err == nil && len(msgs) == 1 {
			if fds, err := unix.ParseUnixRights(&msgs[0]); err == nil {
				for _, fd := range fds {
					unix.Close(fd) // the call then fails with ENOSYS
				}
			}
		}
		got <- string(buf[:n])
	}()
	profile := filepath.Join(t.TempDir(), "profile.json")
	text := `{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"` + sock + `","listenerMetadata":"hello","syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_NOTIFY"}]}`
	if err := os.WriteFile(profile, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	r := s.docker("run", "--rm", "--security-opt", "seccomp="+profile, "busybox", "mkdir", "/tmp/x")
	if r.Code == 0 || !strings.Contains(r.Stderr, "not implemented") {
		t.Errorf("mkdir: %s", r)
	}
	select {
	case state := <-got:
		s.contains("state", state, `"metadata":"hello"`, `"seccompFd"`)
	case <-time.After(busy):
		t.Error("no descriptor came")
	}
}

// leave attaches and executes as a client that leaves its detach keys to the
// daemon, and types them.
func (s *scene) leave(id string) {
	s.Helper()
	c, err := s.d.sdk()
	if err != nil {
		s.Fatal(err)
	}
	defer c.Close()
	ctx := s.Context()
	at, err := c.ContainerAttach(ctx, id, client.ContainerAttachOptions{Stream: true, Stdin: true, Stdout: true})
	if err != nil {
		s.Fatal(err)
	}
	defer at.Close()
	ex, err := c.ExecCreate(ctx, id, client.ExecCreateOptions{Cmd: []string{"sleep", "1000"}, TTY: true, AttachStdin: true, AttachStdout: true})
	if err != nil {
		s.Fatal(err)
	}
	in, err := c.ExecAttach(ctx, ex.ID, client.ExecAttachOptions{TTY: true})
	if err != nil {
		s.Fatal(err)
	}
	defer in.Close()
	for _, conn := range []net.Conn{at.Conn, in.Conn} {
		_, _ = conn.Write([]byte{16, 17})
		_ = conn.SetReadDeadline(time.Now().Add(busy))
		_, _ = io.Copy(io.Discard, conn) // until the daemon has seen them
	}
}

// TestAllEvents: each thing that Docker tells of a container, an image, a
// network, a volume and the daemon is told.
func TestAllEvents(t *testing.T) {
	s := ownDaemon(t)
	since := strconv.FormatInt(time.Now().Unix()-1, 10)
	s.ok("network", "create", "net")
	s.ok("volume", "create", "vol")
	id := s.idle("--name", "box", "-v", "vol:/v", "-it", "-p", "127.0.0.1::80")
	for _, args := range [][]string{
		{"network", "connect", "net", id}, {"network", "disconnect", "net", id}, {"pause", id}, {"unpause", id}, {"top", id},
		{"update", "--cpu-shares", "500", id}, {"rename", id, "box2"}, {"exec", id, "true"}, {"kill", "-s", "WINCH", id}, {"commit", id, "made:1"}, {"tag", "made:1", "made:2"},
		{"cp", id + ":/etc/passwd", "-"}, {"export", "-o", filepath.Join(s.d.dir, "box.tar"), id}, {"save", "-o", filepath.Join(s.d.dir, "made.tar"), "made:1"}, {"load", "-i", filepath.Join(s.d.dir, "made.tar")},
	} {
		s.ok(args...)
	}
	s.dockerIn("x", "cp", "-", id+":/tmp")      // no tar: nothing told of
	_, _ = s.terminal("\x10\x11", "attach", id) // the CLI finds its keys itself, and sends the terminal's size
	s.leave(id)
	s.ok("restart", "-t", "0", id)
	s.ok("stop", "-t", "0", id)
	s.ok("rm", "-v", id)
	sick := s.running("--health-cmd", "false", "--health-interval", "100ms", "--health-retries", "1", "busybox", "sleep", "1000")
	s.until(sick, "{{.State.Health.Status}}", "unhealthy")
	s.ok("rm", "-f", sick)
	for _, args := range [][]string{
		{"rmi", "made:1", "made:2"}, {"network", "rm", "net"}, {"volume", "rm", "vol"}, {"image", "import", filepath.Join(s.d.dir, "made.tar"), "imported"},
		{"container", "prune", "-f"}, {"image", "prune", "-f"}, {"network", "prune", "-f"}, {"volume", "prune", "-f"},
	} {
		s.ok(args...)
	}
	s.d.cmd.Process.Signal(syscall.SIGHUP)
	want := strings.Fields(`container:create container:start container:pause container:unpause container:top container:update container:rename
		container:exec_create container:exec_start container:exec_die container:kill container:commit container:archive-path container:export
		container:attach container:detach container:exec_detach container:resize container:restart container:stop container:die container:destroy
		container:health_status container:prune
		image:tag image:untag image:delete image:save image:load image:import image:prune
		network:create network:connect network:disconnect network:destroy network:prune
		volume:create volume:mount volume:unmount volume:destroy volume:prune daemon:reload`)
	if err := eventually(5*time.Second, func() error {
		out := s.ok("events", "--since", since, "--until", strconv.FormatInt(time.Now().Unix()+1, 10), "--format", "{{.Type}}:{{.Action}}")
		told := map[string]bool{}
		for line := range strings.Lines(out) {
			name, _, _ := strings.Cut(strings.TrimSpace(line), ": ")
			told[name] = true
		}
		var missing []string
		for _, w := range want {
			if !told[w] {
				missing = append(missing, w)
			}
		}
		if len(missing) > 0 {
			return fmt.Errorf("not told of: %v", missing)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}
