package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/websocket"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
)

// TestWaitConditions waits before anything happened, for each condition.
func TestWaitConditions(t *testing.T) {
	s := newScene(t)
	c, err := s.d.sdk()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), max(2*busy, patient(20*time.Second)))
	defer cancel()
	id := s.ok("create", "busybox", "sh", "-c", "sleep 0.2; exit 8")
	next := c.ContainerWait(ctx, id, client.ContainerWaitOptions{Condition: container.WaitConditionNextExit})
	removed := c.ContainerWait(ctx, id, client.ContainerWaitOptions{Condition: container.WaitConditionRemoved})
	idle := c.ContainerWait(ctx, id, client.ContainerWaitOptions{Condition: container.WaitConditionNotRunning})
	want := func(name string, w client.ContainerWaitResult, code int64) {
		t.Helper()
		select {
		case r := <-w.Result:
			if r.StatusCode != code || r.Error != nil {
				t.Errorf("%s: %+v, want code %d", name, r, code)
			}
		case err := <-w.Error:
			t.Errorf("%s: %v", name, err)
		}
	}
	want("not running, when created", idle, 0)
	s.ok("start", id)
	want("next exit", next, 8)
	s.ok("rm", id)
	want("removed", removed, 8)
}

// TestWebsocketAttach types into a container through a websocket.
func TestWebsocketAttach(t *testing.T) {
	s := newScene(t)
	id := s.running("-it", "busybox", "sh")
	conn, err := net.Dial("unix", s.d.socket())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	cfg, err := websocket.NewConfig("ws://wharf/containers/"+id+"/attach/ws?stream=1&stdin=1&stdout=1", "http://wharf")
	if err != nil {
		t.Fatal(err)
	}
	ws, err := websocket.NewClient(cfg, conn)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(max(busy, patient(10*time.Second))))
	if _, err := io.WriteString(ws, "echo $((40+2))\n"); err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	buf := make([]byte, 1000)
	for !strings.Contains(got.String(), "42\r\n") {
		n, err := ws.Read(buf)
		if err != nil {
			t.Fatalf("read %q, then: %v", got.String(), err)
		}
		got.Write(buf[:n])
	}
}

// TestEventsLive follows the feed while things happen.
func TestEventsLive(t *testing.T) {
	s := newScene(t)
	resp, err := s.d.http().Get("http://wharf/events?filters=" + `%7B%22label%22%3A%5B%22e2e%3D` + s.label + `%22%5D%2C%22type%22%3A%5B%22container%22%5D%7D`)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got := make(chan string, 20)
	go func() {
		dec := json.NewDecoder(resp.Body)
		for {
			var e struct{ Action string }
			if dec.Decode(&e) != nil {
				close(got)
				return
			}
			got <- e.Action
		}
	}()
	id := s.idle()
	s.ok("pause", id)
	s.ok("unpause", id)
	s.ok("stop", "-t", "60", id)
	for _, want := range []string{"create", "start", "pause", "unpause", "kill", "die", "stop"} {
		select {
		case a := <-got:
			if a != want {
				t.Errorf("event %s, want %s", a, want)
			}
		case <-time.After(max(busy, patient(5*time.Second))):
			t.Fatalf("no event %s", want)
		}
	}
}

// TestStatsStream reads three samples.
func TestStatsStream(t *testing.T) {
	s := newScene(t)
	id := s.running("busybox", "sh", "-c", "while :; do :; done")
	resp, err := s.d.http().Get("http://wharf/containers/" + id + "/stats")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	dec := json.NewDecoder(resp.Body)
	var last uint64
	for i := range 3 {
		var st container.StatsResponse
		if err := dec.Decode(&st); err != nil {
			t.Fatal(err)
		}
		if st.CPUStats.CPUUsage.TotalUsage <= last || st.MemoryStats.Usage == 0 || st.PidsStats.Current == 0 {
			t.Errorf("sample %d: cpu %d after %d, memory %d, pids %d", i, st.CPUStats.CPUUsage.TotalUsage, last, st.MemoryStats.Usage, st.PidsStats.Current)
		}
		last = st.CPUStats.CPUUsage.TotalUsage
		if i > 0 && st.PreCPUStats.CPUUsage.TotalUsage == 0 {
			t.Errorf("sample %d has no earlier one", i)
		}
		if len(st.Networks) == 0 {
			t.Errorf("sample %d has no networks", i)
		}
	}
}

