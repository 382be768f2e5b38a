package dockerapi

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"golang.org/x/net/websocket"

	"wharf/internal/model"
)

func attachServer(t *testing.T, s model.Stream, tty bool) string {
	t.Helper()
	return listen(t, New(Options{Log: quiet(), Containers: &fakeContainers{
		attach: func(string, model.AttachRequest) (model.Stream, bool, error) { return s, tty, nil },
	}}))
}

// echo x | docker run -i busybox cat
func TestAttachHalfClose(t *testing.T) {
	s := newFakeStream()
	go s.cat()
	c := newClient(t, attachServer(t, s, false))
	at, err := c.ContainerAttach(context.Background(), "x", client.ContainerAttachOptions{Stream: true, Stdin: true, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	defer at.Close()
	if mt, _ := at.MediaType(); mt != "application/vnd.docker.multiplexed-stream" {
		t.Errorf("media type %q", mt)
	}
	if _, err := io.WriteString(at.Conn, "hello"); err != nil {
		t.Fatal(err)
	}
	if err := at.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	if _, err := stdcopy.StdCopy(&out, &errs, at.Reader); err != nil {
		t.Fatal(err)
	}
	if out.String() != "hello" || errs.Len() != 0 {
		t.Errorf("out %q, err %q", out.String(), errs.String())
	}
	at.Close()
	waitFor(t, "stream closed", s.closed)
	noLeak(t)
}

// The process ends while the client still holds its input open and unread
// input waits: all output must arrive, then the end of file.
func TestAttachProcessEndsFirst(t *testing.T) {
	s := newFakeStream()
	c := newClient(t, attachServer(t, s, true))
	at, err := c.ContainerAttach(context.Background(), "x", client.ContainerAttachOptions{Stream: true, Stdin: true, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	defer at.Close()
	_, _ = io.WriteString(at.Conn, "nobody reads this")
	go func() {
		s.out <- chunk{model.Stdout, "last "}
		s.out <- chunk{model.Stdout, "words"}
		close(s.out)
	}()
	got, err := io.ReadAll(at.Reader)
	if err != nil || string(got) != "last words" {
		t.Errorf("got %q, %v", got, err)
	}
	at.Close()
	noLeak(t)
}

// A client that vanishes frees everything, though the process is silent.
func TestAttachClientVanishes(t *testing.T) {
	for _, half := range []bool{false, true} {
		t.Run(fmt.Sprintf("half closed before: %v", half), func(t *testing.T) {
			s := newFakeStream()
			c := newClient(t, attachServer(t, s, false))
			at, err := c.ContainerAttach(context.Background(), "x", client.ContainerAttachOptions{Stream: true, Stdout: true})
			if err != nil {
				t.Fatal(err)
			}
			if half {
				_ = at.CloseWrite()
				time.Sleep(100 * time.Millisecond)
				select {
				case <-s.closed:
					t.Fatal("half-close was taken for the end")
				default:
				}
			}
			at.Close()
			waitFor(t, "stream closed", s.closed)
			noLeak(t)
		})
	}
}

// A process that never reads its input must not keep a client that is gone.
func TestAttachVanishesWhileWriting(t *testing.T) {
	s := newFakeStream()
	c := newClient(t, attachServer(t, s, false))
	at, err := c.ContainerAttach(context.Background(), "x", client.ContainerAttachOptions{Stream: true, Stdin: true, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(at.Conn, "stuck")
	time.Sleep(50 * time.Millisecond)
	at.Close()
	waitFor(t, "stream closed", s.closed)
	noLeak(t)
}

func TestAttachDetaches(t *testing.T) {
	s := newFakeStream()
	c := newClient(t, attachServer(t, s, true))
	at, err := c.ContainerAttach(context.Background(), "x", client.ContainerAttachOptions{Stream: true, Stdin: true, Stdout: true, DetachKeys: "ctrl-x,y"})
	if err != nil {
		t.Fatal(err)
	}
	defer at.Close()
	_, _ = at.Conn.Write([]byte{'a', 24, 'b', 24, 'y', 'c'})
	if got := <-s.in; got != "a\x18b" {
		t.Errorf("process got %q", got)
	}
	waitFor(t, "stream closed", s.closed)
	if got, err := io.ReadAll(at.Reader); err != nil || len(got) != 0 {
		t.Errorf("got %q, %v", got, err)
	}
	at.Close()
	noLeak(t)
}

// An error of attach is a plain answer with a status.
func TestAttachError(t *testing.T) {
	c := newClient(t, listen(t, New(Options{Log: quiet(), Containers: &fakeContainers{
		attach: func(string, model.AttachRequest) (model.Stream, bool, error) {
			return nil, false, errNotFoundTest
		},
	}})))
	_, err := c.ContainerAttach(context.Background(), "x", client.ContainerAttachOptions{Stream: true})
	if err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("err %v", err)
	}
}

// Clients without Upgrade get the old raw answer, and input that travels
// with the request is not lost.
func TestAttachOldClient(t *testing.T) {
	s := newFakeStream()
	go s.cat()
	conn, err := net.Dial("unix", attachServer(t, s, true))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_, _ = io.WriteString(conn, "POST /v1.24/containers/x/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: x\r\n\r\nearly")
	_ = conn.(*net.UnixConn).CloseWrite()
	br := bufio.NewReader(conn)
	status, _ := br.ReadString('\n')
	if !strings.HasPrefix(status, "HTTP/1.1 200 OK") {
		t.Fatalf("status %q", status)
	}
	for line := ""; line != "\r\n"; {
		if line, err = br.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(line, "Content-Type:") && !strings.Contains(line, "raw-stream") {
			t.Errorf("header %q", line)
		}
	}
	if got, err := io.ReadAll(br); err != nil || string(got) != "early" {
		t.Errorf("got %q, %v", got, err)
	}
	_ = conn.Close()
	noLeak(t)
}

func TestExec(t *testing.T) {
	s := newFakeStream()
	go s.cat()
	c := newClient(t, listen(t, New(Options{Log: quiet(), Containers: &fakeContainers{
		execInspect: func(string) (*container.ExecInspectResponse, error) {
			return &container.ExecInspectResponse{OpenStdin: true, ProcessConfig: &container.ExecProcessConfig{}}, nil
		},
		execStart: func(string, bool) (model.Stream, error) { return s, nil },
	}})))
	at, err := c.ExecAttach(context.Background(), "e", client.ExecAttachOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer at.Close()
	go func() {
		for i := range 100 {
			_, _ = fmt.Fprintf(at.Conn, "line %d\n", i)
		}
		_ = at.CloseWrite()
	}()
	var out bytes.Buffer
	if _, err := stdcopy.StdCopy(&out, io.Discard, at.Reader); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(out.String(), "\n"); n != 100 {
		t.Errorf("%d lines", n)
	}
	at.Close()
	noLeak(t)
}

// A command that cannot be started is said through the stream.
func TestExecFails(t *testing.T) {
	c := newClient(t, listen(t, New(Options{Log: quiet(), Containers: &fakeContainers{
		execInspect: func(id string) (*container.ExecInspectResponse, error) {
			if id == "none" {
				return nil, errNotFoundTest
			}
			return &container.ExecInspectResponse{ProcessConfig: &container.ExecProcessConfig{}}, nil
		},
		execStart: func(string, bool) (model.Stream, error) { return nil, errTest },
	}})))
	at, err := c.ExecAttach(context.Background(), "e", client.ExecAttachOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	if _, err := stdcopy.StdCopy(&out, &errs, at.Reader); err != nil {
		t.Fatal(err)
	}
	at.Close()
	if out.Len() != 0 || errs.String() != "test\r\n" {
		t.Errorf("out %q, err %q", out.String(), errs.String())
	}
	if _, err := c.ExecAttach(context.Background(), "none", client.ExecAttachOptions{}); err == nil {
		t.Error("no error for an exec that is not there")
	}
	noLeak(t)
}

func TestWebsocket(t *testing.T) {
	s := newFakeStream()
	go s.cat()
	path := attachServer(t, s, false)
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	cfg, _ := websocket.NewConfig("ws://x/containers/x/attach/ws?stream=1&stdin=1&stdout=1", "http://x/")
	ws, err := websocket.NewClient(cfg, conn)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(ws, "hello"); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	if n, err := ws.Read(buf); err != nil || string(buf[:n]) != "hello" {
		t.Errorf("got %q, %v", buf[:n], err)
	}
	_ = ws.Close()
	waitFor(t, "stream closed", s.closed)
	noLeak(t)
}

func TestWebsocketOtherOrigin(t *testing.T) {
	h := New(Options{Log: quiet(), Containers: &fakeContainers{}})
	r := &http.Request{Method: "GET", URL: &url.URL{Path: "/containers/x/attach/ws"}, Host: "localhost:2375", Header: http.Header{"Origin": {"http://evil.example"}}}
	if got := serve(h, r); got.Code != http.StatusForbidden {
		t.Errorf("status %d: %s", got.Code, got.Body)
	}
}
