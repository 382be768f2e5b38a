package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
)

// TestBadRequests sends what no CLI would.
func TestBadRequests(t *testing.T) {
	s := newScene(t)
	id := s.idle()
	for _, c := range []struct {
		method, path, body string
		code               int
		text               string
	}{
		{"GET", "/nonesuch", "", 404, "page not found"},
		{"GET", "/v1.44/nonesuch", "", 404, "page not found"},
		{"GET", "/v9.99/info", "", 400, "too new"},
		{"PATCH", "/containers/json", "", 404, "page not found"},
		{"POST", "/containers/create", "{", 400, ""},
		{"POST", "/containers/create", "[]", 400, ""},
		{"POST", "/containers/create", `{"Image":"busybox","Cmd":7}`, 400, ""},
		{"POST", "/containers/create", `{}`, 400, ""},
		{"POST", "/containers/create", `{"Image":"nonesuch"}`, 404, "No such image: nonesuch:latest"},
		{"POST", "/containers/create", `{"Image":"busybox","HostConfig":{"Memory":-5}}`, 400, ""},
		{"POST", "/containers/create?name=" + strings.Repeat("x", 5000), `{"Image":"busybox"}`, 400, ""},
		{"POST", "/containers/create?name=..%2F..%2Fetc", `{"Image":"busybox"}`, 400, "Invalid container name"},
		{"POST", "/containers/" + id + "/resize?h=x&w=1", "", 400, ""},
		{"POST", "/containers/" + id + "/kill?signal=999", "", 400, ""},
		{"POST", "/containers/" + id + "/wait?condition=nonesuch", "", 400, ""},
		{"GET", "/containers/" + id + "/logs", "", 400, "stdout"},
		{"GET", "/containers/json?filters=nonsense", "", 400, ""},
		{"GET", "/containers/json?limit=x", "", 400, ""},
		{"GET", "/containers/nonesuch/json", "", 404, "No such container: nonesuch"},
		{"DELETE", "/containers/" + id, "", 409, "running"},
		{"POST", "/exec/nonesuch/start", "{}", 404, "nonesuch"},
		{"POST", "/containers/" + id + "/exec", `{"Cmd":[]}`, 400, ""},
		{"PUT", "/containers/" + id + "/archive?path=/tmp", "this is no tar", 400, ""},
		{"GET", "/containers/" + id + "/archive", "", 400, ""},
		{"POST", "/images/create?fromImage=UPPER", "", 400, ""},
		{"GET", "/events?since=x", "", 400, ""},
	} {
		t.Run(c.method+" "+cut(strings.ReplaceAll(c.path, id, "ID"))[:min(60, len(strings.ReplaceAll(c.path, id, "ID")))], func(t *testing.T) {
			req, err := http.NewRequest(c.method, "http://wharf"+c.path, strings.NewReader(c.body))
			if err != nil {
				t.Fatal(err)
			}
			if c.body != "" {
				req.Header.Set("Content-Type", "application/json")
			}
			resp, err := s.d.http().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
			var e struct{ Message string }
			if resp.StatusCode != c.code {
				t.Errorf("status %d, want %d: %s", resp.StatusCode, c.code, cut(string(body)))
			} else if resp.StatusCode >= 400 && (json.Unmarshal(body, &e) != nil || e.Message == "" || !strings.Contains(e.Message, c.text)) {
				t.Errorf("%d with body %q; want JSON with a message with %q", c.code, cut(string(body)), c.text)
			}
		})
	}
}

func TestVersions(t *testing.T) {
	s := newScene(t)
	for _, v := range []string{"1.24", "1.30", "1.40", "1.45", "1.50"} {
		resp, err := s.d.http().Get("http://wharf/v" + v + "/containers/json")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("API %s: %s", v, resp.Status)
		}
	}
	resp, err := s.d.http().Head("http://wharf/_ping")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	for _, h := range []string{"Api-Version", "Ostype", "Server"} {
		if resp.Header.Get(h) == "" {
			t.Errorf("ping without %s: %v", h, resp.Header)
		}
	}
}

