package e2e

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestVersionInfo(t *testing.T) {
	s := newScene(t)
	s.equal("ping", s.ok("version", "-f", "{{.Server.Os}}"), "linux")
	s.contains("version", s.ok("version"), "Server:", "API version:")
	info := s.ok("info")
	s.contains("info", info, "Server Version:", "Storage Driver:", "Logging Driver: ", "Cgroup Driver:", "Kernel Version:", "Operating System: ", "seccomp")
	var parsed map[string]any
	if err := json.Unmarshal([]byte(s.ok("info", "-f", "{{json .}}")), &parsed); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"ID", "Containers", "Images", "Driver", "NCPU", "MemTotal", "Name", "DockerRootDir", "SecurityOptions"} {
		if parsed[key] == nil {
			t.Errorf("info has no %s", key)
		}
	}
	if strings.Contains(fmt.Sprint(parsed["SecurityOptions"]), "userns") == false {
		t.Errorf("security options do not say userns: %v", parsed["SecurityOptions"])
	}
}

func TestEvents(t *testing.T) {
	s := newScene(t)
	since := strconv.FormatInt(time.Now().Unix()-1, 10)
	id := s.running("--name", s.name("a"), "busybox", "sh", "-c", "sleep 0.2; exit 3")
	s.ok("wait", id)
	s.ok("rename", id, s.name("b"))
	s.ok("rm", id)
	until := strconv.FormatInt(time.Now().Unix()+1, 10)
	got := strings.Fields(s.ok("events", "--since", since, "--until", until, "--filter", "container="+id, "--filter", "type=container", "--format", "{{.Action}}"))
	s.equal("of one container", strings.Join(got, " "), "create start die rename destroy")
	s.contains("attributes", s.ok("events", "--since", since, "--until", until, "--filter", "container="+id, "--filter", "event=die", "--format", "{{json .}}"), `"exitCode":"3"`, `"image":"busybox"`, s.name("a"))
	s.contains("exec", func() string {
		id := s.idle()
		s.ok("exec", id, "true")
		return s.ok("events", "--since", since, "--until", strconv.FormatInt(time.Now().Unix()+1, 10), "--filter", "container="+id, "--format", "{{.Action}}")
	}(), "exec_create: true", "exec_start: true", "exec_die")
}

func TestDiskUsage(t *testing.T) {
	s := newSceneAlone(t)
	id := s.idle()
	s.ok("exec", id, "sh", "-c", "head -c 3000000 /dev/zero >/big; sync")
	most := 3200000
	if onMachines {
		most = 3800000 // its file system's own data with it
	}
	s.contains("df", s.ok("system", "df"), "Images", "Containers", "Local Volumes")
	s.contains("df -v", s.ok("system", "df", "-v"), "busybox", id[:12])
	size := s.ok("inspect", "-s", "-f", "{{.SizeRw}}", id)
	if n, _ := strconv.Atoi(size); n < 3000000 || n > most {
		t.Errorf("SizeRw is %s after writing 3,000,000 bytes", size)
	}
}

func TestInspect(t *testing.T) {
	s := newScene(t)
	id := s.idle("-e", "A=1", "-l", "x=y", "-v", "/tmp:/host:ro", "-m", "64m", "--cap-add", "SYS_TIME", "-h", "box")
	for format, want := range map[string]string{
		"{{.Config.Hostname}}":                                       "box",
		"{{.Config.Image}}":                                          "busybox",
		"{{index .Config.Labels \"x\"}}":                             "y",
		"{{json .HostConfig.CapAdd}}":                                `["CAP_SYS_TIME"]`,
		"{{.HostConfig.Memory}}":                                     "67108864",
		"{{(index .Mounts 0).Source}}":                               "/tmp",
		"{{(index .Mounts 0).RW}}":                                   "false",
		"{{.Driver}} {{.Platform}}":                                  s.ok("info", "-f", "{{.Driver}}") + " linux",
		"{{.Path}} {{json .Args}}":                                   `sleep ["1000"]`,
		"{{.State.Status}} {{.State.ExitCode}}":                      "running 0",
		"{{len .NetworkSettings.Networks}}":                          "1",
		"{{.HostConfig.LogConfig.Type}}":                             s.ok("info", "-f", "{{.LoggingDriver}}"),
		"{{.HostConfig.NetworkMode}}":                                "bridge",
		"{{.HostConfig.RestartPolicy.Name}}":                         "no",
		"{{range .Config.Env}}{{println .}}{{end}}":                  "A=1\nPATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"{{.Created}}":                                               s.inspect(id, "{{.Created}}"),
		"{{.ResolvConfPath}}":                                        s.d.data() + "/containers/" + id + "/resolv.conf",
		"{{.HostnamePath}}":                                          s.d.data() + "/containers/" + id + "/hostname",
		"{{range $k, $v := .NetworkSettings.Networks}}{{$k}}{{end}}": "bridge",
	} {
		s.equal(format, s.inspect(id, format), want)
	}
	s.fails(1, "No such object: nonesuch", "inspect", "nonesuch")
	s.contains("type", s.ok("inspect", "--type", "image", "busybox"), "RootFS")
}

func TestNetworksListed(t *testing.T) {
	s := newScene(t)
	s.contains("ls", s.ok("network", "ls"), "bridge", "host", "none")
	s.contains("inspect", s.ok("network", "inspect", "bridge"), "Subnet", "Gateway")
	a, b := s.idle("--name", s.name("a")), s.idle("--name", s.name("b"))
	ip := lastAddress(s.inspect(b, "{{.NetworkSettings.IPAddress}}{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"))
	s.ok("exec", a, "ping", "-c", "1", "-W", "20", ip)
	s.contains("endpoints", s.ok("network", "inspect", "bridge"), s.name("a"), s.name("b"))
	s.fails(1, "nonesuch not found", "network", "inspect", "nonesuch")
	s.fails(1, "", "network", "rm", "bridge")
}

func TestTCPBetweenContainers(t *testing.T) {
	s := newScene(t)
	server := s.running("busybox", "sh", "-c", "mkdir /www && echo served >/www/index.html && exec httpd -f -p 8080 -h /www")
	ip := lastAddress(s.inspect(server, "{{.NetworkSettings.IPAddress}}{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"))
	if err := eventually(5*time.Second, func() error {
		// Debian's busybox-static wget crashes in getaddrinfo (glibc), on any host.
		r := s.docker("run", "--rm", "busybox", "sh", "-c", `printf 'GET / HTTP/1.0\r\n\r\n' | nc -w 20 `+ip+" 8080")
		if !strings.Contains(r.Stdout, "served") {
			return fmt.Errorf("%s", r)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}
