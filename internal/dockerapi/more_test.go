package dockerapi

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"wharf/internal/model"
)

// A wait's header arrives before its end, and a wait ends with its client.
func TestWait(t *testing.T) {
	result := make(chan model.WaitResult, 1)
	var cond container.WaitCondition
	var waiting context.Context
	path := listen(t, New(Options{Log: quiet(), Containers: &fakeContainers{
		wait: func(ctx context.Context, _ string, c container.WaitCondition) (<-chan model.WaitResult, error) {
			cond, waiting = c, ctx
			return result, nil
		},
	}}))
	c := newClient(t, path)
	w := c.ContainerWait(context.Background(), "x", client.ContainerWaitOptions{Condition: container.WaitConditionNextExit})
	result <- model.WaitResult{Code: 137, Error: "lost"}
	select {
	case got := <-w.Result:
		if got.StatusCode != 137 || got.Error == nil || got.Error.Message != "lost" || cond != container.WaitConditionNextExit {
			t.Errorf("%+v, condition %s", got, cond)
		}
	case err := <-w.Error:
		t.Fatal(err)
	}

	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(conn, "POST /v1.40/containers/x/wait HTTP/1.1\r\nHost: x\r\n\r\n")
	if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || !strings.Contains(line, "200 OK") {
		t.Errorf("%q, %v", line, err)
	}
	_ = conn.Close()
	waitFor(t, "the wait ended", waiting.Done())
	noLeak(t)

	h := New(Options{Log: quiet(), Containers: &fakeContainers{}})
	if w := postJSON(h, "/containers/x/wait?condition=never", ""); w.Code != 400 || !strings.Contains(message(t, w), `invalid condition: "never"`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestStats(t *testing.T) {
	f := &fakeContainers{stats: func(_ context.Context, stream bool, yield func(*container.StatsResponse) bool) error {
		for i := range 3 {
			if !yield(&container.StatsResponse{ID: fmt.Sprint(i), OSType: "linux"}) {
				return nil
			}
		}
		return nil
	}}
	h := New(Options{Log: quiet(), Containers: f})
	for path, want := range map[string]struct {
		n  int
		os string
	}{
		"/v1.51/containers/x/stats":                         {3, ""},
		"/v1.56/containers/x/stats?stream=1":                {3, "linux"},
		"/v1.56/containers/x/stats?stream=false&one-shot=1": {1, "linux"},
	} {
		w := get(h, path)
		dec, n := json.NewDecoder(w.Body), 0
		for {
			var s container.StatsResponse
			if dec.Decode(&s) != nil {
				break
			}
			if s.OSType != want.os {
				t.Errorf("%s: os_type %q", path, s.OSType)
			}
			n++
		}
		if n != want.n {
			t.Errorf("%s: %d readings", path, n)
		}
	}
}

func TestArchive(t *testing.T) {
	var options model.PutOptions
	var put string
	f := &fakeContainers{
		archivePut: func(_ string, o model.PutOptions, tar io.Reader) error {
			raw, err := io.ReadAll(tar)
			options, put = o, string(raw)
			return err
		},
		archiveGet: func(path string) (io.ReadCloser, container.PathStat, error) {
			return io.NopCloser(strings.NewReader("tar")), container.PathStat{Name: path, Size: 3, Mode: 0o644, Mtime: time.Unix(1, 0).UTC()}, nil
		},
	}
	h := New(Options{Log: quiet(), Containers: f})
	r := httptest.NewRequest("PUT", "/containers/x/archive?path=/tmp&noOverwriteDirNonDir=true&copyUIDGID=1", strings.NewReader("some tar"))
	if w := serve(h, r); w.Code != 200 || put != "some tar" || !options.NoOverwriteDirNonDir || !options.CopyUIDGID {
		t.Errorf("%d %q %+v", w.Code, put, options)
	}
	c := newClient(t, listen(t, h))
	got, err := c.CopyFromContainer(context.Background(), "x", client.CopyFromContainerOptions{SourcePath: "/etc/x"})
	if err != nil {
		t.Fatal(err)
	}
	raw, _ := io.ReadAll(got.Content)
	if string(raw) != "tar" || got.Stat.Size != 3 || got.Stat.Name != "/etc/x" {
		t.Errorf("%q %+v", raw, got.Stat)
	}
	if w := get(h, "/containers/x/archive"); w.Code != 400 || !strings.Contains(message(t, w), "path cannot be empty") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// A stalled or slow body must not hold a handler for ever; a client that
// hangs up while sending costs nothing.
func TestBodyCutOff(t *testing.T) {
	called := make(chan struct{}, 1)
	path := listen(t, New(Options{Log: quiet(), Containers: &fakeContainers{create: func(model.CreateRequest) (container.CreateResponse, error) {
		called <- struct{}{}
		return container.CreateResponse{}, nil
	}}}))
	// The second is a whole object already, and less than was announced.
	for _, body := range []string{`{"Image":`, `{"Image":"busybox"}`} {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, "POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"+body)
		_ = conn.(*net.UnixConn).CloseWrite()
		if answer, _ := io.ReadAll(conn); !strings.HasPrefix(string(answer), "HTTP/1.1 400 ") {
			t.Errorf("%s: %s", body, answer)
		}
		_ = conn.Close()
	}
	noLeak(t)
	select {
	case <-called:
		t.Error("half a request was taken for a whole one")
	default:
	}
}

// Names with a slash of old clients, and HEAD where there is only GET.
func TestOddities(t *testing.T) {
	var ref string
	h := New(Options{Log: quiet(), Containers: &fakeContainers{inspect: func(r string) (*container.InspectResponse, error) {
		ref = r
		return &container.InspectResponse{}, nil
	}}})
	if w := get(h, "/v1.40/containers//web/json"); w.Code != 200 || ref != "web" {
		t.Errorf("%d, ref %q", w.Code, ref)
	}
	if w := serve(h, httptest.NewRequest(http.MethodHead, "/containers/json", nil)); w.Code != 404 {
		t.Errorf("%d", w.Code)
	}
	if w := get(h, "/containers/x/json?size=%zz"); w.Code != 400 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