// TestClientGone hangs up in the middle of things: nothing stays half made.
func TestClientGone(t *testing.T) {
	s := newScene(t)
	c, err := s.d.sdk()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for i := range 10 {
		ctx, cancel := context.WithCancel(context.Background())
		name := s.name(fmt.Sprint("gone", i))
		go func() { time.Sleep(time.Duration(i) * time.Millisecond); cancel() }()
		created, err := c.ContainerCreate(ctx, client.ContainerCreateOptions{Name: name,
			Config: &container.Config{Image: "busybox", Cmd: []string{"sleep", "1000"}, Labels: map[string]string{"e2e": s.label}}})
		if err == nil {
			_, _ = c.ContainerStart(ctx, created.ID, client.ContainerStartOptions{})
		}
		cancel()
	}
	for line := range strings.Lines(s.ok("ps", "-a", "--filter", "label=e2e="+s.label, "--format", "{{.State}}")) {
		if st := strings.TrimSpace(line); st != "created" && st != "running" {
			t.Errorf("a container is %s", st)
		}
	}
	// What has arrived is done, also when nobody waits for it any more.
	for _, after := range []time.Duration{0, time.Millisecond, 4 * time.Millisecond} {
		id := s.ok("create", "busybox", "sleep", "1000")
		conn, err := net.Dial("unix", s.d.socket())
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.WriteString(conn, "POST /v1.45/containers/"+id+"/start HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
		time.Sleep(after)
		if err := errors.Join(err, conn.Close()); err != nil {
			t.Fatal(err)
		}
		s.untilSlow(id, "{{.State.Status}}", "running")
	}
}

// TestStalledClients keep connections open and say nothing: others go on.
func TestStalledClients(t *testing.T) {
	s := newScene(t)
	for range 50 {
		conn, err := net.Dial("unix", s.d.socket())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n{")
	}
	if r := s.docker("run", "--rm", "busybox", "true"); r.Code != 0 || r.Took > max(busy, patient(5*time.Second)) {
		t.Errorf("beside stalled clients: %s", r)
	}
	// Nor does one that sends a file into a container hold that.
	id := s.running("busybox", "sleep", "1000")
	conn, err := net.Dial("unix", s.d.socket())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "PUT /v1.45/containers/"+id+"/archive?path=/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
	_, _ = conn.Write(wicked(t, t.TempDir()).Bytes()[:700])
	time.Sleep(200 * time.Millisecond)
	if r := s.docker("rm", "-f", id); r.Code != 0 || r.Took > max(busy, patient(5*time.Second)) {
		t.Errorf("beside one that sends a file: %s", r)
	}
}

// TestSDK walks a container through its life with the client library.
func TestSDK(t *testing.T) {
	s := newScene(t)
	c, err := s.d.sdk()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	created, err := c.ContainerCreate(ctx, client.ContainerCreateOptions{
		Config: &container.Config{Image: "busybox", Cmd: []string{"sleep", "1000"}, Labels: map[string]string{"e2e": s.label}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.ContainerStart(ctx, created.ID, client.ContainerStartOptions{}); err != nil {
		t.Fatal(err)
	}
	ex, err := c.ExecCreate(ctx, created.ID, client.ExecCreateOptions{Cmd: []string{"sh", "-c", "exit 5"}, AttachStdout: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.ExecStart(ctx, ex.ID, client.ExecStartOptions{Detach: true}); err != nil {
		t.Fatal(err)
	}
	if err := eventually(5*time.Second, func() error {
		in, err := c.ExecInspect(ctx, ex.ID, client.ExecInspectOptions{})
		if err == nil && (in.Running || in.ExitCode != 5) {
			err = fmt.Errorf("exec: %+v", in)
		}
		return err
	}); err != nil {
		t.Error(err)
	}
	if _, err := c.ContainerRemove(ctx, created.ID, client.ContainerRemoveOptions{Force: true}); err != nil {
		t.Error(err)
	}
	if _, err := c.ContainerInspect(ctx, created.ID, client.ContainerInspectOptions{}); err == nil {
		t.Error("inspect after remove succeeds")
	}
}