// TestSlowReader leaves a stream unread: the container waits, nothing is lost,
// the daemon and others go on.
func TestSlowReader(t *testing.T) {
	s := newScene(t)
	const lines = 200000 // more than all that is between the two holds
	id := s.ok("create", "--log-driver", "json-file", "busybox", "seq", fmt.Sprint(lines))
	cmd := exec.Command(tools.docker, "start", "-a", id)
	cmd.Env = s.d.env()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second)
	s.equal("others meanwhile", s.ok("run", "--rm", "busybox", "echo", "fine"), "fine")
	n := 0
	for sc := bufio.NewScanner(out); sc.Scan(); n++ {
		if want := fmt.Sprint(n + 1); sc.Text() != want {
			t.Fatalf("line %q, want %q", sc.Text(), want)
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if n != lines {
		t.Errorf("%d lines arrived of %d", n, lines)
	}
	if got := strings.Count(s.ok("logs", id), "\n") + 1; got != lines {
		t.Errorf("%d lines in the log of %d", got, lines)
	}
}

// TestPublish reaches a container by a port of the host.
func TestPublish(t *testing.T) {
	s := newScene(t)
	id := s.running("-p", "127.0.0.1::8080", "busybox", "sh", "-c", "mkdir /www; echo served >/www/index.html; exec httpd -f -p 8080 -h /www")
	addr := s.ok("port", id, "8080/tcp")
	if !strings.HasPrefix(addr, "127.0.0.1:") {
		t.Fatalf("port: %q", addr)
	}
	if err := eventually(5*time.Second, func() error {
		resp, err := (&http.Client{Timeout: max(busy/6, patient(2*time.Second))}).Get("http://" + addr + "/")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		if string(b) != "served\n" {
			return fmt.Errorf("got %q", b)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	port := addr[strings.LastIndex(addr, ":")+1:]
	s.fails(125, port, "run", "--rm", "-p", "127.0.0.1:"+port+":80", "busybox", "true")
	s.contains("ps", s.ok("ps", "--filter", "id="+id, "--format", "{{.Ports}}"), addr+"->8080/tcp")
	s.ok("rm", "-f", id)
	if _, err := net.DialTimeout("tcp", addr, time.Second); err == nil {
		t.Error("the port answers after the container is gone")
	}
}

// TestUserNetwork joins containers by name on a network of their own.
func TestUserNetwork(t *testing.T) {
	s := newScene(t)
	network := s.name("net")
	s.ok("network", "create", network)
	t.Cleanup(func() { s.docker("network", "rm", network) })
	a := s.idle("--network", network, "--name", s.name("a"), "--network-alias", "first")
	s.ok("run", "--rm", "--network", network, "busybox", "ping", "-c", "1", "-W", "20", s.name("a"))
	s.ok("run", "--rm", "--network", network, "busybox", "ping", "-c", "1", "-W", "20", "first")
	second := s.name("net2")
	s.ok("network", "create", second)
	t.Cleanup(func() { s.docker("network", "rm", second) })
	other := s.idle("--network", second)
	s.ok("network", "connect", network, other)
	s.ok("exec", other, "ping", "-c", "1", "-W", "20", "first")
	s.ok("network", "disconnect", network, other)
	s.fails(1, "has active endpoints", "network", "rm", network)
	s.fails(1, "", "exec", other, "ping", "-c", "1", "-W", "2", "first")
	s.joinedLater(network)
	s.ok("rm", "-f", a, other)
	s.ok("network", "rm", network, second)
}

// joinedLater: a container that began on the default bridge, which has no
// names, finds and is found by those of a network that it joins, also by a new
// name, and is as before when it has left.
func (s *scene) joinedLater(network string) {
	s.Helper()
	late := s.name("late")
	id := s.idle("--name", late)
	before := s.ok("exec", id, "cat", "/etc/resolv.conf")
	s.ok("network", "connect", "--alias", "second", network, id)
	server := "nameserver 127.0.0.11"
	if onMachines {
		server = "nameserver " + s.ok("network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", network)
	}
	s.contains("resolv.conf", s.ok("exec", id, "cat", "/etc/resolv.conf"), server)
	s.ok("exec", id, "ping", "-c", "1", "-W", "20", "first")
	for _, name := range []string{late, "second", id[:12]} {
		s.ok("run", "--rm", "--network", network, "busybox", "ping", "-c", "1", "-W", "20", name)
	}
	s.ok("rename", id, late+"-new")
	s.ok("run", "--rm", "--network", network, "busybox", "ping", "-c", "1", "-W", "20", late+"-new")
	s.ok("network", "disconnect", network, id)
	if err := eventually(time.Second, func() error { // a machine's is written again within a second
		if after := s.ok("exec", id, "cat", "/etc/resolv.conf"); after != before {
			return fmt.Errorf("resolv.conf after the network was left:\n%s\nbefore it was joined:\n%s", after, before)
		}
		return nil
	}); err != nil {
		s.Error(err)
	}
	s.ok("rm", "-f", id)
}

// TestRestartUnlessStopped restarts the daemon under three policies.
func TestRestartUnlessStopped(t *testing.T) {
	s := ownDaemon(t)
	stopped := s.idle("--restart", "unless-stopped")
	always := s.idle("--restart", "always")
	runs := s.idle("--restart", "unless-stopped")
	s.ok("stop", "-t", "0", stopped, always)
	if err := s.d.stop(); err != nil {
		t.Fatal(err)
	}
	if err := s.d.start(); err != nil {
		t.Fatal(err)
	}
	s.until(always, "{{.State.Running}}", "true")
	s.equal("stopped by a person", s.inspect(stopped, "{{.State.Running}}"), "false")
	s.equal("never stopped", s.inspect(runs, "{{.State.Running}} {{.RestartCount}}"), "true 0")
}
